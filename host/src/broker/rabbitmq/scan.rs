//! Reading a stretch of a stream again: `x-queue-type: stream`, over AMQP 0-9-1, beside everybody who consumes it.
//!
//! An acknowledgement on a stream is credit and nothing else: no position is kept, and the message stays.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer};
use tokio::time::Instant;

use super::connect::Link;
use super::convert;
use super::diagnose::{self, ACCESS_REFUSED, NOT_FOUND};
use super::topology::Queues;
use crate::broker::{Bounds, Comparison, Destination, Error, Scan, Topology};
use crate::model::{Clock, MessageKind, RawMessage, SystemClock, UnixMs};

/// How long the broker may take for one answer.
const ANSWER: Duration = Duration::from_secs(10);
/// What holds no message delivers none. The broker's count of messages is brought up to date every five seconds: after this
/// time both say the same.
const EMPTY: Duration = Duration::from_secs(6);
/// Credit of a reader. The broker sends whole chunks, so it may have a chunk more in hand.
const WINDOW: u16 = 512;
/// Readers kept for the next read; a replay reads with one.
const KEPT: usize = 4;
/// One that was not used for so long is closed when another one is given back.
const IDLE: Duration = Duration::from_secs(30);
/// A read is cut short behind so many bytes.
const READ_BYTES: usize = 16 << 20;
/// Where a message is in its stream, in each delivery.
const OFFSET: &str = "x-stream-offset";
/// RabbitMQ streams have one partition: themselves.
const PARTITION: u32 = 0;
/// AMQP's timestamps are in seconds.
const SECOND: UnixMs = 1000;

pub struct StreamScan {
    broker: Arc<str>,
    link: Arc<Link>,
    queues: Queues,
    idle: Mutex<Vec<Reader>>,
}

/// A consumer that stands somewhere in a stream.
struct Reader {
    stream: String,
    consumer: Consumer,
    channel: Channel,
    name: ShortString,
    /// What was delivered and not yet read.
    ready: VecDeque<RawMessage>,
    /// The offset behind the last one that was read.
    next: u64,
    /// Delivered and not yet acknowledged, up to here.
    tag: Option<u64>,
    used: Instant,
}

impl StreamScan {
    pub fn new(broker: Arc<str>, link: Arc<Link>) -> Self {
        let queues = Queues {
            link: Arc::clone(&link),
        };
        Self {
            broker,
            link,
            queues,
            idle: Mutex::default(),
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Reader>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever consumes a queue that is no stream takes its messages away from others: never without this.
    async fn is_stream(&self, name: &str) -> Result<(), Error> {
        let want = Destination {
            kind: MessageKind::Task,
            name: name.into(),
            max_priority: 0,
            ttl: None,
            partitions: 0,
            arguments: BTreeMap::from([("x-queue-type".to_owned(), "stream".to_owned())]),
        };
        match self.queues.compare(&want).await? {
            Comparison::Same => Ok(()),
            Comparison::Missing => Err(Error::UnknownDestination(name.to_owned())),
            Comparison::Differs { differences } => match differences.iter().find_map(|line| kind(line)) {
                None => Ok(()),
                Some(kind) => Err(Error::Unsupported(format!(
                    "`{name}` is a {kind} queue of RabbitMQ, which keeps nothing that was consumed; only streams (x-queue-type = \
                     \"stream\") can be read again"
                ))),
            },
        }
    }

    /// A channel that may consume this.
    async fn channel(&self, name: &str, window: u16) -> Result<(Channel, ShortString), Error> {
        self.is_stream(name).await?;
        let short = convert::short("the stream's name", name).map_err(Error::Unsupported)?;
        let up = self.link.up_within(ANSWER).await?;
        let opened = async {
            let channel = up.connection.create_channel().await?;
            channel
                .basic_qos(window, BasicQosOptions { global: false })
                .await?;
            lapin::Result::Ok(channel)
        };
        let channel = opened.await.map_err(|error| failed(name, &error))?;
        Ok((channel, short))
    }

    async fn reader(&self, name: &str, from: u64) -> Result<Reader, Error> {
        let (channel, short) = self.channel(name, WINDOW).await?;
        let offset = AMQPValue::LongLongInt(i64::try_from(from).unwrap_or(i64::MAX));
        let consumer = consume(&channel, &short, offset)
            .await
            .map_err(|error| failed(name, &error))?;
        Ok(Reader {
            stream: name.to_owned(),
            consumer,
            channel,
            name: short,
            ready: VecDeque::new(),
            next: from,
            tag: None,
            used: Instant::now(),
        })
    }

    fn borrow(&self, stream: &str, from: u64) -> Option<Reader> {
        let mut idle = self.idle();
        let at = idle
            .iter()
            .position(|r| r.stream == stream && r.next == from && r.channel.status().connected())?;
        Some(idle.swap_remove(at))
    }

    fn give_back(&self, mut reader: Reader) {
        reader.used = Instant::now();
        let mut idle = self.idle();
        idle.retain(|r| r.used.elapsed() < IDLE && r.channel.status().connected());
        if idle.len() < KEPT {
            idle.push(reader);
        }
    }

    /// First offset, offset behind the last one, and the first one of `time` and later.
    ///
    /// Deliveries say where the ends are. A consumer at the last chunk certainly gets something; what the consumers before it
    /// on the same channel get, they get before that.
    async fn ends(&self, name: &str, time: Option<UnixMs>) -> Result<(u64, u64, u64), Error> {
        let (channel, short) = self.channel(name, 1).await?;
        let started = Instant::now();
        let opened = async {
            let first = consume(&channel, &short, text("first")).await?;
            let timed = match time {
                Some(time) => Some(consume(&channel, &short, AMQPValue::Timestamp(time / SECOND)).await?),
                None => None,
            };
            // All of the last chunk comes at once.
            channel
                .basic_qos(u16::MAX, BasicQosOptions { global: false })
                .await?;
            let last = consume(&channel, &short, text("last")).await?;
            lapin::Result::Ok((first, timed, last))
        };
        let (mut first, mut timed, mut last) = opened.await.map_err(|error| failed(name, &error))?;
        let mut end = loop {
            match tokio::time::timeout(ANSWER / 40, last.next()).await {
                Ok(Some(Ok(delivery))) => break past(&delivery),
                Ok(Some(Err(error))) => return Err(failed(name, &error)),
                Ok(None) => return Err(cancelled(name)),
                Err(_) => {
                    let waited = started.elapsed();
                    let count = depth(&channel, &short)
                        .await
                        .map_err(|error| failed(name, &error))?;
                    if waited >= EMPTY && count == 0 {
                        return Ok((0, 0, 0));
                    }
                    if waited >= ANSWER {
                        return Err(silent(name));
                    }
                }
            }
        };
        depth(&channel, &short)
            .await
            .map_err(|error| failed(name, &error))?;
        while let Some(Some(Ok(delivery))) = last.next().now_or_never() {
            end = end.max(past(&delivery));
        }
        let from = |consumer: &mut Consumer| {
            let delivery = consumer.next().now_or_never().flatten()?.ok()?;
            offset(&delivery)
        };
        let first = from(&mut first).ok_or_else(|| silent(name))?;
        let timed = timed.as_mut().and_then(from).unwrap_or(end);
        let _ = channel.close(200, "looked".into()).await;
        Ok((first, end, timed))
    }
}

impl Reader {
    /// Takes what the broker has sent by the time it answers a question. True: something came.
    async fn gather(&mut self, broker: &Arc<str>, stream: &Arc<str>) -> lapin::Result<bool> {
        if let Some(tag) = self.tag.take() {
            self.channel
                .basic_ack(tag, BasicAckOptions { multiple: true })
                .await?;
        }
        depth(&self.channel, &self.name).await?;
        let before = self.ready.len();
        while let Some(item) = self.consumer.next().now_or_never() {
            let Some(delivery) = item.transpose()? else {
                return Err(lapin::ErrorKind::InvalidChannelState(
                    lapin::ChannelState::Closed,
                    "the broker cancelled the reader",
                )
                .into());
            };
            self.tag = Some(delivery.delivery_tag);
            if let Some(at) = offset(&delivery) {
                self.ready.push_back(message(broker, stream, delivery, at));
            }
        }
        Ok(self.ready.len() > before)
    }

    fn take(&mut self, max: usize) -> Vec<RawMessage> {
        let (mut taken, mut bytes) = (Vec::with_capacity(max.min(self.ready.len())), 0);
        while taken.len() < max && bytes < READ_BYTES {
            let Some(message) = self.ready.pop_front() else {
                break;
            };
            bytes += message.size();
            self.next = message.origin.offset.map_or(self.next, |offset| offset + 1);
            taken.push(message);
        }
        taken
    }
}

#[async_trait]
impl Scan for StreamScan {
    fn kind(&self) -> MessageKind {
        MessageKind::Task
    }

    fn time_step(&self) -> UnixMs {
        SECOND
    }

    async fn bounds(&self, topic: &str) -> Result<Vec<Bounds>, Error> {
        let (first, end, _) = self.ends(topic, None).await?;
        Ok(vec![Bounds {
            partition: PARTITION,
            first,
            end,
        }])
    }

    async fn offset_at(&self, topic: &str, partition: u32, time: UnixMs) -> Result<u64, Error> {
        only(topic, partition)?;
        let (_, _, at) = self.ends(topic, Some(time)).await?;
        Ok(at)
    }

    async fn read(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        max: usize,
    ) -> Result<Vec<RawMessage>, Error> {
        only(topic, partition)?;
        let stream: Arc<str> = topic.into();
        let mut reader = match self.borrow(topic, from) {
            Some(reader) => reader,
            None => self.reader(topic, from).await?,
        };
        let (deadline, mut pause) = (Instant::now() + ANSWER, Duration::from_millis(1));
        while reader.ready.len() < max {
            match reader.gather(&self.broker, &stream).await {
                Ok(true) => {}
                // Some is better than none; none is not the same as the end.
                Ok(false) if !reader.ready.is_empty() => break,
                Ok(false) if Instant::now() >= deadline => return Err(silent(topic)),
                Ok(false) => {
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                    if pause >= Duration::from_millis(256) && self.ends(topic, None).await?.1 <= from {
                        return Ok(Vec::new());
                    }
                }
                Err(error) => return Err(failed(topic, &error)),
            }
        }
        let taken = reader.take(max);
        self.give_back(reader);
        Ok(taken)
    }
}

async fn consume(channel: &Channel, name: &ShortString, from: AMQPValue) -> lapin::Result<Consumer> {
    let mut arguments = FieldTable::default();
    arguments.insert(OFFSET.into(), from);
    let options = BasicConsumeOptions::default();
    channel
        .basic_consume(name.clone(), ShortString::default(), options, arguments)
        .await
}

/// Messages in it, as the broker counts now and then. Its answer comes after everything that was sent before.
async fn depth(channel: &Channel, name: &ShortString) -> lapin::Result<u32> {
    let options = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let found = channel
        .queue_declare(name.clone(), options, FieldTable::default())
        .await?;
    Ok(found.message_count())
}

/// The offset behind it.
fn past(delivery: &lapin::message::Delivery) -> u64 {
    offset(delivery).map_or(0, |offset| offset + 1)
}

fn offset(delivery: &lapin::message::Delivery) -> Option<u64> {
    let table = delivery.properties.headers().as_ref()?;
    match table.inner().get(OFFSET)? {
        AMQPValue::LongLongInt(offset) => u64::try_from(*offset).ok(),
        AMQPValue::LongInt(offset) => u64::try_from(*offset).ok(),
        _ => None,
    }
}

fn message(broker: &Arc<str>, stream: &Arc<str>, delivery: lapin::message::Delivery, at: u64) -> RawMessage {
    let now = SystemClock.now_ms();
    let mut raw = convert::raw_message(broker, stream, &delivery.properties, false, delivery.data, now);
    raw.headers.remove(OFFSET);
    raw.origin.kind = MessageKind::Event;
    raw.origin.partition = Some(PARTITION);
    raw.origin.offset = Some(at);
    raw
}

fn text(word: &str) -> AMQPValue {
    AMQPValue::LongString(word.into())
}

/// `x-queue-type: wanted stream, is quorum`
fn kind(line: &str) -> Option<&str> {
    let kind = line.strip_prefix("x-queue-type: ")?.rsplit_once(", is ")?.1;
    Some(if kind == "not set" { "classic" } else { kind })
}

fn only(stream: &str, partition: u32) -> Result<(), Error> {
    if partition == PARTITION {
        return Ok(());
    }
    Err(Error::UnknownDestination(format!("{stream}[{partition}]")))
}

fn silent(stream: &str) -> Error {
    Error::Unreachable(format!(
        "RabbitMQ delivers nothing of stream `{stream}`; if it answers otherwise, its retention may have deleted everything (a limit \
         below the size of one segment or one chunk does that)"
    ))
}

fn cancelled(stream: &str) -> Error {
    Error::Other(format!(
        "RabbitMQ ended the reading of stream `{stream}`, perhaps it was deleted"
    ))
}

fn failed(stream: &str, error: &lapin::Error) -> Error {
    match diagnose::reply(error) {
        Some((NOT_FOUND, _)) => Error::UnknownDestination(stream.to_owned()),
        Some((ACCESS_REFUSED, text)) => Error::Refused(format!("stream `{stream}`: {text}")),
        Some((_, text)) => Error::Other(format!("stream `{stream}`: {text}")),
        None => Error::Unreachable(format!("stream `{stream}`: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_stream_is_named() {
        assert_eq!(kind("x-queue-type: wanted stream, is quorum"), Some("quorum"));
        assert_eq!(kind("x-queue-type: wanted stream, is not set"), Some("classic"));
        assert_eq!(kind("x-max-age: wanted not set, is 1h"), None);
    }
}
