//! The one seam to brokers: what the rest of the host may know about RabbitMQ, Kafka and the embedded broker.
//!
//! Rules every adapter keeps, checked by the contract suite in `tests/it/contract`:
//! - A delivery carries a [`Receipt`]. A receipt that is dropped means *not acknowledged*.
//! - `Receipt::ack` is called only after every durable effect of the message. It is not awaited: adapters coalesce
//!   acknowledgements, and one that is lost is a duplicate, never a loss.
//! - `Publisher::publish` returns `Ok` for a message only when a byte on the broker's disk says so.

pub mod embedded;
pub mod kafka;
pub mod rabbitmq;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::{BrokerKind, MessageKind, Outgoing, RawMessage, UnixMs};
use crate::planted::{self, Bug};

/// What a broker can do. Printed by the contract suite and `helix check`; a route that asks for more is refused at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Capabilities {
    pub kind: BrokerKind,
    /// Queues: one consumer gets each message.
    pub tasks: bool,
    /// Topics: every group gets each message, in order per partition.
    pub events: bool,
    /// Several hosts may consume one queue or topic in one group.
    pub shared: bool,
    /// Messages of one key stay in order even when several hosts share the work.
    pub key_order_shared: bool,
    /// Higher priority first.
    pub priorities: bool,
    /// Deliver not before a point in time.
    pub delays: bool,
    /// Reading a stretch of a topic again.
    pub scan: bool,
    /// Can tell that an earlier delivery of a message may have run.
    pub redelivery_flag: bool,
    /// Null values are different from empty ones.
    pub tombstones: bool,
}

/// What to consume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    pub kind: MessageKind,
    /// Queue or topic.
    pub destination: Arc<str>,
    /// The most deliveries that may be unsettled at a time; prefetch on AMQP.
    pub window: usize,
}

/// A message handed to us, and the duty to settle it.
#[derive(Debug)]
pub struct Delivery {
    pub raw: RawMessage,
    pub receipt: Receipt,
}

/// Where the fate of a delivery is reported. One per source (or per channel, per assignment), shared by its receipts.
pub trait Settle: Send + Sync + 'static {
    /// The handler is about to run. False: the delivery is no longer ours (connection lost, partition revoked), skip it.
    fn begin(&self, token: Token) -> bool;
    /// The handler has run and shall run again later: until it begins again nobody has to wait for it.
    fn rest(&self, _token: Token) {}
    /// Everything about the message is durable.
    fn ack(&self, token: Token);
    /// Not settled: the broker shall deliver it again, to us or to somebody else.
    fn release(&self, token: Token);
    /// [`Settle::begin`] for each; adapters with a lock take it once.
    fn begin_all(&self, tokens: &[Token]) -> Vec<bool> {
        tokens.iter().map(|&token| self.begin(token)).collect()
    }
    /// [`Settle::ack`] for each; adapters with a lock take it once.
    fn ack_all(&self, tokens: &[Token]) {
        for &token in tokens {
            self.ack(token);
        }
    }
}

/// How an adapter recognises its delivery: (assignment or connection epoch, partition or channel, offset or tag).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token {
    pub epoch: u64,
    pub lane: u32,
    pub position: u64,
}

/// The duty to settle one delivery. Dropping it releases the delivery.
pub struct Receipt {
    settle: Option<Arc<dyn Settle>>,
    token: Token,
}

impl Receipt {
    pub fn new(settle: Arc<dyn Settle>, token: Token) -> Self {
        Self {
            settle: Some(settle),
            token,
        }
    }

    /// Call before the handler runs. False: somebody else will get the message, or has it already.
    pub fn begin(&self) -> bool {
        self.settle.as_ref().is_some_and(|s| s.begin(self.token))
    }

    /// The message waits for its retry in our hands. [`Receipt::begin`] has to be asked again before it runs.
    pub fn rest(&self) {
        if let Some(settle) = &self.settle {
            settle.rest(self.token);
        }
    }

    /// Acknowledges where `bug` would, if it is planted. Does nothing in a host that ships.
    pub fn ack_too_early(&self, bug: Bug) -> bool {
        if planted::is(bug)
            && let Some(settle) = &self.settle
        {
            settle.ack(self.token);
            return true;
        }
        false
    }

    /// Everything about the message is durable; the broker may forget it.
    pub fn ack(mut self) {
        if let Some(settle) = self.settle.take() {
            settle.ack(self.token);
        }
    }

    pub fn token(&self) -> Token {
        self.token
    }
}

/// [`Receipt::begin`] for a batch. What has no receipt is ours.
pub fn begin_all<'a>(receipts: impl Iterator<Item = Option<&'a Receipt>>) -> Vec<bool> {
    let mut ours = Vec::with_capacity(receipts.size_hint().0);
    // Neighbours mostly come from one source; its tokens are collected until another one's appears.
    let mut source: Option<&Arc<dyn Settle>> = None;
    let mut tokens = Vec::with_capacity(receipts.size_hint().0);
    let mut early: Vec<&Receipt> = Vec::new();
    for receipt in receipts {
        if planted::is(Bug::AckBeforeHandle) {
            early.extend(receipt);
        }
        let settle = receipt.and_then(|receipt| receipt.settle.as_ref());
        let same = matches!((source, settle), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
        if !same && let Some(source) = source.take() {
            ours.extend(source.begin_all(&tokens));
            tokens.clear();
        }
        match (receipt, settle) {
            (Some(receipt), Some(settle)) => {
                source = Some(settle);
                tokens.push(receipt.token);
            }
            (receipt, _) => ours.push(receipt.is_none()),
        }
    }
    if let Some(source) = source {
        ours.extend(source.begin_all(&tokens));
    }
    for receipt in early {
        receipt.ack_too_early(Bug::AckBeforeHandle);
    }
    if planted::is(Bug::NoFence) {
        ours.fill(true);
    }
    ours
}

/// [`Receipt::ack`] for a batch.
pub fn ack_all(receipts: Vec<Receipt>) {
    let mut source: Option<Arc<dyn Settle>> = None;
    let mut tokens = Vec::with_capacity(receipts.len());
    for mut receipt in receipts {
        let Some(settle) = receipt.settle.take() else {
            continue;
        };
        match &source {
            Some(same) if Arc::ptr_eq(same, &settle) => {}
            _ => {
                if let Some(source) = source.replace(settle) {
                    source.ack_all(&tokens);
                    tokens.clear();
                }
            }
        }
        tokens.push(receipt.token);
    }
    if let Some(source) = source {
        source.ack_all(&tokens);
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        if let Some(settle) = self.settle.take() {
            settle.release(self.token);
        }
    }
}

impl std::fmt::Debug for Receipt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Receipt").field(&self.token).finish()
    }
}

/// One consumer of one queue or topic. It heals itself: reconnects, proves that it consumes again, and reports through
/// [`Health`]; `recv` returns an error only when going on is pointless.
#[async_trait]
pub trait Source: Send {
    /// Waits for at least one delivery, returns at most `max` (all that are there already). Empty means: closed.
    /// Cancel-safe: dropping the future loses no delivery.
    async fn recv(&mut self, max: usize) -> Result<Vec<Delivery>, Error>;

    /// Stops pulling. Deliveries already handed out may still be settled.
    async fn pause(&mut self);

    /// Sends what acknowledgements are still held back, then leaves (commits, cancels the consumer). Deliveries that are
    /// unsettled go back to the broker.
    async fn close(self: Box<Self>, limit: Duration) -> Result<(), Error>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmed {
    /// Where it went, when the broker says.
    pub partition: Option<u32>,
    pub offset: Option<u64>,
}

#[async_trait]
pub trait Publisher: Send + Sync {
    /// Sends all, waits for the confirms of all. One result each, same order. Pipelined, bounded, with a deadline of its own;
    /// a negative confirm is "publish again" and is retried inside that deadline with the same id.
    async fn publish(&self, batch: Vec<Outgoing>) -> Vec<Result<Confirmed, PublishError>>;

    /// Puts a task into the queue it came from, byte for byte, at its end; waits for the confirm. Brokers without queues
    /// have nothing to put it into.
    async fn put_back(&self, message: RawMessage) -> Result<Confirmed, PublishError> {
        let destination = message.origin.destination;
        Err(PublishError::Invalid(format!(
            "`{destination}` is not a queue of this broker"
        )))
    }

    /// Puts copies of events into a topic: body, key and headers byte for byte, the time is that of the copying. Sends all,
    /// waits for the confirms of all; one result each, same order. Copies that go to one partition get there in order.
    async fn copy(&self, topic: &Arc<str>, batch: &[Replica]) -> Vec<Result<Confirmed, PublishError>> {
        let error = PublishError::Invalid(format!("`{topic}` is not a topic of this broker"));
        vec![Err(error); batch.len()]
    }
}

/// An event that is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    pub raw: RawMessage,
    /// Where to; none: by its key, as for every other message.
    pub partition: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No queue or topic of that name; nothing was stored.
    #[error("no queue or topic named `{0}`")]
    UnknownTarget(String),
    #[error("the message is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the message cannot be carried: {0}")]
    Invalid(String),
    /// Certainly not stored. Worth another try.
    #[error("the broker is not available: {0}")]
    Unavailable(String),
    /// Sent, but no confirm in time: stored or not. Publish again with the same id.
    #[error("no confirm in time: {0}")]
    Unknown(String),
    /// The disk under the broker is full.
    #[error("the broker's disk is full: {0}")]
    Full(String),
}

impl PublishError {
    /// True when publishing the same bytes again may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unknown(_) | Self::Full(_))
    }
}

/// Reading a stretch of a topic again, without touching any group's offsets.
#[async_trait]
pub trait Scan: Send + Sync {
    /// What the broker itself calls that which is read: a topic, or a queue that is a log.
    fn kind(&self) -> MessageKind {
        MessageKind::Event
    }
    /// How fine the broker's times are, in milliseconds. Where that is more than one, times in messages are not the broker's.
    fn time_step(&self) -> UnixMs {
        1
    }
    /// First and next offset of each partition.
    async fn bounds(&self, topic: &str) -> Result<Vec<Bounds>, Error>;
    /// The first offset whose time is at or after `time`; `end` of the partition when there is none.
    async fn offset_at(&self, topic: &str, partition: u32, time: UnixMs) -> Result<u64, Error>;
    /// Up to `max` messages from `from` on; empty at the end of the partition.
    async fn read(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        max: usize,
    ) -> Result<Vec<RawMessage>, Error>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub partition: u32,
    pub first: u64,
    pub end: u64,
}

/// What a queue or topic should be like (config/topology.toml).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    pub kind: MessageKind,
    pub name: Arc<str>,
    /// Queues: 0 = no priorities.
    pub max_priority: u8,
    /// Queues: how long a message may wait. Topics: retention.
    pub ttl: Option<Duration>,
    /// Topics only.
    pub partitions: u32,
    /// Further broker-specific arguments (`x-queue-type`, `cleanup.policy`, …), passed through as they are.
    pub arguments: std::collections::BTreeMap<String, String>,
}

/// How what is there compares with what should be.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Comparison {
    Same,
    Missing,
    /// It is there with other properties; it is never redeclared or changed. One line per difference.
    Differs {
        differences: Vec<String>,
    },
}

#[async_trait]
pub trait Topology: Send + Sync {
    /// Looks without changing anything (passive declare on AMQP).
    async fn compare(&self, want: &Destination) -> Result<Comparison, Error>;
    /// Creates it if it is missing; succeeds when it is there already, whatever it is like.
    async fn create(&self, want: &Destination) -> Result<(), Error>;
    /// Messages waiting in a queue, or not yet read by our group in a topic.
    async fn depth(&self, kind: MessageKind, name: &str) -> Result<u64, Error>;
}

/// One connected broker, as the composition root holds it.
#[async_trait]
pub trait Broker: Send + Sync {
    fn name(&self) -> Arc<str>;
    fn capabilities(&self) -> Capabilities;
    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn Source>, Error>;
    fn publisher(&self) -> Arc<dyn Publisher>;
    fn topology(&self) -> Arc<dyn Topology>;
    /// None when `capabilities().scan` is false.
    fn scan(&self) -> Option<Arc<dyn Scan>>;
    /// Cheap, never blocks on the network; for `/readyz` and `/health`.
    fn health(&self) -> Health;
    /// Flushes the publisher and closes connections. Sources are closed by their owners before.
    async fn close(&self);
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(tag = "state", rename_all = "kebab-case")]
#[schemars(rename = "BrokerHealth")]
pub enum Health {
    Up,
    /// Works, but slower or not everywhere (connection.blocked, some consumers away).
    Degraded {
        reason: String,
    },
    /// Says host, user, TLS/SASL mode, cause and next step.
    Down {
        reason: String,
    },
}

/// Errors of a broker that an operator has to read. Logged where they are consumed, once.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Nobody answers. Says host, user, TLS/SASL mode and next step.
    #[error("{0}")]
    Unreachable(String),
    /// Wrong password, certificate not trusted, missing permission.
    #[error("{0}")]
    Refused(String),
    #[error("no queue or topic named `{0}`")]
    UnknownDestination(String),
    #[error("{0}")]
    Unsupported(String),
    /// Disk full, I/O error, corrupt file.
    #[error("{0}")]
    Storage(String),
    #[error("{0}")]
    Other(String),
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Refuses one position; remembers what was settled, and how many times it was asked.
    #[derive(Default)]
    struct Desk {
        refuses: u64,
        calls: Mutex<Vec<Vec<u64>>>,
    }

    impl Settle for Desk {
        fn begin(&self, token: Token) -> bool {
            token.position != self.refuses
        }

        fn ack(&self, _: Token) {}

        fn release(&self, _: Token) {}

        fn ack_all(&self, tokens: &[Token]) {
            let positions = tokens.iter().map(|t| t.position).collect();
            self.calls
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .push(positions);
        }
    }

    fn receipts(desk: &Arc<Desk>, positions: &[u64]) -> Vec<Receipt> {
        let settle: Arc<dyn Settle> = Arc::<Desk>::clone(desk);
        let token = |&position| Token {
            epoch: 1,
            lane: 0,
            position,
        };
        positions
            .iter()
            .map(|position| Receipt::new(Arc::clone(&settle), token(position)))
            .collect()
    }

    #[test]
    fn a_batch_of_several_sources_begins_and_is_acknowledged_in_place() {
        let (one, two) = (
            Arc::new(Desk {
                refuses: 2,
                ..Desk::default()
            }),
            Arc::new(Desk {
                refuses: 1,
                ..Desk::default()
            }),
        );
        let mut all = receipts(&one, &[1, 2, 3]);
        all.extend(receipts(&two, &[1, 2]));
        all.extend(receipts(&one, &[2]));
        // One of the store's in the middle.
        let mut asked: Vec<Option<&Receipt>> = all.iter().map(Some).collect();
        asked.insert(2, None);
        let ours = begin_all(asked.into_iter());
        assert_eq!(ours, [true, false, true, true, false, true, false]);
        ack_all(all);
        let calls = |desk: &Desk| {
            desk.calls
                .lock()
                .map_or_else(|e| e.into_inner().clone(), |calls| calls.clone())
        };
        assert_eq!(calls(&one), [vec![1, 2, 3], vec![2]]);
        assert_eq!(calls(&two), [vec![1, 2]]);
    }
}
