//! The guest path alone, in this process: one warm instance, one thread, thread CPU time, beside a native call.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use helix_host::guest::{Invocation, Version};
use helix_host::model::{Envelope, Headers, MessageKind, Origin, Outcome};

use crate::message;
use crate::process::thread_cpu_seconds;
use crate::stats::{Goal, Row, Spread};
use crate::{Bench, Measure, stage};

const TYPED: &str = "guest path alone, typed event, warm, 1 KiB, 3 headers, per core";
const PACKED: &str = "guest path alone, packed batch of 100";

/// Operations of one sample: long against the clock's grain, short against a time slice.
const SAMPLE: usize = 1_000;

pub fn measures() -> Vec<Measure> {
    let typed = |bench: &Bench| compare(bench, TYPED, "bench-typed", 1, Goal::RatioAtMost(11.0));
    let packed = |bench: &Bench| compare(bench, PACKED, "bench-noop", 100, Goal::RatioAtMost(0.9));
    vec![Measure::new(&[TYPED], typed), Measure::new(&[PACKED], packed)]
}

/// One value a round is the median of its samples, nanoseconds a message.
fn compare(bench: &Bench, name: &str, plugin: &str, batch: usize, goal: Goal) -> Result<Vec<Row>> {
    let rt = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let route = format!("[[routes]]\ntopic = \"bench\"\nplugin = \"{plugin}\"\n");
    let (folder, settings) = stage::folder(
        &route,
        "[[topics]]\nname = \"bench\"\npartitions = 6\nretention = \"1d\"\n",
    )?;
    bench.place(plugin, &folder.path().join("plugins"))?;
    let runtime = stage::runtime(&settings, folder.path())?;
    let version = rt.block_on(stage::version(&runtime, plugin))?;
    let envelopes: Vec<Envelope> = (0..batch).map(envelope).collect();
    let owned = Event::from(envelopes.first().context("no event")?);
    let samples = bench.count(300, 30);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        // Alternating sample by sample: a neighbour that wakes up disturbs both.
        let (mut guest, mut native) = (Vec::new(), Vec::new());
        for _ in 0..samples {
            guest.push(rt.block_on(calls(&*version, &envelopes))?);
            native.push(clones(&owned));
        }
        let median = |values: Vec<f64>| Spread::of(values).map(|s| s.median).context("no samples");
        ours.push(median(guest)?);
        theirs.push(median(native)?);
    }
    Ok(vec![Row {
        name: name.to_owned(),
        unit: "ns",
        goal,
        ours,
        baseline: theirs,
        against: "native: clone of an owned event, empty function",
        note: String::new(),
        details: serde_json::Value::Null,
    }])
}

async fn calls(version: &dyn Version, envelopes: &[Envelope]) -> Result<f64> {
    let invocations: Vec<Invocation<'_>> = envelopes.iter().map(invocation).collect();
    let started = thread_cpu_seconds();
    let mut done = 0;
    while done < SAMPLE {
        let completions = version.call(&invocations).await;
        ensure!(
            completions.iter().all(|c| c.outcome == Outcome::Done),
            "the guest failed: {completions:?}"
        );
        done += completions.len();
    }
    Ok(nanoseconds(thread_cpu_seconds() - started, done))
}

fn clones(event: &Event) -> f64 {
    let started = thread_cpu_seconds();
    for _ in 0..SAMPLE {
        noop(black_box(event).clone());
    }
    nanoseconds(thread_cpu_seconds() - started, SAMPLE)
}

fn nanoseconds(seconds: f64, count: usize) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
    let each = seconds * 1e9 / count as f64;
    each
}

/// What a native handler would be given: everything its own.
#[derive(Clone)]
#[allow(dead_code, reason = "it is cloned, not read")]
struct Event {
    id: String,
    kind: String,
    source: String,
    subject: String,
    key: Vec<u8>,
    data: Vec<u8>,
    headers: Vec<(String, Vec<u8>)>,
}

impl From<&Envelope> for Event {
    fn from(e: &Envelope) -> Self {
        Self {
            id: e.id.clone(),
            kind: e.message_type.clone(),
            source: e.source.clone().unwrap_or_default(),
            subject: e.subject.clone().unwrap_or_default(),
            key: e.key.as_ref().map(|k| k.to_vec()).unwrap_or_default(),
            data: e.payload.to_vec(),
            headers: e
                .headers
                .iter()
                .map(|(n, v)| (n.to_owned(), v.to_vec()))
                .collect(),
        }
    }
}

#[inline(never)]
#[allow(clippy::needless_pass_by_value, reason = "an owned event is what is measured")]
fn noop(event: Event) {
    black_box(&event);
}

pub fn envelope(number: usize) -> Envelope {
    let headers = [
        ("tenant", "t-1"),
        ("region", "eu-west-1"),
        ("build", "2026.11.27"),
    ];
    Envelope {
        id: format!("m-{number}"),
        message_type: message::TYPE.to_owned(),
        origin: Origin {
            broker: "kafka".into(),
            kind: MessageKind::Event,
            destination: "bench".into(),
            partition: Some(0),
            offset: Some(number as u64),
        },
        payload: Bytes::from(message::document(number, message::SIZE)),
        tombstone: false,
        content_type: None,
        schema: None,
        source: Some("shop/orders".into()),
        subject: Some("order".into()),
        priority: 0,
        key: Some(Bytes::from_static(b"k-1")),
        time_ms: 1_700_000_000_000,
        deadline_ms: None,
        correlation_id: None,
        reply_to: None,
        trace: None,
        headers: headers.into_iter().collect::<Headers>(),
        redelivered: false,
        reprocessed: 0,
        replay: None,
    }
}

pub fn invocation(envelope: &Envelope) -> Invocation<'_> {
    Invocation {
        envelope,
        attempt: 1,
        max_attempts: 4,
        timeout: Duration::from_secs(30),
        headers: None,
        fresh: false,
    }
}
