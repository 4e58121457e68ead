//! RabbitMQ over AMQP 0-9-1: queues with confirms, coalesced acknowledgements, and connections that heal themselves.
//!
//! ```text
//! RabbitMq ─┬─ Link "consume" ─┬─ QueueSource ─ consume ─ settle ─ acks
//!           │   (connect, dial, tls) └─ Queues (topology, arguments)
//!           ├─ Link "publish" ─── QueuePublisher ─ lane ─ confirms
//!           └─ Link "read" ────── StreamScan (topology)
//! ```
//! Two connections, because a broker that is short of memory or disk stops reading from those that publish, and
//! acknowledgements must go on. A third one when a stream is read again: that moves much, and live deliveries must not queue
//! behind it.

mod acks;
mod arguments;
mod confirms;
mod connect;
mod consume;
pub mod convert;
mod diagnose;
mod dial;
mod health;
mod lane;
mod publisher;
mod scan;
mod settle;
mod source;
mod tls;
mod topology;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

#[cfg(test)]
pub(crate) use self::acks::{Coalescer, Frame};
use self::connect::Link;
use self::dial::Target;
use self::health::Board;
use self::publisher::QueuePublisher;
use self::scan::StreamScan;
use self::source::QueueSource;
use self::topology::Queues;
use super::{Broker, Capabilities, Error, Health, Publisher, Scan, Source, Subscription, Topology};
use crate::config::valid;
use crate::model::{BrokerKind, MessageKind};

/// How long the broker may take to agree to a connection's end.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// One RabbitMQ (or a cluster behind one address).
pub struct RabbitMq {
    name: Arc<str>,
    single_active_consumer: bool,
    board: Arc<Board>,
    consume: Arc<Link>,
    publish: Arc<Link>,
    read: Arc<Link>,
    publisher: Arc<QueuePublisher>,
    topology: Arc<Queues>,
    scan: Arc<StreamScan>,
}

impl RabbitMq {
    /// Connects to nobody yet: that happens on first use, and again for as long as it takes.
    ///
    /// # Errors
    /// [`Error::Refused`] when a TLS file cannot be used.
    pub fn new(name: &str, options: &valid::RabbitMq, formats: valid::Formats) -> Result<Self, Error> {
        if let Some(tls) = &options.tls {
            tls::connector(tls).map_err(|cause| Error::Refused(format!("RabbitMQ `{name}`: {cause}")))?;
        }
        let target = Arc::new(Target::new(name, options));
        let board = Arc::new(Board::default());
        let consume = Link::new("consume", Arc::clone(&target), Arc::clone(&board));
        let publish = Link::new("publish", Arc::clone(&target), Arc::clone(&board));
        let read = Link::new("read", target, Arc::clone(&board));
        Ok(Self {
            name: name.into(),
            single_active_consumer: options.single_active_consumer,
            publisher: Arc::new(QueuePublisher::new(
                Arc::clone(&publish),
                formats,
                options.publish_timeout,
            )),
            topology: Arc::new(Queues {
                link: Arc::clone(&consume),
            }),
            scan: Arc::new(StreamScan::new(name.into(), Arc::clone(&read))),
            board,
            consume,
            publish,
            read,
        })
    }

    /// Acknowledgements that came after their channel had gone; each is a delivery that comes again.
    pub fn stale_acks(&self) -> u64 {
        self.board.stale_acks()
    }
}

/// Known without connecting.
pub const fn capabilities(single_active_consumer: bool) -> Capabilities {
    Capabilities {
        kind: BrokerKind::RabbitMq,
        tasks: true,
        events: false,
        shared: true,
        key_order_shared: single_active_consumer,
        priorities: true,
        delays: false,
        scan: true,
        redelivery_flag: true,
        tombstones: false,
    }
}

#[async_trait]
impl Broker for RabbitMq {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn capabilities(&self) -> Capabilities {
        capabilities(self.single_active_consumer)
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn Source>, Error> {
        if subscription.kind == MessageKind::Event {
            return Err(topology::no_topics(&subscription.destination));
        }
        let (link, board) = (Arc::clone(&self.consume), Arc::clone(&self.board));
        Ok(Box::new(QueueSource::start(
            Arc::clone(&self.name),
            &subscription,
            self.single_active_consumer,
            link,
            board,
        )))
    }

    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::<QueuePublisher>::clone(&self.publisher)
    }

    fn topology(&self) -> Arc<dyn Topology> {
        Arc::<Queues>::clone(&self.topology)
    }

    fn scan(&self) -> Option<Arc<dyn Scan>> {
        Some(Arc::<StreamScan>::clone(&self.scan))
    }

    fn health(&self) -> Health {
        self.board.health(&[self.consume.health(), self.publish.health()])
    }

    async fn close(&self) {
        self.publisher.close().await;
        self.publish.close(CLOSE_LIMIT).await;
        self.consume.close(CLOSE_LIMIT).await;
        self.read.close(CLOSE_LIMIT).await;
    }
}
