//! RabbitMQ: each round the same messages in two queues, one for the host and one for the loop.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lapin::ExchangeKind;
use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
};
use lapin::types::FieldTable;

use crate::message::Shape;
use crate::native::{Work, rabbitmq as native};
use crate::process::{Figures, child};
use crate::stats::{Goal, Row};
use crate::{Bench, Measure, cpu_note};

/// `limits.in_flight` of the host unless set, and so the loop's prefetch.
pub const PREFETCH: &str = "1000";
/// Unconfirmed messages while queues are filled.
const FILL_WINDOW: usize = 1000;
/// After filling, the broker is busy with what it got for some seconds, and serves a third less.
const SETTLE: Duration = Duration::from_secs(5);

struct Contest {
    name: &'static str,
    plugin: &'static str,
    work: Work,
    acks: &'static str,
    against: &'static str,
    goal: Goal,
}

const CONTESTS: &[Contest] = &[
    Contest {
        name: "RabbitMQ, no-op",
        plugin: "bench-noop",
        work: Work::Noop,
        acks: "multiple",
        against: "lapin, acks coalesced",
        goal: Goal::RatioAtLeast(0.95),
    },
    Contest {
        name: "RabbitMQ, JSON parsed in the guest",
        plugin: "bench-json",
        work: Work::Json,
        acks: "multiple",
        against: "lapin, acks coalesced, serde_json::Value",
        goal: Goal::RatioAtLeast(0.95),
    },
    Contest {
        name: "RabbitMQ, no-op, helix with shipped settings against lapin's usual loop",
        plugin: "bench-noop",
        work: Work::Noop,
        acks: "each",
        against: "lapin, each message acknowledged and awaited",
        goal: Goal::None,
    },
];

pub fn measures() -> Vec<Measure> {
    CONTESTS
        .iter()
        .map(|contest| Measure::new(&[contest.name], move |bench| compete(bench, contest)))
        .collect()
}

fn compete(bench: &Bench, contest: &Contest) -> Result<Vec<Row>> {
    let amqp = bench.amqp()?;
    let count = bench.count(100_000, 5_000);
    let rt = tokio::runtime::Runtime::new()?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..bench.rounds {
        rt.block_on(fill(&amqp.uri(), &["bench.ours", "bench.native"], count))?;
        std::thread::sleep(SETTLE);
        // Whoever comes second finds another broker: they take turns.
        for turn in [round % 2 == 0, round % 2 != 0] {
            collect_garbage()?;
            if turn {
                ours.push(host(bench, amqp, contest.plugin, count)?);
                bench.say(contest.name, "ours", ours.last());
            } else {
                theirs.push(native(amqp, contest, count)?);
                bench.say(contest.name, "native", theirs.last());
            }
        }
    }
    Ok(vec![Row {
        name: contest.name.to_owned(),
        unit: "msg/s",
        goal: contest.goal,
        ours: ours.iter().map(|f| f.rate).collect(),
        baseline: theirs.iter().map(|f| f.rate).collect(),
        against: contest.against,
        note: cpu_note(&ours, &theirs),
        details: serde_json::Value::Null,
    }])
}

/// A queue that was just filled has its messages partly in memory, and serves 30,000 or 65,000 a second by chance. After a
/// collection of garbage it reads them from disk, always. Needs the starter of the brokers, as `cargo xtask bench` names it.
pub fn collect_garbage() -> Result<()> {
    let Some(starter) = std::env::var_os("HELIX_TEST_BROKERS_CTL") else {
        return Ok(());
    };
    let done = Command::new(starter)
        .args(["brokers", "tool", "rabbitmq", "force_gc"])
        .stdout(Stdio::null())
        .status()?;
    ensure!(done.success(), "rabbitmqctl force_gc: {done}");
    Ok(())
}

/// The loop empties `bench.native`.
fn native(amqp: &Amqp, contest: &Contest, count: usize) -> Result<Figures> {
    child(&[
        "native",
        "rabbitmq",
        "--uri",
        &amqp.uri(),
        "--queue",
        "bench.native",
        "--prefetch",
        PREFETCH,
        "--count",
        &count.to_string(),
        "--work",
        contest.work.word(),
        "--acks",
        contest.acks,
    ])
}

/// The host empties `bench.ours`.
fn host(bench: &Bench, amqp: &Amqp, plugin: &str, count: usize) -> Result<Figures> {
    let toml = format!(
        "[messaging]\ntasks = \"rabbitmq\"\n{}[[routes]]\nqueue = \"bench.ours\"\nplugin = \"{plugin}\"\n",
        amqp.toml()
    );
    let folder = bench.folder(&toml, &topology("bench.ours"), &[plugin])?;
    folder.start()?.handled(count as u64)
}

/// Our side of the JSON row, for peers.
pub fn json(bench: &Bench, amqp: &Amqp, count: usize) -> Result<Figures> {
    host(bench, amqp, "bench-json", count)
}

/// Our side of the no-op row, for peers.
pub fn noop(bench: &Bench, amqp: &Amqp, count: usize) -> Result<Figures> {
    host(bench, amqp, "bench-noop", count)
}

pub fn topology(queue: &str) -> String {
    format!("[[queues]]\nname = \"{queue}\"\n")
}

/// Fresh durable queues that all hold the same messages: published once, to an exchange they are bound to.
pub async fn fill(uri: &str, queues: &[&str], count: usize) -> Result<()> {
    let (_connection, channel) = native::connect(uri).await?;
    let exchange = "bench.fill";
    channel
        .exchange_declare(
            exchange.into(),
            ExchangeKind::Fanout,
            ExchangeDeclareOptions::default(),
            FieldTable::default(),
        )
        .await?;
    for queue in queues {
        fresh(&channel, queue).await?;
        channel
            .queue_bind(
                (*queue).into(),
                exchange.into(),
                "".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
    }
    native::send(&channel, exchange, "", count, FILL_WINDOW, Shape::Header).await?;
    channel
        .exchange_delete(exchange.into(), ExchangeDeleteOptions::default())
        .await?;
    Ok(())
}

/// An empty durable classic queue of that name.
pub async fn fresh(channel: &lapin::Channel, queue: &str) -> Result<()> {
    channel
        .queue_delete(queue.into(), QueueDeleteOptions::default())
        .await?;
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.into(), durable, FieldTable::default())
        .await?;
    Ok(())
}

/// Where RabbitMQ is, and as whom.
#[derive(Debug, Clone)]
pub struct Amqp {
    pub host: String,
    pub port: String,
    pub user: String,
    pub password: String,
}

impl Amqp {
    pub fn from_env() -> Option<Self> {
        let var = |name: &str| std::env::var(format!("HELIX_TEST_RABBITMQ_{name}")).ok();
        Some(Self {
            host: var("HOST")?,
            port: var("PORT")?,
            user: var("USER")?,
            password: var("PASSWORD")?,
        })
    }

    pub fn uri(&self) -> String {
        let Self {
            host,
            port,
            user,
            password,
        } = self;
        format!("amqp://{user}:{password}@{host}:{port}/%2f")
    }

    /// The broker as helix.toml names it; the password comes from the environment.
    pub fn toml(&self) -> String {
        format!(
            "[brokers.rabbitmq]\nkind = \"rabbitmq\"\nhost = \"{}\"\nport = {}\nuser = \"{}\"\npassword = \"env:HELIX_TEST_RABBITMQ_PASSWORD\"\n",
            self.host, self.port, self.user
        )
    }
}

impl Bench {
    pub fn amqp(&self) -> Result<&Amqp> {
        self.amqp.as_ref().context("HELIX_TEST_RABBITMQ_* is not set")
    }
}
