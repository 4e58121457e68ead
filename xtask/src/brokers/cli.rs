//! `cargo xtask brokers …`.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

use super::cluster::{Cluster, Kind, Options, env_of, exports, start, stop};
use super::process::Process;
use super::{kafka, postgres, rabbitmq};
use crate::run::say;

#[derive(Parser)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

/// Which ones: RabbitMQ, Kafka, Postgres, or all when none is named.
#[derive(clap::Args)]
struct Which {
    kind: Option<Kind>,
    /// Keeps several sets of brokers apart
    #[arg(long, env = "HELIX_BROKERS_NAME", default_value = "dev")]
    name: String,
    /// Of a cluster, only this node
    #[arg(long)]
    node: Option<u16>,
}

#[derive(Subcommand)]
enum Action {
    /// Start with fresh data; prints `export` lines for eval
    Start {
        kind: Option<Kind>,
        #[command(flatten)]
        options: Options,
        /// Print the environment as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Stop and remove the data
    Stop {
        #[command(flatten)]
        which: Which,
        /// Keep the data, for `restart`
        #[arg(long)]
        keep_data: bool,
    },
    /// One line a broker; exit 0 when all run, 3 otherwise
    Status {
        #[command(flatten)]
        which: Which,
        #[arg(long)]
        json: bool,
    },
    /// Print the `export` lines again
    Env {
        #[command(flatten)]
        which: Which,
        #[arg(long)]
        json: bool,
    },
    /// SIGKILL, as a power cut would do it
    Kill(Which),
    /// Start again on the data that is there (running: orderly stop first)
    Restart(Which),
    /// SIGSTOP: it hangs, connections stay open
    Pause(Which),
    /// SIGCONT
    Resume(Which),
    /// Their own tools, e.g. `tool rabbitmq list_queues`, `tool kafka org.apache.kafka.tools.TopicCommand --list`, `tool postgres -c 'SELECT 1'`
    Tool {
        kind: Kind,
        #[arg(long, env = "HELIX_BROKERS_NAME", default_value = "dev")]
        name: String,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        args: Vec<String>,
    },
}

impl Which {
    fn kinds(&self) -> Vec<Kind> {
        self.kind.map_or_else(|| Kind::ALL.to_vec(), |kind| vec![kind])
    }

    /// The recorded ones; naming none that exists is an error.
    fn clusters(&self) -> Result<Vec<Cluster>> {
        let mut found = Vec::new();
        for kind in self.kinds() {
            found.extend(Cluster::nodes(kind, &self.name)?);
        }
        found.retain(|cluster| self.node.is_none_or(|node| node == cluster.node));
        if found.is_empty() {
            bail!(
                "no brokers named \"{}\": `cargo xtask brokers start --name {}` starts them",
                self.name,
                self.name
            );
        }
        Ok(found)
    }
}

pub fn main(args: Args) -> Result<i32> {
    match args.action {
        Action::Start { kind, options, json } => {
            let kinds = kind.map_or_else(|| Kind::ALL.to_vec(), |kind| vec![kind]);
            print_env(&start_all(&kinds, &options)?, json)?;
        }
        Action::Stop { which, keep_data } => {
            for kind in which.kinds() {
                if stop(kind, &which.name, keep_data)? {
                    say(format!("{} \"{}\" stopped", kind.word(), which.name));
                }
            }
        }
        Action::Status { which, json } => return status(&which, json),
        Action::Env { which, json } => print_env(&which.clusters()?, json)?,
        Action::Kill(which) => {
            for mut cluster in which.clusters()? {
                let process = cluster.process()?;
                cluster.kind.kill(process)?;
                cluster.process = None;
                cluster.save()?;
                say(format!("{cluster} killed (pid {})", process.pid));
            }
        }
        Action::Restart(which) => {
            let clusters = which.clusters()?;
            let restarted: Vec<Result<()>> = thread::scope(|scope| {
                let handles: Vec<_> = clusters
                    .into_iter()
                    .map(|cluster| scope.spawn(|| restart(cluster)))
                    .collect();
                handles
                    .into_iter()
                    .filter_map(|handle| handle.join().ok())
                    .collect()
            });
            restarted.into_iter().collect::<Result<()>>()?;
        }
        Action::Pause(which) => signal(&which, libc::SIGSTOP)?,
        Action::Resume(which) => signal(&which, libc::SIGCONT)?,
        Action::Tool { kind, name, args } => {
            let nodes = Cluster::nodes(kind, &name)?;
            let Some(cluster) = nodes.first() else {
                bail!("no {} named \"{name}\"", kind.word());
            };
            let mut command: Command = match kind {
                Kind::Rabbitmq => rabbitmq::ctl(cluster),
                Kind::Kafka => kafka::client(cluster, &args)?,
                Kind::Postgres => postgres::client(cluster)?,
            };
            if kind != Kind::Kafka {
                command.args(args);
            }
            return Ok(crate::run::status(&mut command)?.code().unwrap_or(1));
        }
    }
    Ok(0)
}

fn restart(mut cluster: Cluster) -> Result<()> {
    cluster.stop(false)?;
    let started = Instant::now();
    cluster.launch()?;
    cluster.await_ready(Duration::from_secs(120))?;
    let seconds = started.elapsed().as_secs_f64();
    say(format!("{cluster} ready in {seconds:.1} s"));
    Ok(())
}

/// Starts the brokers side by side; when one fails, the others are stopped again.
pub fn start_all(kinds: &[Kind], options: &Options) -> Result<Vec<Cluster>> {
    let results: Vec<Result<Vec<Cluster>>> = thread::scope(|scope| {
        let handles: Vec<_> = kinds
            .iter()
            .map(|kind| scope.spawn(|| start(*kind, options)))
            .collect();
        let ended = |handle: thread::ScopedJoinHandle<'_, Result<Vec<Cluster>>>| {
            handle
                .join()
                .unwrap_or_else(|_| Err(anyhow::anyhow!("starting panicked")))
        };
        handles.into_iter().map(ended).collect()
    });
    if results.iter().any(Result::is_err) {
        for mut cluster in results.iter().flatten().flatten().cloned() {
            cluster.stop(true).ok();
        }
    }
    let started: Result<Vec<Vec<Cluster>>> = results.into_iter().collect();
    Ok(started?.into_iter().flatten().collect())
}

fn signal(which: &Which, signal: i32) -> Result<()> {
    for cluster in which.clusters()? {
        cluster.kind.signal(cluster.process()?, signal);
    }
    Ok(())
}

fn print_env(clusters: &[Cluster], json: bool) -> Result<()> {
    let env = env_of(clusters);
    if json {
        let object: serde_json::Map<_, _> = env
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect();
        println!("{}", serde_json::to_string_pretty(&object)?);
    } else {
        print!("{}", exports(&env));
    }
    Ok(())
}

fn status(which: &Which, json: bool) -> Result<i32> {
    let mut all_run = true;
    let mut rows = Vec::new();
    for kind in which.kinds() {
        let nodes = Cluster::nodes(kind, &which.name)?;
        if nodes.is_empty() {
            all_run = false;
            rows.push(serde_json::json!({ "broker": kind.word(), "name": which.name, "state": "absent" }));
        }
        for cluster in nodes {
            let process = cluster.process().ok();
            all_run &= process.is_some();
            rows.push(serde_json::json!({
                "broker": kind.word(), "name": which.name, "node": cluster.node,
                "state": if process.is_some() { "running" } else { "stopped" },
                "port": cluster.port, "pid": process.map(|p| p.pid),
                "rss_mib": process.and_then(Process::rss_mib), "data": cluster.data,
            }));
        }
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        for row in &rows {
            let word = |key: &str| {
                row.get(key)
                    .map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned))
                    .unwrap_or_default()
            };
            println!(
                "{:<9} {:<8} port {} pid {} rss {} MiB {}",
                word("broker"),
                word("state"),
                word("port"),
                word("pid"),
                word("rss_mib"),
                word("data")
            );
        }
    }
    Ok(if all_run { 0 } else { 3 })
}
