//! `cargo xtask torture`: faults without end on hosts and brokers, and the proof that nothing was lost.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::run::{quiet, run, say, status};
use crate::session::{self, Env, Session};
use crate::workspace::{cargo, root, target};
use crate::{install, plugins, signals};

const BROKERS: &str = "torture";

#[derive(clap::Args)]
pub struct Args {
    /// How long there are faults: 90s, 10m
    #[arg(long = "for", value_name = "TIME", value_parser = time, default_value = "2m")]
    time: Duration,
    /// The same choices as an earlier run
    #[arg(long)]
    seed: Option<u64>,
    /// Only these: embedded, rabbitmq, kafka
    #[arg(long, value_delimiter = ',')]
    broker: Vec<String>,
    /// Only these arenas, instead of embedded and brokers: embedded, brokers, store (see tests/torture/README.md)
    #[arg(long, value_delimiter = ',')]
    arena: Vec<String>,
    /// Only these faults: kill-host, swap-plugin, fill-disk … (see tests/torture/src/fault.rs)
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Handlers of keyed messages take so many milliseconds
    #[arg(long)]
    slow: Option<u64>,
    /// Hosts with bugs on purpose, all of which have to be caught; by name, or all
    #[arg(long, value_delimiter = ',', num_args = 0.., value_name = "BUG")]
    planted: Option<Vec<String>>,
    /// Kafka as a cluster of so many nodes, one of which is killed, stopped or cut off at a time
    #[arg(long, default_value_t = 1)]
    nodes: u16,
    /// An optimised host: more messages in the same time
    #[arg(long)]
    release: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| "a number and s, m or h".to_owned())?;
    match unit {
        "s" | "" => Ok(number),
        "m" => Ok(number * 60),
        "h" => Ok(number * 3600),
        _ => Err("a number and s, m or h".to_owned()),
    }
    .map(Duration::from_secs)
}

pub fn main(args: &Args) -> Result<()> {
    signals::catch();
    let mut env = session::prepare(BROKERS).context("preparing the machine")?;
    install::faketime()?;
    plugins::guests()?;
    let profile = if args.release { "release" } else { "debug" };
    let mut build = Command::new(cargo());
    build
        // The whole workspace: the same features as every other build, so that no dependency is compiled twice.
        .args(["build", "--workspace", "--bins"])
        .current_dir(root());
    if args.release {
        build.arg("--release");
    }
    if args.planted.is_some() {
        build.args(["--features", "helix-torture/planted"]);
    }
    run(&mut build)?;
    // A copy: an ordinary build while this runs must not change what is under test, and one with bugs in it must not stay
    // where the next command looks for the host.
    let built = target().join(profile);
    let own = target().join("torture").join("bin");
    std::fs::create_dir_all(&own)?;
    for name in ["helix", "helix-torture"] {
        std::fs::remove_file(own.join(name)).ok();
        std::fs::copy(built.join(name), own.join(name))?;
        if args.planted.is_some() {
            std::fs::remove_file(built.join(name))?;
        }
    }
    for (name, value) in &mut env {
        if name == "HELIX_BIN" {
            *value = own.join("helix").display().to_string();
        }
    }
    let brokers = Session::start(BROKERS, args.nodes, false)?;
    env.extend(brokers.env());
    let mut command = Command::new(own.join("helix-torture"));
    command
        .args(["--seconds", &args.time.as_secs().to_string()])
        .args(["--commit", &commit()]);
    if let Some(seed) = args.seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if let Some(slow) = args.slow {
        command.args(["--slow", &slow.to_string()]);
    }
    for (flag, values) in [
        ("--broker", &args.broker),
        ("--arena", &args.arena),
        ("--rows", &args.rows),
    ] {
        if !values.is_empty() {
            command.args([flag, &values.join(",")]);
        }
    }
    if let Some(bugs) = &args.planted {
        command.arg("--planted");
        if !bugs.is_empty() {
            command.arg(bugs.join(","));
        }
    }
    execute(command, env)
}

/// The short run of `cargo xtask test`, with the host and the brokers that are there. The same choices each time: what fails
/// then is news of the change.
pub fn short(env: &Env) -> Result<()> {
    let mut command = Command::new(target().join("debug").join("helix-torture"));
    command.args(["--seed", "3", "--commit", &commit(), "--seconds", "75"]);
    execute(command, env.clone())
}

fn execute(mut command: Command, env: Env) -> Result<()> {
    command
        .arg("--result")
        .arg(target().join("torture.json"))
        .envs(env)
        .current_dir(root());
    if !status(&mut command)?.success() {
        bail!("the torture run found something");
    }
    say(format!("result in {}", target().join("torture.json").display()));
    Ok(())
}

fn commit() -> String {
    let mut git = Command::new("git");
    git.args(["describe", "--always", "--dirty", "--abbrev=10"])
        .current_dir(root());
    quiet(&mut git).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}
