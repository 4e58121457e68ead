//! Our path against hand-written native loops, alternating in one run. `cargo xtask bench` starts brokers and calls this.
//!
//! - `stats`, `table`: rounds → ratios → target/bench.json and docs/benchmarks.md.
//! - `host`, `process`: the real `helix` and the loops, each a process, measured from outside.
//! - one file per family of rows; `native/` has the loops.

mod around;
mod embedded;
mod guest_path;
mod host;
mod kafka;
mod latency;
mod letters;
mod memory;
mod message;
mod native;
mod peers;
mod process;
mod publish;
mod rabbitmq;
mod recovery;
mod redrive;
mod reload;
mod stage;
mod stats;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use process::Figures;
use stats::{Row, Spread};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure, and write figures
    Run(Run),
    /// One loop, in this process
    #[command(subcommand)]
    Native(native::Loop),
    /// The embedded broker, in this process
    Embedded(embedded::Args),
    /// Many swaps or traps, in this process
    Wear(memory::Args),
    /// Our publisher, in this process
    OursPublish(publish::Args),
    /// Dead letters in a store, in this process
    Letters(letters::Args),
}

#[derive(clap::Args)]
struct Run {
    /// The release build of the host
    #[arg(long)]
    helix: PathBuf,
    /// Folder of `bench-*.wasm`
    #[arg(long)]
    guests: PathBuf,
    #[arg(long)]
    only: Vec<String>,
    #[arg(long)]
    rounds: Option<usize>,
    #[arg(long)]
    quick: bool,
    /// bench/peers
    #[arg(long)]
    peers: Option<PathBuf>,
    #[arg(long)]
    out: PathBuf,
    /// docs/benchmarks.md
    #[arg(long)]
    page: PathBuf,
}

/// What every family may use.
pub struct Bench {
    pub helix: PathBuf,
    pub guests: PathBuf,
    pub rounds: usize,
    quick: bool,
    kafka: Option<String>,
    amqp: Option<rabbitmq::Amqp>,
}

impl Bench {
    pub fn kafka(&self) -> Result<&str> {
        self.kafka
            .as_deref()
            .context("HELIX_TEST_KAFKA_BOOTSTRAP is not set")
    }

    /// Copies a guest into a drop folder.
    pub fn place(&self, plugin: &str, plugins: &std::path::Path) -> Result<PathBuf> {
        let name = format!("{plugin}.wasm");
        let (from, to) = (self.guests.join(&name), plugins.join(&name));
        std::fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(to)
    }

    /// So many, or a few with `--quick`.
    pub fn count(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    pub fn is_quick(&self) -> bool {
        self.quick
    }

    pub fn tell(&self, text: &str) {
        eprintln!("{text}");
    }

    /// One line a run, so that a person sees that it goes on.
    pub fn say(&self, row: &str, who: &str, figures: Option<&Figures>) {
        if let Some(f) = figures {
            eprintln!(
                "{row}: {who} {} msg/s, CPU {:.2} µs",
                table::shown(f.rate),
                f.cpu_us
            );
        }
    }
}

type Measuring = Box<dyn Fn(&Bench) -> Result<Vec<Row>>>;

/// Makes some rows at once.
pub struct Measure {
    names: Vec<&'static str>,
    run: Measuring,
}

impl Measure {
    pub fn new(names: &[&'static str], run: impl Fn(&Bench) -> Result<Vec<Row>> + 'static) -> Self {
        Self {
            names: names.to_vec(),
            run: Box::new(run),
        }
    }

    fn wanted(&self, only: &[String]) -> bool {
        only.is_empty()
            || only
                .iter()
                .any(|part| self.names.iter().any(|name| name.contains(part.as_str())))
    }
}

/// "CPU 2.1 µs a message, baseline 1.2"
pub fn cpu_note(ours: &[Figures], theirs: &[Figures]) -> String {
    let median = |figures: &[Figures]| {
        Spread::of(figures.iter().map(|f| f.cpu_us))
            .map_or_else(|| "?".to_owned(), |s| table::shown(s.median))
    };
    format!("CPU {} µs a message, baseline {}", median(ours), median(theirs))
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Native(which) => native::main(&which).and_then(|figures| print(&figures)),
        Command::Embedded(args) => wait(embedded::child_main(&args)),
        Command::Wear(args) => wait(memory::wear(&args)),
        Command::OursPublish(args) => wait(publish::ours(&args)),
        Command::Letters(args) => tokio::runtime::Runtime::new()
            .map_err(Into::into)
            .and_then(|rt| rt.block_on(letters::main(&args)))
            .and_then(|found| print(&found)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("helix-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn wait(work: impl Future<Output = Result<Figures>>) -> Result<()> {
    print(&tokio::runtime::Runtime::new()?.block_on(work)?)
}

#[allow(clippy::print_stdout, reason = "the figures are this program's output")]
fn print(figures: &impl serde::Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(figures)?);
    Ok(())
}

fn run(args: &Run) -> Result<()> {
    let bench = Bench {
        helix: args
            .helix
            .canonicalize()
            .with_context(|| args.helix.display().to_string())?,
        guests: args.guests.clone(),
        rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 3 }).max(1),
        quick: args.quick,
        kafka: std::env::var("HELIX_TEST_KAFKA_BOOTSTRAP").ok(),
        amqp: rabbitmq::Amqp::from_env(),
    };
    // Before the load is ours.
    let machine = table::machine();
    let measures: Vec<Measure> = [
        guest_path::measures(),
        around::measures(),
        kafka::measures(),
        rabbitmq::measures(),
        publish::measures(),
        embedded::measures(),
        latency::measures(),
        reload::measures(),
        recovery::measures(),
        letters::measures(),
        redrive::measures(),
        memory::measures(),
        args.peers.as_deref().map(peers::measures).unwrap_or_default(),
    ]
    .into_iter()
    .flatten()
    .filter(|measure| measure.wanted(&args.only))
    .collect();
    let (mut rows, mut failed) = (Vec::new(), Vec::new());
    for measure in measures {
        // One that fails does not take the others' figures with it.
        match (measure.run)(&bench) {
            Ok(more) => rows.extend(more),
            Err(error) => {
                eprintln!("{}: {error:#}", measure.names.join(", "));
                failed.push(measure.names.join(", "));
            }
        }
    }
    table::write_json(&rows, &args.out)?;
    eprintln!("\n{}", table::plain(&rows));
    // Half a table, or one of small counts, would replace figures that took a quiet machine.
    if args.only.is_empty() && !args.quick {
        table::write_page(&rows, &machine, "cargo xtask bench", &args.page)?;
    }
    anyhow::ensure!(failed.is_empty(), "not measured: {}", failed.join("; "));
    Ok(())
}
