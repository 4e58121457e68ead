//! Postgres: Debian's package run as an instance of our own, on loopback and under one folder, with nothing switched off that
//! makes what it confirms last.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::cluster::Cluster;
use super::process::{Process, await_line, rotate};
use crate::run::quiet;

const LIB: &str = "/usr/lib/postgresql";
/// The account that Debian's package makes.
const ACCOUNT: &str = "postgres";
/// There from the start; tests make schemas in it.
const DATABASE: &str = "postgres";
/// Bytes of a socket's address in Linux, the closing zero not counted.
const SOCKET_ADDRESS: usize = 107;

pub fn install() -> Result<()> {
    crate::install::apt(&["postgresql"], || programs().is_none())
}

/// Version and folder of the newest server here.
fn programs() -> Option<(u32, PathBuf)> {
    fs::read_dir(LIB)
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let bin = entry.path().join("bin");
            let version = entry.file_name().to_str()?.parse().ok()?;
            ["initdb", "postgres"]
                .iter()
                .all(|program| bin.join(program).exists())
                .then_some((version, bin))
        })
        .max()
}

/// Root may not run it, and is anybody else instead.
fn account() -> Result<Option<(u32, u32)>> {
    // SAFETY: geteuid takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        return Ok(None);
    }
    let accounts = fs::read_to_string("/etc/passwd")?;
    let numbers = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next()? == ACCOUNT;
        let (user, group) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        found.then_some((user, group))
    });
    match numbers {
        Some(numbers) => Ok(Some(numbers)),
        None => bail!("Postgres does not run as root, and there is no account `{ACCOUNT}` to run it as"),
    }
}

/// Whether its data has to be where another account gets to: our folders may be closed to it.
pub fn elsewhere() -> Result<bool> {
    Ok(account()?.is_some())
}

fn command(program: &str) -> Result<Command> {
    let (_, bin) =
        programs().context("no Postgres here: `cargo xtask brokers start postgres` installs it")?;
    let mut command = Command::new(bin.join(program));
    command.env("LC_ALL", "C").env("TZ", "UTC").current_dir("/");
    if let Some((user, group)) = account()? {
        command.uid(user).gid(group);
    }
    Ok(command)
}

fn own(path: &Path, mode: u32) -> Result<()> {
    if let Some((user, group)) = account()? {
        chown(path, Some(user), Some(group))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn data(cluster: &Cluster) -> PathBuf {
    cluster.data.join("db")
}

fn log(cluster: &Cluster) -> PathBuf {
    cluster.data.join("postgres.log")
}

/// Makes the database files and writes the configuration: ours, then `more`.
pub fn prepare(cluster: &Cluster, more: &str) -> Result<()> {
    let dir = &cluster.data;
    own(dir, 0o700)?;
    let secret = dir.join("password");
    fs::write(&secret, &cluster.password)?;
    own(&secret, 0o600)?;
    let mut initdb = command("initdb")?;
    initdb
        .arg("--pgdata")
        .arg(data(cluster))
        .arg("--pwfile")
        .arg(&secret)
        .args([
            "--username",
            &cluster.user,
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
        ]);
    if programs().is_some_and(|(version, _)| version >= 15) {
        // As most databases are: text is not ordered by its bytes, and who relies on that sees it here.
        initdb.args(["--locale-provider=icu", "--icu-locale=en-US"]);
    }
    quiet(&mut initdb)?;
    let mut text = configuration(cluster);
    if let Some(tls) = &cluster.tls {
        for file in ["ca.pem", "server.pem", "server.key"] {
            let copy = data(cluster).join(file);
            fs::copy(tls.join(file), &copy)?;
            own(&copy, 0o600)?;
        }
        text +=
            "ssl = on\nssl_ca_file = 'ca.pem'\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.key'\n";
    }
    let file = data(cluster).join("postgresql.conf");
    fs::write(&file, text + more)?;
    own(&file, 0o600)
}

fn configuration(cluster: &Cluster) -> String {
    let address = cluster.data.join(format!(".s.PGSQL.{}", cluster.port));
    let socket = if address.as_os_str().len() <= SOCKET_ADDRESS {
        cluster.data.display().to_string()
    } else {
        String::new()
    };
    format!(
        "listen_addresses = '127.0.0.1'\n\
         port = {}\n\
         unix_socket_directories = '{socket}'\n\
         max_connections = 200\n\
         shared_buffers = 64MB\n\
         fsync = on\n\
         synchronous_commit = on\n\
         full_page_writes = on\n\
         log_min_messages = warning\n\
         log_lock_waits = on\n\
         timezone = 'UTC'\n",
        cluster.port
    )
}

pub fn launch(cluster: &mut Cluster) -> Result<()> {
    let log = log(cluster);
    rotate(&log)?;
    // Left by one that was killed with all its children. Where nobody collects its exit status, its pid looks like one that
    // runs, and Postgres would not start.
    let socket = format!(".s.PGSQL.{}.lock", cluster.port);
    for claim in [data(cluster).join("postmaster.pid"), cluster.data.join(socket)] {
        if claim.exists() {
            fs::remove_file(claim)?;
        }
    }
    cluster.process = Some(Process::spawn(
        command("postgres")?.arg("-D").arg(data(cluster)),
        &log,
    )?);
    Ok(())
}

pub fn await_ready(cluster: &Cluster, limit: Duration) -> Result<()> {
    let log = log(cluster);
    let line = "database system is ready to accept connections";
    await_line(cluster.process()?, &log, line, &log, limit)
}

/// `psql` against this server.
pub fn client(cluster: &Cluster) -> Result<Command> {
    let (_, bin) = programs().context("no Postgres here")?;
    let mut psql = Command::new(bin.join("psql"));
    psql.env("PGHOST", "127.0.0.1")
        .env("PGPORT", cluster.port.to_string())
        .env("PGUSER", &cluster.user)
        .env("PGPASSWORD", &cluster.password)
        .env("PGDATABASE", DATABASE);
    Ok(psql)
}

pub fn env(cluster: &Cluster, set: &mut impl FnMut(&str, String)) {
    let Cluster {
        user, password, port, ..
    } = cluster;
    set(
        "POSTGRES_URL",
        format!("postgres://{user}:{password}@127.0.0.1:{port}/{DATABASE}?sslmode=disable"),
    );
}
