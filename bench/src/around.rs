//! Our work around the call: the real dispatcher between a broker and a handler that both cost nothing, on one thread, so
//! that the thread's CPU time is the host's work.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use async_trait::async_trait;
use bytes::Bytes;
use helix_host::broker::{
    Broker, Capabilities, Comparison, Confirmed, Delivery, Destination, Error, Health, PublishError,
    Publisher, Receipt, Scan, Settle, Source, Subscription, Token, Topology,
};
use helix_host::guest::{Completion, Exports, Invocation, PluginStatus, Plugins, Version};
use helix_host::model::raw::Properties;
use helix_host::model::{Digest, Headers, MessageKind, Origin, Outcome, Outgoing, RawMessage};
use tokio::sync::Notify;

use crate::message::{Shape, TYPE};
use crate::process::thread_cpu_seconds;
use crate::stage::{self, Stage};
use crate::stats::{Goal, Row};
use crate::{Bench, Measure};

const HEADER: &str = "our work around the call: decode, route, lane, verdict, metrics";
const BODY: &str = "our work around the call, type only inside the JSON body";

const TOPIC: &str = "bench";

pub fn measures() -> Vec<Measure> {
    let header = |bench: &Bench| rounds(bench, HEADER, Shape::Header, Goal::AtMost(0.5));
    let body = |bench: &Bench| rounds(bench, BODY, Shape::Body, Goal::None);
    vec![Measure::new(&[HEADER], header), Measure::new(&[BODY], body)]
}

fn rounds(bench: &Bench, name: &str, shape: Shape, goal: Goal) -> Result<Vec<Row>> {
    let count = bench.count(300_000, 20_000);
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ours: Result<Vec<f64>> = (0..bench.rounds)
        .map(|_| rt.block_on(once(shape, count)))
        .collect();
    Ok(vec![Row {
        name: name.to_owned(),
        unit: "µs",
        goal,
        ours: ours?,
        baseline: Vec::new(),
        against: "",
        note: "without the broker's own ledger, which is in the Kafka rows".to_owned(),
        details: serde_json::Value::Null,
    }])
}

/// Microseconds of CPU time a message, from the first pull to the last acknowledgement.
async fn once(shape: Shape, count: usize) -> Result<f64> {
    let toml = format!("[limits]\nin_flight = 10000\n[[routes]]\ntopic = \"{TOPIC}\"\nplugin = \"none\"\n");
    let topology = format!("[[topics]]\nname = \"{TOPIC}\"\npartitions = 6\nretention = \"1d\"\n");
    let (folder, settings) = stage::folder(&toml, &topology)?;
    let desk = Arc::new(Desk::default());
    let origin = Origin {
        broker: "embedded".into(),
        kind: MessageKind::Event,
        destination: TOPIC.into(),
        partition: None,
        offset: None,
    };
    let memory = Arc::new(Memory {
        feed: Mutex::new(Some(Feed {
            origin,
            shape,
            next: 0,
            count,
        })),
        desk: Arc::clone(&desk),
    });
    let broker: Arc<dyn Broker> = memory;
    let stage = Stage::new(&settings, folder.path(), &broker, Arc::new(Idle)).await?;
    let started = thread_cpu_seconds();
    stage.serve(&settings, &broker);
    let all = async {
        while desk.acked.load(Ordering::Acquire) < count {
            let changed = desk.changed.notified();
            if desk.acked.load(Ordering::Acquire) < count {
                changed.await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), all)
        .await
        .with_context(|| anyhow!("only {} of {count} came back", desk.acked.load(Ordering::Acquire)))?;
    let making = Duration::from_nanos(desk.making_ns.load(Ordering::Acquire) as u64).as_secs_f64();
    let took = thread_cpu_seconds() - started - making;
    stage.dispatcher.drain(Duration::from_millis(100)).await;
    stage.store.close().await;
    #[allow(clippy::cast_precision_loss, reason = "a count below 2^53")]
    let each = took * 1e6 / count as f64;
    Ok(each)
}

/// As the Kafka adapter makes it: shared names, slices of one block.
fn raw(origin: &Origin, shape: Shape, number: usize) -> RawMessage {
    let id = format!("m-{number}");
    let headers: Headers = match shape {
        Shape::Header => [("type", TYPE), ("id", &*id), ("tenant", "t-1")]
            .into_iter()
            .map(|(name, value)| (name, Bytes::copy_from_slice(value.as_bytes())))
            .collect(),
        Shape::Body => Headers::new(),
    };
    RawMessage {
        origin: Origin {
            partition: Some(u32::try_from(number % 6).unwrap_or(0)),
            offset: Some((number / 6) as u64),
            ..origin.clone()
        },
        body: Some(Bytes::from(shape.body(number))),
        key: Some(Bytes::from(format!("k-{}", number % 1000))),
        headers,
        props: Properties::default(),
        timestamp_ms: Some(1_700_000_000_000),
        redelivered: false,
    }
}

/// Counts acknowledgements.
#[derive(Default)]
struct Desk {
    acked: AtomicUsize,
    changed: Notify,
    /// CPU time of making messages, which is not the host's.
    making_ns: AtomicUsize,
}

impl Settle for Desk {
    fn begin(&self, _: Token) -> bool {
        true
    }

    fn ack(&self, _: Token) {
        // Counts are whole thousands; waking for each message would be a cost of ours.
        if (self.acked.fetch_add(1, Ordering::AcqRel) + 1).is_multiple_of(1000) {
            self.changed.notify_waiters();
        }
    }

    fn release(&self, _: Token) {}
}

/// A broker that makes its messages when they are asked for, as an adapter does: fresh in the cache, and their memory is
/// given back to where it came from. What that costs is taken off the figure.
struct Memory {
    feed: Mutex<Option<Feed>>,
    desk: Arc<Desk>,
}

struct Feed {
    origin: Origin,
    shape: Shape,
    next: usize,
    count: usize,
}

struct Pull {
    feed: Option<Feed>,
    desk: Arc<Desk>,
}

#[async_trait]
impl Source for Pull {
    async fn recv(&mut self, max: usize) -> Result<Vec<Delivery>, Error> {
        let Some(feed) = self.feed.as_mut().filter(|feed| feed.next < feed.count) else {
            return std::future::pending().await;
        };
        let started = thread_cpu_seconds();
        let token = Token {
            epoch: 0,
            lane: 0,
            position: 0,
        };
        let settle: Arc<dyn Settle> = Arc::<Desk>::clone(&self.desk);
        let end = feed.count.min(feed.next + max);
        let deliveries = (feed.next..end)
            .map(|number| Delivery {
                raw: raw(&feed.origin, feed.shape, number),
                receipt: Receipt::new(Arc::clone(&settle), token),
            })
            .collect();
        feed.next = end;
        let making = Duration::from_secs_f64((thread_cpu_seconds() - started).max(0.0));
        let making = usize::try_from(making.as_nanos()).unwrap_or(usize::MAX);
        self.desk.making_ns.fetch_add(making, Ordering::AcqRel);
        Ok(deliveries)
    }

    async fn pause(&mut self) {}

    async fn close(self: Box<Self>, _: Duration) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait]
impl Publisher for Memory {
    async fn publish(&self, batch: Vec<Outgoing>) -> Vec<Result<Confirmed, PublishError>> {
        let refused = || PublishError::Unavailable("nothing is published here".to_owned());
        batch.iter().map(|_| Err(refused())).collect()
    }
}

#[async_trait]
impl Topology for Memory {
    async fn compare(&self, _: &Destination) -> Result<Comparison, Error> {
        Ok(Comparison::Same)
    }

    async fn create(&self, _: &Destination) -> Result<(), Error> {
        Ok(())
    }

    async fn depth(&self, _: MessageKind, _: &str) -> Result<u64, Error> {
        Ok(0)
    }
}

#[async_trait]
impl Broker for Memory {
    fn name(&self) -> Arc<str> {
        "embedded".into()
    }

    fn capabilities(&self) -> Capabilities {
        helix_host::broker::embedded::CAPABILITIES
    }

    async fn subscribe(&self, _: Subscription) -> Result<Box<dyn Source>, Error> {
        let mut feed = self.feed.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Box::new(Pull {
            feed: feed.take(),
            desk: Arc::<Desk>::clone(&self.desk),
        }))
    }

    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(Self {
            feed: Mutex::default(),
            desk: Arc::clone(&self.desk),
        })
    }

    fn topology(&self) -> Arc<dyn Topology> {
        Arc::new(Self {
            feed: Mutex::default(),
            desk: Arc::clone(&self.desk),
        })
    }

    fn scan(&self) -> Option<Arc<dyn Scan>> {
        None
    }

    fn health(&self) -> Health {
        Health::Up
    }

    async fn close(&self) {}
}

/// A handler that is done at once.
struct Idle;

impl Plugins for Idle {
    fn current(&self, _: &str) -> Option<Arc<dyn Version>> {
        // Of no size, so this allocates a counter only.
        Some(Arc::new(Self))
    }

    fn list(&self) -> Vec<PluginStatus> {
        Vec::new()
    }
}

#[async_trait]
impl Version for Idle {
    fn digest(&self) -> Digest {
        Digest::new([0; 32])
    }

    fn exports(&self) -> Exports {
        Exports {
            packed: true,
            event: true,
            ..Exports::default()
        }
    }

    async fn call(&self, batch: &[Invocation<'_>]) -> Vec<Completion> {
        batch
            .iter()
            .map(|_| Completion {
                outcome: Outcome::Done,
                outputs: Vec::new(),
                withheld: None,
                log: Vec::new(),
                duration: Duration::ZERO,
            })
            .collect()
    }
}
