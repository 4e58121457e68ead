//! Every long-lived task has a kind, and the kind says what its end means and what a stop does to it.
//!
//! Short work (settling one message) is tracked by its room instead: `dispatch` waits for it while draining.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Pulls from one source.
    Intake,
    /// Runs calls of one route.
    Worker,
    /// Writes retries of one route, in order.
    Parker,
    /// Brings due retries back.
    Schedule,
    /// Watches `plugins/`.
    PluginWatch,
    /// Watches the configuration.
    ConfigWatch,
    /// Serves HTTP.
    Http,
    /// Reads depths for metrics.
    Gauges,
    /// Takes back letters that nobody finished sending.
    Sweep,
    /// Runs replays.
    Replay,
    /// Deletes old rows of the audit table.
    Audit,
    /// Runs jobs over dead letters.
    Jobs,
    /// Takes in dead letters of a broker.
    Adopt,
    /// Sends copies of dead letters.
    Export,
    /// Sends dead letters again without being asked.
    AutoRedrive,
    /// Lets dead letters expire, and deletes closed ones.
    Keep,
    /// Rebuilds the handler (`helix dev`).
    Rebuild,
}

/// What the host does when a task of this kind ends by itself with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnError {
    /// Nothing useful can go on without it.
    Shutdown,
    /// Said in the log; the rest goes on.
    Log,
}

impl Kind {
    pub fn on_error(self) -> OnError {
        match self {
            Self::Intake | Self::Worker | Self::Parker | Self::Schedule | Self::Http => OnError::Shutdown,
            Self::PluginWatch
            | Self::ConfigWatch
            | Self::Gauges
            | Self::Sweep
            | Self::Replay
            | Self::Audit
            | Self::Jobs
            | Self::Adopt
            | Self::Export
            | Self::AutoRedrive
            | Self::Keep
            | Self::Rebuild => OnError::Log,
        }
    }
}

/// Owner of long-lived tasks: knows them all, ends them all.
pub struct Tasks {
    stop: CancellationToken,
    running: Vec<(Kind, JoinHandle<()>)>,
}

impl Tasks {
    /// `stop` ends the whole host when a task that it cannot do without fails.
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            stop,
            running: Vec::new(),
        }
    }

    /// The task must watch its own stop token; it is aborted only when it overstays [`Tasks::join`].
    pub fn spawn<F>(&mut self, kind: Kind, work: F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let stop = self.stop.clone();
        let inner = tokio::spawn(work);
        let abort = inner.abort_handle();
        let handle = tokio::spawn(async move {
            let _abort_with_us = AbortOnDrop(abort);
            let failure = match inner.await {
                Ok(Ok(())) => return,
                Ok(Err(reason)) => reason,
                Err(error) if error.is_cancelled() => return,
                Err(error) => format!("panicked: {error}"),
            };
            match kind.on_error() {
                OnError::Shutdown => {
                    tracing::error!(task = ?kind, reason = %failure, "task failed, the host shuts down; see the reason, then start it again");
                    stop.cancel();
                }
                OnError::Log => {
                    tracing::error!(task = ?kind, reason = %failure, "task failed; restart the host to have it back");
                }
            }
        });
        self.running.push((kind, handle));
        self.running.retain(|(_, task)| !task.is_finished());
    }

    /// Waits for all tasks; those that are not done after `limit` are aborted and named.
    pub async fn join(&mut self, limit: Duration) {
        let deadline = tokio::time::Instant::now() + limit;
        for (kind, mut handle) in self.running.drain(..) {
            if tokio::time::timeout_at(deadline, &mut handle).await.is_err() {
                tracing::warn!(task = ?kind, "task did not stop in time and was aborted");
                handle.abort();
            }
        }
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
