//! The host of the demo: started in a folder of its own, stopped whatever happens.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::run::quiet;
use crate::workspace::{host_binary, root};
use crate::{http, signals};

pub struct Host {
    child: Child,
    /// `127.0.0.1:<port>`
    pub address: String,
    log: PathBuf,
}

impl Host {
    pub fn start(home: &Path, plugins_dir: &Path) -> Result<Self> {
        // Bound and let go: free a moment ago, and a collision is an error that the host names.
        let address = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .to_string();
        let log = home.join("helix.log");
        let out = File::create(&log)?;
        let err = out.try_clone()?;
        let mut command = helix(&address);
        command
            .args(["run", "--listen", &address, "--state-dir"])
            .arg(home.join("state"))
            .arg("--plugins-dir")
            .arg(plugins_dir)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err);
        let child = command.spawn().context("cannot start helix")?;
        Ok(Self { child, address, log })
    }

    /// Waits for `/readyz`.
    pub fn ready(&mut self, limit: Duration) -> Result<()> {
        self.until(limit, "ready", |address| {
            Ok(http::request("GET", address, "/readyz", None)
                .is_ok_and(|(status, _)| status == 200)
                .then_some(()))
        })
    }

    /// The digest that serves.
    pub fn digest(&self, plugin: &str) -> Result<String> {
        digest(&self.address, plugin)?.with_context(|| format!("{plugin} serves no version"))
    }

    /// Waits for another digest than `old`.
    pub fn changed(&mut self, plugin: &str, old: &str, limit: Duration) -> Result<String> {
        self.until(limit, "serving the new version", |address| {
            Ok(digest(address, plugin)?.filter(|digest| digest != old))
        })
    }

    /// Runs a command about this host.
    pub fn helix(&self, args: &[&str]) -> Result<String> {
        quiet(helix(&self.address).args(args))
    }

    fn until<T>(
        &mut self,
        limit: Duration,
        what: &str,
        probe: impl Fn(&str) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = probe(&self.address)? {
                return Ok(found);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("helix ended ({status})\n{}", self.tail());
            }
            if Instant::now() > deadline {
                bail!("helix is not {what} after {} s\n{}", limit.as_secs(), self.tail());
            }
            if signals::interrupted() {
                bail!("interrupted");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines
            .iter()
            .skip(lines.len().saturating_sub(20))
            .copied()
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// SIGTERM, and the drain must end well.
    pub fn stop(mut self) -> Result<()> {
        self.terminate();
        let status = self.child.wait()?;
        anyhow::ensure!(
            status.success(),
            "helix did not stop well ({status})\n{}",
            self.tail()
        );
        Ok(())
    }

    fn terminate(&self) {
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // SAFETY: plain integers; the child is not waited for yet, so the pid is still its own.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().ok();
            self.child.wait().ok();
        }
    }
}

/// The binary with the shipped configuration, and without settings of the caller that would lead it elsewhere.
fn helix(address: &str) -> Command {
    let mut command = Command::new(host_binary());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["HELIX_", "RABBITMQ_", "KAFKA_", "MESSAGING_"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
            || text == "PORT"
        {
            command.env_remove(&name);
        }
    }
    command
        .current_dir(root())
        .args(["--config", "config/helix.toml", "--url"])
        .arg(format!("http://{address}"));
    command
}

fn digest(address: &str, plugin: &str) -> Result<Option<String>> {
    let list = http::json(address, "/v1/messaging/plugins")?;
    let found = list
        .as_array()
        .into_iter()
        .flatten()
        .find(|entry| entry.get("name").is_some_and(|name| name == plugin));
    Ok(found
        .and_then(|entry| entry.get("digest"))
        .and_then(Value::as_str)
        .map(str::to_owned))
}
