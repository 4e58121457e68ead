//! The seam to replays: jobs that any host carries on when the one that ran them is gone.

use std::time::Duration;

use async_trait::async_trait;

use super::Error;
use crate::model::replay::Progress;
use crate::model::{Replay, ReplayStatus};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submitted {
    Done,
    /// There is one of that id.
    Taken,
    /// So many are pending or running already.
    Full(u64),
}

/// What the store says to a host that runs a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Go on.
    Ours,
    /// Somebody cancelled it. What was recorded is kept.
    Cancelled,
    /// Our lease ran out and somebody else has it, or it has ended. Nothing was recorded.
    Lost,
}

#[async_trait]
pub trait Replays: Send + Sync {
    /// A new one; `status` may be final already. Those that ended a month ago are forgotten.
    async fn submit(&self, replay: &Replay) -> Result<Submitted, Error>;
    async fn find(&self, id: &str) -> Result<Option<Replay>, Error>;
    /// Newest first.
    async fn newest(&self, limit: usize) -> Result<Vec<Replay>, Error>;
    /// The oldest that is pending, or whose holder's lease ran out; `running` from now on, for this holder alone.
    async fn take(&self, holder: &str, lease: Duration) -> Result<Option<Replay>, Error>;
    /// Counts and offsets in one change; the lease begins anew. The same again changes nothing.
    async fn record(
        &self,
        id: &str,
        holder: &str,
        lease: Duration,
        progress: &Progress,
    ) -> Result<Hold, Error>;
    /// Whether it is still this holder's to go on with. Changes nothing.
    async fn holds(&self, id: &str, holder: &str) -> Result<Hold, Error>;
    /// `running` → `completed` or `failed`, with what there is to record.
    async fn finish(
        &self,
        id: &str,
        holder: &str,
        status: ReplayStatus,
        progress: &Progress,
    ) -> Result<Hold, Error>;
    /// `running` → `pending` (shutdown), so that another host takes it at once.
    async fn give_back(&self, id: &str, holder: &str) -> Result<(), Error>;
    /// `pending` or `running` → `cancelled`; the replay as it is then, which may be one that had ended before.
    async fn cancel(&self, id: &str) -> Result<Option<Replay>, Error>;
}
