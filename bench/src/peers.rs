//! Clients and frameworks of other languages, on the same topic and queue: `bench/peers`. Opt-in, as far as this machine
//! has Go and Python.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;

use crate::message::Shape;
use crate::native::rabbitmq as lapin_loop;
use crate::process::{Figures, Running, figures};
use crate::stats::{Goal, Row};
use crate::{Bench, Measure, cpu_note, kafka, rabbitmq};

/// Name of the peer's program, what a person calls it, how many messages of the topic it is given, the goal.
type Peer = (&'static str, &'static str, usize, Goal);

const KAFKA: &str = "peers on Kafka, JSON";
const RABBITMQ: &str = "peers on RabbitMQ, JSON";
const CELERY: &str = "peer Celery on RabbitMQ, no-op";

const KAFKA_PEERS: [Peer; 2] = [
    (
        "franz",
        "franz-go 1.22, encoding/json",
        1_000_000,
        Goal::RatioAtLeast(3.0),
    ),
    (
        "watermill-kafka",
        "watermill-kafka 3.0.6 router, encoding/json",
        100_000,
        Goal::None,
    ),
];
const RABBITMQ_PEERS: [Peer; 3] = [
    (
        "amqp",
        "amqp091-go 1.16, ack each",
        100_000,
        Goal::RatioAtLeast(1.5),
    ),
    (
        "amqp-multiple",
        "amqp091-go 1.16, acks coalesced",
        100_000,
        Goal::None,
    ),
    (
        "watermill-amqp",
        "watermill-amqp 3.0.2 router",
        50_000,
        Goal::None,
    ),
];

pub fn measures(peers: &Path) -> Vec<Measure> {
    let (go, python) = (peers.join("go"), peers.join("python"));
    let again = go.clone();
    vec![
        Measure::new(&[KAFKA], move |bench| on_kafka(bench, &go)),
        Measure::new(&[RABBITMQ], move |bench| on_rabbitmq(bench, &again)),
        Measure::new(&[CELERY], move |bench| celery(bench, &python)),
    ]
}

fn on_kafka(bench: &Bench, go: &Path) -> Result<Vec<Row>> {
    let program = built(go)?;
    let servers = bench.kafka()?;
    let all = bench.count(1_000_000, 50_000);
    let topic = kafka::filled(servers, Shape::Header, all)?;
    let mut ours = Vec::new();
    let mut theirs = [Vec::new(), Vec::new()];
    for _ in 0..bench.rounds {
        ours.push(kafka::json(bench, servers, &topic, all)?);
        bench.say(KAFKA, "ours", ours.last());
        for ((which, shown, most, _), found) in KAFKA_PEERS.iter().zip(&mut theirs) {
            let count = all.min(*most).to_string();
            let group = format!("{which}-{}", kafka::unique());
            found.push(figures(
                Command::new(&program).args([which, servers, &topic, &group, &count]),
            )?);
            bench.say(KAFKA, shown, found.last());
        }
    }
    let rows = KAFKA_PEERS.iter().zip(&theirs);
    Ok(rows
        .map(|(peer, found)| row("Kafka, JSON parsed in the guest", peer, &ours, found))
        .collect())
}

fn on_rabbitmq(bench: &Bench, go: &Path) -> Result<Vec<Row>> {
    let program = built(go)?;
    let amqp = bench.amqp()?;
    let rt = tokio::runtime::Runtime::new()?;
    let all = bench.count(100_000, 5_000);
    let mut ours = Vec::new();
    let mut theirs = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..bench.rounds {
        let queues = [
            "bench.ours",
            "bench.amqp",
            "bench.amqp-multiple",
            "bench.watermill-amqp",
        ];
        rt.block_on(rabbitmq::fill(&amqp.uri(), &queues, all))?;
        rabbitmq::collect_garbage()?;
        ours.push(rabbitmq::json(bench, amqp, all)?);
        bench.say(RABBITMQ, "ours", ours.last());
        for ((which, shown, most, _), found) in RABBITMQ_PEERS.iter().zip(&mut theirs) {
            let (queue, count) = (format!("bench.{which}"), all.min(*most).to_string());
            rabbitmq::collect_garbage()?;
            let args = [which, amqp.uri().as_str(), &queue, rabbitmq::PREFETCH, &count].map(str::to_owned);
            found.push(figures(Command::new(&program).args(args))?);
            bench.say(RABBITMQ, shown, found.last());
        }
    }
    let rows = RABBITMQ_PEERS.iter().zip(&theirs);
    Ok(rows
        .map(|(peer, found)| row("RabbitMQ, JSON parsed in the guest", peer, &ours, found))
        .collect())
}

fn row(name: &str, peer: &Peer, ours: &[Figures], theirs: &[Figures]) -> Row {
    let (_, against, _, goal) = *peer;
    Row {
        name: format!("{name}, against {against}"),
        unit: "msg/s",
        goal,
        ours: ours.iter().map(|f| f.rate).collect(),
        baseline: theirs.iter().map(|f| f.rate).collect(),
        against,
        note: cpu_note(ours, theirs),
        details: serde_json::Value::Null,
    }
}

/// The Go peers, compiled beside the rest of the build.
fn built(go: &Path) -> Result<PathBuf> {
    let program = scratch()?.join("peers");
    let mut build = Command::new("go");
    build
        .args(["build", "-mod=readonly", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(go);
    let status = build.status().context("go is not installed")?;
    ensure!(status.success(), "go build: {status}");
    Ok(program)
}

/// `target/peers`, beside the folder this program was built into.
fn scratch() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target = own.parent().and_then(Path::parent).context("no target folder")?;
    let folder = target.join("peers");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Its own message format and its own queue; the rate is read from the queue's length, so the grain is a look, 100 ms.
fn celery(bench: &Bench, python: &Path) -> Result<Vec<Row>> {
    let bin = installed(python)?;
    let amqp = bench.amqp()?;
    let rt = tokio::runtime::Runtime::new()?;
    let count = bench.count(20_000, 2_000);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        rt.block_on(rabbitmq::fill(&amqp.uri(), &["bench.ours"], count))?;
        ours.push(rabbitmq::noop(bench, amqp, count)?);
        bench.say(CELERY, "ours", ours.last());
        let (_connection, channel) = rt.block_on(lapin_loop::connect(&amqp.uri()))?;
        rt.block_on(rabbitmq::fresh(&channel, "bench.celery"))?;
        let run = |program: &str, args: &[&str]| {
            let mut command = Command::new(bin.join(program));
            // Celery's own way to say the root vhost.
            let uri = amqp.uri().replace("%2f", "/");
            command
                .args(args)
                .current_dir(python)
                .env("BENCH_AMQP_URI", uri)
                .stdin(Stdio::null());
            command
        };
        let filled = run("python", &["tasks.py", "fill", &count.to_string()]).status()?;
        ensure!(filled.success(), "celery could not fill its queue: {filled}");
        let worker = ["-A", "tasks", "worker", "-c", "2", "-l", "WARNING"];
        let quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"];
        let mut command = run("celery", &[&worker[..], &quiet[..]].concat());
        let _worker = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        theirs.push(rt.block_on(emptied(&channel, "bench.celery", count))?);
        bench.say(CELERY, "Celery", theirs.last());
    }
    let peer: Peer = ("celery", "Celery 5.7 prefork -c2, acks_late", count, Goal::None);
    Ok(vec![Row {
        note: "Celery's CPU time is not taken".to_owned(),
        ..row("RabbitMQ, no-op", &peer, &ours, &theirs)
    }])
}

/// Ready messages per second, from the first look that sees fewer to the last that sees some.
async fn emptied(channel: &lapin::Channel, queue: &str, count: usize) -> Result<Figures> {
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut first: Option<(Instant, u32)> = None;
    let mut last: Option<(Instant, u32)> = None;
    loop {
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let ready = channel
            .queue_declare(queue.into(), passive, FieldTable::default())
            .await?
            .message_count();
        let now = Instant::now();
        ensure!(now < deadline, "Celery: {ready} of {count} left");
        if (ready as usize) < count && first.is_none() {
            first = Some((now, ready));
        }
        if ready == 0 {
            break;
        }
        last = Some((now, ready));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let ((from, before), (to, after)) = first.zip(last).context("it was over before the first look")?;
    Ok(Figures {
        rate: f64::from(before.saturating_sub(after)) / (to - from).as_secs_f64(),
        ..Figures::default()
    })
}

/// A Python environment with pinned packages.
fn installed(python: &Path) -> Result<PathBuf> {
    let home = scratch()?.join("python");
    let bin = home.join("bin");
    if !bin.join("celery").exists() {
        let made = Command::new("python3").args(["-m", "venv"]).arg(&home).status();
        ensure!(
            made.context("python3 is not installed")?.success(),
            "no Python environment"
        );
        let requirements = python.join("requirements.txt");
        let mut pip = Command::new(bin.join("pip"));
        pip.args(["install", "-q", "-r"]).arg(requirements);
        ensure!(pip.status()?.success(), "pip could not install the peers");
    }
    Ok(bin)
}
