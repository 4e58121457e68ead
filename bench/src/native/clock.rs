//! Loops that measure how long messages were under way: the body begins with the Unix time in nanoseconds when it was sent,
//! 19 digits. After the first `warm` messages they print `warm`; those do not count.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use futures::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};

use super::kafka::{Client, config};
use super::rabbitmq::connect;
use crate::process::Figures;
use crate::stats::percentile;

#[derive(clap::Args)]
pub struct Args {
    /// `amqp://…`, or a Kafka server
    #[arg(long)]
    from: String,
    /// Queue or topic
    #[arg(long)]
    name: String,
    #[arg(long)]
    warm: usize,
    #[arg(long)]
    count: usize,
}

struct Times {
    warm: usize,
    seen: usize,
    ms: Vec<f64>,
}

impl Times {
    #[allow(
        clippy::print_stdout,
        reason = "the signal that this program's parent waits for"
    )]
    fn take(&mut self, body: &[u8]) -> Result<()> {
        self.seen += 1;
        if self.seen <= self.warm {
            if self.seen == self.warm {
                println!("warm");
            }
            return Ok(());
        }
        let sent: u64 = std::str::from_utf8(body.get(..19).context("a short body")?)?.parse()?;
        #[allow(clippy::cast_precision_loss, reason = "a difference of times")]
        self.ms.push(now_ns().saturating_sub(sent) as f64 / 1e6);
        Ok(())
    }

    fn figures(mut self) -> Result<Figures> {
        self.ms.sort_by(f64::total_cmp);
        Ok(Figures {
            p50_ms: percentile(&self.ms, 0.5).context("no messages")?,
            p99_ms: percentile(&self.ms, 0.99).context("no messages")?,
            ..Figures::default()
        })
    }
}

pub fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}

pub async fn run(args: &Args) -> Result<Figures> {
    let mut times = Times {
        warm: args.warm,
        seen: 0,
        ms: Vec::with_capacity(args.count),
    };
    let total = args.warm + args.count;
    if args.from.starts_with("amqp://") {
        rabbitmq(args, total, &mut times).await?;
    } else {
        kafka(args, total, &mut times)?;
    }
    times.figures()
}

fn kafka(args: &Args, total: usize, times: &mut Times) -> Result<()> {
    let consumer: BaseConsumer = config(&args.from, "bench-clock", Client::Tuned).create()?;
    consumer.subscribe(&[&args.name])?;
    let mut committed = std::time::Instant::now();
    while times.seen < total {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message?;
            times.take(message.payload().unwrap_or_default())?;
            consumer.store_offset_from_message(&message)?;
        }
        if committed.elapsed() >= Duration::from_millis(200) {
            // An error means that there is nothing to commit.
            let _ = consumer.commit_consumer_state(CommitMode::Async);
            committed = std::time::Instant::now();
        }
    }
    Ok(())
}

async fn rabbitmq(args: &Args, total: usize, times: &mut Times) -> Result<()> {
    let (_connection, channel) = connect(&args.from).await?;
    channel.basic_qos(1000, BasicQosOptions::default()).await?;
    let (options, table) = (BasicConsumeOptions::default(), FieldTable::default());
    let mut deliveries = channel
        .basic_consume(args.name.as_str().into(), "".into(), options, table)
        .await?;
    while times.seen < total {
        let delivery = deliveries.next().await.context("the consumer ended")??;
        times.take(&delivery.data)?;
        if times.seen.is_multiple_of(62) || times.seen == total {
            delivery.acker.ack(BasicAckOptions { multiple: true }).await?;
        }
    }
    Ok(())
}
