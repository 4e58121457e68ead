//! lapin by hand: consuming with coalesced or single acknowledgements, publishing with pipelined confirms.

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};

use super::Work;
use crate::message::{Shape, TYPE};
use crate::process::{Figures, Meter};

/// When messages are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Acks {
    /// `multiple`, each quarter of the prefetch.
    Multiple,
    /// One frame a message, awaited: what most programs do.
    Each,
}

#[derive(clap::Args)]
pub struct Consume {
    #[arg(long)]
    uri: String,
    #[arg(long)]
    queue: String,
    #[arg(long)]
    prefetch: u16,
    #[arg(long)]
    count: usize,
    #[arg(long, value_enum)]
    work: Work,
    #[arg(long, value_enum)]
    acks: Acks,
}

#[derive(clap::Args)]
pub struct Publish {
    #[arg(long)]
    uri: String,
    #[arg(long)]
    queue: String,
    #[arg(long)]
    count: usize,
    /// Unconfirmed at a time
    #[arg(long)]
    window: usize,
}

pub async fn connect(uri: &str) -> Result<(Connection, Channel)> {
    let connection = Connection::connect(uri, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    Ok((connection, channel))
}

pub async fn consume(args: &Consume) -> Result<Figures> {
    let (_connection, channel) = connect(&args.uri).await?;
    channel
        .basic_qos(args.prefetch, BasicQosOptions::default())
        .await?;
    let mut deliveries = channel
        .basic_consume(
            args.queue.as_str().into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await?;
    let stride = match args.acks {
        Acks::Multiple => usize::from(args.prefetch / 4).max(1),
        Acks::Each => 1,
    };
    let multiple = BasicAckOptions {
        multiple: args.acks == Acks::Multiple,
    };
    let mut meter: Option<Meter> = None;
    let mut done = 0;
    while done < args.count {
        let delivery = deliveries.next().await.context("the consumer ended")??;
        meter.get_or_insert_with(Meter::start);
        args.work.run(&delivery.data)?;
        done += 1;
        if done % stride == 0 || done == args.count {
            delivery.acker.ack(multiple).await?;
        }
    }
    Ok(meter.unwrap_or_else(Meter::start).stop(done - 1))
}

pub async fn publish(args: &Publish) -> Result<Figures> {
    let (_connection, channel) = connect(&args.uri).await?;
    let meter = Meter::start();
    send(&channel, "", &args.queue, args.count, args.window, Shape::Header).await?;
    Ok(meter.stop(args.count))
}

/// Persistent messages, at most `window` of them unconfirmed.
pub async fn send(
    channel: &Channel,
    exchange: &str,
    queue: &str,
    count: usize,
    window: usize,
    shape: Shape,
) -> Result<()> {
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut confirms = FuturesUnordered::new();
    for number in 0..count {
        if confirms.len() >= window {
            confirmed(confirms.next().await.context("a window of nothing")?)?;
        }
        let body = shape.body(number);
        let options = BasicPublishOptions::default();
        let sent = channel.basic_publish(
            exchange.into(),
            queue.into(),
            options,
            body.as_bytes(),
            properties(number),
        );
        confirms.push(sent.await?);
    }
    while let Some(result) = confirms.next().await {
        confirmed(result)?;
    }
    Ok(())
}

fn confirmed(result: lapin::Result<lapin::Confirmation>) -> Result<()> {
    ensure!(result?.is_ack(), "the broker refused a message");
    Ok(())
}

pub fn properties(number: usize) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("tenant".into(), AMQPValue::LongString("t-1".into()));
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_type(TYPE.into())
        .with_message_id(format!("m-{number}").into())
        .with_content_type("application/json".into())
        .with_headers(headers)
}
