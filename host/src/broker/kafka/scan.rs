//! Reading a stretch of a topic again, outside any group.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Headers as _, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::convert::{Converter, Pairs, Record};
use super::log_fold::{Link, Quiet};
use crate::broker::{Bounds, Error, Scan};
use crate::model::{RawMessage, UnixMs};

/// How long a broker may take for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Connections kept for the next read; a replay reads with one per job.
const KEPT: usize = 4;
/// A read is cut short behind so many bytes: who asks for a thousand messages need not have room for a gigabyte.
const READ_BYTES: usize = 16 << 20;

/// Where a kept connection stands.
struct Reading {
    client: BaseConsumer<Quiet>,
    topic: String,
    partition: u32,
    next: u64,
    /// The end of the partition when reading began; waiting for more than that costs half a second.
    end: u64,
}

pub struct KafkaScan {
    broker: Arc<str>,
    config: ClientConfig,
    link: Arc<Link>,
    idle: Mutex<Vec<Reading>>,
}

impl KafkaScan {
    pub fn new(broker: Arc<str>, config: ClientConfig, link: Arc<Link>) -> Self {
        Self {
            broker,
            config,
            link,
            idle: Mutex::default(),
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Reading>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that stands right there, else any, else a new one.
    fn borrow(&self, topic: &str, partition: u32, from: u64) -> Result<Reading, Error> {
        let mut idle = self.idle();
        let at = idle
            .iter()
            .position(|r| r.topic == topic && r.partition == partition && r.next == from)
            .or_else(|| idle.len().checked_sub(1));
        if let Some(at) = at {
            return Ok(idle.swap_remove(at));
        }
        drop(idle);
        let client = self.config.create_with_context(Quiet(self.link.clone()));
        let client = client.map_err(|e| Error::Other(format!("Kafka settings: {e}")))?;
        Ok(Reading {
            client,
            topic: String::new(),
            partition: 0,
            next: 0,
            end: 0,
        })
    }

    fn give_back(&self, reading: Reading) {
        let mut idle = self.idle();
        if idle.len() < KEPT {
            idle.push(reading);
        }
    }

    fn with<T>(
        &self,
        topic: &str,
        f: impl FnOnce(&BaseConsumer<Quiet>) -> KafkaResult<T>,
    ) -> Result<T, Error> {
        let reading = self.borrow("", 0, 0)?;
        let result = f(&reading.client);
        // Serves its log lines.
        while reading.topic.is_empty() && reading.client.poll(Duration::ZERO).is_some() {}
        self.give_back(reading);
        result.map_err(|e| self.error(topic, &e))
    }

    fn error(&self, topic: &str, error: &KafkaError) -> Error {
        use RDKafkaErrorCode::{InvalidTopic, UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
        match error.rdkafka_error_code() {
            Some(UnknownTopicOrPartition | UnknownTopic | InvalidTopic | UnknownPartition) => {
                Error::UnknownDestination(topic.to_owned())
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed) => Error::Refused(format!("{topic}: {error}")),
            _ => self.link.away(&format!("{topic}: {error}")),
        }
    }

    pub fn bounds_now(&self, topic: &str) -> Result<Vec<Bounds>, Error> {
        let ask = |client: &BaseConsumer<Quiet>| {
            let metadata = client.fetch_metadata(Some(topic), ANSWER)?;
            let found = metadata.topics().first().ok_or(UNKNOWN)?;
            if let Some(error) = found.error() {
                return Err(KafkaError::MetadataFetch(error.into()));
            }
            let mut bounds = Vec::with_capacity(found.partitions().len());
            for partition in found.partitions() {
                let (first, end) = client.fetch_watermarks(topic, partition.id(), ANSWER)?;
                bounds.push(Bounds {
                    partition: natural32(partition.id()),
                    first: natural(first),
                    end: natural(end),
                });
            }
            bounds.sort_by_key(|b| b.partition);
            Ok(bounds)
        };
        self.with(topic, |client| patiently(|| ask(client)))
    }

    /// Not yet committed by the group: all of a partition that it has never committed.
    pub fn depth_now(&self, topic: &str) -> Result<u64, Error> {
        let bounds = self.bounds_now(topic)?;
        let committed = self.with(topic, |client| {
            let mut list = TopicPartitionList::new();
            for partition in bounds.iter().filter_map(|b| i32::try_from(b.partition).ok()) {
                list.add_partition(topic, partition);
            }
            patiently(|| client.committed_offsets(list.clone(), ANSWER))
        })?;
        let lag = |b: &Bounds| {
            let element = committed
                .elements()
                .into_iter()
                .find(|e| natural32(e.partition()) == b.partition)?
                .offset();
            let Offset::Offset(next) = element else {
                return None;
            };
            Some(b.end.saturating_sub(natural(next).max(b.first)))
        };
        Ok(bounds
            .iter()
            .map(|b| lag(b).unwrap_or(b.end.saturating_sub(b.first)))
            .sum())
    }

    fn offset_at_now(&self, topic: &str, partition: u32, time: UnixMs) -> Result<u64, Error> {
        let (number, millis) = (integer(partition)?, i64::try_from(time).unwrap_or(i64::MAX));
        self.with(topic, |client| {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, number, Offset::Offset(millis))?;
            let found = client.offsets_for_times(list, ANSWER)?;
            let element = found.find_partition(topic, number).ok_or(UNKNOWN)?;
            element.error()?;
            match element.offset() {
                Offset::Offset(offset) => Ok(natural(offset)),
                _ => client
                    .fetch_watermarks(topic, number, ANSWER)
                    .map(|(_, end)| natural(end)),
            }
        })
    }

    fn read_now(&self, topic: &str, partition: u32, from: u64, max: usize) -> Result<Vec<RawMessage>, Error> {
        let mut reading = self.borrow(topic, partition, from)?;
        let result = self.fill(&mut reading, topic, integer(partition)?, from, max);
        let (messages, more) = result.map_err(|e| self.error(topic, &e))?;
        // At the end of the partition librdkafka says so once; the next read has to ask anew.
        if !more {
            reading.topic.clear();
            let _ = reading.client.unassign();
        }
        self.give_back(reading);
        Ok(messages)
    }

    fn fill(
        &self,
        at: &mut Reading,
        topic: &str,
        partition: i32,
        from: u64,
        max: usize,
    ) -> KafkaResult<(Vec<RawMessage>, bool)> {
        let mut out = Vec::new();
        if (&*at.topic, at.partition, at.next) != (topic, natural32(partition), from) {
            let (first, end) = at.client.fetch_watermarks(topic, partition, ANSWER)?;
            if from >= natural(end) {
                return Ok((out, false));
            }
            let start = i64::try_from(from).unwrap_or(i64::MAX).max(first);
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition, Offset::Offset(start))?;
            at.client.assign(&list)?;
            (at.topic, at.partition) = (topic.to_owned(), natural32(partition));
            (at.next, at.end) = (natural(start), natural(end));
        }
        let mut converter = Converter::new(self.broker.clone(), topic.into());
        let (deadline, mut bytes) = (Instant::now() + ANSWER, 0);
        while out.len() < max && bytes < READ_BYTES && at.next < at.end {
            match at.client.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    at.next = natural(message.offset()) + 1;
                    let message = convert(&mut converter, &message);
                    bytes += message.size();
                    out.push(message);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok((out, false)),
                Some(Err(error)) if error.rdkafka_error_code().is_some_and(lasting) => return Err(error),
                Some(Err(_)) | None if Instant::now() < deadline => {}
                Some(Err(error)) => return Err(error),
                // Some is better than none; none is not the same as the end.
                None if out.is_empty() => {
                    return Err(KafkaError::MessageConsumption(
                        RDKafkaErrorCode::OperationTimedOut,
                    ));
                }
                None => break,
            }
        }
        Ok((out, at.next < at.end))
    }
}

const UNKNOWN: KafkaError = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);

/// A group that is used for the first time has no coordinator for a moment, and a topic that was just made no leader.
fn patiently<T>(ask: impl Fn() -> KafkaResult<T>) -> KafkaResult<T> {
    use RDKafkaErrorCode::{
        CoordinatorLoadInProgress, CoordinatorNotAvailable, LeaderNotAvailable, NotCoordinator,
        NotLeaderForPartition,
    };
    let deadline = Instant::now() + ANSWER;
    loop {
        match ask() {
            Err(error)
                if Instant::now() < deadline
                    && matches!(
                        error.rdkafka_error_code(),
                        Some(
                            CoordinatorLoadInProgress
                                | CoordinatorNotAvailable
                                | NotCoordinator
                                | LeaderNotAvailable
                                | NotLeaderForPartition
                        )
                    ) =>
            {
                std::thread::sleep(Duration::from_millis(100));
            }
            result => return result,
        }
    }
}

fn lasting(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{
        TopicAuthorizationFailed, UnknownPartition, UnknownTopic, UnknownTopicOrPartition,
    };
    matches!(
        code,
        TopicAuthorizationFailed | UnknownPartition | UnknownTopic | UnknownTopicOrPartition
    )
}

fn convert(converter: &mut Converter, message: &impl Message) -> RawMessage {
    let headers = message.headers().map_or_else(Pairs::new, |headers| {
        headers
            .iter()
            .map(|h| (h.key.as_bytes(), h.value.unwrap_or_default()))
            .collect()
    });
    converter.message(&Record {
        partition: natural32(message.partition()),
        offset: natural(message.offset()),
        timestamp_ms: message.timestamp().to_millis().map(natural),
        key: message.key(),
        body: message.payload(),
        headers,
    })
}

fn natural(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

fn natural32(n: i32) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

fn integer(partition: u32) -> Result<i32, Error> {
    i32::try_from(partition).map_err(|_| Error::Other(format!("no partition {partition}")))
}

/// The blocking calls on a thread that may block.
async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(f)
        .await
        .map_err(|e| Error::Other(e.to_string()))?
}

/// Shared, because the calls run on other threads.
#[derive(Clone)]
pub struct SharedScan(pub Arc<KafkaScan>);

impl SharedScan {
    pub async fn depth(&self, topic: &str) -> Result<u64, Error> {
        let (scan, topic) = (self.0.clone(), topic.to_owned());
        blocking(move || scan.depth_now(&topic)).await
    }
}

#[async_trait]
impl Scan for SharedScan {
    async fn bounds(&self, topic: &str) -> Result<Vec<Bounds>, Error> {
        let (scan, topic) = (self.0.clone(), topic.to_owned());
        blocking(move || scan.bounds_now(&topic)).await
    }

    async fn offset_at(&self, topic: &str, partition: u32, time: UnixMs) -> Result<u64, Error> {
        let (scan, topic) = (self.0.clone(), topic.to_owned());
        blocking(move || scan.offset_at_now(&topic, partition, time)).await
    }

    async fn read(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        max: usize,
    ) -> Result<Vec<RawMessage>, Error> {
        let (scan, topic) = (self.0.clone(), topic.to_owned());
        blocking(move || scan.read_now(&topic, partition, from, max)).await
    }
}
