//! `cargo xtask bench`: ours and native loops, alternating in one run, on brokers of its own.

use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use crate::brokers::{self, Kind};
use crate::run::{run, say};
use crate::workspace::{cargo, root, target};
use crate::{install, plugins, signals};

/// Apart from brokers of tests, and started for figures.
const BROKERS: &str = "bench";

#[derive(clap::Args)]
pub struct Args {
    /// Only rows whose name contains this; may be given several times
    #[arg(long)]
    only: Vec<String>,
    /// Rounds of each row: ours, then the baseline, then again
    #[arg(long)]
    rounds: Option<usize>,
    /// Small counts and one round: shows that everything works, not how fast it is
    #[arg(long)]
    quick: bool,
    /// Also clients and frameworks of other languages, as far as this machine has Go and Python
    #[arg(long)]
    peers: bool,
    /// Leave the brokers running, with the filled topics, for the next run
    #[arg(long)]
    keep: bool,
    /// Use what `target/release` holds
    #[arg(long)]
    no_build: bool,
}

pub fn main(args: &Args) -> Result<()> {
    signals::catch();
    let started = Instant::now();
    install::native_build_tools()?;
    plugins::guests()?;
    let bin = target().join("release");
    if !args.no_build {
        run(Command::new(cargo())
            .args(["build", "--release", "-p", "helix-host", "-p", "helix-bench"])
            .current_dir(root()))?;
    }
    let running = Running { keep: args.keep };
    let options = brokers::Options {
        name: BROKERS.to_owned(),
        rabbitmq_port: None,
        kafka_port: None,
        postgres_port: None,
        nodes: 1,
        plain: true,
        for_figures: true,
        temp: false,
        settings: None,
        timeout: 180,
    };
    let env = brokers::env_of(&brokers::start_all(&Kind::ALL, &options)?);
    let mut bench = Command::new(bin.join("helix-bench"));
    bench
        .arg("run")
        .arg("--helix")
        .arg(bin.join("helix"))
        .arg("--guests")
        .arg(plugins::guests_folder())
        .arg("--out")
        .arg(target().join("bench.json"))
        .arg("--page")
        .arg(root().join("docs/benchmarks.md"))
        .envs(env)
        .env("HELIX_TEST_BROKERS_CTL", std::env::current_exe()?)
        .env("HELIX_BROKERS_NAME", BROKERS)
        .current_dir(root());
    for only in &args.only {
        bench.arg("--only").arg(only);
    }
    if let Some(rounds) = args.rounds {
        bench.arg("--rounds").arg(rounds.to_string());
    }
    if args.quick {
        bench.arg("--quick");
    }
    if args.peers {
        bench.arg("--peers").arg(root().join("bench/peers"));
    }
    let done = run(&mut bench);
    drop(running);
    say(format!("bench: {:.0} s", started.elapsed().as_secs_f64()));
    done
}

/// Stops the brokers whatever happens.
struct Running {
    keep: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.keep {
            return say(format!(
                "brokers left running: `cargo xtask brokers stop --name {BROKERS}`"
            ));
        }
        for kind in Kind::ALL {
            if let Err(e) = brokers::stop(kind, BROKERS, false) {
                say(format!("{} did not stop: {e:#}", kind.word()));
            }
        }
    }
}
