//! Dead letters on each engine of the store: written by many callers, and a million of them looked through.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use helix_host::model::raw::Properties;
use helix_host::model::{
    Attempt, DeadLetter, Digest, FailureClass, Headers, LetterState, MessageKind, Origin, Outcome,
    RawMessage, SystemClock, UnixMs,
};
use helix_host::store::postgres::{Options, PostgresStore};
use helix_host::store::sqlite::SqliteStore;
use helix_host::store::{Action, DeadLetters, JobState, Jobs, LetterFilter, Members, NewJob, Page};
use serde_json::{Value, json};

use crate::message::{Shape, TYPE};
use crate::process::{Figures, Meter, said};
use crate::stats::{Goal, Row, percentile};
use crate::{Bench, Measure, cpu_note};

mod alone;

/// Callers that each wait for their letter, as workers of a host do that give up on messages at the same time.
const CALLERS: usize = 256;
/// While the store is filled: letters of a caller at a time.
const FILL: usize = 50;
const ROUTES: usize = 10;
const REASONS: usize = 20;
/// Times that each question is asked.
const ASKED: usize = 50;
const DAY: UnixMs = 86_400_000;

const WRITES: [(Engine, &str); 2] = [
    (Engine::Sqlite, "dead letters written, SQLite, 256 callers"),
    (Engine::Postgres, "dead letters written, Postgres, 256 callers"),
];
const ASKS: [(Engine, [&str; 4]); 2] = [
    (
        Engine::Sqlite,
        [
            "letters, SQLite, 1 M: list, worst filter, p99",
            "letters, SQLite, 1 M: groups, worst filter, p99",
            "letters, SQLite, 1 M: words, worst, p99",
            "letters, SQLite, 1 M: longest write while a job over all is made",
        ],
    ),
    (
        Engine::Postgres,
        [
            "letters, Postgres, 1 M: list, worst filter, p99",
            "letters, Postgres, 1 M: groups, worst filter, p99",
            "letters, Postgres, 1 M: words, worst, p99",
            "letters, Postgres, 1 M: longest write while a job over all is made",
        ],
    ),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    Sqlite,
    Postgres,
}

impl Engine {
    fn word(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Letters through the store.
    Write,
    /// The same rows by the engine alone.
    Alone,
    /// Questions over so many letters.
    Ask,
}

/// `helix-bench letters`: a store of its own, in this process.
#[derive(clap::Args)]
pub struct Args {
    #[arg(long, value_enum)]
    engine: Engine,
    #[arg(long, value_enum)]
    what: What,
    #[arg(long)]
    count: usize,
}

pub fn measures() -> Vec<Measure> {
    let writes = WRITES
        .into_iter()
        .map(|(engine, name)| Measure::new(&[name], move |bench| written(bench, engine, name)));
    let asks = ASKS
        .into_iter()
        .map(|(engine, names)| Measure::new(&names, move |bench| asked(bench, engine, names)));
    writes.chain(asks).collect()
}

/// A member of an answer; null when there is none.
pub fn at<'a>(answer: &'a Value, name: &str) -> &'a Value {
    answer.get(name).unwrap_or(&Value::Null)
}

fn arguments(engine: Engine, what: &str, count: usize) -> Vec<String> {
    let all = ["letters", "--engine", engine.word(), "--what", what, "--count"];
    all.into_iter()
        .map(str::to_owned)
        .chain([count.to_string()])
        .collect()
}

fn child<T: serde::de::DeserializeOwned>(engine: Engine, what: &str, count: usize) -> Result<T> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(arguments(engine, what, count));
    said(&mut command)
}

fn written(bench: &Bench, engine: Engine, name: &str) -> Result<Vec<Row>> {
    let count = bench.count(100_000, 2_000);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        ours.push(child::<Figures>(engine, "write", count)?);
        bench.say(name, "ours", ours.last());
        theirs.push(child::<Figures>(engine, "alone", count)?);
        bench.say(name, "engine", theirs.last());
    }
    let latency = ours
        .last()
        .map(|f| format!("; p50 {:.1} ms, p99 {:.1} ms", f.p50_ms, f.p99_ms));
    Ok(vec![Row {
        name: name.to_owned(),
        unit: "letters/s",
        goal: Goal::AtLeast(5_000.0),
        ours: ours.iter().map(|f| f.rate).collect(),
        baseline: theirs.iter().map(|f| f.rate).collect(),
        against: "the engine alone: the same rows by id, 256 in each transaction",
        note: format!("{}{}", cpu_note(&ours, &theirs), latency.unwrap_or_default()),
        details: Value::Null,
    }])
}

fn asked(bench: &Bench, engine: Engine, names: [&'static str; 4]) -> Result<Vec<Row>> {
    let count = bench.count(1_000_000, 5_000);
    let answers: Value = child(engine, "ask", count)?;
    let rows = ["list", "groups", "words"]
        .into_iter()
        .zip(names)
        .map(|(what, name)| {
            let of: Vec<&Value> = answers
                .get("questions")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter(|answer| at(answer, "what") == &json!(what))
                .collect();
            let p99 = |answer: &Value| at(answer, "p99_ms").as_f64().unwrap_or(f64::NAN);
            let worst = of.iter().copied().max_by(|a, b| p99(a).total_cmp(&p99(b)));
            let worst = worst.with_context(|| format!("{name}: nothing was asked"))?;
            bench.tell(&format!("{name}: {worst}"));
            Ok(Row {
                name: name.to_owned(),
                unit: "ms",
                goal: Goal::AtMost(50.0),
                ours: vec![p99(worst)],
                baseline: Vec::new(),
                against: "",
                note: format!(
                    "worst of {}: {}, p50 {:.1} ms",
                    of.len(),
                    at(worst, "filter"),
                    at(worst, "p50_ms").as_f64().unwrap_or_default()
                ),
                details: json!(of),
            })
        });
    let mut rows: Vec<Row> = rows.collect::<Result<_>>()?;
    let job = answers.get("job").context("no job was made")?;
    bench.tell(&format!("{}: {job}", names[3]));
    rows.push(Row {
        name: names[3].to_owned(),
        unit: "ms",
        goal: Goal::AtMost(250.0),
        ours: vec![at(job, "longest_ms").as_f64().unwrap_or(f64::NAN)],
        baseline: Vec::new(),
        against: "",
        note: format!(
            "{} letters; answered after {:.0} ms, ready after {:.1} s; p50 of a write meanwhile {:.1} ms",
            at(job, "letters"),
            at(job, "answered_ms").as_f64().unwrap_or_default(),
            at(job, "ready_ms").as_f64().unwrap_or_default() / 1e3,
            at(job, "p50_ms").as_f64().unwrap_or_default()
        ),
        details: job.clone(),
    });
    Ok(rows)
}

pub async fn main(args: &Args) -> Result<Value> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("store.db");
    match (args.what, args.engine) {
        (What::Alone, Engine::Sqlite) => Ok(json!(alone::sqlite(&path, args.count).await?)),
        (What::Alone, Engine::Postgres) => Ok(json!(alone::postgres(&postgres_url()?, args.count).await?)),
        (what, Engine::Sqlite) => {
            let store = SqliteStore::open(&path, Arc::new(SystemClock)).await?;
            let found = with(store.clone(), what, args.count, async || Ok(())).await;
            store.close().await;
            found
        }
        (what, Engine::Postgres) => {
            let url = postgres_url()?;
            let schema = format!("bench_{}", std::process::id());
            let store = PostgresStore::open(
                &Options {
                    url: url.clone().into(),
                    schema: schema.clone(),
                    host: "bench".into(),
                },
                Arc::new(SystemClock),
            )
            .await?;
            // What autovacuum does some minutes after so many rows came.
            let found = with(store.clone(), what, args.count, async || {
                alone::settle(&url, &schema).await
            })
            .await;
            store.close().await;
            alone::drop_schema(&url, &schema).await?;
            found
        }
    }
}

fn postgres_url() -> Result<String> {
    std::env::var("HELIX_TEST_POSTGRES_URL").context("HELIX_TEST_POSTGRES_URL is not set")
}

async fn with<S: DeadLetters + Jobs + Clone + 'static>(
    store: S,
    what: What,
    count: usize,
    settled: impl AsyncFn() -> Result<()>,
) -> Result<Value> {
    if what == What::Write {
        return Ok(json!(write(&store, count).await?));
    }
    fill(&store, count).await?;
    settled().await?;
    Ok(json!({ "questions": ask(&store, count).await?, "job": job(&store, count).await? }))
}

/// Each caller enters one letter and waits for its commit.
async fn write<S: DeadLetters + Clone + 'static>(store: &S, count: usize) -> Result<Figures> {
    let meter = Meter::start();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let store = store.clone();
        callers.spawn(async move {
            let mut times = Vec::new();
            for number in (caller..count).step_by(CALLERS) {
                let started = Instant::now();
                store.enter(vec![letter(number, count)]).await?;
                times.push(started.elapsed().as_secs_f64() * 1e3);
            }
            anyhow::Ok(times)
        });
    }
    let mut times = Vec::with_capacity(count);
    while let Some(ended) = callers.join_next().await {
        times.extend(ended??);
    }
    times.sort_by(f64::total_cmp);
    Ok(Figures {
        p50_ms: percentile(&times, 0.5).unwrap_or_default(),
        p99_ms: percentile(&times, 0.99).unwrap_or_default(),
        ..meter.stop(count)
    })
}

async fn fill<S: DeadLetters + Clone + 'static>(store: &S, count: usize) -> Result<()> {
    const AT_ONCE: usize = 32;
    let started = Instant::now();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..AT_ONCE {
        let store = store.clone();
        callers.spawn(async move {
            // About in the order of their numbers.
            for first in (caller * FILL..count).step_by(AT_ONCE * FILL) {
                let some = first..count.min(first + FILL);
                store
                    .enter(some.map(|number| letter(number, count)).collect())
                    .await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    eprintln!(
        "{count} letters entered in {:.0} s",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// When the first of the letters failed; the last one fails about now.
fn beginning() -> UnixMs {
    // 2026-11-01.
    1_793_491_200_000
}

/// 200 groups of ten routes; of a hundred letters 70 are dead, 15 reprocessed, 10 discarded, 4 expired, 1 is being sent.
pub fn letter(number: usize, count: usize) -> DeadLetter {
    let (route, kind) = (number % ROUTES, (number / ROUTES) % REASONS);
    // Spread over the numbers, and not in step with routes and reasons.
    let state = match (number.wrapping_mul(7_919) / 13) % 100 {
        0..70 => LetterState::Dead,
        70..85 => LetterState::Reprocessed,
        85..95 => LetterState::Discarded,
        95..99 => LetterState::Expired,
        _ => LetterState::Retrying,
    };
    let digest = Digest::new([u8::try_from(kind % 4).unwrap_or(0); 32]).to_string();
    let at = beginning() + (30 * DAY) * number as u64 / count.max(1) as u64;
    let reason = match kind % 4 {
        0 => format!("no user `u-{number}` in shard {} ({kind})", number % 64),
        1 => format!("timeout after 30 s at upstream-{kind}, request {number}"),
        2 => format!("the field `amount` of order {number} is missing, rule r{kind}"),
        _ => format!(
            "cannot parse the date in line {} of document {number}, parser p{kind}",
            number % 500
        ),
    };
    DeadLetter {
        raw: raw(number, MessageKind::Task, "embedded", &format!("queue-{route}")),
        message_id: Some(format!("m-{number}")),
        message_type: Some(format!("kind-{}", kind % 5)),
        route: Some(format!("route-{route}")),
        plugin: Some("bench".to_owned()),
        class: match kind % 3 {
            0 => FailureClass::Rejected,
            1 => FailureClass::Exhausted,
            _ => FailureClass::Refused,
        },
        reason,
        code: Some(format!("code.{}", kind % 7)),
        attempts: vec![Attempt {
            number: 1,
            started_ms: at - 40,
            duration_us: 1_500,
            outcome: Outcome::Done,
            digest: Some(digest.clone()),
            log: Vec::new(),
        }],
        digest: Some(digest),
        first_failure_ms: at,
        last_failure_ms: at,
        trace_id: None,
        state,
        reprocessed: 0,
        // As the host makes them: hashes, in no order.
        id: uuid_like(number),
    }
}

fn uuid_like(number: usize) -> String {
    let mixed = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let other = mixed.rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        mixed >> 32,
        (mixed >> 16) & 0xffff,
        mixed & 0xffff,
        other >> 48,
        other & 0xffff_ffff_ffff
    )
}

pub fn raw(number: usize, kind: MessageKind, broker: &str, destination: &str) -> RawMessage {
    RawMessage {
        origin: Origin {
            broker: broker.into(),
            kind,
            destination: destination.into(),
            partition: None,
            offset: Some(number as u64),
        },
        body: Some(Bytes::from(Shape::Header.body(number))),
        key: None,
        headers: [
            ("type", TYPE.to_owned()),
            ("id", format!("m-{number}")),
            ("tenant", "t-1".to_owned()),
        ]
        .into_iter()
        .collect::<Headers>(),
        props: Properties::default(),
        timestamp_ms: Some(1_700_000_000_000),
        redelivered: false,
    }
}

/// Every filter, and pairs that somebody may ask for; each `open` as the API has it unless it says otherwise.
fn filters(count: usize) -> Vec<(&'static str, LetterFilter)> {
    let open = || LetterFilter {
        open: true,
        ..LetterFilter::default()
    };
    let any = LetterFilter::default;
    let text = |text: &str| Some(text.to_owned());
    let digest = Some(Digest::new([1; 32]).to_string());
    let end = beginning() + 30 * DAY;
    let hour = Some(end - DAY / 3);
    let state = |state| LetterFilter {
        state: Some(state),
        ..LetterFilter::default()
    };
    let last = count.saturating_sub(1);
    vec![
        ("open", open()),
        ("all", any()),
        ("dead", state(LetterState::Dead)),
        ("retrying", state(LetterState::Retrying)),
        ("reprocessed", state(LetterState::Reprocessed)),
        ("discarded", state(LetterState::Discarded)),
        ("expired", state(LetterState::Expired)),
        (
            "route",
            LetterFilter {
                route: text("route-3"),
                ..open()
            },
        ),
        (
            "route, all",
            LetterFilter {
                route: text("route-3"),
                ..any()
            },
        ),
        (
            "route, discarded",
            LetterFilter {
                route: text("route-3"),
                ..state(LetterState::Discarded)
            },
        ),
        (
            "type",
            LetterFilter {
                message_type: text("kind-2"),
                ..open()
            },
        ),
        (
            "type, all",
            LetterFilter {
                message_type: text("kind-2"),
                ..any()
            },
        ),
        (
            "class",
            LetterFilter {
                class: Some(FailureClass::Rejected),
                ..open()
            },
        ),
        (
            "class, discarded",
            LetterFilter {
                class: Some(FailureClass::Rejected),
                ..state(LetterState::Discarded)
            },
        ),
        (
            "destination",
            LetterFilter {
                destination: text("queue-3"),
                ..open()
            },
        ),
        (
            "digest",
            LetterFilter {
                digest: digest.clone(),
                ..open()
            },
        ),
        ("digest, all", LetterFilter { digest, ..any() }),
        (
            "route, type",
            LetterFilter {
                route: text("route-3"),
                message_type: text("kind-2"),
                ..open()
            },
        ),
        (
            "route, class",
            LetterFilter {
                route: text("route-3"),
                class: Some(FailureClass::Rejected),
                ..open()
            },
        ),
        (
            "since 1 %",
            LetterFilter {
                since_ms: hour,
                ..open()
            },
        ),
        (
            "since 1 %, all",
            LetterFilter {
                since_ms: hour,
                ..any()
            },
        ),
        (
            "since 1 %, route",
            LetterFilter {
                since_ms: hour,
                route: text("route-3"),
                ..open()
            },
        ),
        (
            "since 50 %",
            LetterFilter {
                since_ms: Some(end - 15 * DAY),
                ..open()
            },
        ),
        (
            "since 100 %, class",
            LetterFilter {
                since_ms: Some(1),
                class: Some(FailureClass::Rejected),
                ..open()
            },
        ),
        (
            "until 50 %",
            LetterFilter {
                until_ms: Some(end - 15 * DAY),
                ..open()
            },
        ),
        (
            "until 1 %, discarded",
            LetterFilter {
                until_ms: Some(beginning() + DAY / 3),
                ..state(LetterState::Discarded)
            },
        ),
        (
            "nothing",
            LetterFilter {
                route: text("no such route"),
                ..open()
            },
        ),
        (
            "text: in a quarter",
            LetterFilter {
                text: text("timeout"),
                ..open()
            },
        ),
        (
            "text: in all of a route",
            LetterFilter {
                text: text("queue"),
                route: text("route-3"),
                ..open()
            },
        ),
        (
            "text: in one",
            LetterFilter {
                text: Some(format!("u-{}", last / 4 / 20 * 20)),
                ..any()
            },
        ),
        (
            "text: an id",
            LetterFilter {
                text: Some(format!("m-{}", last / 3)),
                ..any()
            },
        ),
        (
            "text: one word in all, one in one",
            LetterFilter {
                text: Some(format!("queue {}", last / 5)),
                ..any()
            },
        ),
        (
            "text: in none",
            LetterFilter {
                text: text("zebra"),
                ..open()
            },
        ),
        (
            "text: a beginning",
            LetterFilter {
                text: text("upstr pars"),
                ..open()
            },
        ),
        (
            "text: frequent, discarded",
            LetterFilter {
                text: text("timeout"),
                ..state(LetterState::Discarded)
            },
        ),
        (
            "text: frequent, of others",
            LetterFilter {
                text: text("timeout code 30"),
                message_type: text("kind-0"),
                ..any()
            },
        ),
    ]
}

async fn ask<S: DeadLetters>(store: &S, count: usize) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for (name, filter) in filters(count) {
        let words = filter.text.is_some();
        let page = Page {
            limit: 50,
            ..Page::default()
        };
        // Not counted: the first one reads from the disk what the others find in memory, as on a host that is in use.
        let first = store.list(&filter, &page).await?;
        let next = Page {
            cursor: first.next.clone(),
            ..page.clone()
        };
        let mut times = Vec::with_capacity(ASKED);
        for number in 0..ASKED {
            // The second page now and then.
            let page = if number % 5 == 4 { &next } else { &page };
            let started = Instant::now();
            std::hint::black_box(store.list(&filter, page).await?);
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        all.push(answer(
            if words { "words" } else { "list" },
            name,
            &mut times,
            first.count,
        ));
        let groups = store.groups(&filter, 50).await?;
        let mut times = Vec::with_capacity(ASKED);
        for _ in 0..ASKED {
            let started = Instant::now();
            std::hint::black_box(store.groups(&filter, 50).await?);
            times.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let name = format!("{name} (groups)");
        all.push(answer(
            if words { "words" } else { "groups" },
            &name,
            &mut times,
            groups.count,
        ));
    }
    Ok(all)
}

fn answer(what: &str, filter: &str, times: &mut [f64], count: u64) -> Value {
    times.sort_by(f64::total_cmp);
    let p50 = percentile(times, 0.5);
    let p99 = percentile(times, 0.99);
    eprintln!(
        "{what}: {filter}: p50 {:.1} ms, p99 {:.1} ms, {count}",
        p50.unwrap_or(0.0),
        p99.unwrap_or(0.0)
    );
    json!({ "what": what, "filter": filter, "p50_ms": p50, "p99_ms": p99, "count": count })
}

/// A job over all that are dead, while one caller writes a letter after another.
async fn job<S: DeadLetters + Jobs + Clone + 'static>(store: &S, count: usize) -> Result<Value> {
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writing = {
        let (store, over) = (store.clone(), Arc::clone(&over));
        tokio::spawn(async move {
            let mut times = Vec::new();
            while !over.load(std::sync::atomic::Ordering::Acquire) {
                let number = count + times.len();
                let started = Instant::now();
                store.enter(vec![letter(number, count)]).await?;
                times.push(started.elapsed().as_secs_f64() * 1e3);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            anyhow::Ok(times)
        })
    };
    let started = Instant::now();
    let made = store
        .create(NewJob {
            id: "bench".to_owned(),
            action: Action::Reprocess,
            members: Members::Matching(LetterFilter::default()),
            filter: None,
            rate: None,
            force: false,
            reason: None,
            actor: "bench".to_owned(),
        })
        .await?;
    let answered = started.elapsed().as_secs_f64() * 1e3;
    let mut now = made;
    while now.state == JobState::Preparing {
        now = store.prepare(now.number).await?.context("the job is gone")?;
    }
    let ready = started.elapsed().as_secs_f64() * 1e3;
    over.store(true, std::sync::atomic::Ordering::Release);
    let mut times = writing.await??;
    ensure!(!times.is_empty(), "nothing was written meanwhile");
    times.sort_by(f64::total_cmp);
    Ok(json!({
        "letters": now.total,
        "answered_ms": answered,
        "ready_ms": ready,
        "p50_ms": percentile(&times, 0.5),
        "longest_ms": times.last(),
    }))
}
