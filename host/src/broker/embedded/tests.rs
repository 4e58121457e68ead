//! The broker as a whole, on real files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod crash;
mod faults;
mod flow;
mod killed;
mod tasks;
mod topics;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::*;
use crate::broker::{Confirmed, Delivery, Destination, PublishError};
use crate::model::{Headers, MessageKind, Outgoing, UnixMs};

/// No condition of these tests takes longer than milliseconds; this only ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(20);
const START: UnixMs = 1_700_000_000_000;

struct HandClock(AtomicU64);

impl HandClock {
    fn advance(&self, by: Duration) {
        self.0
            .fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn now_ms(&self) -> UnixMs {
        self.0.load(Ordering::SeqCst)
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}

struct Rig {
    clock: Arc<HandClock>,
    dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        Self {
            clock: Arc::new(HandClock(AtomicU64::new(START))),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn try_open(&self, path: &Path) -> Result<Embedded, Error> {
        let options = valid::Embedded {
            path: path.to_owned(),
            group: "g".into(),
        };
        Embedded::open("local", &options, valid::Formats::default(), self.clock.clone())
    }

    fn open(&self) -> Embedded {
        self.try_open(self.dir.path()).unwrap()
    }

    async fn with_queue(&self, max_priority: u8) -> Embedded {
        let broker = self.open();
        broker.topology().create(&queue("q", max_priority)).await.unwrap();
        broker
    }

    async fn with_topic(&self, partitions: u32) -> Embedded {
        let broker = self.open();
        broker.topology().create(&topic("t", partitions)).await.unwrap();
        broker
    }
}

fn queue(name: &str, max_priority: u8) -> Destination {
    Destination {
        kind: MessageKind::Task,
        name: name.into(),
        max_priority,
        ttl: None,
        partitions: 0,
        arguments: BTreeMap::new(),
    }
}

fn topic(name: &str, partitions: u32) -> Destination {
    Destination {
        kind: MessageKind::Event,
        partitions,
        ..queue(name, 0)
    }
}

fn task(id: &str) -> Outgoing {
    Outgoing {
        kind: MessageKind::Task,
        destination: "q".into(),
        id: id.into(),
        message_type: "test.happened".into(),
        payload: id.to_owned().into(),
        tombstone: false,
        content_type: None,
        schema: None,
        source: None,
        subject: None,
        priority: None,
        key: None,
        time_ms: START,
        not_before_ms: None,
        deadline_ms: None,
        correlation_id: None,
        reply_to: None,
        trace: None,
        headers: Headers::new(),
    }
}

fn event(id: &str, key: Option<&str>) -> Outgoing {
    Outgoing {
        kind: MessageKind::Event,
        destination: "t".into(),
        key: key.map(|k| k.to_owned().into()),
        ..task(id)
    }
}

async fn publish(broker: &Embedded, batch: Vec<Outgoing>) -> Vec<Confirmed> {
    broker
        .publisher()
        .publish(batch)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

async fn publish_one(broker: &Embedded, message: Outgoing) -> Result<Confirmed, PublishError> {
    broker.publisher().publish(vec![message]).await.pop().unwrap()
}

fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("m{n:05}")).collect()
}

async fn tasks_of(broker: &Embedded, window: usize) -> Box<dyn Source> {
    subscribe(broker, MessageKind::Task, "q", window).await
}

async fn events_of(broker: &Embedded, window: usize) -> Box<dyn Source> {
    subscribe(broker, MessageKind::Event, "t", window).await
}

async fn subscribe(broker: &Embedded, kind: MessageKind, name: &str, window: usize) -> Box<dyn Source> {
    broker
        .subscribe(Subscription {
            kind,
            destination: name.into(),
            window,
        })
        .await
        .unwrap()
}

async fn recv(source: &mut Box<dyn Source>, max: usize) -> Vec<Delivery> {
    tokio::time::timeout(PATIENCE, source.recv(max))
        .await
        .expect("nothing came")
        .unwrap()
}

async fn recv_exactly(source: &mut Box<dyn Source>, count: usize) -> Vec<Delivery> {
    let mut out = Vec::new();
    while out.len() < count {
        let more = recv(source, count - out.len()).await;
        assert!(!more.is_empty(), "closed");
        out.extend(more);
    }
    out
}

/// The first poll runs the claim; pending after a claim that found nothing means: nothing is ready.
async fn assert_nothing(source: &mut Box<dyn Source>, broker: &Embedded) {
    let commits = broker.commits();
    let waited = tokio::time::timeout(Duration::from_millis(50), source.recv(10)).await;
    assert!(
        waited.is_err(),
        "came: {:?} (commits {commits})",
        waited.map(|d| names(&d.unwrap()))
    );
}

fn id_of(delivery: &Delivery) -> String {
    delivery.raw.props.message_id.clone().unwrap()
}

fn names(deliveries: &[Delivery]) -> Vec<String> {
    deliveries.iter().map(id_of).collect()
}

fn ack_all(deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        assert!(delivery.receipt.begin());
        delivery.receipt.ack();
    }
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Rows in the table, acknowledged and committed ones are gone.
fn rows(broker: &Embedded) -> i64 {
    broker.core.queue("q").unwrap().rows.load(Ordering::Relaxed)
}
