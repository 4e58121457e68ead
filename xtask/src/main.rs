//! `cargo xtask …`: the one list of developer commands; CI calls the same.

mod brokers;
mod install;
mod run;
mod signals;
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
    /// Real RabbitMQ and Kafka on loopback, without containers
    Brokers(brokers::Args),
}

fn main() -> std::process::ExitCode {
    let done = match Cli::parse().command {
        Task::Brokers(args) => brokers::main(args),
    };
    match done {
        Ok(code) => std::process::ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(e) => {
            run::say(format!("{e:#}"));
            std::process::ExitCode::FAILURE
        }
    }
}
