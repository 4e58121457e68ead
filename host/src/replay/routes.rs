//! The seam to the routes of this host: where a replay hands messages over whose target is a route.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::model::replay::{Fate, RouteTarget};
use crate::model::{MessageKind, RawMessage};

/// What all messages of a batch have in common.
#[derive(Clone)]
pub struct Order {
    pub replay: Arc<str>,
    pub target: RouteTarget,
    /// Begin no further message; end those that run.
    pub stop: CancellationToken,
    /// What messages wait for, as long as they do.
    pub notice: watch::Sender<Option<Arc<str>>>,
}

/// Why no message of the batch can begin now: the route or its plugin is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Waits(pub String);

#[async_trait]
pub trait Routes: Send + Sync {
    /// What the route handles; none: there is no such route on this host.
    fn kind(&self, route: &str) -> Option<MessageKind>;

    /// Hands the messages to the route's handler and waits until each has ended for good: what it published is confirmed, or its
    /// dead letter is on disk. Messages of one lane go one after another. None: it has not ended, because of `stop`.
    ///
    /// # Errors
    /// Nothing has begun.
    async fn hand_over(&self, order: &Order, batch: Vec<RawMessage>) -> Result<Vec<Option<Fate>>, Waits>;
}
