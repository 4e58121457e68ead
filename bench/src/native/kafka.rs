//! rdkafka by hand: polls, works, stores the offset, commits every 200 ms or 5,000 messages, as the host does.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use futures::channel::oneshot::Canceled;
use futures::stream::FuturesUnordered;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::future_producer::OwnedDeliveryResult;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message};

use super::Work;
use crate::message::{Shape, TYPE};
use crate::process::{Figures, Meter};

/// The host's own (`broker/kafka/reader.rs`).
const COMMIT_EVERY: Duration = Duration::from_millis(200);
const COMMIT_AT: usize = 5_000;

/// Which settings of librdkafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Client {
    /// The fastest known: four to eight times the defaults.
    Tuned,
    /// As it comes, which is what most people run.
    Default,
}

#[derive(clap::Args)]
pub struct Args {
    #[arg(long)]
    servers: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    group: String,
    #[arg(long)]
    count: usize,
    #[arg(long, value_enum)]
    work: Work,
    #[arg(long, value_enum, default_value = "tuned")]
    client: Client,
}

pub fn config(servers: &str, group: &str, client: Client) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", servers)
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest");
    if client == Client::Tuned {
        config
            .set("fetch.queue.backoff.ms", "5")
            .set("queued.max.messages.kbytes", "16384");
    }
    config
}

pub fn consume(args: &Args) -> Result<Figures> {
    let consumer: BaseConsumer = config(&args.servers, &args.group, args.client).create()?;
    consumer.subscribe(&[&args.topic])?;
    let mut meter: Option<Meter> = None;
    let (mut done, mut uncommitted, mut committed) = (0, 0, Instant::now());
    while done < args.count {
        let Some(message) = consumer.poll(Duration::from_millis(100)) else {
            continue;
        };
        let message = message?;
        meter.get_or_insert_with(Meter::start);
        args.work.run(message.payload().unwrap_or_default())?;
        consumer.store_offset_from_message(&message)?;
        done += 1;
        uncommitted += 1;
        // The clock is looked at every 64 messages: it costs as much as a tenth of the loop.
        if uncommitted >= COMMIT_AT || (done % 64 == 0 && committed.elapsed() >= COMMIT_EVERY) {
            consumer.commit_consumer_state(CommitMode::Async)?;
            (uncommitted, committed) = (0, Instant::now());
        }
    }
    let figures = meter.unwrap_or_else(Meter::start).stop(done - 1);
    // Not part of the figure: the host's last commit is not either.
    let _ = consumer.commit_consumer_state(CommitMode::Sync);
    Ok(figures)
}

#[derive(clap::Args)]
pub struct Publish {
    #[arg(long)]
    servers: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    count: usize,
    /// Unconfirmed at a time
    #[arg(long)]
    window: usize,
}

pub async fn publish(args: &Publish) -> Result<Figures> {
    // The host's own settings (`broker/kafka/connect.rs`).
    let producer: FutureProducer = ClientConfig::new()
        .set("bootstrap.servers", &args.servers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("linger.ms", "5")
        .create()?;
    send(&producer, &args.topic, 1, 1).await?;
    let meter = Meter::start();
    send(&producer, &args.topic, args.count, args.window).await?;
    Ok(meter.stop(args.count))
}

async fn send(producer: &FutureProducer, topic: &str, count: usize, window: usize) -> Result<()> {
    let mut confirms = FuturesUnordered::new();
    for number in 0..count {
        if confirms.len() >= window {
            confirmed(confirms.next().await.context("a window of nothing")?)?;
        }
        let (body, id, key) = (
            Shape::Header.body(number),
            format!("m-{number}"),
            format!("k-{}", number % 1000),
        );
        let headers = [("tenant", "t-1"), ("type", TYPE), ("id", &id)].into_iter().fold(
            OwnedHeaders::new(),
            |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: Some(value),
                })
            },
        );
        let record = FutureRecord::to(topic).key(&key).payload(&body).headers(headers);
        confirms.push(producer.send_result(record).map_err(|(error, _)| error)?);
    }
    while let Some(sent) = confirms.next().await {
        confirmed(sent)?;
    }
    Ok(())
}

fn confirmed(answer: std::result::Result<OwnedDeliveryResult, Canceled>) -> Result<()> {
    answer?.map_err(|(error, _)| error)?;
    Ok(())
}
