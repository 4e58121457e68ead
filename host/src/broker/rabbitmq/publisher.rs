//! Publishing: a few lanes share one connection; each sends what waits, at most 128 messages, and awaits their confirms.
//!
//! 8 lanes × 128 = 1,024 unconfirmed messages at most. A lane waits for all confirms of what it has sent before it sends
//! more: only then is it certain which of its messages came back as unroutable (see [`super::confirms`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::connect::Link;
use super::convert;
use super::lane::{Item, Lane, Outcome};
use crate::broker::{Confirmed, PublishError, Publisher, Replica};
use crate::config::valid::Formats;
use crate::encode::{self, Wire};
use crate::model::{Clock, MessageKind, Outgoing, RawMessage, SystemClock, UnixMs};

const LANES: usize = 8;
/// Calls of `publish` that may wait for a lane.
const WAITING: usize = 64;
/// What a content header frame holds with RabbitMQ's default `frame_max` of 128 KiB, minus AMQP's own bytes.
const HEADER_LIMIT: usize = 131_072 - 1024;

pub struct Job {
    pub items: Vec<Item>,
    pub done: oneshot::Sender<Vec<Outcome>>,
}

pub struct QueuePublisher {
    link: Arc<Link>,
    formats: Formats,
    timeout: Duration,
    jobs: std::sync::Mutex<Option<mpsc::Sender<Job>>>,
    waiting: Arc<Mutex<mpsc::Receiver<Job>>>,
    started: AtomicBool,
    lanes: TaskTracker,
    /// The broker's `max_message_size`, once it has told us: an oversized message costs all others on its channel a
    /// second transmission, so that shall happen once.
    max_size: Arc<AtomicU64>,
}

impl QueuePublisher {
    pub fn new(link: Arc<Link>, formats: Formats, timeout: Duration) -> Self {
        let (jobs, waiting) = mpsc::channel(WAITING);
        Self {
            link,
            formats,
            timeout,
            jobs: std::sync::Mutex::new(Some(jobs)),
            waiting: Arc::new(Mutex::new(waiting)),
            started: AtomicBool::new(false),
            lanes: TaskTracker::new(),
            max_size: Arc::new(AtomicU64::new(u64::MAX)),
        }
    }

    fn start(&self) {
        if !self.started.swap(true, Ordering::AcqRel) {
            for _ in 0..LANES {
                self.lanes.spawn(
                    Lane::new(Arc::clone(&self.link), Arc::clone(&self.max_size))
                        .run(Arc::clone(&self.waiting)),
                );
            }
        }
    }

    /// Takes nothing new; waits until everything taken has an answer, at most as long as a publish may take.
    pub async fn close(&self) {
        super::health::lock(&self.jobs).take();
        self.lanes.close();
        let _ = tokio::time::timeout(self.timeout, self.lanes.wait()).await;
    }

    fn prepare(&self, message: &Outgoing, deadline: Instant) -> Result<Item, PublishError> {
        if message.kind == MessageKind::Event {
            return Err(PublishError::Invalid(
                "RabbitMQ holds queues only, an event needs a topic".to_owned(),
            ));
        }
        if message.not_before_ms.is_some_and(|at| at > SystemClock.now_ms()) {
            return Err(PublishError::Invalid(
                "RabbitMQ cannot deliver later than now".to_owned(),
            ));
        }
        let wire = encode::encode(message, self.formats.of(&message.destination));
        self.item(&message.destination, wire, message.time_ms, deadline)
    }

    fn item(
        &self,
        queue: &str,
        mut wire: Wire,
        time_ms: UnixMs,
        deadline: Instant,
    ) -> Result<Item, PublishError> {
        let Some(body) = wire.body.take() else {
            return Err(PublishError::Invalid("RabbitMQ has no tombstones".to_owned()));
        };
        let limit = self.max_size.load(Ordering::Relaxed);
        if u64::try_from(body.len()).is_ok_and(|size| size > limit) {
            return Err(PublishError::TooLarge { limit });
        }
        let properties = convert::properties(&wire, time_ms, HEADER_LIMIT).map_err(PublishError::Invalid)?;
        let queue = convert::short("the queue's name", queue).map_err(PublishError::Invalid)?;
        Ok(Item::new(queue, body, properties, deadline))
    }
}

#[async_trait]
impl Publisher for QueuePublisher {
    async fn publish(&self, batch: Vec<Outgoing>) -> Vec<Result<Confirmed, PublishError>> {
        self.start();
        let deadline = Instant::now() + self.timeout;
        let mut items = Vec::with_capacity(batch.len());
        items.extend(batch.iter().map(|message| self.prepare(message, deadline)));
        drop(batch);
        self.send_good(items, deadline).await
    }

    async fn put_back(&self, message: RawMessage) -> Result<Confirmed, PublishError> {
        self.again(message).await
    }

    async fn copy(&self, topic: &Arc<str>, batch: &[Replica]) -> Vec<Outcome> {
        self.start();
        let deadline = Instant::now() + self.timeout;
        let items = batch
            .iter()
            .map(|replica| self.as_it_is(topic, replica.raw.clone(), deadline));
        self.send_good(items.collect(), deadline).await
    }
}

impl QueuePublisher {
    async fn again(&self, message: RawMessage) -> Result<Confirmed, PublishError> {
        if message.origin.kind == MessageKind::Event {
            return Err(PublishError::Invalid("RabbitMQ holds queues only".to_owned()));
        }
        self.start();
        let deadline = Instant::now() + self.timeout;
        let queue = Arc::clone(&message.origin.destination);
        let item = self.as_it_is(&queue, message, deadline)?;
        let missing = || Err(PublishError::Unknown("the publisher was stopped".to_owned()));
        self.send(vec![item], deadline)
            .await
            .pop()
            .unwrap_or_else(missing)
    }

    /// With the time that its producer gave it.
    fn as_it_is(&self, queue: &str, message: RawMessage, deadline: Instant) -> Result<Item, PublishError> {
        let time_ms = message.timestamp_ms.unwrap_or_else(|| SystemClock.now_ms());
        let wire = Wire {
            body: message.body,
            key: message.key,
            headers: message.headers,
            props: message.props,
        };
        self.item(queue, wire, time_ms, deadline)
    }

    /// Those that can be carried; one result each, same order.
    async fn send_good(&self, all: Vec<Result<Item, PublishError>>, deadline: Instant) -> Vec<Outcome> {
        let mut items = Vec::with_capacity(all.len());
        // None: an answer of the lane goes here.
        let mut results: Vec<Option<Outcome>> = Vec::with_capacity(all.len());
        for one in all {
            match one {
                Ok(item) => {
                    items.push(item);
                    results.push(None);
                }
                Err(error) => results.push(Some(Err(error))),
            }
        }
        let mut answers = self.send(items, deadline).await.into_iter();
        let missing = || Err(PublishError::Unknown("the publisher was stopped".to_owned()));
        results
            .into_iter()
            .map(|result| result.or_else(|| answers.next()).unwrap_or_else(missing))
            .collect()
    }

    async fn send(&self, items: Vec<Item>, deadline: Instant) -> Vec<Outcome> {
        let count = items.len();
        if count == 0 {
            return Vec::new();
        }
        let all = |error: PublishError| (0..count).map(|_| Err(error.clone())).collect();
        let jobs = super::health::lock(&self.jobs).clone();
        let Some(jobs) = jobs else {
            return all(PublishError::Unavailable("the publisher is closed".to_owned()));
        };
        let (done, answer) = oneshot::channel();
        match tokio::time::timeout_at(deadline, jobs.send(Job { items, done })).await {
            // Lanes keep the deadline themselves, so this ends.
            Ok(Ok(())) => answer
                .await
                .unwrap_or_else(|_| all(PublishError::Unknown("the publisher was stopped".to_owned()))),
            Ok(Err(_)) => all(PublishError::Unavailable("the publisher is closed".to_owned())),
            Err(_) => all(PublishError::Unavailable(self.link.why_down().text.to_string())),
        }
    }
}
