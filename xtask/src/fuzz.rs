//! `cargo xtask fuzz`: builds the targets of `fuzz/` for coverage, runs each for a while, keeps what they found.

mod corpus;
mod report;
pub mod rustc;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use self::report::Report;
use crate::run::{run, say, status};
use crate::workspace::{cargo, root, target};
use crate::{install, signals};

#[derive(clap::Args)]
pub struct Args {
    /// How long each target runs: 10s, 2m, 1h
    #[arg(long = "for", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    time: Duration,
    /// Only these: envelope, headers, toml, route, component
    #[arg(value_name = "TARGET", value_parser = known)]
    targets: Vec<Target>,
}

/// A function of `fuzz/src` and the program `fuzz/targets/<name>.rs` that gives it to libFuzzer.
#[derive(Debug, Clone, Copy)]
struct Target {
    name: &'static str,
    /// Longer inputs are not made: what they could show, shorter ones show sooner.
    longest: usize,
}

const TARGETS: [Target; 5] = [
    Target::new("envelope", 4 << 10),
    Target::new("headers", 4 << 10),
    Target::new("toml", 4 << 10),
    Target::new("route", 512),
    // The target itself refuses what is larger.
    Target::new("component", 64 << 10),
];

impl Target {
    const fn new(name: &'static str, longest: usize) -> Self {
        Self { name, longest }
    }

    fn program(self) -> PathBuf {
        target()
            .join("debug/examples")
            .join(format!("fuzz-{}", self.name))
    }

    /// A folder of `fuzz/`: seeds, corpus, regressions.
    fn folder(self, kind: &str) -> PathBuf {
        root().join("fuzz").join(kind).join(self.name)
    }

    /// What one run leaves for the next on this machine, and its log.
    fn work(self, kind: &str) -> PathBuf {
        target().join("fuzz").join(self.name).join(kind)
    }
}

pub fn main(args: &Args) -> Result<()> {
    signals::catch();
    install::native_build_tools().context("libFuzzer is C++, and there is no compiler for it")?;
    let chosen = if args.targets.is_empty() {
        TARGETS.to_vec()
    } else {
        args.targets.clone()
    };
    build(&chosen)?;
    let reports = run_all(&chosen, args.time)?;
    print!("{}", report::table(&reports));
    let failed: Vec<&str> = reports.iter().filter(|r| r.failed).map(|r| r.target).collect();
    if failed.is_empty() {
        return Ok(());
    }
    for name in &failed {
        say(format!(
            "{name}: the input is in fuzz/regressions/{name}/, the message in {}",
            target().join("fuzz").join(name).join("log").display()
        ));
    }
    bail!(
        "failed: {}. `cargo test --workspace --test kept` replays them",
        failed.join(", ")
    )
}

/// Only the workspace's own crates are compiled for coverage; dependencies are those of `cargo test`, not compiled again.
fn build(targets: &[Target]) -> Result<()> {
    let mut command = Command::new(cargo());
    // `--workspace`, and examples instead of binaries: cargo then unifies features as it does for tests.
    command
        .args(["build", "--workspace", "--features", "helix-fuzz/fuzzing"])
        .current_dir(root())
        .env("RUSTC_WORKSPACE_WRAPPER", std::env::current_exe()?)
        .env(rustc::MARK, "1");
    for target in targets {
        command.args(["--example", &format!("fuzz-{}", target.name)]);
    }
    run(&mut command)
}

/// As many at a time as there are processors; libFuzzer uses one.
fn run_all(targets: &[Target], time: Duration) -> Result<Vec<Report>> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let waiting = Mutex::new(targets.iter());
    let next = || waiting.lock().ok()?.next().copied();
    let done = std::thread::scope(|scope| {
        let work = || {
            let mut reports = Vec::new();
            while let Some(target) = next() {
                say(format!("{} for {} s at most", target.name, time.as_secs().max(1)));
                reports.push(
                    fuzz(target, time).with_context(|| format!("the target {} did not run", target.name))?,
                );
            }
            Ok(reports)
        };
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles
            .into_iter()
            .map(|handle| {
                handle
                    .join()
                    .unwrap_or_else(|_| bail!("a thread of xtask panicked"))
            })
            .collect::<Result<Vec<Vec<Report>>>>()
    })?;
    let mut reports: Vec<Report> = done.into_iter().flatten().collect();
    reports.sort_by_key(|r| targets.iter().position(|t| t.name == r.target));
    Ok(reports)
}

fn fuzz(target: Target, time: Duration) -> Result<Report> {
    let kept = target.folder("corpus");
    let found = target.folder("regressions");
    let (work, log) = (target.work("corpus"), target.work("log"));
    for folder in [&kept, &found, &work] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let before = corpus::Size::of(&kept)?;
    let known = corpus::files(&found)?;
    let mut command = Command::new(target.program());
    command
        .arg(format!("-max_total_time={}", time.as_secs().max(1)))
        .args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .arg(format!("-max_len={}", target.longest))
        .arg(format!("-artifact_prefix={}/", found.display()));
    let words = root().join("fuzz/dict").join(format!("{}.dict", target.name));
    if words.exists() {
        command.arg(format!("-dict={}", words.display()));
    }
    // New inputs go to the first folder.
    command.args([&work, &kept, &target.folder("seeds"), &found]);
    let passed = logged(&mut command, &log)?;
    let said = fs::read_to_string(&log).unwrap_or_default();
    if passed {
        corpus::minimise(&target.program(), &work, &kept, &target.work("merged"), |merge| {
            logged(merge, &target.work("merge.log"))
        })?;
    }
    let crashes = corpus::files(&found)?
        .iter()
        .filter(|file| !known.contains(file))
        .count();
    // Git keeps no empty folder, so none is left behind.
    fs::remove_dir(&found).ok();
    Ok(Report {
        target: target.name,
        runs: report::stat(&said, "number_of_executed_units"),
        runs_per_second: report::stat(&said, "average_exec_per_sec"),
        before,
        after: corpus::Size::of(&kept)?,
        crashes,
        failed: !passed,
    })
}

/// True when it ended well. libFuzzer says everything on stderr.
fn logged(command: &mut Command, log: &Path) -> Result<bool> {
    let file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    command.stdout(Stdio::null()).stderr(file);
    Ok(status(command)?.success())
}

fn known(name: &str) -> Result<Target> {
    let found = TARGETS.iter().find(|t| t.name == name).copied();
    found.with_context(|| {
        let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
        format!("there are {}", names.join(", "))
    })
}

fn duration(text: &str) -> Result<Duration> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let unit = match text.get(digits.len()..) {
        Some("s") => 1,
        Some("m") => 60,
        Some("h") => 3600,
        _ => bail!("write it like 10s, 2m or 1h"),
    };
    let number: u64 = digits.parse().context("write it like 10s, 2m or 1h")?;
    let seconds = number
        .checked_mul(unit)
        .filter(|s| *s > 0)
        .context("it has to be longer than nothing")?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, seconds) in [("10s", Some(10)), ("2m", Some(120)), ("1h", Some(3600))] {
            assert_eq!(duration(text).ok().map(|d| d.as_secs()), seconds, "{text}");
        }
        for text in ["", "10", "s", "0s", "-1s", "1d", "99999999999999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    /// Each has its program, its words' folder and seeds to start from.
    #[test]
    fn every_target_is_there() {
        for target in TARGETS {
            let program = root().join(format!("fuzz/targets/{}.rs", target.name));
            assert!(program.exists(), "{}", program.display());
            assert!(target.folder("seeds").is_dir(), "{}", target.name);
        }
    }
}
