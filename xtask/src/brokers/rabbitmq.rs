//! RabbitMQ: Debian's package run as an instance of our own, everything on loopback and under one folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::cluster::Cluster;
use super::process::{Process, await_line, free, rotate};

pub const TLS: u16 = 10;
pub const API: u16 = 20;
pub const METRICS: u16 = 30;
pub const STREAM: u16 = 40;
pub const DISTRIBUTION: u16 = 50;
pub const EPMD: u16 = 60;

const LIB: &str = "/usr/lib/rabbitmq/bin";
const PLUGINS: &str =
    "[rabbitmq_management,rabbitmq_prometheus,rabbitmq_stream,rabbitmq_auth_mechanism_ssl].";
/// Distribution traffic and its port mapper stay on loopback.
const LOOPBACK: &str = "-kernel inet_dist_use_interface {127,0,0,1}";

pub fn install() -> Result<()> {
    crate::install::apt(&["rabbitmq-server"], || {
        !Path::new(LIB).join("rabbitmq-server").exists()
    })
}

fn node(cluster: &Cluster) -> String {
    format!("helix-{}@localhost", cluster.name)
}

fn log(cluster: &Cluster) -> PathBuf {
    cluster.data.join("log").join(format!("{}.log", node(cluster)))
}

/// Writes configuration (ours, then `more`), plugins and cookie.
pub fn prepare(cluster: &Cluster, more: &str) -> Result<()> {
    let dir = &cluster.data;
    for sub in ["mnesia", "log", "generated", "schema"] {
        fs::create_dir_all(dir.join(sub))?;
    }
    fs::write(dir.join("rabbitmq.conf"), configuration(cluster) + more)?;
    fs::write(dir.join("enabled_plugins"), PLUGINS)?;
    let cookie = dir.join(".erlang.cookie");
    fs::write(&cookie, &cluster.password)?;
    fs::set_permissions(cookie, fs::Permissions::from_mode(0o400))?;
    Ok(())
}

fn configuration(cluster: &Cluster) -> String {
    let Cluster {
        port, user, password, ..
    } = cluster;
    let at = |offset: u16| port + offset;
    let mut text = format!(
        "listeners.tcp.1 = 127.0.0.1:{port}\n\
         management.tcp.ip = 127.0.0.1\n\
         management.tcp.port = {}\n\
         prometheus.tcp.ip = 127.0.0.1\n\
         prometheus.tcp.port = {}\n\
         stream.listeners.tcp.1 = 127.0.0.1:{}\n\
         stream.advertised_host = 127.0.0.1\n\
         stream.advertised_port = {}\n\
         default_user = {user}\n\
         default_pass = {password}\n\
         loopback_users = none\n\
         log.file.level = info\n\
         log.console = false\n\
         disk_free_limit.absolute = 50MB\n\
         vm_memory_high_watermark.relative = 0.4\n\
         collect_statistics_interval = 1000\n",
        at(API),
        at(METRICS),
        at(STREAM),
        at(STREAM)
    );
    if let Some(tls) = &cluster.tls {
        let tls = tls.display();
        text.push_str(&format!(
            "listeners.ssl.1 = 127.0.0.1:{}\n\
             ssl_options.cacertfile = {tls}/ca.pem\n\
             ssl_options.certfile = {tls}/server.pem\n\
             ssl_options.keyfile = {tls}/server.key\n\
             ssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = false\n\
             ssl_cert_login_from = common_name\n\
             auth_mechanisms.1 = PLAIN\n\
             auth_mechanisms.2 = AMQPLAIN\n\
             auth_mechanisms.3 = EXTERNAL\n",
            at(TLS)
        ));
    }
    text
}

/// A command with all that the node and its tools need to find each other.
fn command(cluster: &Cluster, program: &str) -> Command {
    let dir = &cluster.data;
    let mut command = Command::new(Path::new(LIB).join(program));
    command
        .env_remove("NOTIFY_SOCKET")
        .env("HOME", dir)
        .env("ERL_EPMD_PORT", (cluster.port + EPMD).to_string())
        .env("ERL_EPMD_ADDRESS", "127.0.0.1")
        .env("RABBITMQ_NODENAME", node(cluster))
        .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .env("RABBITMQ_MNESIA_BASE", dir.join("mnesia"))
        .env("RABBITMQ_LOG_BASE", dir.join("log"))
        .env("RABBITMQ_PID_FILE", dir.join("rabbit.pid"))
        .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf"))
        .env("RABBITMQ_ADVANCED_CONFIG_FILE", dir.join("advanced.config"))
        .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("enabled_plugins"))
        .env("RABBITMQ_SCHEMA_DIR", dir.join("schema"))
        .env("RABBITMQ_GENERATED_CONFIG_DIR", dir.join("generated"))
        .env("RABBITMQ_DIST_PORT", (cluster.port + DISTRIBUTION).to_string())
        .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", erl_args(cluster))
        .env("RABBITMQ_CTL_ERL_ARGS", LOOPBACK);
    command
}

/// For figures, one thread runs the broker, and sleeps when it has nothing to do. With two of them on two cores, one and the
/// same client got 40,000 or 80,000 messages a second by chance; and spinning (<https://www.rabbitmq.com/docs/runtime>) takes
/// the processor from whoever is measured.
fn erl_args(cluster: &Cluster) -> String {
    let idle = if cluster.for_figures {
        " +S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none"
    } else {
        ""
    };
    format!("{LOOPBACK}{idle}")
}

/// `rabbitmqctl` against this node.
pub fn ctl(cluster: &Cluster) -> Command {
    command(cluster, "rabbitmqctl")
}

pub fn launch(cluster: &mut Cluster) -> Result<()> {
    if !cluster.epmd.is_some_and(Process::alive) {
        cluster.epmd = Some(launch_epmd(cluster)?);
    }
    rotate(&log(cluster))?;
    let stdout = cluster.data.join("stdout.log");
    rotate(&stdout)?;
    // Under "systemd" the start script execs the Erlang VM: its pid is the node's pid.
    let mut server = command(cluster, "rabbitmq-server");
    server.arg("-noinput").env("RUNNING_UNDER_SYSTEMD", "true");
    cluster.process = Some(Process::spawn(&mut server, &stdout)?);
    Ok(())
}

fn launch_epmd(cluster: &Cluster) -> Result<Process> {
    let port = cluster.port + EPMD;
    let log = cluster.data.join("epmd.log");
    let epmd = Process::spawn(
        Command::new("epmd").args(["-port", &port.to_string(), "-address", "127.0.0.1"]),
        &log,
    )?;
    let deadline = Instant::now() + Duration::from_secs(10);
    while free(port) {
        if Instant::now() > deadline || !epmd.alive() {
            bail!("epmd does not listen on port {port}, see {}", log.display());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(epmd)
}

pub fn await_ready(cluster: &Cluster, limit: Duration) -> Result<()> {
    let log = log(cluster);
    await_line(
        cluster.process()?,
        &log,
        "Server startup complete",
        &cluster.data.join("stdout.log"),
        limit,
    )
}

pub fn env(cluster: &Cluster, set: &mut impl FnMut(&str, String)) {
    set("RABBITMQ_HOST", "127.0.0.1".to_owned());
    set("RABBITMQ_PORT", cluster.port.to_string());
    if cluster.tls.is_some() {
        set("RABBITMQ_TLS_PORT", (cluster.port + TLS).to_string());
    }
    set("RABBITMQ_API_PORT", (cluster.port + API).to_string());
    set("RABBITMQ_USER", cluster.user.clone());
    set("RABBITMQ_PASSWORD", cluster.password.clone());
}
