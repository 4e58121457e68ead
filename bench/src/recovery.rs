//! SIGKILL under traffic → the first message that the next process handles.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::host::Folder;
use crate::message::Shape;
use crate::stats::{Goal, Row};
use crate::{Bench, Measure, embedded, kafka, rabbitmq, stage};

const EMBEDDED: &str = "SIGKILL to first handled, embedded";
const RABBITMQ: &str = "SIGKILL to first handled, RabbitMQ";
const KAFKA: &str = "SIGKILL to first handled, Kafka, same host (static membership)";

/// Slow enough that there is work left for the next process.
const RATE: &str = "rate = 2000\n";
const BACKLOG: usize = 20_000;

pub fn measures() -> Vec<Measure> {
    let of_embedded = |bench: &Bench| {
        let toml = format!("[[routes]]\nqueue = \"bench\"\nplugin = \"bench-noop\"\n{RATE}");
        rounds(bench, EMBEDDED, 1.0, &|| {
            let folder = bench.folder(&toml, &rabbitmq::topology("bench"), &["bench-noop"])?;
            fill(&folder, BACKLOG)?;
            Ok(folder)
        })
    };
    let of_rabbitmq = |bench: &Bench| {
        let amqp = bench.amqp()?;
        let rt = tokio::runtime::Runtime::new()?;
        let toml = format!(
            "[messaging]\ntasks = \"rabbitmq\"\n{}[[routes]]\nqueue = \"bench.ours\"\nplugin = \"bench-noop\"\n{RATE}",
            amqp.toml()
        );
        rounds(bench, RABBITMQ, 3.0, &|| {
            rt.block_on(rabbitmq::fill(&amqp.uri(), &["bench.ours"], BACKLOG))?;
            bench.folder(&toml, &rabbitmq::topology("bench.ours"), &["bench-noop"])
        })
    };
    let of_kafka = |bench: &Bench| {
        let servers = bench.kafka()?;
        let topic = kafka::filled(servers, Shape::Header, bench.count(1_000_000, 50_000))?;
        rounds(bench, KAFKA, 5.0, &|| {
            let toml = format!(
                "[messaging]\nevents = \"kafka\"\n{}instance_id = \"bench\"\n[[routes]]\ntopic = \"{topic}\"\nplugin = \"bench-noop\"\n{RATE}",
                kafka::toml(servers, &format!("recovery-{}", kafka::unique()))
            );
            bench.folder(&toml, &kafka::topology(&topic), &["bench-noop"])
        })
    };
    vec![
        Measure::new(&[EMBEDDED], of_embedded),
        Measure::new(&[RABBITMQ], of_rabbitmq),
        Measure::new(&[KAFKA], of_kafka),
    ]
}

fn rounds(bench: &Bench, name: &str, goal: f64, prepare: &dyn Fn() -> Result<Folder>) -> Result<Vec<Row>> {
    let mut seconds = Vec::new();
    for _ in 0..bench.rounds {
        let folder = prepare()?;
        let mut first = folder.start()?;
        first.until("handling", Duration::from_secs(60), |host| {
            Ok(host.count().is_ok_and(|count| count > 500).then_some(()))
        })?;
        let killed = Instant::now();
        // Dropping sends SIGKILL and waits for the end.
        drop(first);
        let mut second = folder.start()?;
        second.until("handling again", Duration::from_secs(90), |host| {
            Ok(host.count().is_ok_and(|count| count > 0).then_some(()))
        })?;
        let took = killed.elapsed().as_secs_f64();
        bench.tell(&format!("{name}: {took:.2} s"));
        seconds.push(took);
    }
    Ok(vec![Row {
        name: name.to_owned(),
        unit: "s",
        goal: Goal::AtMost(goal),
        ours: seconds,
        baseline: Vec::new(),
        against: "",
        note: String::new(),
        details: serde_json::Value::Null,
    }])
}

/// Tasks in the embedded broker of a host that does not run yet.
pub fn fill(folder: &Folder, count: usize) -> Result<()> {
    let settings = stage::settings(&folder.path("helix.toml"))?;
    let rt = tokio::runtime::Runtime::new()?;
    rt.block_on(async {
        let broker = embedded::open(&settings).await?;
        embedded::publish_all(broker.publisher(), count).await?;
        broker.close().await;
        Ok(())
    })
}
