//! What a property stands on: a broker opened as often as it likes, destinations nobody else uses, patience.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use helix_host::broker::{Broker, Confirmed, Delivery, Destination, Error, Source, Subscription};
use helix_host::model::{Clock, Headers, MessageKind, Outgoing, SystemClock};
use helix_tests::unique;
use tempfile::TempDir;

use super::brokers::Place;
use super::capabilities::Flag;

/// Ends a test that hangs; what is waited for takes a second at most.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing must come when nothing may come. A slow machine makes such a check weaker, never red.
const SILENCE: Duration = Duration::from_millis(300);

pub struct Stage {
    pub place: Place,
    pub kind: MessageKind,
    group: String,
    folder: TempDir,
    asks: &'static [Flag],
    asked: Mutex<BTreeSet<Flag>>,
}

impl Stage {
    pub fn new(place: Place, asks: &'static [Flag]) -> Self {
        Self {
            place,
            kind: place.kind(),
            group: unique("group"),
            folder: tempfile::tempdir().unwrap(),
            asks,
            asked: Mutex::default(),
        }
    }

    /// Whether the promise holds here, or else the refusal.
    pub fn can(&self, flag: Flag) -> bool {
        assert!(
            self.asks.contains(&flag),
            "name {flag:?} in the row of this property"
        );
        self.asked.lock().unwrap().insert(flag);
        flag.holds(&self.place.capabilities(), self.kind)
    }

    pub fn check_asked(&self) {
        let asked = self.asked.lock().unwrap();
        for flag in self.asks {
            assert!(
                asked.contains(flag),
                "{flag:?} stands in the row of this property, and it never asks for it"
            );
        }
    }

    pub fn try_open(&self) -> Result<Arc<dyn Broker>, Error> {
        self.place.open(&self.group, self.folder.path())
    }

    pub fn open(&self) -> Arc<dyn Broker> {
        self.try_open().unwrap()
    }

    /// A destination that is not there yet: one partition, no priorities.
    pub fn destination(&self) -> Destination {
        Destination {
            kind: self.kind,
            name: unique("contract").into(),
            max_priority: 0,
            ttl: None,
            partitions: u32::from(self.kind == MessageKind::Event),
            arguments: BTreeMap::new(),
        }
    }

    /// With as many partitions as topics have; queues have none.
    pub fn wide(&self, partitions: u32) -> Destination {
        let mut wide = self.destination();
        if self.kind == MessageKind::Event {
            wide.partitions = partitions;
        }
        wide
    }

    /// A broker and an empty destination in it.
    pub async fn ready(&self) -> (Arc<dyn Broker>, Arc<str>) {
        let broker = self.open();
        let name = create(&*broker, &self.destination()).await;
        (broker, name)
    }

    pub fn message(&self, to: &Arc<str>, id: &str) -> Outgoing {
        Outgoing {
            kind: self.kind,
            destination: Arc::clone(to),
            id: id.to_owned(),
            message_type: "contract.checked".to_owned(),
            payload: Bytes::from(id.to_owned()),
            tombstone: false,
            content_type: None,
            schema: None,
            source: None,
            subject: None,
            priority: None,
            key: None,
            time_ms: SystemClock.now_ms(),
            not_before_ms: None,
            deadline_ms: None,
            correlation_id: None,
            reply_to: None,
            trace: None,
            headers: Headers::new(),
        }
    }

    /// Publishes messages with these numbers as ids, in one batch.
    pub async fn send(&self, broker: &dyn Broker, to: &Arc<str>, numbers: std::ops::Range<usize>) {
        send(
            broker,
            numbers.map(|n| self.message(to, &n.to_string())).collect(),
        )
        .await;
    }

    pub async fn consumer(&self, broker: &dyn Broker, from: &Arc<str>, window: usize) -> Consumer {
        let subscription = Subscription {
            kind: self.kind,
            destination: Arc::clone(from),
            window,
        };
        Consumer(broker.subscribe(subscription).await.unwrap())
    }

    /// The next consumer of the group gets what is published now, and nothing from before. For one queue or partition.
    pub async fn assert_empty(&self, broker: &dyn Broker, name: &Arc<str>) {
        let last = unique("last");
        send(broker, vec![self.message(name, &last)]).await;
        let mut consumer = self.consumer(broker, name, 100).await;
        let first = consumer.take(1).await;
        assert_eq!(ids(&first), [last], "something was left in {name}");
        acknowledge(first);
        consumer.leave().await;
    }
}

pub async fn create(broker: &dyn Broker, want: &Destination) -> Arc<str> {
    broker.topology().create(want).await.unwrap();
    Arc::clone(&want.name)
}

/// Publishes and demands a confirm for each.
pub async fn send(broker: &dyn Broker, batch: Vec<Outgoing>) -> Vec<Confirmed> {
    let count = batch.len();
    let results = broker.publisher().publish(batch).await;
    assert_eq!(results.len(), count, "one result for each message");
    results
        .into_iter()
        .map(|result| result.expect("confirmed"))
        .collect()
}

/// A source that is asked with patience.
pub struct Consumer(Box<dyn Source>);

impl Consumer {
    pub async fn recv(&mut self, max: usize) -> Vec<Delivery> {
        let batch = self.0.recv(max).await.unwrap();
        assert!(batch.len() <= max, "{} deliveries, {max} asked for", batch.len());
        batch
    }

    /// Exactly so many deliveries.
    pub async fn take(&mut self, count: usize) -> Vec<Delivery> {
        let mut taken: Vec<Delivery> = Vec::new();
        while taken.len() < count {
            let more = tokio::time::timeout(PATIENCE, self.recv(count - taken.len())).await;
            let more = more.unwrap_or_else(|_| panic!("{count} wanted, {:?} came", ids(&taken)));
            assert!(
                !more.is_empty(),
                "the source is closed; {count} wanted, {:?} came",
                ids(&taken)
            );
            taken.extend(more);
        }
        taken
    }

    /// Nothing is handed out for a while.
    pub async fn assert_silent(&mut self, why: &str) {
        if let Ok(batch) = tokio::time::timeout(SILENCE, self.recv(100)).await {
            assert!(batch.is_empty(), "{why}: {:?} came", ids(&batch));
        }
    }

    pub async fn pause(&mut self) {
        self.0.pause().await;
    }

    pub async fn leave(self) {
        self.0.close(PATIENCE).await.unwrap();
    }
}

pub fn id(delivery: &Delivery) -> String {
    delivery
        .raw
        .headers
        .text("id")
        .expect("an id in the headers")
        .to_owned()
}

pub fn ids(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(id).collect()
}

/// `["3", "4"]` for `3..5`.
pub fn names(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(|n| n.to_string()).collect()
}

/// As a handler's host does: begin, then acknowledge.
pub fn acknowledge(deliveries: impl IntoIterator<Item = Delivery>) {
    for delivery in deliveries {
        assert!(delivery.receipt.begin(), "{} is ours", id(&delivery));
        delivery.receipt.ack();
    }
}
