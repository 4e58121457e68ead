//! Kafka in KRaft mode: a node is one JVM that is broker and controller, on loopback, all under one folder.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::cluster::Cluster;
use super::process::{Process, await_line, rotate};
use crate::run::quiet;

mod install;

pub use install::install;

pub const TLS: u16 = 10;
pub const SASL: u16 = 20;
pub const CONTROLLER: u16 = 30;
/// A plain listener that says its address is the port after it: what talks to the broker there goes through a proxy of a
/// test, also after it has asked for the cluster's addresses.
pub const PROXIED: u16 = 40;
pub const PROXY: u16 = 50;

const LOGIN: &str = "org.apache.kafka.common.security";

fn properties_file(cluster: &Cluster) -> PathBuf {
    cluster.data.join("server.properties")
}

fn log(cluster: &Cluster) -> PathBuf {
    cluster.data.join("server.log")
}

/// Writes the settings and formats the log folder with the SCRAM user in it.
pub fn prepare(cluster: &Cluster, settings: Option<String>) -> Result<()> {
    let properties = properties_file(cluster);
    let settings = settings.unwrap_or_else(|| ours(cluster));
    // The last line of a key wins: data is in our folder whoever wrote the settings.
    fs::write(
        &properties,
        format!("{settings}\nlog.dirs={}\n", cluster.data.join("data").display()),
    )?;
    let mut users = Vec::new();
    if cluster.tls.is_some() {
        for mechanism in ["SCRAM-SHA-512", "SCRAM-SHA-256"] {
            users.push("--add-scram".to_owned());
            users.push(format!(
                "{mechanism}=[name={},password={}]",
                cluster.user, cluster.password
            ));
        }
    }
    format(&properties, &users)
}

/// `kafka-storage format` with an id of 16 fixed bytes: one cluster, one folder, nothing to mix up.
pub fn format(properties: &std::path::Path, users: &[String]) -> Result<()> {
    let mut tool = tool(&["kafka.tools.StorageTool".to_owned()]);
    tool.args(["format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c"])
        .arg(properties)
        .args(users);
    quiet(&mut tool)
        .map(drop)
        .context("Kafka could not format its log folder")
}

fn ours(cluster: &Cluster) -> String {
    let Cluster {
        node,
        port,
        ports,
        user,
        password,
        ..
    } = cluster;
    let at = |offset: u16| port + offset;
    let mut listeners = format!("PLAINTEXT://127.0.0.1:{port}");
    let (proxied, proxy) = (at(PROXIED), at(PROXY));
    if cluster.tls.is_some() {
        listeners.push_str(&format!(
            ",SSL://127.0.0.1:{},SASL_SSL://127.0.0.1:{}",
            at(TLS),
            at(SASL)
        ));
    }
    let controller = at(CONTROLLER);
    let voters = (1..)
        .zip(ports)
        .map(|(node, port)| format!("{node}@127.0.0.1:{}", port + CONTROLLER))
        .collect::<Vec<_>>()
        .join(",");
    let replicas = ports.len();
    // What is confirmed is on a majority: one of three nodes may go.
    let in_sync = replicas / 2 + 1;
    // Small buffers and short timeouts: one broker of a test must start fast and notice a dead client at once.
    let mut text = format!(
        "process.roles=broker,controller\n\
         node.id={node}\n\
         controller.quorum.voters={voters}\n\
         controller.listener.names=CONTROLLER\n\
         listeners={listeners},PROXIED://127.0.0.1:{proxied},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners={listeners},PROXIED://127.0.0.1:{proxy}\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_SSL:SASL_SSL\n\
         inter.broker.listener.name=PLAINTEXT\n\
         auto.create.topics.enable=false\n\
         default.replication.factor={replicas}\n\
         min.insync.replicas={in_sync}\n\
         num.network.threads=2\n\
         num.io.threads=4\n\
         num.recovery.threads.per.data.dir=1\n\
         background.threads=4\n\
         log.cleaner.dedupe.buffer.size=16777216\n\
         offsets.topic.num.partitions=6\n\
         offsets.topic.replication.factor={replicas}\n\
         transaction.state.log.num.partitions=3\n\
         transaction.state.log.replication.factor={replicas}\n\
         transaction.state.log.min.isr={in_sync}\n\
         share.coordinator.state.topic.num.partitions=3\n\
         share.coordinator.state.topic.replication.factor={replicas}\n\
         share.coordinator.state.topic.min.isr={in_sync}\n\
         group.initial.rebalance.delay.ms=0\n\
         group.min.session.timeout.ms=1000\n\
         group.consumer.min.session.timeout.ms=1000\n\
         group.consumer.session.timeout.ms=10000\n\
         broker.session.timeout.ms=5000\n\
         broker.heartbeat.interval.ms=1000\n"
    );
    if let Some(tls) = &cluster.tls {
        let tls = tls.display();
        text.push_str(&format!(
            "ssl.keystore.type=PEM\n\
             ssl.keystore.location={tls}/server-keystore.pem\n\
             ssl.truststore.type=PEM\n\
             ssl.truststore.location={tls}/ca.pem\n\
             ssl.client.auth=requested\n\
             listener.name.sasl_ssl.ssl.client.auth=none\n\
             sasl.enabled.mechanisms=SCRAM-SHA-512,SCRAM-SHA-256,PLAIN\n\
             listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={LOGIN}.scram.ScramLoginModule required;\n\
             listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={LOGIN}.scram.ScramLoginModule required;\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config={LOGIN}.plain.PlainLoginModule required user_{user}=\"{password}\";\n"
        ));
    }
    text
}

/// The JVM of a broker. For tests C1 only: half the CPU time of a start. For figures the collector and heap of Kafka's own
/// start script.
fn broker(for_figures: bool) -> Command {
    let mut java = Command::new("java");
    let kind: &[&str] = if for_figures {
        &["-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"]
    } else {
        &["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    };
    java.args(kind).args([
        "-XX:+ExitOnOutOfMemoryError",
        "-Xshare:auto",
        "-Xlog:cds=off",
        "-Djava.awt.headless=true",
    ]);
    java.arg(format!(
        "-Dlog4j2.configurationFile={}",
        install::home().join("log4j2.properties").display()
    ));
    java
}

/// A command line tool of the distribution: JVM options and main class first.
fn tool(args: &[String]) -> Command {
    let home = install::home();
    let mut java = Command::new("java");
    java.args([
        "-Xmx256m",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xshare:auto",
        "-Xlog:cds=off",
    ])
    .args(install::archive("tools"))
    .arg(format!(
        "-Dlog4j2.configurationFile={}",
        home.join("log4j2-tools.properties").display()
    ))
    .args(["-cp", &install::class_path()])
    .args(args);
    java
}

/// A tool of the distribution with the bootstrap server filled in after the class.
pub fn client(cluster: &Cluster, args: &[String]) -> Result<Command> {
    let (class, rest) = args.split_first().context("name a class of the distribution")?;
    let mut command = tool(std::slice::from_ref(class));
    command
        .args(["--bootstrap-server", &format!("127.0.0.1:{}", cluster.port)])
        .args(rest);
    Ok(command)
}

pub fn launch(cluster: &mut Cluster) -> Result<()> {
    let log = log(cluster);
    rotate(&log)?;
    let mut java = broker(cluster.for_figures);
    java.args(install::archive("broker"))
        .args(["-cp", &install::class_path(), "kafka.Kafka"])
        .arg(properties_file(cluster));
    cluster.process = Some(Process::spawn(&mut java, &log)?);
    Ok(())
}

pub fn await_ready(cluster: &Cluster, limit: Duration) -> Result<()> {
    let log = log(cluster);
    await_line(cluster.process()?, &log, "Kafka Server started", &log, limit)
}

/// Of a cluster, lists with commas: one entry for each node.
pub fn env(cluster: &Cluster, set: &mut impl FnMut(&str, String)) {
    let list = |host: &str, offset: u16| {
        let ports = cluster
            .ports
            .iter()
            .map(|port| format!("{host}{}", port + offset));
        ports.collect::<Vec<_>>().join(",")
    };
    set("KAFKA_BOOTSTRAP", list("127.0.0.1:", 0));
    set("KAFKA_PROXIED_PORTS", list("", PROXIED));
    set("KAFKA_PROXY_PORTS", list("", PROXY));
    if cluster.tls.is_some() {
        set("KAFKA_TLS_BOOTSTRAP", list("127.0.0.1:", TLS));
        set("KAFKA_SASL_BOOTSTRAP", list("127.0.0.1:", SASL));
    }
    set("KAFKA_USER", cluster.user.clone());
    set("KAFKA_PASSWORD", cluster.password.clone());
}
