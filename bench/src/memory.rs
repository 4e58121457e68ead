//! Resident memory: idle, with a backlog, after many swaps and traps.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use helix_host::guest::Version;
use helix_host::model::Outcome;

use crate::guest_path::{envelope, invocation};
use crate::process::{Figures, child, rss_mib};
use crate::reload::with_section;
use crate::stats::{Goal, Row};
use crate::{Bench, Measure, rabbitmq, recovery, stage};

const IDLE: &str = "RSS idle, one handler loaded";
const BACKLOG: &str = "RSS with 1 M messages waiting, against 1 k";
const SWAPS: &str = "RSS over 3,000 swaps";
const TRAPS: &str = "RSS over 1 M traps";

/// What "flat" allows: fragments and caches, not a leak of 1 KiB a swap.
const FLAT: f64 = 1.1;

pub fn measures() -> Vec<Measure> {
    vec![
        Measure::new(&[IDLE], idle),
        Measure::new(&[BACKLOG], backlog),
        Measure::new(&[SWAPS], |bench| {
            grown(bench, SWAPS, "swaps", bench.count(3_000, 200))
        }),
        Measure::new(&[TRAPS], |bench| {
            grown(bench, TRAPS, "traps", bench.count(1_000_000, 10_000))
        }),
    ]
}

fn idle(bench: &Bench) -> Result<Vec<Row>> {
    Ok(vec![Row {
        name: IDLE.to_owned(),
        unit: "MiB",
        goal: Goal::AtMost(60.0),
        ours: vec![resting(bench, 0)?],
        baseline: Vec::new(),
        against: "",
        note: String::new(),
        details: serde_json::Value::Null,
    }])
}

fn backlog(bench: &Bench) -> Result<Vec<Row>> {
    Ok(vec![Row {
        name: BACKLOG.to_owned(),
        unit: "MiB",
        goal: Goal::RatioAtMost(1.1),
        ours: vec![resting(bench, bench.count(1_000_000, 50_000))?],
        baseline: vec![resting(bench, 1_000)?],
        against: "the same host with 1 k waiting",
        note: String::new(),
        details: serde_json::Value::Null,
    }])
}

/// A host that handles one message a second of so many.
fn resting(bench: &Bench, waiting: usize) -> Result<f64> {
    let toml = "[[routes]]\nqueue = \"bench\"\nplugin = \"bench-noop\"\nrate = 1\n";
    let folder = bench.folder(toml, &rabbitmq::topology("bench"), &["bench-noop"])?;
    if waiting > 0 {
        recovery::fill(&folder, waiting)?;
    }
    let mut host = folder.start()?;
    host.ready()?;
    // Start-up is over, and the gauges have been read once.
    std::thread::sleep(Duration::from_secs(6));
    let rss = rss_mib(host.pid())?;
    bench.tell(&format!("RSS with {waiting} waiting: {rss:.1} MiB"));
    Ok(rss)
}

fn grown(bench: &Bench, name: &str, what: &str, count: usize) -> Result<Vec<Row>> {
    let guest = bench.guests.join("bench-noop.wasm").display().to_string();
    let figures = child(&[
        "wear",
        "--what",
        what,
        "--guest",
        &guest,
        "--count",
        &count.to_string(),
    ])?;
    let (before, after) = figures.rss_mib;
    Ok(vec![Row {
        name: name.to_owned(),
        unit: "MiB",
        goal: Goal::RatioAtMost(FLAT),
        ours: vec![after],
        baseline: vec![before],
        against: "after the first tenth",
        note: format!("{count} of them, {:.0} a second", figures.rate),
        details: serde_json::Value::Null,
    }])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Swaps,
    Traps,
}

/// `helix-bench wear`: the guest runtime in this process.
#[derive(clap::Args)]
pub struct Args {
    #[arg(long, value_enum)]
    what: What,
    #[arg(long)]
    guest: PathBuf,
    #[arg(long)]
    count: usize,
}

pub async fn wear(args: &Args) -> Result<Figures> {
    let toml = "[[routes]]\nqueue = \"bench\"\nplugin = \"guest\"\n";
    let (folder, settings) = stage::folder(toml, &rabbitmq::topology("bench"))?;
    let file = folder.path().join("plugins/guest.wasm");
    let content = std::fs::read(&args.guest)?;
    std::fs::write(&file, &content)?;
    let runtime = stage::runtime(&settings, folder.path())?;
    let version = stage::version(&runtime, "guest").await?;
    let mut event = envelope(0);
    let other = with_section(&content, b"other");
    let mut before = 0.0;
    let meter = crate::process::Meter::start();
    for number in 0..args.count {
        if number == args.count / 10 {
            before = rss_mib(std::process::id())?;
        }
        match args.what {
            What::Swaps => {
                std::fs::write(&file, if number % 2 == 0 { &other } else { &content })?;
                let version = stage::version(&runtime, "guest").await?;
                ensure!(call(&*version, &event).await == Outcome::Done, "the guest failed");
            }
            What::Traps => {
                "bench.trap".clone_into(&mut event.message_type);
                let outcome = call(&*version, &event).await;
                ensure!(matches!(outcome, Outcome::Trap { .. }), "no trap: {outcome:?}");
            }
        }
    }
    Ok(Figures {
        rss_mib: (before, rss_mib(std::process::id())?),
        ..meter.stop(args.count)
    })
}

async fn call(version: &dyn Version, event: &helix_host::model::Envelope) -> Outcome {
    let completions = version.call(&[invocation(event)]).await;
    completions
        .into_iter()
        .next()
        .map_or(Outcome::Done, |c| c.outcome)
}
