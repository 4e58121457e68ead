//! `cargo xtask …`: the one list of developer commands; CI calls the same.

mod bench;
mod brokers;
mod check;
#[cfg(test)]
mod compose;
mod demo;
mod docs;
mod fuzz;
mod http;
mod install;
mod plugins;
mod run;
mod session;
mod signals;
mod suite;
mod torture;
mod totals;
mod workspace;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Helix: commands for working on it"
)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// The main job on one machine: several types handled, a retry, dead letters, a handler swapped under traffic
    Demo,
    /// Everything: installs what is missing, starts real brokers, runs all tests, stops the brokers
    Test(suite::Args),
    /// Format, lints, unit tests, architecture: before every commit
    Check,
    /// Fuzz targets under libFuzzer, each for a minute; keeps corpus and crashes in fuzz/
    Fuzz(fuzz::Args),
    /// Real RabbitMQ and Kafka on loopback, without containers
    Brokers(brokers::Args),
    /// Faults on real hosts and brokers under load, and the proof that nothing was lost
    Torture(torture::Args),
    /// Ours against native loops, alternating in one run: target/bench.json and docs/benchmarks.md
    Bench(bench::Args),
    /// Build plugins/ and tests/guests/ to components
    Plugins,
    /// Regenerate config schema, config reference and metrics list
    Docs(docs::Args),
}

fn main() -> std::process::ExitCode {
    let done = if fuzz::rustc::asked() {
        fuzz::rustc::become_rustc()
    } else {
        command()
    };
    match done {
        Ok(code) => std::process::ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(e) => {
            run::say(format!("{e:#}"));
            std::process::ExitCode::FAILURE
        }
    }
}

fn command() -> anyhow::Result<i32> {
    workspace::leave_package();
    match Cli::parse().command {
        Task::Demo => demo::main().map(|()| 0),
        Task::Test(args) => suite::main(&args).map(|()| 0),
        Task::Check => check::main().map(|()| 0),
        Task::Fuzz(args) => fuzz::main(&args).map(|()| 0),
        Task::Brokers(args) => brokers::main(args),
        Task::Bench(args) => bench::main(&args).map(|()| 0),
        Task::Torture(args) => torture::main(&args).map(|()| 0),
        Task::Plugins => plugins::all().map(|()| 0),
        Task::Docs(args) => docs::main(&args).map(|()| 0),
    }
}
