//! The audit table: what people asked the API to do, and what was refused to them.

use async_trait::async_trait;

use super::Error;
use crate::model::UnixMs;

/// One request that changed something or was not allowed. Never changed once written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    pub at_ms: UnixMs,
    /// The name of the token; what the caller says of itself where no token is needed.
    pub actor: String,
    /// `viewer`, `operator`, `admin`, or `none` when nobody was recognised.
    pub role: String,
    /// Method and path pattern: `POST /v1/messaging/dlq/{id}/reprocess`.
    pub action: String,
    /// The path as it was asked for.
    pub target: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// How many requests the entry stands for: refusals that come in a flood share one.
    pub count: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditPage {
    /// Newest first.
    pub entries: Vec<AuditEntry>,
    /// Where the next page begins.
    pub next: Option<u64>,
}

#[async_trait]
pub trait Audit: Send + Sync {
    /// Durable when it returns.
    async fn record(&self, entries: Vec<AuditEntry>) -> Result<(), Error>;
    /// Newest first, those before the place `before` when one is given.
    async fn audit(&self, before: Option<u64>, limit: usize) -> Result<AuditPage, Error>;
    /// Deletes what is older than `before`, at most `limit` entries; how many.
    async fn forget(&self, before: UnixMs, limit: usize) -> Result<u64, Error>;
}
