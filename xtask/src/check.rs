//! `cargo xtask check`: what must pass before every commit, under two minutes warm.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::plugins::clean;
use crate::run::{exists, say, status};
use crate::workspace::{cargo, root, wasm_target};

/// Runs every step even after one failed: one round shows everything.
pub fn main() -> Result<()> {
    let mut steps = style();
    steps.extend(quick_tests());
    if exists("cargo-deny") {
        steps.push(Step::new(
            "licences and bans",
            &["deny", "--log-level", "error", "check"],
        ));
    } else {
        say("cargo-deny is not installed: licences and bans go unchecked (`cargo install cargo-deny`)");
    }
    all(steps)
}

/// One cargo command with a title.
pub struct Step {
    title: &'static str,
    command: Command,
}

impl Step {
    fn new(title: &'static str, args: &[&str]) -> Self {
        let mut command = Command::new(cargo());
        command.args(args).current_dir(root());
        Self { title, command }
    }

    /// The same for a workspace of guests, if it is there.
    fn guests(title: &'static str, dir: &str, args: &[&str]) -> Option<Self> {
        let folder = root().join(dir);
        folder.join("Cargo.toml").exists().then(|| {
            let mut step = Self::new(title, args);
            clean(&mut step.command)
                .current_dir(folder)
                .env("CARGO_TARGET_DIR", wasm_target());
            step
        })
    }
}

/// Format and lints of all workspaces.
pub fn style() -> Vec<Step> {
    const FORMAT: [&str; 3] = ["fmt", "--all", "--check"];
    const LINT: [&str; 7] = [
        "clippy",
        "--quiet",
        "--workspace",
        "--target",
        "wasm32-wasip2",
        "--",
        "-Dwarnings",
    ];
    let steps = [
        Some(Step::new("format", &FORMAT)),
        Step::guests("format of plugins", "plugins", &FORMAT),
        Step::guests("format of test guests", "tests/guests", &FORMAT),
        Some(Step::new(
            "lints",
            &[
                "clippy",
                "--quiet",
                "--workspace",
                "--all-targets",
                "--",
                "-Dwarnings",
            ],
        )),
        Step::guests("lints of plugins", "plugins", &LINT),
        Step::guests("lints of test guests", "tests/guests", &LINT),
    ];
    steps.into_iter().flatten().collect()
}

/// Tests that need no broker.
fn quick_tests() -> Vec<Step> {
    // `--workspace` each time: the same features, so that dependencies are compiled once.
    const UNIT: [&str; 7] = [
        "test",
        "--quiet",
        "--workspace",
        "--lib",
        "--bins",
        "--",
        "--skip=on_a_real_broker",
    ];
    vec![
        Step::new("unit tests", &UNIT),
        Step::new(
            "architecture",
            &["test", "--quiet", "--workspace", "--test", "it", "architecture"],
        ),
    ]
}

/// Runs all, prints a line each, fails when one did.
pub fn all(steps: Vec<Step>) -> Result<()> {
    let whole = Instant::now();
    let mut failed = Vec::new();
    for mut step in steps {
        let started = Instant::now();
        let passed = status(&mut step.command)?.success();
        let word = if passed { "ok" } else { "FAILED" };
        say(format!(
            "{} {word} ({:.1} s)",
            step.title,
            started.elapsed().as_secs_f64()
        ));
        if !passed {
            failed.push(step.title);
        }
    }
    say(format!("{:.0} s in all", whole.elapsed().as_secs_f64()));
    if failed.is_empty() {
        Ok(())
    } else {
        bail!("failed: {}", failed.join(", "))
    }
}
