//! `cargo xtask test`: everything, on a fresh machine, with real brokers.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::run::{run, say, watched};
use crate::session::{self, Session};
use crate::totals::Totals;
use crate::workspace::{cargo, root, wasm_target};
use crate::{check, docs, install, plugins, signals, torture};

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

pub fn main(args: &Args) -> Result<()> {
    signals::catch();
    let started = Instant::now();
    let mut env = session::prepare(BROKERS).context("preparing the machine")?;
    install::kcat()?;
    install::faketime()?;
    env.push((
        "HELIX_TEST_PYTHON".to_owned(),
        install::python()?.display().to_string(),
    ));
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
        let brokers = Session::start(BROKERS, 1, args.keep)?;
        env.extend(brokers.env());
        Some(brokers)
    };
    let mut totals = Totals::default();
    let mut test = Command::new(cargo());
    test.args(["test", "--workspace", "--no-fail-fast", "--"])
        .args(&args.filter)
        .current_dir(root());
    let tested = watched(test.envs(env.clone()), |line| totals.add(line));
    let mut failed = Vec::new();
    if !tested?.success() {
        failed.push("tests".to_owned());
    }
    if args.filter.is_empty()
        && let Err(e) = torture::short(&env)
    {
        failed.push(format!("torture: {e:#}"));
    }
    drop(brokers);
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
    // Again, at the end: it stood thousands of lines above.
    for line in totals.said.iter().flatten() {
        println!("{line}");
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
