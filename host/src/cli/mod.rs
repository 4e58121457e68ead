//! The command line: one file per command. Commands about a running host speak HTTP only.

mod call;
mod check;
mod client;
mod completion;
mod config;
mod dev;
mod dlq;
mod docs;
mod exit;
mod load;
mod new;
mod output;
mod plugin;
mod replay;
mod routes;
mod run;
mod send;
mod topology;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use exit::Exit;
use output::Format;

/// Sandboxed WebAssembly handlers on RabbitMQ, Kafka and an embedded durable broker.
#[derive(Debug, Parser)]
#[command(
    name = "helix",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Args)]
struct Global {
    /// Configuration file [default: ./config/helix.toml, ./helix.toml, $XDG_CONFIG_HOME/helix/helix.toml, /etc/helix/helix.toml]
    #[arg(long, short, global = true, value_name = "FILE", env = "HELIX_CONFIG")]
    config: Option<PathBuf>,
    /// Overrides one setting, e.g. `--set limits.headers=50`; may be repeated
    #[arg(long, global = true, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Data on stdout as text or JSON; talk goes to stderr
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Address of the running host [default: http:// and the configuration's `host.listen`]
    #[arg(long, global = true, value_name = "URL", env = "HELIX_URL")]
    url: Option<String>,
    /// Bearer token of the running host
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        env = "HELIX_API_TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new handler project
    New(new::New),
    /// Run the project of this folder: build, watch, rebuild, swap
    Dev(dev::Dev),
    /// Run the host
    Run(run::Run),
    /// Check configuration, plugins and promises without starting anything
    #[command(visible_alias = "lint")]
    Check(check::Check),
    /// Publish one message through the running host
    Send(send::Send),
    /// Run one handler on one message file, without a broker
    Call(call::Call),
    /// Show the routing table
    Routes(routes::Routes),
    /// Plugins: what serves, what a file contains
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    /// Dead letters of the running host
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    /// Read a stretch of a topic again
    #[command(subcommand)]
    Replay(replay::Replay),
    /// Compare and create queues and topics
    #[command(subcommand)]
    Topology(topology::Topology),
    /// Configuration: effective values, where they come from, schema, reference
    #[command(subcommand)]
    Config(config::Config),
    /// Print shell completion
    Completion(completion::Completion),
    /// Print generated documentation
    #[command(subcommand, hide = true)]
    Docs(docs::Docs),
}

impl Cli {
    /// # Errors
    /// The exit code and what to print; see [`Exit`].
    pub async fn run(self) -> Result<(), Exit> {
        let global = self.global;
        match self.command {
            Command::New(command) => command.run(&global),
            Command::Dev(command) => command.run(&global).await,
            Command::Run(command) => command.run(&global).await,
            Command::Check(command) => command.run(&global).await,
            Command::Send(command) => command.run(&global).await,
            Command::Call(command) => command.run(&global).await,
            Command::Routes(command) => command.run(&global),
            Command::Plugin(command) => command.run(&global).await,
            Command::Dlq(command) => command.run(&global).await,
            Command::Replay(command) => command.run(&global).await,
            Command::Topology(command) => command.run(&global).await,
            Command::Config(command) => command.run(&global),
            Command::Completion(command) => command.run(),
            Command::Docs(command) => command.run(),
        }
    }
}
