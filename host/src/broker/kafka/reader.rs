//! The polling thread of a source: group events, messages, commits and re-reads, all in one loop.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::mpsc;

use super::convert::Converter;
use super::desk::Desk;
use super::ledger::{Ledger, Receive};
use super::native::{self, Commits, Queue};
use super::rebalance::{Group, LAST_COMMIT, offsets};
use super::source::Orders;
use crate::broker::{Delivery, Error, Receipt, Settle};
use crate::error::{BROKER_NO_DESTINATION, BROKER_REFUSED};
use crate::model::RawMessage;

/// Messages in one batch: enough that the channel's cost disappears, few enough that handlers start early.
const BATCH: usize = 500;
/// The longest time without a look at group events. Bounds how late a rebalance is noticed.
const TICK: Duration = Duration::from_millis(50);
/// The longest wait for room in the window before group events get their turn.
const FULL: Duration = Duration::from_millis(20);
/// A commit costs the coordinator a write; this is how much may be delivered again after a crash: 200 ms or 5,000
/// messages, whichever comes first.
const COMMIT_EVERY: Duration = Duration::from_millis(200);
const COMMIT_AT: usize = 5_000;
/// A commit that is not answered by then is sent again; librdkafka gives up on it much later.
const NO_ANSWER: Duration = Duration::from_secs(10);
/// What was released is read again after this, all at once: each seek throws away what was fetched ahead.
const REDELIVER_EVERY: Duration = Duration::from_millis(250);
/// How often partitions are put on our queue again, should librdkafka have taken one off.
const COLLECT_EVERY: Duration = Duration::from_secs(1);
/// How often a lasting complaint is repeated in the log.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

pub struct Reader {
    consumer: BaseConsumer<Group>,
    queue: Arc<Queue>,
    desk: Arc<Desk>,
    orders: Arc<Orders>,
    batches: mpsc::Sender<Result<Vec<Delivery>, Error>>,
    converter: Converter,
    /// Where answers to commits arrive.
    commits: Commits,
    /// The commit that has no answer yet.
    asked: Option<Instant>,
    committed: Instant,
    rewound: Instant,
    collected: Instant,
    complained: Option<Instant>,
}

impl Reader {
    pub fn new(
        broker: Arc<str>,
        consumer: BaseConsumer<Group>,
        desk: Arc<Desk>,
        orders: Arc<Orders>,
        batches: mpsc::Sender<Result<Vec<Delivery>, Error>>,
    ) -> Result<Self, Error> {
        let queue = Queue::new(consumer.client().native_ptr())
            .map(Arc::new)
            .ok_or_else(|| Error::Other("librdkafka gives no queue".to_owned()))?;
        let commits = Commits::new(consumer.client().native_ptr())
            .map_err(|e| Error::Other(format!("librdkafka gives no queue: {e}")))?;
        let topic = consumer.context().topic.clone();
        consumer.context().set_queue(Some(queue.clone()));
        consumer
            .subscribe(&[&topic])
            .map_err(|e| Error::Other(format!("{topic}: {e}")))?;
        let now = Instant::now();
        let converter = Converter::new(broker, topic);
        Ok(Self {
            consumer,
            queue,
            desk,
            orders,
            batches,
            converter,
            commits,
            asked: None,
            committed: now,
            rewound: now,
            collected: now,
            complained: None,
        })
    }

    /// Until told to leave, the other side is gone, or going on is pointless.
    pub fn run(mut self) {
        while !self.batches.is_closed() && self.deadline().is_none() {
            if let Err(fatal) = self.turn() {
                let _ = self.batches.try_send(Err(fatal));
                break;
            }
        }
        self.leave();
    }

    fn turn(&mut self) -> Result<(), Error> {
        let idle = self.desk.ledger(|l| l.partitions().next().is_none());
        self.events(if idle { TICK } else { Duration::ZERO })?;
        self.commit();
        self.reread();
        if idle {
            return Ok(());
        }
        if self.orders.paused.load(Ordering::Acquire) {
            return self.events(TICK);
        }
        let room = self.desk.room(FULL).min(BATCH);
        if room > 0 {
            self.fetch(room)?;
        }
        Ok(())
    }

    /// Rebalances, commit answers, log lines. Messages come by our own queue; should one come here, it counts like the others.
    fn events(&mut self, wait: Duration) -> Result<(), Error> {
        let mut wait = wait;
        // Each poll serves at most one event; a flood of log lines must not keep messages waiting.
        for _ in 0..8 {
            match self.consumer.poll(wait) {
                None => {}
                Some(Ok(message)) => {
                    use rdkafka::Message;
                    // Never seen; reading on from there would lose it, so the partition is read again from it.
                    let (partition, offset) = (message.partition(), message.offset());
                    drop(message);
                    let topic = self.consumer.context().topic.clone();
                    let _ = self
                        .consumer
                        .seek(&topic, partition, Offset::Offset(offset), TICK);
                }
                Some(Err(error)) => self.complain(&error)?,
            }
            wait = Duration::ZERO;
        }
        Ok(())
    }

    fn fetch(&mut self, room: usize) -> Result<(), Error> {
        let mut messages: Vec<RawMessage> = Vec::with_capacity(room);
        let mut errors: Vec<RDKafkaErrorCode> = Vec::new();
        let converter = &mut self.converter;
        self.queue.take(room, TICK, |seen| match seen {
            Ok(record) => messages.push(converter.message(&record)),
            Err(error) => errors.push(error),
        });
        let batch = deliveries(&self.desk, messages);
        if !batch.is_empty() {
            // Refused only when the other side is gone: the receipts drop, nothing is committed.
            let _ = self.batches.try_send(Ok(batch));
        }
        for error in errors {
            self.complain(&KafkaError::MessageConsumption(error))?;
        }
        Ok(())
    }

    /// What was refused is said again with the next commit.
    fn hear(&mut self) {
        let answered = match self.commits.answer(Duration::ZERO) {
            Some(answer) => answer,
            None if self.asked.is_some_and(|at| at.elapsed() >= NO_ANSWER) => {
                Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::OperationTimedOut))
            }
            None => return,
        };
        self.asked = None;
        if let Err(error) = answered {
            // A rebalance refuses commits of the old generation.
            tracing::debug!(topic = &*self.consumer.context().topic, %error, "commit refused, sent again");
            self.desk.ledger(Ledger::commit_failed);
        }
    }

    fn commit(&mut self) {
        self.hear();
        // One at a time: a late answer cannot be taken for that of another.
        if self.asked.is_some() {
            return;
        }
        let due = self.committed.elapsed() >= COMMIT_EVERY;
        if !due && self.desk.ledger(|l| l.finished()) < COMMIT_AT {
            return;
        }
        self.committed = Instant::now();
        // Another member may have them by now. librdkafka#5604.
        if self.consumer.assignment_lost() {
            return;
        }
        let prefixes = self.desk.ledger(Ledger::commits);
        if prefixes.is_empty() {
            return;
        }
        let topic = &self.consumer.context().topic;
        let client = self.consumer.client().native_ptr();
        match offsets(topic, &prefixes).and_then(|list| self.commits.ask(client, &list)) {
            Ok(()) => self.asked = Some(self.committed),
            Err(error) => {
                tracing::debug!(topic = &**topic, %error, "commit not sent, tried again");
                self.desk.ledger(Ledger::commit_failed);
            }
        }
    }

    fn reread(&mut self) {
        if self.collected.elapsed() >= COLLECT_EVERY {
            self.collected = Instant::now();
            let partitions: Vec<_> = self.desk.ledger(|l| l.partitions().collect());
            for partition in partitions.into_iter().filter_map(|p| i32::try_from(p).ok()) {
                self.queue.collect(
                    self.consumer.client().native_ptr(),
                    &self.consumer.context().topic,
                    partition,
                );
            }
        }
        if self.rewound.elapsed() < REDELIVER_EVERY || self.orders.paused.load(Ordering::Acquire) {
            return;
        }
        self.rewound = Instant::now();
        for rewind in self.desk.ledger(Ledger::rewinds) {
            let topic = &self.consumer.context().topic;
            // The call outdates everything fetched before it, so nothing older than the seek arrives after it. A seek that
            // is merely not answered in time is under way.
            let sought =
                offsets(topic, &[(rewind.partition, rewind.offset)]).and_then(|list: TopicPartitionList| {
                    self.consumer.seek_partitions(list, Duration::from_secs(1))
                });
            let refused = sought.is_ok_and(|list| list.elements().iter().any(|e| e.error().is_err()));
            if refused {
                self.desk.ledger(|l| l.rewind_failed(rewind));
            }
        }
    }

    /// Logs what librdkafka says about the subscription; an error when no waiting will help.
    fn complain(&mut self, error: &KafkaError) -> Result<(), Error> {
        let topic = &self.consumer.context().topic;
        let text = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::FencedInstanceId) => {
                return Err(Error::Refused(format!(
                    "{BROKER_REFUSED} {topic}: another member uses the same `instance_id`. Give each host its own"
                )));
            }
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => {
                return Err(Error::Other(format!(
                    "{topic}: the consumer cannot go on: {error}"
                )));
            }
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                format!(
                    "{BROKER_NO_DESTINATION} no topic named `{topic}`; waiting for it. Create it with `helix topology apply`"
                )
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::GroupAuthorizationFailed) => {
                format!(
                    "{BROKER_REFUSED} {topic}: {error}. Give this user the permission to read the topic and the group"
                )
            }
            // The way to the broker is the fold's business.
            Some(
                RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::SSL,
            ) => return Ok(()),
            _ => format!("{topic}: {error}"),
        };
        if self.complained.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            tracing::warn!("{text}");
        }
        Ok(())
    }

    fn deadline(&self) -> Option<Instant> {
        *self.orders.leave.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the handlers that run, says how far they came, then leaves.
    fn leave(mut self) {
        let deadline = self.deadline().unwrap_or_else(Instant::now);
        let all: Vec<u32> = self.desk.ledger(|l| l.partitions().collect());
        // In short stretches, so that the group gets its turn meanwhile.
        while !self.desk.drain(&all, TICK) && Instant::now() < deadline {
            if self.events(Duration::ZERO).is_err() {
                break;
            }
            self.commit();
        }
        self.last_commit();
        self.desk.close();
        self.consumer.context().set_queue(None);
        let Self {
            consumer,
            queue,
            commits,
            batches,
            ..
        } = self;
        drop((queue, commits));
        // Revokes (and commits what the last commit could not), leaves the group, and waits for both.
        drop(consumer);
        // Only now: the end of the channel says that everything is over.
        drop(batches);
    }
}

impl Reader {
    /// While we are a member for sure: closing the consumer in the middle of a rebalance makes librdkafka leave the group
    /// before it serves the revocation, and the commit made there is refused (unknown member).
    fn last_commit(&mut self) {
        let deadline = Instant::now() + LAST_COMMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.consumer.assignment_lost() {
                return;
            }
            let prefixes = self.desk.ledger(|l| {
                let all: Vec<u32> = l.partitions().collect();
                l.prefixes(&all)
            });
            if prefixes.is_empty() {
                return;
            }
            let client = self.consumer.client().native_ptr();
            let topic = &self.consumer.context().topic;
            match offsets(topic, &prefixes).and_then(|list| native::commit_within(client, &list, left)) {
                // Said for good: nothing is left for the revocation to say.
                Ok(()) => {
                    return self
                        .desk
                        .ledger(|l| prefixes.iter().for_each(|&(p, _)| l.forget(p)));
                }
                // Between two generations of the group; it goes on as soon as we do our part.
                Err(error) => tracing::debug!(topic = &**topic, %error, "last commit refused, tried again"),
            }
            if self.events(TICK).is_err() {
                return;
            }
        }
    }
}

/// Enters what was fetched into the books, under one lock; what is known there already falls away.
fn deliveries(desk: &Arc<Desk>, messages: Vec<RawMessage>) -> Vec<Delivery> {
    if messages.is_empty() {
        return Vec::new();
    }
    let received = desk.hand_out(|ledger| {
        let received: Vec<Receive> = messages
            .iter()
            .map(|RawMessage { origin, .. }| {
                ledger.receive(
                    origin.partition.unwrap_or_default(),
                    origin.offset.unwrap_or_default(),
                )
            })
            .collect();
        let ours = |r: &&Receive| matches!(r, Receive::Deliver(_) | Receive::Restarted(_));
        let handed = received.iter().filter(ours).count();
        (received, handed)
    });
    let settle: Arc<dyn Settle> = desk.clone();
    let mut batch = Vec::with_capacity(messages.len());
    for (raw, received) in messages.into_iter().zip(received) {
        let token = match received {
            Receive::Deliver(token) => token,
            Receive::Restarted(token) => {
                tracing::warn!(origin = %raw.origin, "the log went back by itself, reading on from there");
                token
            }
            Receive::Known | Receive::Foreign => continue,
        };
        batch.push(Delivery {
            raw,
            receipt: Receipt::new(Arc::clone(&settle), token),
        });
    }
    batch
}
