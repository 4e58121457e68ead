//! Publishing until it is confirmed: our publishers through the broker seam, and the client library by itself with as many
//! unconfirmed messages. Both in processes of their own.

use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use helix_host::broker::Broker;
use helix_host::broker::kafka::Kafka;
use helix_host::broker::rabbitmq::RabbitMq;
use helix_host::config::valid::{self, Formats, Pattern};
use helix_host::model::{Headers, MessageKind, Outgoing, WireFormat};

use crate::message::{Shape, TYPE};
use crate::native::rabbitmq as lapin_loop;
use crate::process::{Figures, Meter, child};
use crate::stats::{Goal, Row};
use crate::{Bench, Measure, cpu_note, kafka, rabbitmq, stage};

/// Unconfirmed messages at a time, on both sides: our RabbitMQ publisher's 8 channels of 128.
pub const WINDOW: usize = 1024;
/// Ours publishes in batches, as handlers' outputs arrive; this many batches at a time fill the window.
const BATCH: usize = 64;

const RABBITMQ: &str = "RabbitMQ publish, confirmed";
const KAFKA: &str = "Kafka publish, confirmed";

pub fn measures() -> Vec<Measure> {
    vec![
        Measure::new(&[RABBITMQ], rabbitmq_rows),
        Measure::new(&[KAFKA], kafka_rows),
    ]
}

/// `helix-bench ours-publish`
#[derive(clap::Args)]
pub struct Args {
    /// helix.toml that names the broker
    #[arg(long)]
    config: std::path::PathBuf,
    /// Queue or topic
    #[arg(long)]
    to: String,
    #[arg(long)]
    count: usize,
}

fn rabbitmq_rows(bench: &Bench) -> Result<Vec<Row>> {
    let amqp = bench.amqp()?;
    let count = bench.count(50_000, 3_000);
    let rt = tokio::runtime::Runtime::new()?;
    let toml = format!("[messaging]\ntasks = \"rabbitmq\"\n{}", amqp.toml());
    let emptied = || {
        rt.block_on(async {
            let (_connection, channel) = lapin_loop::connect(&amqp.uri()).await?;
            rabbitmq::fresh(&channel, "bench.publish").await
        })
    };
    rounds(
        bench,
        RABBITMQ,
        "lapin, the same window",
        &toml,
        "bench.publish",
        count,
        &emptied,
        &[
            "rabbitmq-publish",
            "--uri",
            &amqp.uri(),
            "--queue",
            "bench.publish",
        ],
    )
}

fn kafka_rows(bench: &Bench) -> Result<Vec<Row>> {
    let servers = bench.kafka()?;
    let count = bench.count(300_000, 20_000);
    let toml = format!(
        "[messaging]\nevents = \"kafka\"\n{}",
        kafka::toml(servers, "bench")
    );
    kafka::create(servers, "bench.publish")?;
    let nothing = || Ok(());
    rounds(
        bench,
        KAFKA,
        "rdkafka, the same window",
        &toml,
        "bench.publish",
        count,
        &nothing,
        &["kafka-publish", "--servers", servers, "--topic", "bench.publish"],
    )
}

#[allow(clippy::too_many_arguments, reason = "two callers, right above")]
fn rounds(
    bench: &Bench,
    name: &'static str,
    against: &'static str,
    toml: &str,
    to: &str,
    count: usize,
    before: &dyn Fn() -> Result<()>,
    native: &[&str],
) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("helix.toml");
    std::fs::write(&config, toml)?;
    let config = config.display().to_string();
    let (count, window) = (count.to_string(), WINDOW.to_string());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        before()?;
        ours.push(child(&[
            "ours-publish",
            "--config",
            &config,
            "--to",
            to,
            "--count",
            &count,
        ])?);
        bench.say(name, "ours", ours.last());
        before()?;
        let mut args = vec!["native"];
        args.extend(native);
        args.extend(["--count", &count, "--window", &window]);
        theirs.push(child(&args)?);
        bench.say(name, "native", theirs.last());
    }
    Ok(vec![Row {
        name: name.to_owned(),
        unit: "msg/s",
        goal: Goal::RatioAtLeast(0.9),
        ours: ours.iter().map(|f| f.rate).collect(),
        baseline: theirs.iter().map(|f| f.rate).collect(),
        against,
        note: cpu_note(&ours, &theirs),
        details: serde_json::Value::Null,
    }])
}

/// Our side, in this process.
pub async fn ours(args: &Args) -> Result<Figures> {
    let settings = stage::settings(&args.config)?;
    // Byte for byte what the loop sends.
    let formats = Formats(vec![(Pattern::new("*"), WireFormat::Raw)]);
    let task = settings.tasks_broker != "embedded";
    let name = if task {
        &settings.tasks_broker
    } else {
        &settings.events_broker
    };
    let broker: Arc<dyn Broker> = match settings.brokers.get(name).context("no broker")? {
        valid::Broker::RabbitMq(options) => Arc::new(RabbitMq::new(name, options, formats)?),
        valid::Broker::Kafka(options) => Arc::new(Kafka::new(name, options, formats)?),
        valid::Broker::Embedded(_) => anyhow::bail!("the embedded broker has a row of its own"),
    };
    let kind = if task {
        MessageKind::Task
    } else {
        MessageKind::Event
    };
    let publisher = broker.publisher();
    let to: Arc<str> = args.to.as_str().into();
    // Connected and asked about the target before the clock starts, as the loop is.
    confirmed(publisher.publish(vec![outgoing(kind, &to, 0)]).await)?;
    let meter = Meter::start();
    let lanes = WINDOW / BATCH;
    let mut sending = tokio::task::JoinSet::new();
    for lane in 0..lanes {
        let (publisher, to, count) = (Arc::clone(&publisher), Arc::clone(&to), args.count);
        sending.spawn(async move {
            let mine: Vec<usize> = (lane..count).step_by(lanes).collect();
            for numbers in mine.chunks(BATCH) {
                let batch = numbers.iter().map(|n| outgoing(kind, &to, *n)).collect();
                confirmed(publisher.publish(batch).await)?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = sending.join_next().await {
        ended??;
    }
    let figures = meter.stop(args.count);
    broker.close().await;
    Ok(figures)
}

fn confirmed<T>(results: Vec<std::result::Result<T, helix_host::broker::PublishError>>) -> Result<()> {
    for result in results {
        result?;
    }
    Ok(())
}

pub fn outgoing(kind: MessageKind, to: &Arc<str>, number: usize) -> Outgoing {
    Outgoing {
        kind,
        destination: Arc::clone(to),
        id: format!("m-{number}"),
        message_type: TYPE.to_owned(),
        payload: Bytes::from(Shape::Header.body(number)),
        tombstone: false,
        content_type: Some("application/json".to_owned()),
        schema: None,
        source: None,
        subject: None,
        priority: None,
        key: (kind == MessageKind::Event).then(|| Bytes::from(format!("k-{}", number % 1000))),
        time_ms: 1_700_000_000_000,
        not_before_ms: None,
        deadline_ms: None,
        correlation_id: None,
        reply_to: None,
        trace: None,
        headers: [("tenant", "t-1")].into_iter().collect::<Headers>(),
    }
}
