//! Kafka: a topic filled once, read by new groups from its beginning, by the host and by a loop in turn.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::host::Folder;
use crate::message::{Shape, TYPE};
use crate::native::Work;
use crate::process::{Figures, child};
use crate::stats::{Goal, Row};
use crate::{Bench, Measure, cpu_note};

pub const PARTITIONS: i32 = 6;

/// One comparison: our guest and the loop's work.
struct Contest {
    name: &'static str,
    shape: Shape,
    plugin: &'static str,
    settings: Settings,
    work: Work,
    client: &'static str,
    against: &'static str,
    goal: Goal,
}

/// How the host is configured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settings {
    /// What one would set for throughput: more in flight than the default of 1,000.
    Tuned,
    /// Nothing set that has a default.
    Shipped,
}

const TUNED: &str = "rdkafka BaseConsumer, tuned";

const CONTESTS: &[Contest] = &[
    Contest {
        name: "Kafka, no-op, Rust SDK handler (packed)",
        shape: Shape::Header,
        plugin: "bench-noop",
        settings: Settings::Tuned,
        work: Work::Noop,
        client: "tuned",
        against: TUNED,
        goal: Goal::RatioAtLeast(0.85),
    },
    Contest {
        name: "Kafka, no-op, typed export",
        shape: Shape::Header,
        plugin: "bench-typed",
        settings: Settings::Tuned,
        work: Work::Noop,
        client: "tuned",
        against: TUNED,
        goal: Goal::RatioAtLeast(0.45),
    },
    Contest {
        name: "Kafka, JSON parsed in the guest, all partitions",
        shape: Shape::Header,
        plugin: "bench-json",
        settings: Settings::Tuned,
        work: Work::Json,
        client: "tuned",
        against: "one rdkafka loop, tuned, serde_json::Value",
        goal: Goal::RatioAtLeast(0.9),
    },
    Contest {
        name: "Kafka, no-op, type only inside the JSON body",
        shape: Shape::Body,
        plugin: "bench-noop",
        settings: Settings::Tuned,
        work: Work::Type,
        client: "tuned",
        against: "rdkafka BaseConsumer, tuned, type read with serde_json",
        goal: Goal::None,
    },
    Contest {
        name: "Kafka, no-op, helix with shipped settings against librdkafka's",
        shape: Shape::Header,
        plugin: "bench-noop",
        settings: Settings::Shipped,
        work: Work::Noop,
        client: "default",
        against: "rdkafka BaseConsumer, default settings",
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
    let servers = bench.kafka()?;
    let count = bench.count(1_000_000, 50_000);
    let topic = filled(servers, contest.shape, count)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..bench.rounds {
        let group = |who: &str| format!("{who}-{}-{round}", unique());
        ours.push(host(
            bench,
            (contest.plugin, contest.settings),
            servers,
            &topic,
            &group("helix"),
            count,
        )?);
        bench.say(contest.name, "ours", ours.last());
        theirs.push(child(&[
            "native",
            "kafka",
            "--servers",
            servers,
            "--topic",
            &topic,
            "--group",
            &group("native"),
            "--count",
            &count.to_string(),
            "--work",
            contest.work.word(),
            "--client",
            contest.client,
        ])?);
        bench.say(contest.name, "native", theirs.last());
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

fn host(
    bench: &Bench,
    (plugin, settings): (&str, Settings),
    servers: &str,
    topic: &str,
    group: &str,
    count: usize,
) -> Result<Figures> {
    let limits = if settings == Settings::Tuned {
        "[limits]\nin_flight = 10000\n"
    } else {
        ""
    };
    let toml = format!(
        "[messaging]\nevents = \"kafka\"\n{limits}{}[[routes]]\ntopic = \"{topic}\"\nplugin = \"{plugin}\"\n",
        toml(servers, group),
    );
    let folder = bench.folder(&toml, &topology(topic), &[plugin])?;
    folder.start()?.handled(count as u64)
}

/// Our side of the JSON row, for peers.
pub fn json(bench: &Bench, servers: &str, topic: &str, count: usize) -> Result<Figures> {
    let group = format!("helix-{}", unique());
    host(
        bench,
        ("bench-json", Settings::Tuned),
        servers,
        topic,
        &group,
        count,
    )
}

/// The broker as helix.toml names it.
pub fn toml(servers: &str, group: &str) -> String {
    format!("[brokers.kafka]\nkind = \"kafka\"\nservers = [\"{servers}\"]\ngroup = \"{group}\"\n")
}

pub fn topology(topic: &str) -> String {
    format!("[[topics]]\nname = \"{topic}\"\npartitions = {PARTITIONS}\nretention = \"7d\"\n")
}

/// Different in every run, so that a group begins at the beginning.
pub fn unique() -> String {
    format!(
        "{}-{}",
        std::process::id(),
        jiff::Timestamp::now().as_millisecond()
    )
}

fn client(servers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers);
    config
}

/// Creates a topic; one that is there is used.
pub fn create(servers: &str, topic: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(servers).create()?;
    let new = [NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1))];
    let rt = tokio::runtime::Builder::new_current_thread().build()?;
    let created = rt.block_on(admin.create_topics(&new, &AdminOptions::new()))?;
    for result in created {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((name, code)) => anyhow::bail!("topic {name}: {code}"),
        }
    }
    Ok(())
}

pub fn delete(servers: &str, topic: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(servers).create()?;
    let rt = tokio::runtime::Builder::new_current_thread().build()?;
    rt.block_on(admin.delete_topics(&[topic], &AdminOptions::new()))?;
    Ok(())
}

/// A topic with exactly so many messages of a shape, evenly over its partitions; kept for later runs.
pub fn filled(servers: &str, shape: Shape, count: usize) -> Result<String> {
    let topic = format!("bench.{}.{count}", shape.word());
    create(servers, &topic)?;
    if stored(servers, &topic)? == count as u64 {
        return Ok(topic);
    }
    ensure!(
        stored(servers, &topic)? == 0,
        "{topic} is filled in part: stop the brokers and start again"
    );
    eprintln!("filling {topic}");
    let producer: BaseProducer = client(servers)
        .set("acks", "all")
        .set("linger.ms", "20")
        .set("queue.buffering.max.kbytes", "262144")
        .create()?;
    for number in 0..count {
        let body = shape.body(number);
        let id = format!("m-{number}");
        let key = format!("k-{}", number % 1000);
        let headers = (shape == Shape::Header).then(|| {
            [("type", TYPE), ("id", &id), ("tenant", "t-1")].into_iter().fold(
                OwnedHeaders::new(),
                |headers, (key, value)| {
                    headers.insert(Header {
                        key,
                        value: Some(value),
                    })
                },
            )
        });
        let partition = i32::try_from(number % 6).unwrap_or(0);
        let mut record = BaseRecord::to(&topic)
            .key(&key)
            .payload(&body)
            .partition(partition);
        if let Some(headers) = headers {
            record = record.headers(headers);
        }
        while let Err((error, back)) = producer.send(record) {
            ensure!(
                error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull),
                "{topic}: {error}"
            );
            producer.poll(Duration::from_millis(20));
            record = back;
        }
    }
    producer.flush(Duration::from_secs(60))?;
    let there = stored(servers, &topic)?;
    ensure!(
        there == count as u64,
        "{topic} holds {there} messages, not {count}"
    );
    Ok(topic)
}

/// Messages in a topic.
fn stored(servers: &str, topic: &str) -> Result<u64> {
    let consumer: BaseConsumer = client(servers).create()?;
    let mut total = 0;
    for partition in 0..PARTITIONS {
        let (low, high) = consumer
            .fetch_watermarks(topic, partition, Duration::from_secs(20))
            .with_context(|| format!("{topic}[{partition}]"))?;
        total += high.saturating_sub(low);
    }
    Ok(u64::try_from(total)?)
}

impl Bench {
    /// A folder for a host with some of the bench's guests.
    pub fn folder(&self, toml: &str, topology: &str, plugins: &[&str]) -> Result<Folder> {
        Folder::new(&self.helix, &self.guests, toml, topology, plugins)
    }
}
