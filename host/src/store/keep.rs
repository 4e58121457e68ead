//! The seam to the end of dead letters: what nobody dealt with expires, what is closed is deleted.

use async_trait::async_trait;

use super::Error;
use crate::model::UnixMs;

#[async_trait]
pub trait KeepLetters: Send + Sync {
    /// `dead → expired` for letters that failed last at that time or before, the oldest first, at most `limit`; how many.
    /// Neither those that a key waits behind nor those that a job has before it. With their rows in the trail.
    async fn expire(&self, until: UnixMs, reason: &str, limit: usize) -> Result<u64, Error>;
    /// Letters that were reprocessed, discarded or expired at that time or before are gone for good, with their trail; at
    /// most `limit`; how many.
    async fn forget_closed(&self, until: UnixMs, limit: usize) -> Result<u64, Error>;
}
