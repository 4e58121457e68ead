//! One running broker (of Kafka: one node of a cluster): what is remembered about it, and what can be done to it.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::process::{Process, free};
use super::{certs, kafka, postgres, rabbitmq};
use crate::run::say;
use crate::workspace;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Rabbitmq,
    Kafka,
    Postgres,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Rabbitmq, Self::Kafka, Self::Postgres];

    pub fn word(self) -> &'static str {
        match self {
            Self::Rabbitmq => "rabbitmq",
            Self::Kafka => "kafka",
            Self::Postgres => "postgres",
        }
    }

    /// Below the kernel's range for outgoing connections (32768…), away from the ports of a broker in daily use.
    fn default_port(self) -> u16 {
        match self {
            Self::Rabbitmq => 21672,
            Self::Kafka => 21092,
            Self::Postgres => 21432,
        }
    }

    /// Distance of every listener from the first port.
    fn offsets(self) -> &'static [u16] {
        match self {
            Self::Rabbitmq => &[
                0,
                rabbitmq::TLS,
                rabbitmq::API,
                rabbitmq::METRICS,
                rabbitmq::STREAM,
                rabbitmq::DISTRIBUTION,
                rabbitmq::EPMD,
            ],
            Self::Kafka => &[
                0,
                kafka::TLS,
                kafka::SASL,
                kafka::CONTROLLER,
                kafka::PROXIED,
                kafka::PROXY,
            ],
            Self::Postgres => &[0],
        }
    }
}

impl Kind {
    /// As a power cut would do it.
    pub fn kill(self, process: Process) -> Result<()> {
        match self {
            Self::Rabbitmq | Self::Kafka => process.kill(),
            Self::Postgres => process.kill_with_children(),
        }
    }

    /// Orderly.
    pub fn end(self, process: Process) -> Result<()> {
        let signal = match self {
            Self::Rabbitmq | Self::Kafka => libc::SIGTERM,
            // To SIGTERM it would wait until the last client has gone.
            Self::Postgres => libc::SIGINT,
        };
        self.signal(process, libc::SIGCONT);
        process.end(signal, Duration::from_secs(20))
    }

    /// To all that works on its connections.
    pub fn signal(self, process: Process, signal: i32) {
        process.signal(signal);
        if self == Self::Postgres {
            for child in process.children() {
                child.signal(signal);
            }
        }
    }
}

/// How a broker is to be started.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Keeps several sets of brokers apart
    #[arg(long, env = "HELIX_BROKERS_NAME", default_value = "dev", value_parser = name)]
    pub name: String,
    /// First port of RabbitMQ: P AMQP, P+10 AMQP over TLS, P+20 management, P+30 Prometheus (default: 21672 or the next free)
    #[arg(long)]
    pub rabbitmq_port: Option<u16>,
    /// First port of Kafka: P plain, P+10 TLS, P+20 SASL over TLS, P+30 controller, P+40 behind a proxy at P+50 (default: 21092 or the next free)
    #[arg(long)]
    pub kafka_port: Option<u16>,
    /// Port of Postgres, with and without TLS (default: 21432 or the next free)
    #[arg(long)]
    pub postgres_port: Option<u16>,
    /// Kafka as a cluster of so many nodes, whose ports lie 100 apart; topics may lose one of three
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=3))]
    pub nodes: u16,
    /// Plain listeners only: no TLS, no SASL
    #[arg(long)]
    pub plain: bool,
    /// Kafka with its full compiler and 1 GiB of heap: a slower start, and a rate that may be written down
    #[arg(long)]
    pub for_figures: bool,
    /// Data in a temporary folder instead of target/brokers
    #[arg(long)]
    pub temp: bool,
    /// RabbitMQ, Postgres: lines added to rabbitmq.conf, postgresql.conf. Kafka: properties in place of ours. For one broker at a time
    #[arg(long, value_name = "FILE")]
    pub settings: Option<PathBuf>,
    /// Give up when a broker is not ready after so many seconds
    #[arg(long, default_value_t = 120)]
    pub timeout: u64,
}

fn name(text: &str) -> Result<String, String> {
    let fine = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if fine {
        Ok(text.to_owned())
    } else {
        Err("letters, digits and `-` only".to_owned())
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cluster {
    pub kind: Kind,
    pub name: String,
    /// From 1.
    pub node: u16,
    pub port: u16,
    /// First ports of all nodes, this one's among them.
    pub ports: Vec<u16>,
    pub data: PathBuf,
    /// CA and certificates; none = plain listeners only.
    pub tls: Option<PathBuf>,
    pub user: String,
    pub password: String,
    /// Kafka's JVM as one would run it, not as tests do.
    #[serde(default)]
    pub for_figures: bool,
    pub process: Option<Process>,
    /// RabbitMQ's port mapper daemon.
    pub epmd: Option<Process>,
}

/// Folder of all brokers of a name.
fn home(name: &str) -> PathBuf {
    let all = std::env::var_os("HELIX_BROKERS_STATE")
        .map_or_else(|| workspace::target().join("brokers"), PathBuf::from);
    all.join(name)
}

impl Cluster {
    fn record(kind: Kind, name: &str, node: u16) -> PathBuf {
        home(name).join(format!("{}.json", place(kind, node)))
    }

    /// All nodes that are recorded, in order; empty when there is no such broker.
    pub fn nodes(kind: Kind, name: &str) -> Result<Vec<Self>> {
        let Some(first) = Self::load(kind, name, 1)? else {
            return Ok(Vec::new());
        };
        let others = (2..).take(first.ports.len().saturating_sub(1));
        let mut nodes = vec![first];
        for node in others {
            nodes.extend(Self::load(kind, name, node)?);
        }
        Ok(nodes)
    }

    fn load(kind: Kind, name: &str, node: u16) -> Result<Option<Self>> {
        let path = Self::record(kind, name, node);
        match fs::read(&path) {
            Ok(text) => Ok(Some(
                serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?,
            )),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    pub fn save(&self) -> Result<()> {
        let path = Self::record(self.kind, &self.name, self.node);
        let fresh = path.with_extension("json.tmp");
        fs::write(&fresh, serde_json::to_vec_pretty(self)?)?;
        fs::rename(fresh, path)?;
        Ok(())
    }

    pub fn running(&self) -> bool {
        self.process.is_some_and(Process::alive)
    }

    /// The process, or an error that says how to get one.
    pub fn process(&self) -> Result<Process> {
        match self.process {
            Some(process) if process.alive() => Ok(process),
            _ => bail!("{self} does not run: `cargo xtask brokers start|restart` starts it"),
        }
    }

    /// Starts the process on the data that is there.
    pub fn launch(&mut self) -> Result<()> {
        let launched = match self.kind {
            Kind::Rabbitmq => rabbitmq::launch(self),
            Kind::Kafka => kafka::launch(self),
            Kind::Postgres => postgres::launch(self),
        };
        // Recorded before it is ready: an interrupted start can still be stopped.
        self.save()?;
        launched
    }

    /// Waits until it serves. Of a cluster, a majority has to be launched.
    pub fn await_ready(&self, limit: Duration) -> Result<()> {
        let ready = match self.kind {
            Kind::Rabbitmq => rabbitmq::await_ready(self, limit),
            Kind::Kafka => kafka::await_ready(self, limit),
            Kind::Postgres => postgres::await_ready(self, limit),
        };
        ready.with_context(|| format!("{self} did not start"))
    }

    /// Orderly stop; the data stays unless `wipe`.
    pub fn stop(&mut self, wipe: bool) -> Result<()> {
        if let Some(process) = self.process.take() {
            // Nobody will miss data that is about to be deleted.
            if wipe {
                self.kind.kill(process)?;
            } else {
                self.kind.end(process)?;
            }
        }
        if let Some(epmd) = self.epmd.take() {
            epmd.end(libc::SIGTERM, Duration::from_secs(2))?;
        }
        if !wipe {
            return self.save();
        }
        fs::remove_dir_all(&self.data).ok();
        fs::remove_file(Self::record(self.kind, &self.name, self.node))?;
        // Gone with the last broker of a name that never had certificates; refused by the system while anything is inside.
        fs::remove_dir(home(&self.name)).ok();
        Ok(())
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\"", self.kind.word(), self.name)?;
        if self.ports.len() > 1 {
            write!(f, " node {}", self.node)?;
        }
        Ok(())
    }
}

/// Its folder and its record: the first node needs no number.
fn place(kind: Kind, node: u16) -> String {
    match node {
        1 => kind.word().to_owned(),
        n => format!("{}-{n}", kind.word()),
    }
}

/// Starts a broker, all its nodes, with fresh data. Running already: that one is answered, untouched.
pub fn start(kind: Kind, options: &Options) -> Result<Vec<Cluster>> {
    if !cfg!(target_os = "linux") {
        bail!("brokers without containers need Linux (Debian or a relative)");
    }
    let old = Cluster::nodes(kind, &options.name)?;
    if let Some(first) = old.first()
        && old.iter().all(Cluster::running)
    {
        say(format!("{first} runs already on port {}", first.port));
        return Ok(old);
    }
    for mut node in old.into_iter().rev() {
        node.stop(true)?;
    }
    match kind {
        Kind::Rabbitmq => rabbitmq::install()?,
        Kind::Kafka => kafka::install()?,
        Kind::Postgres => postgres::install()?,
    }
    let started = Instant::now();
    let mut nodes = prepare(kind, options)?;
    let limit = Duration::from_secs(options.timeout);
    let launched = nodes
        .iter_mut()
        .try_for_each(Cluster::launch)
        .and_then(|()| nodes.iter().try_for_each(|node| node.await_ready(limit)));
    if let Err(e) = launched {
        // The log's tail is in the error; leaving a half-started broker behind would block the ports.
        for node in &mut nodes {
            node.stop(false)?;
        }
        return Err(e);
    }
    for node in &nodes {
        let seconds = started.elapsed().as_secs_f64();
        say(format!("{node} ready on port {} in {seconds:.1} s", node.port));
    }
    Ok(nodes)
}

/// Folders, certificates and settings of all nodes.
fn prepare(kind: Kind, options: &Options) -> Result<Vec<Cluster>> {
    let home = home(&options.name);
    fs::create_dir_all(&home)?;
    let home = home.canonicalize()?;
    let tls = (!options.plain).then(|| home.join("tls"));
    if let Some(dir) = &tls {
        // They start at the same time and share the certificates.
        let lock = File::create(home.join(".certs.lock"))?;
        lock.lock()?;
        certs::make(dir)?;
    }
    let settings = options
        .settings
        .as_ref()
        .map(fs::read_to_string)
        .transpose()
        .context("--settings")?;
    let ports = ports(kind, options)?;
    let password = random_hex(12)?;
    let mut nodes = Vec::new();
    for (node, port) in (1..).zip(ports.iter().copied()) {
        let cluster = Cluster {
            kind,
            name: options.name.clone(),
            node,
            port,
            ports: ports.clone(),
            data: data_folder(kind, node, options, &home)?,
            tls: tls.clone(),
            user: "helix".to_owned(),
            password: password.clone(),
            for_figures: options.for_figures,
            process: None,
            epmd: None,
        };
        match kind {
            Kind::Rabbitmq => rabbitmq::prepare(&cluster, settings.as_deref().unwrap_or_default())?,
            Kind::Kafka => kafka::prepare(&cluster, settings.clone())?,
            Kind::Postgres => postgres::prepare(&cluster, settings.as_deref().unwrap_or_default())?,
        }
        nodes.push(cluster);
    }
    Ok(nodes)
}

/// Stops a broker and removes its data unless `keep`; false when there is none.
pub fn stop(kind: Kind, name: &str, keep: bool) -> Result<bool> {
    let mut nodes = Cluster::nodes(kind, name)?;
    // The first one last: its record says how many there are.
    for node in nodes.iter_mut().rev() {
        node.stop(!keep)?;
    }
    Ok(!nodes.is_empty())
}

fn data_folder(kind: Kind, node: u16, options: &Options, home: &Path) -> Result<PathBuf> {
    let place = place(kind, node);
    let dir = if options.temp || kind == Kind::Postgres && postgres::elsewhere()? {
        std::env::temp_dir().join(format!("helix-{place}-{}-{}", options.name, random_hex(4)?))
    } else {
        home.join(place)
    };
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

/// Between the first ports of two nodes, and of two tries.
const STEP: u16 = 100;

/// The first port of each node.
fn ports(kind: Kind, options: &Options) -> Result<Vec<u16>> {
    let (asked, count) = match kind {
        Kind::Rabbitmq => (options.rabbitmq_port, 1),
        Kind::Kafka => (options.kafka_port, options.nodes),
        Kind::Postgres => (options.postgres_port, 1),
    };
    let all = |first: u16| (0..count).map(move |node| first.saturating_add(node * STEP));
    let taken = |first: u16| {
        all(first)
            .flat_map(|first| {
                kind.offsets()
                    .iter()
                    .map(move |offset| first.saturating_add(*offset))
            })
            .find(|port| !free(*port))
    };
    if let Some(first) = asked {
        if let Some(port) = taken(first) {
            bail!("port {port} is taken; choose another with --{}-port", kind.word());
        }
        return Ok(all(first).collect());
    }
    (0..10)
        .map(|step| kind.default_port() + step * STEP)
        .find(|first| taken(*first).is_none())
        .map(|first| all(first).collect())
        .with_context(|| {
            format!(
                "no free ports for {}; name one with --{}-port",
                kind.word(),
                kind.word()
            )
        })
}

fn random_hex(bytes: usize) -> Result<String> {
    use std::io::Read;
    let mut raw = vec![0; bytes];
    File::open("/dev/urandom")?.read_exact(&mut raw)?;
    Ok(raw.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// What tests and people need to reach the brokers, as environment variables.
pub fn env_of(clusters: &[Cluster]) -> Vec<(String, String)> {
    let mut env = Vec::new();
    let mut set = |name: &str, value: String| env.push((format!("HELIX_TEST_{name}"), value));
    // The first node knows the others.
    for cluster in clusters.iter().filter(|cluster| cluster.node == 1) {
        match cluster.kind {
            Kind::Rabbitmq => rabbitmq::env(cluster, &mut set),
            Kind::Kafka => kafka::env(cluster, &mut set),
            Kind::Postgres => postgres::env(cluster, &mut set),
        }
    }
    if let Some(tls) = clusters.iter().find_map(|cluster| cluster.tls.as_ref()) {
        set("TLS_DIR", tls.display().to_string());
    }
    env
}

/// Lines for `eval`.
pub fn exports(env: &[(String, String)]) -> String {
    env.iter()
        .map(|(name, value)| format!("export {name}='{value}'\n"))
        .collect()
}
