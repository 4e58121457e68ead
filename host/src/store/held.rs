//! The seam to keys that wait behind a dead letter: the row that failed for good keeps its place at the head of its lane,
//! and whatever comes for the lane queues up behind it until somebody deals with the letter.

use async_trait::async_trait;

use super::{Error, Parked};
use crate::model::{DeadLetter, UnixMs};

/// A lane that waits behind a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldKey {
    pub route: String,
    pub lane: Vec<u8>,
    /// The letter that holds it.
    pub letter: String,
    /// When it failed last.
    pub since_ms: UnixMs,
    /// Messages behind it.
    pub waiting: u64,
}

/// Which held keys; all that are given must hold.
#[derive(Debug, Clone, Default)]
pub struct HeldFilter {
    pub route: Option<String>,
    /// Held at that time already.
    pub until_ms: Option<UnixMs>,
    /// At most so many; 100 when it is 0, never more than 1000.
    pub limit: usize,
    /// `next` of the page before.
    pub cursor: Option<String>,
}

/// In the order in which their rows came.
#[derive(Debug, Clone, Default)]
pub struct HeldPage {
    /// All that match, not just this page.
    pub count: u64,
    pub keys: Vec<HeldKey>,
    pub next: Option<String>,
}

/// Keys that wait under one route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRoute {
    pub route: String,
    pub keys: u64,
    /// Since when the oldest of them waits.
    pub since_ms: UnixMs,
}

#[async_trait]
pub trait HeldKeys: Send + Sync {
    /// A message failed for good and its lane waits for it: its row (new, or the one it has) and its letter in one
    /// transaction; the id of the letter. Durable when it returns. The row is never due until its letter is
    /// [`super::Change::Resume`]d; it goes with the letter when that is released or discarded.
    async fn hold(&self, row: Parked, letter: DeadLetter) -> Result<String, Error>;
    /// How many more rows may come into the lane when it may have `limit`; none when it is not held, and nothing bounds it.
    async fn room(&self, route: &str, lane: &[u8], limit: u64) -> Result<Option<u64>, Error>;
    /// What waits behind a letter.
    async fn held_by(&self, letter: &str) -> Result<Option<HeldKey>, Error>;
    async fn held(&self, filter: &HeldFilter) -> Result<HeldPage, Error>;
    async fn held_routes(&self) -> Result<Vec<HeldRoute>, Error>;
    /// Messages behind held keys, by route. Counts them all: for gauges.
    async fn waiting(&self) -> Result<Vec<(String, u64)>, Error>;
}
