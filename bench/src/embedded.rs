//! The embedded broker: durable publish → handled, against its engine alone (publish → claim → acknowledge through the
//! broker seam, no guest). Each side a process.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use helix_host::broker::embedded::Embedded;
use helix_host::broker::{Broker, Destination, Publisher, Subscription};
use helix_host::config::valid::{self, Formats, Settings};
use helix_host::model::{MessageKind, SystemClock};

use crate::process::{Figures, Meter, child};
use crate::publish::outgoing;
use crate::stage::{self, Stage};
use crate::stats::{Goal, Row, percentile};
use crate::{Bench, Measure, cpu_note};

const RATIO: &str = "embedded: durable publish to handled, 512 in flight";
const RATE: &str = "embedded: the same, rate alone";
const P99: &str = "embedded: publish p99 meanwhile";

const QUEUE: &str = "bench";
const IN_FLIGHT: usize = 512;

#[derive(clap::Args)]
pub struct Args {
    /// A component that handles the messages; without one the engine alone is measured
    #[arg(long)]
    guest: Option<PathBuf>,
    #[arg(long)]
    count: usize,
}

pub fn measures() -> Vec<Measure> {
    vec![Measure::new(&[RATIO, RATE, P99], rows)]
}

fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let count = bench.count(200_000, 5_000).to_string();
    let guest = bench.guests.join("bench-noop.wasm").display().to_string();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        ours.push(child(&["embedded", "--count", &count, "--guest", &guest])?);
        bench.say(RATIO, "ours", ours.last());
        theirs.push(child(&["embedded", "--count", &count])?);
        bench.say(RATIO, "engine", theirs.last());
    }
    let of =
        |figures: &[Figures], value: fn(&Figures) -> f64| figures.iter().map(value).collect::<Vec<f64>>();
    let row = |name: &str, unit, goal, value: fn(&Figures) -> f64| Row {
        name: name.to_owned(),
        unit,
        goal,
        ours: of(&ours, value),
        baseline: of(&theirs, value),
        against: "its engine alone",
        note: String::new(),
        details: serde_json::Value::Null,
    };
    Ok(vec![
        Row {
            note: cpu_note(&ours, &theirs),
            ..row(RATIO, "msg/s", Goal::RatioAtLeast(0.6), |f| f.rate)
        },
        row(RATE, "msg/s", Goal::AtLeast(30_000.0), |f| f.rate),
        row(P99, "ms", Goal::AtMost(20.0), |f| f.p99_ms),
    ])
}

pub async fn child_main(args: &Args) -> Result<Figures> {
    let toml = format!("[[routes]]\nqueue = \"{QUEUE}\"\nplugin = \"guest\"\n");
    let (folder, settings) = stage::folder(&toml, &format!("[[queues]]\nname = \"{QUEUE}\"\n"))?;
    let broker = open(&settings).await?;
    let figures = if let Some(guest) = &args.guest {
        std::fs::copy(guest, folder.path().join("plugins/guest.wasm"))?;
        let runtime = stage::runtime(&settings, folder.path())?;
        stage::version(&runtime, "guest").await?;
        let stage = Stage::new(
            &settings,
            &folder.path().join("state"),
            &broker,
            Arc::new(runtime),
        )
        .await?;
        let route = settings.routes.first().context("no route")?.name.to_string();
        let done = stage.metrics.outcomes.with_label_values(&[&*route, "done"]);
        stage.serve(&settings, &broker);
        let meter = Meter::start();
        let times = publish_all(broker.publisher(), args.count).await?;
        while done.get() < args.count as u64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let figures = meter.stop(args.count);
        stage.dispatcher.drain(Duration::from_secs(1)).await;
        with_times(figures, times)
    } else {
        let meter = Meter::start();
        let claimed = tokio::spawn(claim(Arc::clone(&broker), args.count));
        let times = publish_all(broker.publisher(), args.count).await?;
        claimed.await??;
        with_times(meter.stop(args.count), times)
    };
    broker.close().await;
    figures
}

/// The embedded broker of some settings, with the queue of the bench.
pub async fn open(settings: &Settings) -> Result<Arc<dyn Broker>> {
    let Some(valid::Broker::Embedded(options)) = settings.brokers.get("embedded") else {
        anyhow::bail!("no embedded broker");
    };
    let broker = Embedded::open("embedded", options, Formats::default(), Arc::new(SystemClock))?;
    let queue = Destination {
        kind: MessageKind::Task,
        name: QUEUE.into(),
        max_priority: 0,
        ttl: None,
        partitions: 1,
        arguments: std::collections::BTreeMap::new(),
    };
    broker.topology().create(&queue).await?;
    Ok(Arc::new(broker))
}

/// Each of the senders waits for its confirm before it sends the next; milliseconds of each publish.
pub async fn publish_all(publisher: Arc<dyn Publisher>, count: usize) -> Result<Vec<f64>> {
    let times = Arc::new(Mutex::new(Vec::with_capacity(count)));
    let queue: Arc<str> = QUEUE.into();
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..IN_FLIGHT {
        let (publisher, times, queue) = (Arc::clone(&publisher), Arc::clone(&times), Arc::clone(&queue));
        senders.spawn(async move {
            let mut mine = Vec::new();
            for number in (sender..count).step_by(IN_FLIGHT) {
                let started = Instant::now();
                for result in publisher
                    .publish(vec![outgoing(MessageKind::Task, &queue, number)])
                    .await
                {
                    result?;
                }
                mine.push(started.elapsed().as_secs_f64() * 1e3);
            }
            times.lock().unwrap_or_else(PoisonError::into_inner).extend(mine);
            anyhow::Ok(())
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended??;
    }
    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut times))
}

/// What a consumer without a handler does.
async fn claim(broker: Arc<dyn Broker>, count: usize) -> Result<()> {
    let mut source = broker
        .subscribe(Subscription {
            kind: MessageKind::Task,
            destination: QUEUE.into(),
            window: 1000,
        })
        .await?;
    let mut claimed = 0;
    while claimed < count {
        let deliveries = source.recv(512).await?;
        ensure!(!deliveries.is_empty(), "the source closed");
        for delivery in deliveries {
            ensure!(delivery.receipt.begin(), "a delivery that is not ours");
            std::hint::black_box(&delivery.raw);
            delivery.receipt.ack();
            claimed += 1;
        }
    }
    source.close(Duration::from_secs(5)).await?;
    Ok(())
}

fn with_times(figures: Figures, mut times: Vec<f64>) -> Result<Figures> {
    times.sort_by(f64::total_cmp);
    Ok(Figures {
        p50_ms: percentile(&times, 0.5).context("nothing was published")?,
        p99_ms: percentile(&times, 0.99).context("nothing was published")?,
        ..figures
    })
}
