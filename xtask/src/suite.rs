//! `cargo xtask test`: everything, on a fresh machine, with real brokers.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::brokers::{self, Kind};
use crate::run::{run, say, watched};
use crate::totals::Totals;
use crate::workspace::{cargo, host_binary, root, target, wasm_target};
use crate::{check, docs, install, plugins, signals};

/// Brokers of a test run are apart from those a person started by hand.
const BROKERS: &str = "test";

#[derive(clap::Args)]
pub struct Args {
    /// Leave the brokers running afterwards
    #[arg(long)]
    keep: bool,
    /// Start no brokers: use those that HELIX_TEST_* already name
    #[arg(long)]
    no_brokers: bool,
    /// Only tests whose name contains this (skips format and lints); then arguments of the test binary
    #[arg(last = true)]
    filter: Vec<String>,
}

type Env = Vec<(String, String)>;

/// Stops the brokers whatever happens.
struct Running {
    keep: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.keep {
            say(format!(
                "brokers left running: `cargo xtask brokers stop --name {BROKERS}`"
            ));
            return;
        }
        for kind in Kind::ALL {
            if let Err(e) = brokers::stop(kind, BROKERS, false) {
                say(format!("{} did not stop: {e:#}", kind.word()));
            }
        }
    }
}

pub fn main(args: &Args) -> Result<()> {
    signals::catch();
    let started = Instant::now();
    let mut env = prepare().context("preparing the machine")?;
    say("building plugins, test guests, host and tests");
    plugins::all()?;
    // One command for all, before the brokers start. One: the same features, so nothing is compiled twice. Before: on two
    // cores brokers and compilers only slow each other down.
    run(Command::new(cargo())
        .args(["build", "--workspace", "--bins", "--tests"])
        .current_dir(root()))?;

    let brokers = if args.no_brokers {
        None
    } else {
        let running = Running { keep: args.keep };
        env.extend(start_brokers()?);
        Some(running)
    };
    let mut totals = Totals::default();
    let mut test = Command::new(cargo());
    test.args(["test", "--workspace", "--no-fail-fast", "--"])
        .args(&args.filter)
        .current_dir(root())
        .envs(env);
    let tested = watched(&mut test, |line| totals.add(line));
    drop(brokers);
    let mut failed = Vec::new();
    if !tested?.success() {
        failed.push("tests".to_owned());
    }
    if args.filter.is_empty() {
        if !test_plugins(&mut totals)? {
            failed.push("tests of plugins".to_owned());
        }
        if let Err(e) = docs::check() {
            failed.push(format!("generated docs: {e:#}"));
        }
        // Last: they compile every dependency a second time, and a failed test is the more urgent news.
        if let Err(e) = check::all(check::style()) {
            failed.push(format!("{e:#}"));
        }
    }
    for step in &failed {
        say(format!("FAILED: {step}"));
    }
    println!(
        "\ncargo xtask test: {totals} in {:.0} s",
        started.elapsed().as_secs_f64()
    );
    if totals.passed + totals.failed == 0 {
        bail!("no test ran");
    }
    if !failed.is_empty() {
        bail!("{} step(s) failed", failed.len());
    }
    Ok(())
}

/// Handlers are tested natively, without a host.
fn test_plugins(totals: &mut Totals) -> Result<bool> {
    let dir = root().join("plugins");
    if !dir.join("Cargo.toml").exists() {
        return Ok(true);
    }
    let mut test = Command::new(cargo());
    test.args(["test", "--workspace", "--no-fail-fast"])
        .current_dir(dir)
        .env("CARGO_TARGET_DIR", wasm_target());
    Ok(watched(plugins::clean(&mut test), |line| totals.add(line))?.success())
}

/// Installs what is missing; answers what the tests are told.
fn prepare() -> Result<Env> {
    install::native_build_tools()?;
    install::wasm_target()?;
    install::kcat()?;
    let python = install::python()?;
    Ok([
        ("HELIX_BIN", host_binary()),
        ("HELIX_TEST_GUESTS", plugins::guests_folder()),
        ("HELIX_TEST_PYTHON", python),
        // `$HELIX_TEST_BROKERS_CTL brokers kill|restart|pause|resume rabbitmq|kafka`
        ("HELIX_TEST_BROKERS_CTL", std::env::current_exe()?),
        ("HELIX_BROKERS_STATE", target().join("brokers")),
        ("HELIX_BROKERS_NAME", BROKERS.into()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.display().to_string()))
    .collect())
}

fn start_brokers() -> Result<Env> {
    let options = brokers::Options {
        name: BROKERS.to_owned(),
        rabbitmq_port: None,
        kafka_port: None,
        plain: false,
        for_figures: false,
        temp: false,
        settings: None,
        timeout: 180,
    };
    // Left over from a run that was killed: its messages would confuse this one.
    for kind in Kind::ALL {
        brokers::stop(kind, BROKERS, false)?;
    }
    Ok(brokers::env_of(&brokers::start_all(&Kind::ALL, &options)?))
}
