//! The seam to handlers: everything that knows wasmtime is behind it.
//!
//! ```text
//! watch ─▶ registry ─▶ compiler ─▶ cache      a file becomes a version: read, hashed, compiled, checked, tried, swapped in
//!             ├─▶ component, linker ─▶ publisher, fetch, outgoing_http ─▶ grants, allow, address
//!             ▼
//! call ─▶ pool ─▶ instance ─▶ sandbox         a message goes in: lent, bounded, entered, its answer judged
//!   └─▶ trap         └─▶ convert, packed      └─▶ limits, log
//! ```

mod address;
mod allow;
mod bindings;
mod cache;
mod call;
mod compiler;
mod component;
mod convert;
mod engine;
mod error;
mod fetch;
mod grants;
mod instance;
mod limits;
mod linker;
mod log;
mod outgoing_http;
mod packed;
mod pool;
mod publisher;
mod registry;
mod sandbox;
mod trap;
mod watch;

pub use error::Error;
pub use registry::{ReloadEvent, ReloadReport, Runtime, RuntimeOptions, inspect};
pub use sandbox::Targets;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::model::{Digest, Envelope, MessageKind, Outcome, Outgoing};

/// All plugins of this host, by name.
pub trait Plugins: Send + Sync {
    /// The version that serves now. A caller keeps it for one message; the next message asks again.
    fn current(&self, plugin: &str) -> Option<Arc<dyn Version>>;
    /// What `plugin ls`, `/readyz` and metrics show, sorted by name.
    fn list(&self) -> Vec<PluginStatus>;
}

/// One loaded component: immutable, identified by its digest. Calls in flight keep it alive.
#[async_trait]
pub trait Version: Send + Sync {
    fn digest(&self) -> Digest;
    /// What it exports.
    fn exports(&self) -> Exports;
    /// How many messages are worth one call; 1 when they would be run one by one.
    fn batch_limit(&self, kind: MessageKind) -> usize {
        self.exports().max_batch(kind)
    }
    /// Runs the handler on one message, or on many when `batch_limit() > 1` for that kind. One completion each,
    /// same order. Never fails as a whole: traps, timeouts and refusals are outcomes. A batch that traps has been run
    /// again one by one before this returns.
    async fn call(&self, batch: &[Invocation<'_>]) -> Vec<Completion>;
}

/// Versions that serve nobody: messages are run on them to see what would happen.
#[async_trait]
pub trait Candidates: Send + Sync {
    /// `component` under the grants and limits that `plugin` has now; without one a twin of the version that serves. What it
    /// publishes is held as ever and up to the caller, what it fetches is withheld, what it prints is not in the log. It has
    /// instances of its own, [`CANDIDATE_INSTANCES`] at most, and is gone with its last user.
    ///
    /// # Errors
    /// Why the host would refuse the component; there is no such plugin, or no version of it serves.
    async fn candidate(&self, plugin: &str, component: Option<Vec<u8>>) -> Result<Arc<dyn Version>, Error>;
}

/// Taken from the room that the engine keeps beside the instances that serve.
pub const CANDIDATE_INSTANCES: usize = 2;

/// One message and what the handler may know about its delivery.
#[derive(Debug, Clone, Copy)]
pub struct Invocation<'a> {
    pub envelope: &'a Envelope,
    /// 1 for the first.
    pub attempt: u32,
    /// 0 = never gives up.
    pub max_attempts: u32,
    pub timeout: Duration,
    /// Names of the headers the route passes on; `None` = all.
    pub headers: Option<&'a [String]>,
    /// A fresh instance for this call (`instance = "per-message"`).
    pub fresh: bool,
}

#[derive(Debug)]
pub struct Completion {
    pub outcome: Outcome,
    /// Held until the outcome is `Done`; empty otherwise. Ids, time, trace and `helix-*` stamps are filled in.
    pub outputs: Vec<Outgoing>,
    /// Only in a rehearsal ([`Candidates`]): the place, `host:port`, that it wanted to reach and did not. What would have come
    /// of it nobody knows.
    pub withheld: Option<String>,
    /// The end of what the guest wrote to stdout and stderr during this call, control characters escaped.
    pub log: Vec<String>,
    pub duration: Duration,
}

/// Which handlers a component has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "PluginExports")]
pub struct Exports {
    pub task: bool,
    pub event: bool,
    pub event_batch: bool,
    pub packed: bool,
}

impl Exports {
    pub fn handles(self, kind: crate::model::MessageKind) -> bool {
        match kind {
            crate::model::MessageKind::Task => self.task,
            crate::model::MessageKind::Event => self.event || self.event_batch || self.packed,
        }
    }

    /// How many messages one call may carry.
    pub fn max_batch(self, kind: crate::model::MessageKind) -> usize {
        match kind {
            crate::model::MessageKind::Event if self.event_batch || self.packed => 100,
            _ => 1,
        }
    }
}

/// A plugin as people see it.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "Plugin")]
pub struct PluginStatus {
    pub name: String,
    /// None when no version ever loaded.
    pub digest: Option<String>,
    pub exports: Exports,
    /// Interfaces the component imports.
    pub imports: Vec<ImportStatus>,
    pub loaded_ms: Option<u64>,
    /// The file on disk is newer than what serves, and why it was refused.
    pub stale: Option<String>,
    pub reloads: u64,
    pub failed_reloads: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "PluginImport")]
pub struct ImportStatus {
    pub interface: String,
    /// False: calls are refused. `grant` is the TOML line that would allow them.
    pub granted: bool,
    pub grant: Option<String>,
}

#[cfg(test)]
mod tests;
