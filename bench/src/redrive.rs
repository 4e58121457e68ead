//! Letters sent again, topics replayed, retries that are due: the real host, beside plain publishing to the same broker.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use helix_host::broker::{Broker, Destination};
use helix_host::model::{DeadLetter, LetterState, MessageKind, RawMessage, SystemClock};
use helix_host::store::sqlite::SqliteStore;
use helix_host::store::{DeadLetters, Parked, Retries};
use serde_json::{Value, json};

use crate::host::{Folder, Host};
use crate::letters::at;
use crate::message::{self, Shape};
use crate::process::{Figures, Meter, child, rss_mib};
use crate::publish::outgoing;
use crate::stats::{Goal, Row};
use crate::{Bench, Measure, embedded, kafka, letters, rabbitmq, stage};

const EMBEDDED: &str = "letters sent again, embedded";
const RABBITMQ: &str = "letters sent again, RabbitMQ";
const KAFKA: &str = "letters sent again, events of Kafka (to their route)";
const PACED: &str = "letters sent again at 500/s: off by";
const REPLAY_KAFKA: &str = "replay, Kafka";
const REPLAY_EMBEDDED: &str = "replay, embedded";
const REPLAY_PACED: &str = "replay at 500/s: off by";
const REPLAY_RSS: &str = "RSS over 5 M replayed events";
const LATE: &str = "10,000 retries that are due: late by, p99";

const RATE: u32 = 500;
/// Nothing that waits takes longer.
const LIMIT: Duration = Duration::from_secs(600);

pub fn measures() -> Vec<Measure> {
    vec![
        Measure::new(&[EMBEDDED, PACED], sent_embedded),
        Measure::new(&[RABBITMQ], sent_rabbitmq),
        Measure::new(&[KAFKA], sent_kafka),
        Measure::new(&[REPLAY_KAFKA, REPLAY_RSS, REPLAY_PACED], replayed_kafka),
        Measure::new(&[REPLAY_EMBEDDED], replayed_embedded),
        Measure::new(&[LATE], late),
    ]
}

/// Letters of one destination in the store of a host that does not run yet.
fn fill(folder: &Folder, count: usize, raw: impl Fn(usize) -> RawMessage) -> Result<()> {
    let rt = tokio::runtime::Runtime::new()?;
    rt.block_on(async {
        let store = SqliteStore::open(&folder.path("state/store.db"), Arc::new(SystemClock)).await?;
        let all: Vec<usize> = (0..count).collect();
        for some in all.chunks(1_000) {
            let letter = |number: &usize| DeadLetter {
                raw: raw(*number),
                route: Some("bench".to_owned()),
                state: LetterState::Dead,
                ..letters::letter(*number, count)
            };
            store.enter(some.iter().map(letter).collect()).await?;
        }
        store.close().await;
        Ok(())
    })
}

/// A job over all letters: how many a second it sent.
fn job(host: &mut Host<'_>, count: usize, rate: Option<u32>) -> Result<f64> {
    let mut asked = json!({ "action": "reprocess", "filter": {} });
    if let (Some(rate), Some(asked)) = (rate, asked.as_object_mut()) {
        asked.insert("rate".to_owned(), json!(rate));
    }
    let (status, made) = host.request("POST", "/v1/messaging/dlq/jobs", &asked.to_string())?;
    ensure!(status < 300, "the job was refused: {status} {made}");
    let made: Value = serde_json::from_str(&made)?;
    let id = at(&made, "id").as_str().context("a job without id")?.to_owned();
    let done = host.until("done with the job", LIMIT, |host| {
        std::thread::sleep(Duration::from_millis(20));
        let (_, job) = host.get(&format!("/v1/messaging/dlq/jobs/{id}"))?;
        let job: Value = serde_json::from_str(&job)?;
        Ok(job.get("ended").is_some().then_some(job))
    })?;
    ensure!(
        at(&done, "state") == &json!("completed") && at(&done, "done") == &json!(count),
        "the job ended otherwise: {done}"
    );
    at(&done, "per_second").as_f64().context("a job without a rate")
}

/// How far from what was asked, percent.
fn off(rate: f64) -> f64 {
    (rate / f64::from(RATE) - 1.0).abs() * 100.0
}

fn row(name: &str, ours: Vec<f64>, baseline: Vec<f64>, against: &'static str) -> Row {
    Row {
        name: name.to_owned(),
        unit: "msg/s",
        goal: Goal::RatioAtLeast(0.5),
        ours,
        baseline,
        against,
        note: String::new(),
        details: Value::Null,
    }
}

fn paced(name: &str, ours: Vec<f64>) -> Row {
    Row {
        unit: "%",
        goal: Goal::AtMost(5.0),
        ..row(name, ours.into_iter().map(off).collect(), Vec::new(), "")
    }
}

/// The consumer takes next to nothing, so that both sides only publish.
const IDLE_ROUTE: &str =
    "[[routes]]\nname = \"bench\"\nqueue = \"bench\"\nplugin = \"bench-noop\"\nrate = 1\n";

fn sent_embedded(bench: &Bench) -> Result<Vec<Row>> {
    let count = bench.count(50_000, 1_000);
    let (mut ours, mut theirs, mut slow) = (Vec::new(), Vec::new(), Vec::new());
    let raw = |number| letters::raw(number, MessageKind::Task, "embedded", "bench");
    for _ in 0..bench.rounds {
        let folder = bench.folder(IDLE_ROUTE, &rabbitmq::topology("bench"), &["bench-noop"])?;
        fill(&folder, count, raw)?;
        let mut host = folder.start()?;
        host.ready()?;
        ours.push(job(&mut host, count, None)?);
        theirs.push(plain_embedded(count, MessageKind::Task)?);
        bench.tell(&format!(
            "{EMBEDDED}: {:?} against {:?}",
            ours.last(),
            theirs.last()
        ));

        let some = bench.count(5_000, 500);
        let folder = bench.folder(IDLE_ROUTE, &rabbitmq::topology("bench"), &["bench-noop"])?;
        fill(&folder, some, raw)?;
        let mut host = folder.start()?;
        host.ready()?;
        slow.push(job(&mut host, some, Some(RATE))?);
    }
    Ok(vec![
        row(
            EMBEDDED,
            ours,
            theirs,
            "its broker, published and confirmed, 512 in flight",
        ),
        paced(PACED, slow),
    ])
}

fn sent_rabbitmq(bench: &Bench) -> Result<Vec<Row>> {
    let amqp = bench.amqp()?;
    let rt = tokio::runtime::Runtime::new()?;
    let count = bench.count(50_000, 1_000);
    let broker = format!("[messaging]\ntasks = \"rabbitmq\"\n{}", amqp.toml());
    let fresh = |queue: &str| {
        rt.block_on(async {
            let (_connection, channel) = crate::native::rabbitmq::connect(&amqp.uri()).await?;
            rabbitmq::fresh(&channel, queue).await
        })
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        fresh("bench")?;
        let toml = format!("{broker}{IDLE_ROUTE}");
        let folder = bench.folder(&toml, &rabbitmq::topology("bench"), &["bench-noop"])?;
        fill(&folder, count, |number| {
            letters::raw(number, MessageKind::Task, "rabbitmq", "bench")
        })?;
        let mut host = folder.start()?;
        host.ready()?;
        ours.push(job(&mut host, count, None)?);
        drop(host);
        fresh("bench.publish")?;
        theirs.push(plain(&broker, "bench.publish", count)?.rate);
        bench.tell(&format!(
            "{RABBITMQ}: {:?} against {:?}",
            ours.last(),
            theirs.last()
        ));
    }
    Ok(vec![row(RABBITMQ, ours, theirs, "our publisher, confirmed")])
}

fn sent_kafka(bench: &Bench) -> Result<Vec<Row>> {
    let servers = bench.kafka()?;
    let count = bench.count(50_000, 1_000);
    kafka::create(servers, "bench.events")?;
    kafka::create(servers, "bench.publish")?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let broker = format!(
            "[messaging]\nevents = \"kafka\"\n{}",
            kafka::toml(servers, &kafka::unique())
        );
        let toml = format!(
            "{broker}[[routes]]\nname = \"bench\"\ntopic = \"bench.events\"\nplugin = \"bench-noop\"\nrate = 1\n"
        );
        let folder = bench.folder(&toml, &kafka::topology("bench.events"), &["bench-noop"])?;
        fill(&folder, count, |number| {
            letters::raw(number, MessageKind::Event, "kafka", "bench.events")
        })?;
        let mut host = folder.start()?;
        host.ready()?;
        ours.push(job(&mut host, count, None)?);
        drop(host);
        theirs.push(plain(&broker, "bench.publish", count)?.rate);
        bench.tell(&format!("{KAFKA}: {:?} against {:?}", ours.last(), theirs.last()));
    }
    Ok(vec![row(KAFKA, ours, theirs, "our publisher, confirmed")])
}

/// Our publisher in a process of its own.
fn plain(broker: &str, to: &str, count: usize) -> Result<Figures> {
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("helix.toml");
    std::fs::write(&config, broker)?;
    let (config, count) = (config.display().to_string(), count.to_string());
    child(&["ours-publish", "--config", &config, "--to", to, "--count", &count])
}

/// The embedded broker by itself, in this process, which has nothing else to do.
fn plain_embedded(count: usize, kind: MessageKind) -> Result<f64> {
    let (_folder, settings) = stage::folder("", "")?;
    let rt = tokio::runtime::Runtime::new()?;
    rt.block_on(async {
        let broker = embedded::open(&settings).await?;
        let rate = if kind == MessageKind::Task {
            let meter = Meter::start();
            embedded::publish_all(broker.publisher(), count).await?;
            meter.stop(count).rate
        } else {
            topic(&broker, "bench.events", count).await?
        };
        broker.close().await;
        Ok(rate)
    })
}

/// Makes a topic with so many messages: how many a second were confirmed.
async fn topic(broker: &Arc<dyn Broker>, name: &str, count: usize) -> Result<f64> {
    const SENDERS: usize = 512;
    let topic = Destination {
        kind: MessageKind::Event,
        name: name.into(),
        max_priority: 0,
        ttl: Some(Duration::from_secs(7 * 86_400)),
        partitions: 6,
        arguments: std::collections::BTreeMap::new(),
    };
    broker.topology().create(&topic).await?;
    let name: Arc<str> = name.into();
    let meter = Meter::start();
    let mut senders = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let (publisher, name) = (broker.publisher(), Arc::clone(&name));
        senders.spawn(async move {
            for number in (sender..count).step_by(SENDERS) {
                for result in publisher
                    .publish(vec![outgoing(MessageKind::Event, &name, number)])
                    .await
                {
                    result?;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended??;
    }
    Ok(meter.stop(count).rate)
}

/// One replay to its end; what the host says of it, and `look` at each look.
fn replay(host: &mut Host<'_>, asked: &Value, mut look: impl FnMut(&Host<'_>, &Value)) -> Result<Value> {
    let (status, made) = host.request("POST", "/v1/messaging/replay", &asked.to_string())?;
    ensure!(status == 201, "the replay was refused: {status} {made}");
    let made: Value = serde_json::from_str(&made)?;
    let id = at(&made, "request_id")
        .as_str()
        .context("a replay without id")?
        .to_owned();
    let done = host.until("done with the replay", LIMIT, |host| {
        std::thread::sleep(Duration::from_millis(50));
        let (_, view) = host.get(&format!("/v1/messaging/replay/{id}"))?;
        let view: Value = serde_json::from_str(&view)?;
        look(host, &view);
        let over = at(&view, "status") != &json!("pending") && at(&view, "status") != &json!("running");
        Ok(over.then_some(view))
    })?;
    ensure!(
        at(&done, "status") == &json!("completed"),
        "the replay ended otherwise: {done}"
    );
    Ok(done)
}

fn rate_of(view: &Value) -> Result<f64> {
    at(view, "rate_per_second")
        .as_f64()
        .context("a replay without a rate")
}

fn everything(topic: &str, target: &str) -> Value {
    json!({
        "topic": topic,
        "target_topic": target,
        "from_time": "1970-01-01T00:00:00Z",
        "options": { "delay_between": 0, "batch_size": 1000 },
    })
}

fn replayed_kafka(bench: &Bench) -> Result<Vec<Row>> {
    const TIMES: usize = 5;
    let servers = bench.kafka()?;
    let count = bench.count(1_000_000, 50_000);
    let topic = kafka::filled(servers, Shape::Header, count)?;
    kafka::create(servers, "bench.idle")?;
    kafka::create(servers, "bench.publish")?;
    let broker = format!(
        "[messaging]\nevents = \"kafka\"\n{}",
        kafka::toml(servers, &kafka::unique())
    );
    let toml = format!("{broker}[[routes]]\ntopic = \"bench.idle\"\nplugin = \"bench-noop\"\n");
    let folder = bench.folder(&toml, &kafka::topology("bench.idle"), &["bench-noop"])?;
    let mut host = folder.start()?;
    host.ready()?;
    let (mut ours, mut theirs, mut early, mut last) = (Vec::new(), Vec::new(), 0.0_f64, 0.0_f64);
    for time in 0..TIMES {
        let target = format!("bench.replayed.{}", kafka::unique());
        kafka::create(servers, &target)?;
        let done = replay(&mut host, &everything(&topic, &target), |host, view| {
            let rss = rss_mib(host.pid()).unwrap_or_default();
            last = rss;
            // A tenth of all is half of the first.
            if time == 0 && at(view, "done").as_u64().unwrap_or_default() * 2 <= count as u64 {
                early = early.max(rss);
            }
        })?;
        ours.push(rate_of(&done)?);
        kafka::delete(servers, &target)?;
        if time < bench.rounds {
            theirs.push(plain(&broker, "bench.publish", bench.count(300_000, 20_000))?.rate);
        }
        bench.tell(&format!(
            "{REPLAY_KAFKA}: {:?} against {:?}, RSS {last:.1} MiB",
            ours.last(),
            theirs.last()
        ));
    }
    ours.truncate(theirs.len());
    let target = format!("bench.replayed.{}", kafka::unique());
    kafka::create(servers, &target)?;
    let slow = paced_replay(&mut host, &topic, &target, bench.count(5_000, 600))?;
    kafka::delete(servers, &target)?;
    Ok(vec![
        row(REPLAY_KAFKA, ours, theirs, "our publisher, confirmed"),
        Row {
            unit: "MiB",
            goal: Goal::RatioAtMost(1.1),
            note: format!("{TIMES} times {count}"),
            ..row(REPLAY_RSS, vec![last], vec![early], "within the first tenth")
        },
        paced(REPLAY_PACED, vec![slow]),
    ])
}

/// The beginning of one partition, at the rate that was asked for.
fn paced_replay(host: &mut Host<'_>, topic: &str, target: &str, count: usize) -> Result<f64> {
    let asked = json!({
        "topic": topic,
        "target_topic": target,
        "from_offsets": { "0": 0 },
        "to_offsets": { "0": count },
        "options": { "rate": RATE },
    });
    let started = Instant::now();
    replay(host, &asked, |_, _| {})?;
    #[allow(clippy::cast_precision_loss, reason = "a count below 2^53")]
    let rate = count as f64 / started.elapsed().as_secs_f64();
    Ok(rate)
}

fn replayed_embedded(bench: &Bench) -> Result<Vec<Row>> {
    let count = bench.count(200_000, 5_000);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let folder = bench.folder(IDLE_ROUTE, &rabbitmq::topology("bench"), &["bench-noop"])?;
        let settings = stage::settings(&folder.path("helix.toml"))?;
        let rt = tokio::runtime::Runtime::new()?;
        rt.block_on(async {
            let broker = embedded::open(&settings).await?;
            topic(&broker, "bench.events", count).await?;
            broker.close().await;
            anyhow::Ok(())
        })?;
        let mut host = folder.start()?;
        host.ready()?;
        let done = replay(
            &mut host,
            &everything("bench.events", "bench.replayed"),
            |_, _| {},
        )?;
        ours.push(rate_of(&done)?);
        drop(host);
        theirs.push(plain_embedded(count, MessageKind::Event)?);
        bench.tell(&format!(
            "{REPLAY_EMBEDDED}: {:?} against {:?}",
            ours.last(),
            theirs.last()
        ));
    }
    Ok(vec![row(
        REPLAY_EMBEDDED,
        ours,
        theirs,
        "its broker, published and confirmed, 512 in flight",
    )])
}

fn now_ms() -> Result<u64> {
    Ok(u64::try_from(
        SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis(),
    )?)
}

/// Due over ten seconds, from when the host surely runs; each message says when it is due, and the guest by how much it is late.
fn late(bench: &Bench) -> Result<Vec<Row>> {
    let count = bench.count(10_000, 500);
    let toml = "[[routes]]\nname = \"bench\"\nqueue = \"bench\"\nplugin = \"bench-clock\"\nconcurrency = 1\n\
                [plugins.bench-clock]\ninstances = 1\ncalls_per_instance = 1000000000\n";
    let folder = bench.folder(toml, &rabbitmq::topology("bench"), &["bench-clock"])?;
    let begin = now_ms()? + if bench.is_quick() { 10_000 } else { 20_000 };
    let filler = message::document(0, message::SIZE - 19);
    let parked = |number: usize| {
        let due_ms = begin + number as u64;
        let body = Bytes::from(format!("{:019}{filler}", due_ms * 1_000_000));
        Parked {
            id: format!("p-{number}"),
            route: "bench".to_owned(),
            raw: RawMessage {
                body: Some(body),
                ..letters::raw(number, MessageKind::Task, "embedded", "bench")
            },
            attempt: 2,
            due_ms,
            lane: None,
            history: Vec::new(),
            first_failure_ms: begin,
        }
    };
    let rt = tokio::runtime::Runtime::new()?;
    rt.block_on(async {
        let store = SqliteStore::open(&folder.path("state/store.db"), Arc::new(SystemClock)).await?;
        let all: Vec<usize> = (0..count).collect();
        for some in all.chunks(1_000) {
            store.park(some.iter().copied().map(parked).collect()).await?;
        }
        store.close().await;
        anyhow::Ok(())
    })?;
    let mut host = folder.start()?;
    host.ready()?;
    ensure!(
        now_ms()? < begin,
        "the host took too long to start: the first are due already"
    );
    let handled = |host: &mut Host<'_>, count: usize| {
        host.until("handling what was due", Duration::from_secs(120), |host| {
            std::thread::sleep(Duration::from_millis(50));
            Ok((host.count()? >= count as u64).then_some(()))
        })
    };
    handled(&mut host, count)?;
    let report = json!({ "type": "bench.report", "payload": {} }).to_string();
    let (status, answer) = host.request("POST", "/v1/messaging/tasks/bench", &report)?;
    ensure!(status == 202, "{status}: {answer}");
    let said = host.until("reporting", Duration::from_secs(20), |_| {
        let log = folder.log();
        Ok(log.contains("p99_ns=").then_some(log))
    })?;
    let number = |name: &str| -> Result<f64> {
        let (_, rest) = said.rsplit_once(name).context("no figures in the log")?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Ok(digits.parse::<f64>()? / 1e6)
    };
    let (p50, p99) = (number("p50_ns=")?, number("p99_ns=")?);
    bench.tell(&format!("{LATE}: p50 {p50:.1} ms, p99 {p99:.1} ms"));
    Ok(vec![Row {
        unit: "ms",
        // The host knows when the next one is due, so there is no poll to wait for.
        goal: Goal::AtMost(100.0),
        note: format!("a thousand a second, p50 {p50:.1} ms"),
        ..row(LATE, vec![p99], Vec::new(), "")
    }])
}
