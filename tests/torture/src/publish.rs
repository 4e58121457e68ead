//! Publishers of the observer: they know for each message whether a broker has it, and never give one up silently.

pub mod http;
pub mod kafka;
pub mod rabbitmq;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::flow::Flow;
use crate::history::{History, What};
use crate::message::{Id, Orders, Stream};

/// What all publishers of one stream share.
pub struct Desk {
    pub stream: Stream,
    /// Queue or topic.
    pub destination: String,
    /// Topic of outputs.
    pub out: String,
    pub orders: Orders,
    pub history: Arc<History>,
    pub flow: Arc<Flow>,
    /// No new messages.
    pub stop: CancellationToken,
    sequence: AtomicU64,
}

impl Desk {
    pub fn new(stream: Stream, destination: &str, out: &str, parts: &Parts) -> Arc<Self> {
        Arc::new(Self {
            stream,
            destination: destination.to_owned(),
            out: out.to_owned(),
            orders: parts.orders.clone(),
            history: Arc::clone(&parts.history),
            flow: Arc::clone(&parts.flow),
            stop: parts.stop.clone(),
            sequence: AtomicU64::new(0),
        })
    }

    /// The next message of a stream without keys, as soon as there is room. None: stopped.
    async fn next_unkeyed(&self) -> Option<Id> {
        let id = Id {
            stream: self.stream,
            key: 0,
            sequence: self.sequence.fetch_add(1, Ordering::Relaxed),
        };
        self.enter(id).await
    }

    async fn enter(&self, id: Id) -> Option<Id> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => None,
            () = self.flow.enter(id) => Some(id),
        }
    }

    fn sent(&self, id: &Id, again: bool) {
        self.history.add(What::Sent {
            id: id.to_string(),
            again,
        });
    }

    fn confirmed(&self, id: &Id, partition: Option<i64>, offset: Option<i64>) {
        self.history.add(What::Confirmed {
            id: id.to_string(),
            partition,
            offset,
        });
    }

    /// The manual's flat JSON.
    fn flat(&self, id: &Id) -> String {
        json!({ "id": id.to_string(), "type": "torture", "payload": self.orders.payload(id, &self.out) })
            .to_string()
    }
}

/// What publishers of all streams share.
pub struct Parts {
    pub orders: Orders,
    pub history: Arc<History>,
    pub flow: Arc<Flow>,
    pub stop: CancellationToken,
}
