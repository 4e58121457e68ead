//! Publishing: everything is put in librdkafka's queue first, then the delivery reports are awaited.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::Delivery;
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer};

use super::log_fold::{Link, Quiet};
use super::native;
use crate::broker::{Confirmed, Error, PublishError, Publisher, Replica};
use crate::config::valid::Formats;
use crate::encode::{Wire, encode};
use crate::model::{Clock, Headers, MessageKind, Outgoing, SystemClock};

/// How long a topic that was there is believed to be there. Without the question, a message to a topic that does not
/// exist waits for the whole publish timeout.
const BELIEVED: Duration = Duration::from_secs(30);
/// The longest wait for that answer.
const METADATA: Duration = Duration::from_secs(5);
/// Topics remembered; names may come from handlers.
const REMEMBERED: usize = 10_000;
/// How often a full queue is tried again: delivery reports free it every few milliseconds.
const FULL: Duration = Duration::from_millis(5);

type Client = FutureProducer<Quiet>;

pub struct KafkaPublisher {
    config: ClientConfig,
    link: Arc<Link>,
    formats: Formats,
    timeout: Duration,
    /// `message.max.bytes`, the client's bound.
    limit: u64,
    client: ArcSwap<Client>,
    known: Mutex<HashMap<Arc<str>, Instant>>,
    closed: AtomicBool,
}

impl KafkaPublisher {
    pub fn new(
        config: ClientConfig,
        link: Arc<Link>,
        formats: Formats,
        timeout: Duration,
    ) -> Result<Self, Error> {
        let client = create(&config, &link).map_err(|e| Error::Other(format!("Kafka settings: {e}")))?;
        let limit = config
            .get("message.max.bytes")
            .and_then(|v| v.parse().ok())
            .unwrap_or(1_000_000);
        Ok(Self {
            config,
            link,
            formats,
            timeout,
            limit,
            client: ArcSwap::from_pointee(client),
            known: Mutex::default(),
            closed: AtomicBool::new(false),
        })
    }

    /// Asks whether any broker answers. Blocks up to `limit`.
    pub fn ping(&self, limit: Duration) -> Result<(), RDKafkaErrorCode> {
        let client = self.client.load_full();
        native::ping(client.client().native_ptr(), limit)
    }

    /// Takes nothing new, waits for what is under way. Blocks up to the publish timeout.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        if let Err(error) = self.client.load_full().flush(self.timeout) {
            tracing::warn!(%error, "not everything published was confirmed before the end");
        }
    }

    /// Whether the topic exists; from memory when the answer is fresh.
    pub async fn topic_exists(&self, topic: &Arc<str>) -> Result<bool, PublishError> {
        if self.known().get(topic).is_some_and(|at| at.elapsed() < BELIEVED) {
            return Ok(true);
        }
        let (client, name) = (self.client.load_full(), topic.clone());
        let limit = METADATA.min(self.timeout);
        let asked = tokio::task::spawn_blocking(move || exists(&client, &name, limit)).await;
        let there = asked
            .map_err(|e| PublishError::Unavailable(e.to_string()))?
            .map_err(|_| PublishError::Unavailable(self.link.reason()))?;
        if there {
            let mut known = self.known();
            if known.len() >= REMEMBERED {
                known.clear();
            }
            known.insert(topic.clone(), Instant::now());
        }
        Ok(there)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Arc<str>, Instant>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What Kafka cannot carry, whatever its topics.
    fn check(&self, message: &Outgoing) -> Result<(), PublishError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(closed());
        }
        if message.kind != MessageKind::Event {
            return Err(PublishError::Invalid(
                "Kafka has topics only, no queues".to_owned(),
            ));
        }
        if message.not_before_ms.is_some_and(|at| at > SystemClock.now_ms()) {
            return Err(PublishError::Invalid(
                "Kafka cannot deliver later than now".to_owned(),
            ));
        }
        Ok(())
    }

    /// One question per topic of the batch.
    async fn targets(&self, batch: &[Outgoing]) -> HashMap<Arc<str>, Result<(), PublishError>> {
        let mut targets = HashMap::new();
        for message in batch {
            let topic = &message.destination;
            if targets.contains_key(topic) || self.check(message).is_err() {
                continue;
            }
            let result = match self.topic_exists(topic).await {
                Ok(true) => Ok(()),
                Ok(false) => Err(PublishError::UnknownTarget(topic.to_string())),
                Err(error) => Err(error),
            };
            targets.insert(topic.clone(), result);
        }
        targets
    }

    /// Waits while the queue is full.
    async fn enqueue<'a>(
        &self,
        topic: &str,
        deadline: Instant,
        record: impl Fn() -> FutureRecord<'a, [u8], [u8]> + Send,
    ) -> Result<DeliveryFuture, PublishError> {
        loop {
            let client = self.client.load_full();
            match client.send_result(record()) {
                Ok(future) => return Ok(future),
                Err((error, _)) if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) => {
                    return Err(self.refused(&client, topic, &error));
                }
                Err(_) if Instant::now() >= deadline => {
                    return Err(PublishError::Unavailable(format!(
                        "publish queue full, {}",
                        self.link.reason()
                    )));
                }
                Err(_) => tokio::time::sleep(FULL).await,
            }
        }
    }

    /// One result for each, in order.
    async fn confirms<'a>(
        &self,
        client: &Arc<Client>,
        topics: impl Iterator<Item = &'a str> + Send,
        sent: Vec<Result<DeliveryFuture, PublishError>>,
    ) -> Vec<Result<Confirmed, PublishError>> {
        let mut results = Vec::with_capacity(sent.len());
        for (topic, future) in topics.zip(sent) {
            results.push(match future {
                Err(error) => Err(error),
                // Ends by itself: librdkafka reports each message within `message.timeout.ms`.
                Ok(future) => match future.await {
                    Ok(Ok(Delivery {
                        partition, offset, ..
                    })) => Ok(Confirmed {
                        partition: u32::try_from(partition).ok(),
                        offset: u64::try_from(offset).ok(),
                    }),
                    Ok(Err((error, _))) => Err(self.refused(client, topic, &error)),
                    Err(_) => Err(PublishError::Unknown("the producer was closed".to_owned())),
                },
            });
        }
        results
    }

    fn refused(&self, client: &Arc<Client>, topic: &str, error: &KafkaError) -> PublishError {
        use RDKafkaErrorCode as Code;
        let reason = || error.to_string();
        match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                self.known().remove(topic);
                PublishError::UnknownTarget(topic.to_owned())
            }
            Some(Code::MessageSizeTooLarge) => PublishError::TooLarge { limit: self.limit },
            Some(Code::InvalidTopic | Code::InvalidRecord) => PublishError::Invalid(reason()),
            Some(
                Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed | Code::NotEnoughReplicas,
            ) => PublishError::Unavailable(reason()),
            Some(Code::MessageTimedOut) => PublishError::Unknown(self.link.reason()),
            _ => {
                self.replace_broken(client);
                PublishError::Unknown(reason())
            }
        }
    }

    /// After a fatal error of the idempotent producer nothing goes out any more; a new one starts with a new identity.
    fn replace_broken(&self, broken: &Arc<Client>) {
        let Some((code, reason)) = broken.client().fatal_error() else {
            return;
        };
        if !Arc::ptr_eq(broken, &self.client.load()) {
            return;
        }
        match create(&self.config, &self.link) {
            Ok(client) => {
                tracing::warn!(%code, reason, "the Kafka producer had to be started anew");
                self.client.store(Arc::new(client));
            }
            Err(error) => self.link.failed(&error.to_string()),
        }
    }
}

#[async_trait]
impl Publisher for KafkaPublisher {
    async fn publish(&self, batch: Vec<Outgoing>) -> Vec<Result<Confirmed, PublishError>> {
        let deadline = Instant::now() + self.timeout;
        let targets = self.targets(&batch).await;
        let client = self.client.load_full();
        let mut sent = Vec::with_capacity(batch.len());
        for message in &batch {
            sent.push(match (self.check(message), targets.get(&message.destination)) {
                (Err(error), _) => Err(error),
                (_, Some(Err(error))) => Err(error.clone()),
                _ => {
                    let wire = encode(message, self.formats.of(&message.destination));
                    let topic = &message.destination;
                    self.enqueue(topic, deadline, || record(topic, &wire, message.time_ms))
                        .await
                }
            });
        }
        let topics = batch.iter().map(|message| &*message.destination);
        self.confirms(&client, topics, sent).await
    }

    async fn copy(&self, topic: &Arc<str>, batch: &[Replica]) -> Vec<Result<Confirmed, PublishError>> {
        let deadline = Instant::now() + self.timeout;
        let there = match self.topic_exists(topic).await {
            _ if self.closed.load(Ordering::Acquire) => Err(closed()),
            Ok(true) => Ok(()),
            Ok(false) => Err(PublishError::UnknownTarget(topic.to_string())),
            Err(error) => Err(error),
        };
        if let Err(error) = there {
            return vec![Err(error); batch.len()];
        }
        let client = self.client.load_full();
        let mut sent = Vec::with_capacity(batch.len());
        for replica in batch {
            sent.push(self.enqueue(topic, deadline, || copied(topic, replica)).await);
        }
        self.confirms(&client, std::iter::repeat(&**topic), sent).await
    }
}

fn create(config: &ClientConfig, link: &Arc<Link>) -> Result<Client, KafkaError> {
    config.create_with_context(Quiet(link.clone()))
}

fn exists(client: &Client, topic: &str, limit: Duration) -> Result<bool, KafkaError> {
    let metadata = match client.client().fetch_metadata(Some(topic), limit) {
        Ok(metadata) => metadata,
        Err(error) if error.rdkafka_error_code().is_some_and(missing) => return Ok(false),
        Err(error) => return Err(error),
    };
    let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else {
        return Ok(false);
    };
    Ok(!found.error().is_some_and(|e| missing(e.into())))
}

fn missing(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode::{InvalidTopic, UnknownTopic, UnknownTopicOrPartition};
    matches!(code, InvalidTopic | UnknownTopic | UnknownTopicOrPartition)
}

fn closed() -> PublishError {
    PublishError::Unavailable("the publisher is closed".to_owned())
}

fn record<'a>(topic: &'a str, wire: &'a Wire, time_ms: u64) -> FutureRecord<'a, [u8], [u8]> {
    FutureRecord {
        topic,
        partition: None,
        payload: wire.body.as_deref(),
        key: wire.key.as_deref(),
        timestamp: i64::try_from(time_ms).ok().filter(|&t| t > 0),
        headers: headers(&wire.headers),
    }
}

/// Without the time of the original: with it, a retention shorter than its age would delete the copy at once.
fn copied<'a>(topic: &'a str, replica: &'a Replica) -> FutureRecord<'a, [u8], [u8]> {
    FutureRecord {
        topic,
        partition: replica.partition.and_then(|p| i32::try_from(p).ok()),
        payload: replica.raw.body.as_deref(),
        key: replica.raw.key.as_deref(),
        timestamp: None,
        headers: headers(&replica.raw.headers),
    }
}

fn headers(all: &Headers) -> Option<OwnedHeaders> {
    let list = || {
        all.iter().fold(
            OwnedHeaders::new_with_capacity(all.len()),
            |list, (name, value)| {
                list.insert(Header {
                    key: name,
                    value: Some(&value[..]),
                })
            },
        )
    };
    (!all.is_empty()).then(list)
}
