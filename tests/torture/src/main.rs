//! `helix-torture`, as `cargo xtask torture` starts it with brokers running and the environment set.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use helix_host::planted::Bug;
use helix_torture::fault::Fault;
use helix_torture::message::Stream;
use helix_torture::report::Summary;
use helix_torture::run::{Plan, run};
use helix_torture::sink::Slow;
use helix_torture::{arena, checker, history, planted, power};

#[derive(Parser)]
struct Args {
    /// How long there are faults, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Repeats the choices of an earlier run
    #[arg(long)]
    seed: Option<u64>,
    /// Brokers under load: embedded, rabbitmq, kafka
    #[arg(long, value_delimiter = ',')]
    broker: Vec<String>,
    /// Only these arenas, instead of embedded and brokers, which run side by side: embedded, brokers, and after them store
    #[arg(long, value_delimiter = ',')]
    arena: Vec<String>,
    /// Only these faults
    #[arg(long, value_delimiter = ',')]
    rows: Vec<Fault>,
    /// Handlers of keyed messages take so many milliseconds, all of them
    #[arg(long)]
    slow: Option<u64>,
    /// Hosts with one bug each, by name; without names all of them
    #[arg(long, value_delimiter = ',', num_args = 0..)]
    planted: Option<Vec<String>>,
    /// Nothing but power cuts of the embedded broker, in this process
    #[arg(long)]
    power: bool,
    /// Proves a history that was kept, instead of making one
    #[arg(long)]
    history: Option<PathBuf>,
    /// The result
    #[arg(long, default_value = "target/torture.json")]
    result: PathBuf,
    /// Commit under test, for the result
    #[arg(long, default_value = "")]
    commit: String,
}

fn main() -> ExitCode {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let args = Args::parse();
    if args.power {
        return power();
    }
    let done = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let done = runtime.block_on(go(args));
            runtime.shutdown_timeout(Duration::from_secs(2));
            done
        });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("torture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// It has a runtime of its own, and replaces what SQLite does with files in this process.
fn power() -> ExitCode {
    match power::run(0..100) {
        Ok(summary) => {
            eprintln!("torture: {summary:?}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn go(args: Args) -> Result<()> {
    let seed = args.seed.unwrap_or_else(random);
    let folder = args
        .result
        .parent()
        .map_or_else(|| PathBuf::from("."), |dir| dir.join("torture"));
    let before = Summary::read(&args.result);
    if let Some(names) = &args.planted {
        return on_trial(names, seed, &args, &folder, before).await;
    }
    let mut summary = Summary {
        seed,
        commit: args.commit.clone(),
        planted: before.planted,
        ..Summary::default()
    };
    if let Some(kept) = &args.history {
        summary.take(&checker::check(seed, arena::WINDOW, &history::read(kept)?));
        summary.print();
        return Ok(());
    }
    let (shared, own): (Vec<Stream>, Vec<Stream>) = Stream::ALL
        .into_iter()
        .filter(|stream| args.broker.is_empty() || args.broker.iter().any(|name| name == stream.broker()))
        .filter(|stream| match &args.arena[..] {
            [] => !stream.is_shared(),
            names => names.iter().any(|name| name == stream.arena()),
        })
        .partition(|stream| stream.is_shared());
    eprintln!("torture: seed {seed}, commit {}", args.commit);
    let runs = [
        (own, format!("history-{seed}")),
        (shared, format!("history-{seed}-store")),
    ];
    if runs.iter().all(|(streams, _)| streams.is_empty()) {
        bail!("nothing to torture: no such broker or arena");
    }
    for (streams, name) in runs.into_iter().filter(|(streams, _)| !streams.is_empty()) {
        let plan = Plan {
            seed,
            time: Duration::from_secs(args.seconds),
            streams,
            rows: args.rows.clone(),
            slow: args.slow.map_or_else(Slow::default, |ms| Slow {
                every: 1,
                time: Duration::from_millis(ms),
            }),
            env: Vec::new(),
            history: folder.join(format!("{name}.jsonl")),
        };
        let done = run(&plan).await?;
        summary.take(&done.report);
        if !done.report.faults_found().is_empty() {
            eprintln!(
                "torture: something is wrong; the history is {}",
                plan.history.display()
            );
        }
        summary.schedule.extend(done.schedule);
        summary.seconds += done.took.as_secs_f64();
    }
    summary.write(&args.result)?;
    summary.print();
    if !summary.wrong.is_empty() {
        for line in &summary.schedule {
            eprintln!("torture: {line}");
        }
        bail!("something is wrong; `cargo xtask torture --seed {seed}` makes the same choices");
    }
    Ok(())
}

async fn on_trial(
    names: &[String],
    seed: u64,
    args: &Args,
    folder: &std::path::Path,
    mut summary: Summary,
) -> Result<()> {
    if !cfg!(feature = "planted") {
        bail!("this build has no bugs in it: `cargo xtask torture --planted` makes one that has");
    }
    let mut missed = Vec::new();
    for bug in Bug::ALL {
        if !names.is_empty() && !names.iter().any(|name| name == bug.name()) {
            continue;
        }
        let time = Duration::from_secs(args.seconds);
        let trial = planted::trial(bug, seed, time, folder, &args.commit).await?;
        eprintln!(
            "torture: {:<22} {} in {:.0} s: {}",
            trial.bug,
            if trial.caught { "caught" } else { "MISSED" },
            trial.seconds,
            trial.by
        );
        if !trial.caught {
            missed.push(bug.name());
        }
        summary.judge(trial);
    }
    summary.write(&args.result)?;
    if !missed.is_empty() {
        bail!("missed: {}", missed.join(", "));
    }
    Ok(())
}

/// Six digits are enough to tell runs apart, and are typed without mistakes.
fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish()
        % 1_000_000
}
