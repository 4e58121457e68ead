//! How long messages are under way at a steady rate of about half of what publisher and consumer reach together: from just
//! before the send to the handler's first line. The handler reads the clock itself, in the guest and in the loop.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::host::Host;
use crate::message::{self, TYPE};
use crate::native::clock::now_ns;
use crate::native::rabbitmq as lapin_loop;
use crate::process::{Figures, Running};
use crate::stats::{Goal, Row};
use crate::{Bench, Measure, kafka, rabbitmq};

const KAFKA: [&str; 2] = [
    "latency at half load, Kafka, p50",
    "latency at half load, Kafka, p99",
];
const RABBITMQ: [&str; 2] = [
    "latency at half load, RabbitMQ, p50",
    "latency at half load, RabbitMQ, p99",
];

/// Messages a second. A producer that does not linger makes Kafka's broker one request of each: at 10,000 a second they keep
/// both cores busy, and waiting for a core is all that is measured.
const KAFKA_RATE: usize = 4_000;
const RABBITMQ_RATE: usize = 4_000;

/// One hiccup of the broker in five seconds is the 99th percentile of its round: three rounds are a matter of luck.
fn rounds_of(bench: &Bench) -> usize {
    bench.rounds.max(bench.count(7, 1))
}

pub fn measures() -> Vec<Measure> {
    vec![
        Measure::new(&KAFKA, kafka_rows),
        Measure::new(&RABBITMQ, rabbitmq_rows),
    ]
}

fn kafka_rows(bench: &Bench) -> Result<Vec<Row>> {
    let servers = bench.kafka()?;
    let run = |consumer: Consumer| {
        // New each time: both begin with what is sent now.
        let topic = format!("bench.latency.{}", kafka::unique());
        kafka::create(servers, &topic)?;
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", servers)
            .set("acks", "all")
            .set("linger.ms", "0")
            .create()?;
        let mut send = |kind: &str, body: &str, number: usize| {
            let headers = OwnedHeaders::new().insert(Header {
                key: "type",
                value: Some(kind),
            });
            let partition = i32::try_from(number % 6).unwrap_or(0);
            let record = BaseRecord::<(), str>::to(&topic)
                .payload(body)
                .partition(partition);
            producer
                .send(record.headers(headers))
                .map_err(|(error, _)| error)?;
            producer.poll(Duration::ZERO);
            anyhow::Ok(())
        };
        let toml = format!(
            "[messaging]\nevents = \"kafka\"\n{}{}",
            // Its own: the host of the round before was killed, and its group waits for it.
            kafka::toml(servers, &kafka::unique()),
            route(&format!("topic = \"{topic}\""))
        );
        let topology = kafka::topology(&topic);
        let found = consumer(bench, servers, &topic, &toml, &topology, KAFKA_RATE, &mut send);
        drop(producer.flush(Duration::from_secs(5)));
        kafka::delete(servers, &topic)?;
        found
    };
    // Not counted: the first run finds a broker whose code is not compiled yet, and waits behind it.
    run(native_once)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds_of(bench) {
        ours.push(run(ours_once)?);
        theirs.push(run(native_once)?);
        say(bench, KAFKA[0], &ours, &theirs);
    }
    Ok(rows(KAFKA, &ours, &theirs, "rdkafka, tuned, the same rate"))
}

fn rabbitmq_rows(bench: &Bench) -> Result<Vec<Row>> {
    let amqp = bench.amqp()?;
    let rt = tokio::runtime::Runtime::new()?;
    let queue = "bench.latency";
    let run = |consumer: Consumer| {
        let (_connection, channel) = rt.block_on(lapin_loop::connect(&amqp.uri()))?;
        rt.block_on(rabbitmq::fresh(&channel, queue))?;
        let mut send = |kind: &str, body: &str, number: usize| {
            let properties = lapin_loop::properties(number).with_type(kind.into());
            let options = lapin::options::BasicPublishOptions::default();
            let sent = channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties);
            rt.block_on(sent)?;
            anyhow::Ok(())
        };
        let toml = format!(
            "[messaging]\ntasks = \"rabbitmq\"\n{}{}",
            amqp.toml(),
            route(&format!("queue = \"{queue}\""))
        );
        let topology = rabbitmq::topology(queue);
        consumer(
            bench,
            &amqp.uri(),
            queue,
            &toml,
            &topology,
            RABBITMQ_RATE,
            &mut send,
        )
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds_of(bench) {
        ours.push(run(ours_once)?);
        theirs.push(run(native_once)?);
        say(bench, RABBITMQ[0], &ours, &theirs);
    }
    Ok(rows(
        RABBITMQ,
        &ours,
        &theirs,
        "lapin, acks coalesced, the same rate",
    ))
}

type Send<'a> = &'a mut dyn FnMut(&str, &str, usize) -> Result<()>;
type Consumer = fn(&Bench, &str, &str, &str, &str, usize, Send<'_>) -> Result<Figures>;

/// One instance, so that one guest has all the times.
fn route(source: &str) -> String {
    format!(
        "[[routes]]\n{source}\nplugin = \"bench-clock\"\nconcurrency = 1\n[plugins.bench-clock]\ninstances = 1\ncalls_per_instance = 1000000000\n"
    )
}

fn ours_once(
    bench: &Bench,
    _: &str,
    _: &str,
    toml: &str,
    topology: &str,
    rate: usize,
    send: Send<'_>,
) -> Result<Figures> {
    let folder = bench.folder(toml, topology, &["bench-clock"])?;
    let mut host = folder.start()?;
    host.ready()?;
    let (warm, count) = (rate, rate * bench.count(5, 1));
    paced(rate, warm, send)?;
    reached(&mut host, warm)?;
    send("bench.report", "", 0)?;
    reached(&mut host, warm + 1)?;
    paced(rate, count, send)?;
    reached(&mut host, warm + 1 + count)?;
    send("bench.report", "", 0)?;
    let sentence = host.until("reporting", Duration::from_secs(10), |_| {
        Ok(folder.log().matches("bench count=").nth(1).map(|_| folder.log()))
    })?;
    let report = sentence.rsplit("bench count=").next().unwrap_or_default();
    let number = |name: &str| -> Result<f64> {
        let (_, rest) = report.split_once(name).context("no figures in the log")?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Ok(digits.parse::<f64>()? / 1e6)
    };
    let seen: String = report.chars().take_while(char::is_ascii_digit).collect();
    ensure!(
        seen.parse::<usize>()? == count,
        "the guest saw {seen} messages, not {count}"
    );
    Ok(Figures {
        p50_ms: number("p50_ns=")?,
        p99_ms: number("p99_ns=")?,
        ..Figures::default()
    })
}

fn native_once(
    bench: &Bench,
    from: &str,
    name: &str,
    _: &str,
    _: &str,
    rate: usize,
    send: Send<'_>,
) -> Result<Figures> {
    let (warm, count) = (rate, rate * bench.count(5, 1));
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["native", "clock", "--from", from, "--name", name]);
    command.args(["--warm", &warm.to_string(), "--count", &count.to_string()]);
    let mut child = Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
    let mut lines = BufReader::new(child.0.stdout.take().context("stdout was asked for")?).lines();
    paced(rate, warm, send)?;
    let said = lines.next().context("the loop ended")??;
    ensure!(said == "warm", "the loop said: {said}");
    paced(rate, count, send)?;
    let line = lines.next().context("the loop ended")??;
    Ok(serde_json::from_str(&line)?)
}

fn reached(host: &mut Host<'_>, count: usize) -> Result<()> {
    host.until("handling everything", Duration::from_secs(60), |host| {
        Ok((host.count()? >= count as u64).then_some(()))
    })
}

/// So many messages, a millisecond's worth each millisecond; late ones are made up for.
fn paced(rate: usize, count: usize, send: Send<'_>) -> Result<()> {
    let filler = message::document(0, message::SIZE - 19);
    let started = Instant::now();
    let mut sent = 0;
    while sent < count {
        let due = usize::try_from(started.elapsed().as_micros())? * rate / 1_000_000;
        while sent < due.min(count) {
            send(TYPE, &format!("{:019}{filler}", now_ns()), sent)?;
            sent += 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn say(bench: &Bench, name: &str, ours: &[Figures], theirs: &[Figures]) {
    if let (Some(o), Some(t)) = (ours.last(), theirs.last()) {
        bench.tell(&format!(
            "{name}: ours p50 {:.3} p99 {:.3} ms, native p50 {:.3} p99 {:.3} ms",
            o.p50_ms, o.p99_ms, t.p50_ms, t.p99_ms
        ));
    }
}

fn rows(names: [&'static str; 2], ours: &[Figures], theirs: &[Figures], against: &'static str) -> Vec<Row> {
    let row = |name: &str, goal, value: fn(&Figures) -> f64| Row {
        name: name.to_owned(),
        unit: "ms",
        goal,
        ours: ours.iter().map(value).collect(),
        baseline: theirs.iter().map(value).collect(),
        against,
        note: String::new(),
        details: serde_json::Value::Null,
    };
    vec![
        row(names[0], Goal::MoreByAtMost(0.2), |f| f.p50_ms),
        row(names[1], Goal::RatioAtMost(2.0), |f| f.p99_ms),
    ]
}
