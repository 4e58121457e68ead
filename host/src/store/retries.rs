//! The seam to what waits for a retry.

use std::time::Duration;

use async_trait::async_trait;

use super::Error;
use crate::model::{Attempt, DeadLetter, RawMessage, UnixMs};

/// A message parked until it is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// The dead-letter id it would get; also makes parking the same delivery twice one row.
    pub id: String,
    pub route: String,
    pub raw: RawMessage,
    /// The number of the attempt that is due: 2 after the first failure; 1 for a follower that has not run yet.
    pub attempt: u32,
    pub due_ms: UnixMs,
    /// What must run one after another. Rows of one lane are handed out in the order they were parked, one at a time.
    pub lane: Option<Vec<u8>>,
    pub history: Vec<Attempt>,
    pub first_failure_ms: UnixMs,
}

#[async_trait]
pub trait Retries: Send + Sync {
    /// Durable when it returns. Parking an id that is parked already changes nothing (the crash between writing and
    /// acknowledging delivers it again).
    async fn park(&self, parked: Vec<Parked>) -> Result<(), Error>;
    /// Takes up to `limit` due rows under a lease; rows whose lease ran out are due again. Of each lane only the head.
    async fn claim_due(&self, now: UnixMs, lease: Duration, limit: usize) -> Result<Vec<Parked>, Error>;
    /// The parked message was handled.
    async fn complete(&self, id: &str) -> Result<(), Error>;
    /// It failed again: same row, same place in its lane, later.
    async fn reschedule(&self, parked: Parked) -> Result<(), Error>;
    /// It failed for good: the row becomes a dead letter in one transaction; the id of that.
    async fn bury(&self, parked_id: &str, letter: DeadLetter) -> Result<String, Error>;
    /// Lets go of a lease (shutdown), so that it is due again at once.
    async fn release(&self, id: &str) -> Result<(), Error>;
    /// Lanes that have parked rows, by route: whatever arrives for them has to queue up behind.
    async fn lanes(&self) -> Result<Vec<(String, Vec<u8>)>, Error>;
    /// Is anything left in that lane?
    async fn lane_is_empty(&self, route: &str, lane: &[u8]) -> Result<bool, Error>;
    async fn count(&self) -> Result<u64, Error>;
    /// When the next row is due, for the scheduler's sleep.
    async fn next_due(&self) -> Result<Option<UnixMs>, Error>;
}
