//! Kafka through librdkafka.
//!
//! ```text
//!  librdkafka ─▶ reader (thread) ─▶ source ─▶ host
//!      ▲            │ ledger ▲                  │
//!      └── commits ─┘        └──── receipts ────┘
//! ```
//! What must hold: a commit never passes an offset that is not finished; what an old assignment says changes nothing.

mod connect;
pub mod convert;
mod desk;
mod ledger;
mod log_fold;
mod native;
mod publisher;
mod reader;
mod rebalance;
mod scan;
mod source;
mod topology;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::error::KafkaError;

#[cfg(test)]
pub(crate) use self::ledger::{Ledger, Receive};
use self::log_fold::Link;
use self::publisher::KafkaPublisher;
use self::scan::{KafkaScan, SharedScan};
use self::source::KafkaSource;
use self::topology::KafkaTopology;
use super::{Broker, Capabilities, Error, Health, Publisher, Scan, Source, Subscription, Topology};
use crate::config::valid;
use crate::error::{BROKER_NO_DESTINATION, BROKER_REFUSED};
use crate::model::{BrokerKind, MessageKind};

/// How often the brokers are asked whether they are there; also how long the answer may take.
const PROBE: Duration = Duration::from_secs(3);

pub struct Kafka {
    name: Arc<str>,
    options: valid::Kafka,
    link: Arc<Link>,
    publisher: Arc<KafkaPublisher>,
    scan: SharedScan,
    topology: Arc<KafkaTopology>,
    /// Dropped to end the probe.
    probe: Mutex<Option<mpsc::Sender<()>>>,
}

impl Kafka {
    /// Fails for settings that cannot work (a missing certificate file, an unknown property), never because the brokers
    /// are away.
    pub fn new(name: &str, options: &valid::Kafka, formats: valid::Formats) -> Result<Self, Error> {
        connect::check(options)?;
        let link = Arc::new(Link::new(name, connect::place(options)));
        let producer = connect::producer(options);
        let publisher = KafkaPublisher::new(producer, link.clone(), formats, options.publish_timeout)?;
        let publisher = Arc::new(publisher);
        let name: Arc<str> = name.into();
        let scan = SharedScan(Arc::new(KafkaScan::new(
            name.clone(),
            connect::observer(options),
            link.clone(),
        )));
        let topology = KafkaTopology {
            config: connect::admin(options),
            link: link.clone(),
            scan: scan.clone(),
        };
        let probe = probe(&name, publisher.clone(), link.clone())?;
        Ok(Self {
            name,
            options: options.clone(),
            link,
            publisher,
            scan,
            topology: Arc::new(topology),
            probe: Mutex::new(Some(probe)),
        })
    }
}

/// A thread that asks the brokers for a sign of life, so that health is known without traffic and comes back by itself.
fn probe(name: &str, publisher: Arc<KafkaPublisher>, link: Arc<Link>) -> Result<mpsc::Sender<()>, Error> {
    let (stop, stopped) = mpsc::channel();
    let watch = move || loop {
        match publisher.ping(PROBE) {
            Ok(()) => link.answered(),
            Err(code) => link.down(&KafkaError::Global(code).to_string()),
        }
        if stopped.recv_timeout(PROBE) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    };
    let thread = std::thread::Builder::new()
        .name(format!("kafka-{name}-probe"))
        .spawn(watch);
    thread.map_err(|e| Error::Other(format!("no thread for {name}: {e}")))?;
    Ok(stop)
}

/// Known without opening anything.
pub const CAPABILITIES: Capabilities = Capabilities {
    kind: BrokerKind::Kafka,
    tasks: false,
    events: true,
    shared: true,
    key_order_shared: true,
    priorities: false,
    delays: false,
    scan: true,
    redelivery_flag: false,
    tombstones: true,
};

#[async_trait]
impl Broker for Kafka {
    fn name(&self) -> Arc<str> {
        self.name.clone()
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn Source>, Error> {
        let topic = &subscription.destination;
        if subscription.kind != MessageKind::Event {
            return Err(Error::Unsupported(format!(
                "{BROKER_REFUSED} {topic}: Kafka has topics only, no queues"
            )));
        }
        // A broker that is away is no reason to refuse: the source waits for it.
        if let Ok(false) = self.publisher.topic_exists(topic).await {
            tracing::debug!(topic = &**topic, "{BROKER_NO_DESTINATION} no such topic");
            return Err(Error::UnknownDestination(topic.to_string()));
        }
        Ok(Box::new(KafkaSource::start(
            &self.name,
            &self.options,
            &self.link,
            &subscription,
        )?))
    }

    fn publisher(&self) -> Arc<dyn Publisher> {
        self.publisher.clone()
    }

    fn topology(&self) -> Arc<dyn Topology> {
        self.topology.clone()
    }

    fn scan(&self) -> Option<Arc<dyn Scan>> {
        Some(Arc::new(self.scan.clone()))
    }

    fn health(&self) -> Health {
        self.link.health()
    }

    async fn close(&self) {
        self.probe.lock().unwrap_or_else(PoisonError::into_inner).take();
        let publisher = self.publisher.clone();
        let _ = tokio::task::spawn_blocking(move || publisher.close()).await;
    }
}
