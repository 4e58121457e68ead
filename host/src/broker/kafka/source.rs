//! One consumer of one topic: its own thread polls librdkafka and hands batches to the async side.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::consumer::BaseConsumer;
use tokio::sync::{mpsc, oneshot};

use super::connect;
use super::desk::Desk;
use super::log_fold::{Link, Quiet};
use super::reader::Reader;
use super::rebalance::Group;
use crate::broker::{Delivery, Error, Source, Subscription};
use crate::config::valid;

/// Tells the polling thread what to do.
#[derive(Debug, Default)]
pub struct Orders {
    pub paused: AtomicBool,
    /// Leave; handlers that run have until then.
    pub leave: Mutex<Option<Instant>>,
}

/// Dropping it is the order to leave at once; [`Source::close`] orders a later time before.
struct Leash(Arc<Orders>);

impl Leash {
    fn leave(&self, deadline: Instant) {
        let mut leave = self.0.leave.lock().unwrap_or_else(PoisonError::into_inner);
        leave.get_or_insert(deadline);
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        self.leave(Instant::now());
    }
}

pub struct KafkaSource {
    batches: mpsc::Receiver<Result<Vec<Delivery>, Error>>,
    ready: VecDeque<Delivery>,
    leash: Leash,
    gone: oneshot::Receiver<()>,
}

impl KafkaSource {
    /// Does not wait for the broker.
    pub fn start(
        broker: &Arc<str>,
        options: &valid::Kafka,
        link: &Arc<Link>,
        subscription: &Subscription,
    ) -> Result<Self, Error> {
        let desk = Arc::new(Desk::new(subscription.window));
        let group = Group {
            quiet: Quiet(link.clone()),
            desk: desk.clone(),
            topic: subscription.destination.clone(),
            revoke_timeout: options.revoke_timeout.min(LONGEST_DRAIN),
            queue: Mutex::default(),
        };
        let consumer: BaseConsumer<Group> = connect::consumer(options)
            .create_with_context(group)
            .map_err(|e| Error::Other(format!("{}: {e}", connect::place(options))))?;
        let orders = Arc::new(Orders::default());
        // Each batch holds at least one receipt and the window bounds those, so the channel is never full.
        let (sender, batches) = mpsc::channel(subscription.window.max(1) + 16);
        let reader = Reader::new(broker.clone(), consumer, desk, orders.clone(), sender)?;
        let (left, gone) = oneshot::channel();
        std::thread::Builder::new()
            .name(format!("kafka-{}", subscription.destination))
            .spawn(move || {
                reader.run();
                let _ = left.send(());
            })
            .map_err(|e| Error::Other(format!("no thread for {}: {e}", subscription.destination)))?;
        Ok(Self {
            batches,
            ready: VecDeque::new(),
            leash: Leash(orders),
            gone,
        })
    }
}

/// A revocation must end well before the group gives up on us (`max.poll.interval.ms`, 5 min by default).
const LONGEST_DRAIN: Duration = Duration::from_secs(200);

#[async_trait]
impl Source for KafkaSource {
    async fn recv(&mut self, max: usize) -> Result<Vec<Delivery>, Error> {
        if self.leash.0.paused.load(Ordering::Acquire) {
            return Ok(Vec::new());
        }
        if self.ready.is_empty() {
            match self.batches.recv().await {
                // Handed on as it is.
                Some(Ok(batch)) if batch.len() <= max => return Ok(batch),
                Some(batch) => self.ready.extend(batch?),
                None => return Ok(Vec::new()),
            }
        }
        while self.ready.len() < max
            && let Ok(batch) = self.batches.try_recv()
        {
            self.ready.extend(batch?);
        }
        let count = max.max(1).min(self.ready.len());
        Ok(self.ready.drain(..count).collect())
    }

    async fn pause(&mut self) {
        self.leash.0.paused.store(true, Ordering::Release);
        // Read ahead, handed to nobody: their receipts are dropped here, or with the channel for what is on its way.
        self.ready.clear();
        while self.batches.try_recv().is_ok() {}
    }

    async fn close(self: Box<Self>, limit: Duration) -> Result<(), Error> {
        let Self {
            batches,
            ready,
            leash,
            mut gone,
        } = *self;
        leash.0.paused.store(true, Ordering::Release);
        leash.leave(Instant::now() + limit);
        // What nobody has begun goes back at once.
        drop((batches, ready));
        // The commit and the farewell need the broker; without one they end by librdkafka's own bounds, in the background.
        match tokio::time::timeout(limit + FAREWELL, &mut gone).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::Unreachable(
                "the group was not left in time; the broker finds out by itself".to_owned(),
            )),
        }
    }
}

/// For the last commit and the request to leave, after the handlers.
const FAREWELL: Duration = Duration::from_secs(6);
