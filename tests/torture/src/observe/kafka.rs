//! Kafka's own word: topics, committed offsets of the group, what is in the output topic.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{Message, Offset, TopicPartitionList};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::COMMITS_EVERY;
use crate::history::{History, What};
use crate::message::Stream;
use crate::publish::kafka::client;

const ANSWER: Duration = Duration::from_secs(5);

/// Topics with a replica on each of `nodes`.
///
/// # Errors
/// When Kafka does not make them.
pub async fn create_topics(names: &[&str], partitions: i32, nodes: usize) -> Result<()> {
    let replicas = i32::try_from(nodes)?;
    let admin: AdminClient<DefaultClientContext> = client().create()?;
    let topics: Vec<_> = names
        .iter()
        .map(|name| NewTopic::new(name, partitions, TopicReplication::Fixed(replicas)))
        .collect();
    for made in admin.create_topics(&topics, &AdminOptions::new()).await? {
        if let Err((name, code)) = made {
            bail!("Kafka does not make {name}: {code}");
        }
    }
    Ok(())
}

fn observer(group: &str) -> Option<BaseConsumer> {
    client().set("group.id", group).create().ok()
}

/// (partition, committed offset)
fn committed(observer: &BaseConsumer, topic: &str) -> Option<Vec<(i32, Option<i64>)>> {
    let metadata = observer.fetch_metadata(Some(topic), ANSWER).ok()?;
    let partitions = metadata.topics().first()?.partitions().len();
    let mut all = TopicPartitionList::new();
    all.add_partition_range(topic, 0, i32::try_from(partitions).ok()? - 1);
    let committed = observer.committed_offsets(all, ANSWER).ok()?;
    let elements = committed.elements();
    let offsets = elements.iter().map(|at| {
        let offset = match at.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        (at.partition(), offset)
    });
    Some(offsets.collect())
}

pub fn commits(
    stream: Stream,
    topic: String,
    group: String,
    history: &Arc<History>,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    let (history, stop) = (Arc::clone(history), stop.clone());
    // A thread of its own: librdkafka's calls block.
    tasks.spawn_blocking(move || {
        let Some(observer) = observer(&group) else { return };
        while !stop.is_cancelled() {
            std::thread::sleep(COMMITS_EVERY);
            for (partition, offset) in committed(&observer, &topic).unwrap_or_default() {
                if let Some(offset) = offset {
                    history.add(What::Committed {
                        stream,
                        partition: i64::from(partition),
                        offset,
                    });
                }
            }
        }
    });
}

/// What the group has not committed; None while Kafka does not answer.
pub async fn lag(topic: &str, group: &str) -> Option<i64> {
    let (topic, group) = (topic.to_owned(), group.to_owned());
    let asked = tokio::task::spawn_blocking(move || {
        let observer = observer(&group)?;
        let mut behind = 0;
        for (partition, offset) in committed(&observer, &topic)? {
            let (low, high) = observer.fetch_watermarks(&topic, partition, ANSWER).ok()?;
            behind += high - offset.unwrap_or(low);
        }
        Some(behind)
    });
    asked.await.ok()?
}

/// Partition, first offset and the one behind the last; None while Kafka does not answer.
pub async fn ends(topic: &str) -> Option<Vec<(i32, i64, i64)>> {
    let topic = topic.to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        let observer = observer("torture-observer")?;
        let metadata = observer.fetch_metadata(Some(&topic), ANSWER).ok()?;
        let partitions = metadata.topics().first()?.partitions().iter();
        partitions
            .map(|partition| {
                let (low, high) = observer.fetch_watermarks(&topic, partition.id(), ANSWER).ok()?;
                Some((partition.id(), low, high))
            })
            .collect()
    });
    asked.await.ok()?
}

/// # Errors
/// When the topic cannot be read to its end.
pub async fn outputs(topic: &str, history: &Arc<History>) -> Result<()> {
    let history = Arc::clone(history);
    read(topic, move |message| {
        super::output(message.payload().unwrap_or_default(), &history);
    })
    .await
}

/// What replays have put into their target. Nothing when none was ever made.
///
/// # Errors
/// When the topic cannot be read to its end.
pub async fn copies(topic: &str, history: &Arc<History>) -> Result<()> {
    let history = Arc::clone(history);
    read(topic, move |message| {
        let header = |name: &str| {
            let headers = message.headers()?;
            let value = headers.iter().find(|header| header.key == name)?.value?;
            std::str::from_utf8(value).ok()
        };
        let original = header("helix-replay-origin").and_then(place);
        let at = message
            .timestamp()
            .to_millis()
            .and_then(|at| u64::try_from(at).ok());
        match (header("helix-replay"), original, at) {
            (Some(replay), Some((partition, offset)), Some(at)) => history.add(What::Copy {
                replay: replay.to_owned(),
                partition,
                offset,
                at: history.at(at),
            }),
            _ => history.wrong("something in the target of replays is no copy of one"),
        }
    })
    .await
}

/// Partition and offset of `kafka/topic[3]@42`.
fn place(origin: &str) -> Option<(i64, i64)> {
    let (rest, offset) = origin.rsplit_once("]@")?;
    let (_, partition) = rest.rsplit_once('[')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

async fn read(topic: &str, see: impl Fn(&BorrowedMessage<'_>) + Send + 'static) -> Result<()> {
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || {
        let reader: BaseConsumer = client()
            .set("group.id", "torture-observer")
            .set("enable.auto.commit", "false")
            .create()?;
        let metadata = reader.fetch_metadata(Some(&topic), ANSWER)?;
        let count = metadata
            .topics()
            .first()
            .map_or(0, |topic| topic.partitions().len());
        let (mut all, mut missing) = (TopicPartitionList::new(), 0);
        for partition in 0..i32::try_from(count)? {
            let (low, high) = reader.fetch_watermarks(&topic, partition, ANSWER)?;
            missing += high - low;
            all.add_partition_offset(&topic, partition, Offset::Beginning)?;
        }
        reader.assign(&all)?;
        while missing > 0 {
            match reader.poll(ANSWER) {
                Some(Ok(message)) => {
                    see(&message);
                    missing -= 1;
                }
                Some(Err(_)) => {}
                None => bail!("{topic}: {missing} messages cannot be read"),
            }
        }
        Ok(())
    })
    .await?
}
