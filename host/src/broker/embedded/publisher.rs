//! Outgoing messages → jobs for the writer; waits for its commits.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::inbox::{Confirms, Entry, Job, Target};
use super::log::Topic;
use super::row::{self, Stored};
use super::{Core, partitioner};
use crate::broker::{Confirmed, PublishError, Publisher, Replica};
use crate::encode;
use crate::model::clock::duration_ms;
use crate::model::{MessageKind, Outgoing, RawMessage, UnixMs};

/// The largest message: a row has to fit into memory several times over.
pub const MESSAGE_LIMIT: u64 = 64 << 20;
/// What may wait for the writer, in KiB (a message counts at least 1).
pub const ROOM_KIB: usize = 64 << 10;
/// Far more than a commit takes on a bad disk; the answer is "unknown" then.
const DEADLINE: Duration = Duration::from_secs(30);
/// A large publish is cut into jobs of this size, so that others get their turn.
const JOB_ROWS: usize = 256;
const JOB_BYTES: usize = 256 << 10;

pub struct EmbeddedPublisher(pub Arc<Core>);

type Slot = Option<Result<Confirmed, PublishError>>;

#[async_trait]
impl Publisher for EmbeddedPublisher {
    async fn publish(&self, batch: Vec<Outgoing>) -> Vec<Result<Confirmed, PublishError>> {
        let now = self.0.clock.now_ms();
        let entries = batch.into_iter().map(|message| self.0.entry(&message, now));
        self.send_all(entries).await
    }

    async fn copy(&self, topic: &Arc<str>, batch: &[Replica]) -> Vec<Result<Confirmed, PublishError>> {
        self.send_all(batch.iter().map(|replica| self.0.copied(topic, replica)))
            .await
    }

    async fn put_back(&self, message: RawMessage) -> Result<Confirmed, PublishError> {
        let entry = self.0.again(message, self.0.clock.now_ms())?;
        let (mut results, mut sent) = (vec![None], Vec::new());
        let mut bytes = entry.stored.size();
        self.send(
            &mut vec![entry],
            &mut vec![0],
            &mut bytes,
            &mut results,
            &mut sent,
        )
        .await;
        confirms(results, sent).await.pop().unwrap_or_else(missing)
    }
}

/// Waits for what was sent; one result each, in the order of `results`.
async fn confirms(
    mut results: Vec<Slot>,
    sent: Vec<(Vec<usize>, oneshot::Receiver<Confirms>)>,
) -> Vec<Result<Confirmed, PublishError>> {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    for (places, answer) in sent {
        let confirms = match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(confirms)) => confirms,
            Ok(Err(_)) => Err(PublishError::Unknown("the embedded broker has stopped".into())),
            Err(_) => Err(PublishError::Unknown(format!(
                "the disk did not answer within {DEADLINE:?}"
            ))),
        };
        fill(&mut results, &places, confirms);
    }
    results
        .into_iter()
        .map(|slot| slot.unwrap_or_else(missing))
        .collect()
}

fn missing() -> Result<Confirmed, PublishError> {
    Err(PublishError::Unknown("no answer for this message".into()))
}

impl EmbeddedPublisher {
    /// Cut into jobs; waits for the confirms of all.
    async fn send_all(
        &self,
        all: impl ExactSizeIterator<Item = Result<Entry, PublishError>> + Send,
    ) -> Vec<Result<Confirmed, PublishError>> {
        let mut results: Vec<Slot> = Vec::with_capacity(all.len());
        let mut sent: Vec<(Vec<usize>, oneshot::Receiver<Confirms>)> = Vec::new();
        let (mut entries, mut places, mut bytes) = (Vec::new(), Vec::new(), 0);
        for (place, entry) in all.enumerate() {
            match entry {
                Ok(entry) => {
                    results.push(None);
                    bytes += entry.stored.size();
                    entries.push(entry);
                    places.push(place);
                }
                Err(error) => results.push(Some(Err(error))),
            }
            if entries.len() >= JOB_ROWS || bytes >= JOB_BYTES {
                self.send(&mut entries, &mut places, &mut bytes, &mut results, &mut sent)
                    .await;
            }
        }
        self.send(&mut entries, &mut places, &mut bytes, &mut results, &mut sent)
            .await;
        confirms(results, sent).await
    }

    /// Waits for room, then hands the job over.
    async fn send(
        &self,
        entries: &mut Vec<Entry>,
        places: &mut Vec<usize>,
        bytes: &mut usize,
        results: &mut [Slot],
        sent: &mut Vec<(Vec<usize>, oneshot::Receiver<Confirms>)>,
    ) {
        let (entries, places, bytes) = (
            std::mem::take(entries),
            std::mem::take(places),
            std::mem::take(bytes),
        );
        if entries.is_empty() {
            return;
        }
        let room = (bytes / 1024 + entries.len()).min(ROOM_KIB);
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        let wait = Arc::clone(&self.0.room).acquire_many_owned(room);
        let refused = match tokio::time::timeout(DEADLINE, wait).await {
            Ok(Ok(permit)) => {
                let (reply, answer) = oneshot::channel();
                match self.0.inbox.publish(Job {
                    entries,
                    bytes,
                    reply,
                    _room: permit,
                }) {
                    Ok(()) => {
                        sent.push((places, answer));
                        return;
                    }
                    Err(_) => PublishError::Unavailable("the embedded broker has stopped".into()),
                }
            }
            Ok(Err(_)) => PublishError::Unavailable("the embedded broker has stopped".into()),
            Err(_) => PublishError::Unavailable(format!("the disk is behind by more than {DEADLINE:?}")),
        };
        fill(results, &places, Err(refused));
    }
}

fn fill(results: &mut [Slot], places: &[usize], confirms: Confirms) {
    match confirms {
        Ok(confirms) => {
            for (place, confirmed) in places.iter().zip(confirms) {
                if let Some(slot) = results.get_mut(*place) {
                    *slot = Some(Ok(confirmed));
                }
            }
        }
        Err(error) => {
            for place in places {
                if let Some(slot) = results.get_mut(*place) {
                    *slot = Some(Err(error.clone()));
                }
            }
        }
    }
}

/// By the key, else in turn.
fn partition(topic: &Topic, key: Option<&[u8]>) -> u32 {
    let count = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
    match key {
        Some(key) => partitioner::partition_of(key, count),
        None => topic.turn.fetch_add(1, Ordering::Relaxed) % count.max(1),
    }
}

impl Core {
    /// Resolves the target and makes the row.
    fn entry(&self, message: &Outgoing, now: UnixMs) -> Result<Entry, PublishError> {
        let name = &message.destination;
        let unknown = || PublishError::UnknownTarget(name.to_string());
        let not_before = message.not_before_ms.filter(|at| *at > now);
        let (target, ttl, max_priority) = match message.kind {
            MessageKind::Task => {
                let queue = self.queue(name).ok_or_else(unknown)?;
                let (ttl, max_priority) = (queue.ttl, queue.max_priority);
                (Target::Queue(queue), ttl, max_priority)
            }
            MessageKind::Event => {
                let topic = self.topic(name).ok_or_else(unknown)?;
                if not_before.is_some() {
                    return Err(PublishError::Invalid(
                        "a topic cannot deliver later; use a queue".into(),
                    ));
                }
                let index = partition(&topic, message.key.as_deref());
                (Target::Partition(topic, index), None, 0)
            }
        };
        let wire = encode::encode(message, self.formats.of(name));
        let lapse = ttl.map(|ttl| not_before.unwrap_or(now).saturating_add(duration_ms(ttl)));
        let stored = Stored {
            id: message.id.clone(),
            hdr: row::pack(&wire.props, &wire.headers),
            key: wire.key,
            body: wire.body,
            expires_ms: [wire.props.expires_ms, message.deadline_ms, lapse]
                .into_iter()
                .flatten()
                .min(),
        };
        if u64::try_from(stored.size()).unwrap_or(u64::MAX) > MESSAGE_LIMIT {
            return Err(PublishError::TooLarge { limit: MESSAGE_LIMIT });
        }
        let priority = message.priority.unwrap_or(0).min(max_priority);
        Ok(Entry {
            target,
            priority,
            not_before,
            stored,
        })
    }

    /// The row of a copy; a partition that the topic does not have is chosen as for every other message.
    fn copied(&self, name: &Arc<str>, replica: &Replica) -> Result<Entry, PublishError> {
        let topic = self
            .topic(name)
            .ok_or_else(|| PublishError::UnknownTarget(name.to_string()))?;
        let raw = &replica.raw;
        let index = replica
            .partition
            .filter(|&index| topic.at(index).is_some())
            .unwrap_or_else(|| partition(&topic, raw.key.as_deref()));
        let stored = Stored {
            hdr: row::pack(&raw.props, &raw.headers),
            id: raw.props.message_id.clone().unwrap_or_default(),
            key: raw.key.clone(),
            body: raw.body.clone(),
            expires_ms: raw.props.expires_ms,
        };
        if u64::try_from(stored.size()).unwrap_or(u64::MAX) > MESSAGE_LIMIT {
            return Err(PublishError::TooLarge { limit: MESSAGE_LIMIT });
        }
        Ok(Entry {
            target: Target::Partition(topic, index),
            priority: 0,
            not_before: None,
            stored,
        })
    }

    /// The row of a task that was here before.
    fn again(&self, message: RawMessage, now: UnixMs) -> Result<Entry, PublishError> {
        let name = &message.origin.destination;
        if message.origin.kind == MessageKind::Event {
            return Err(PublishError::Invalid(format!(
                "`{name}` is a topic; others read it too"
            )));
        }
        let queue = self
            .queue(name)
            .ok_or_else(|| PublishError::UnknownTarget(name.to_string()))?;
        let lapse = queue.ttl.map(|ttl| now.saturating_add(duration_ms(ttl)));
        let priority = message.props.priority.unwrap_or(0).min(queue.max_priority);
        let stored = Stored {
            hdr: row::pack(&message.props, &message.headers),
            id: message.props.message_id.unwrap_or_default(),
            key: message.key,
            body: message.body,
            expires_ms: [message.props.expires_ms, lapse].into_iter().flatten().min(),
        };
        if u64::try_from(stored.size()).unwrap_or(u64::MAX) > MESSAGE_LIMIT {
            return Err(PublishError::TooLarge { limit: MESSAGE_LIMIT });
        }
        Ok(Entry {
            target: Target::Queue(queue),
            priority,
            not_before: None,
            stored,
        })
    }
}
