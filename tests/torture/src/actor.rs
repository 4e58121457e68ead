//! One host under torture: always meant to run, killed, stopped, drained and started again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use helix_tests::{Host, Setup, guests};

use crate::history::History;

/// How a panic of the host itself begins; what guests print is inside of JSON.
const PANIC: &str = "thread '";
/// What it says when its drain limit came before everything was finished.
const LATE: &str = "not everything finished in time";

pub struct Actor {
    pub name: String,
    pub setup: Setup,
    /// Where its API answers, also after a new start.
    pub url: String,
    host: Option<Host>,
    version: u32,
    history: Arc<History>,
}

/// What a host is made of.
pub struct Plan {
    pub name: String,
    /// helix.toml without `[host]`.
    pub toml: String,
    pub topology: String,
    pub env: Vec<(String, String)>,
}

impl Actor {
    /// # Errors
    /// When no port is free.
    pub fn new(plan: &Plan, history: &Arc<History>) -> Result<Self> {
        // Free now, and nobody else on this machine takes ports at random below the kernel's range for long.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let host = format!(
            "[host]\nlisten = \"127.0.0.1:{port}\"\nstate_dir = \"state\"\nplugins_dir = \"plugins\"\ndrain = \"10s\"\nlog = \"warn\"\n"
        );
        let mut setup = Setup::new(&format!("{}{host}", plan.toml), &["torture"]).topology(&plan.topology);
        for (name, value) in &plan.env {
            setup = setup.env(name, value);
        }
        Ok(Self {
            name: plan.name.clone(),
            setup,
            url: format!("http://127.0.0.1:{port}"),
            host: None,
            version: 0,
            history: Arc::clone(history),
        })
    }

    pub async fn start(&mut self) {
        if self.host.is_none() {
            self.host = Some(self.setup.start().await);
        }
    }

    pub fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }

    pub fn kill(&mut self) {
        if let Some(host) = self.host.take() {
            self.look(&host);
            host.kill();
        }
    }

    pub fn signal(&self, signal: i32) {
        if let Some(host) = &self.host
            && let Ok(pid) = i32::try_from(host.pid())
        {
            // SAFETY: kill(2) with the pid of our own child, which was not waited for.
            unsafe { libc::kill(pid, signal) };
        }
    }

    /// SIGTERM; it has to leave in good order. False: it was not finished when its drain limit was over.
    pub async fn drain(&mut self) -> bool {
        let Some(host) = self.host.take() else { return true };
        let (status, log) = host.terminate().await;
        if !status.success() {
            self.history
                .wrong(format!("{} ended with {status} on SIGTERM", self.name));
        }
        self.panics(&log);
        !log.contains(LATE)
    }

    fn look(&self, host: &Host) {
        self.panics(&host.log_text());
    }

    fn panics(&self, log: &str) {
        if let Some(line) = log.lines().find(|line| line.starts_with(PANIC)) {
            self.history.wrong(format!("{} panicked: {line}", self.name));
        }
    }

    /// Ended by itself? Then it is started again, and that is told.
    pub async fn watch(&mut self) {
        let gone = self.host.as_ref().is_some_and(|host| {
            !Path::new(&format!("/proc/{}/cmdline", host.pid())).exists()
                || std::fs::read(format!("/proc/{}/cmdline", host.pid())).is_ok_and(|c| c.is_empty())
        });
        if gone {
            let log = self.host.take().map(|host| host.log_text()).unwrap_or_default();
            let last = log.lines().next_back().unwrap_or_default();
            self.history
                .wrong(format!("{} ended by itself: {last}", self.name));
            self.start().await;
        }
    }

    /// The next version of the handler: the same code with another digest.
    pub fn swap(&mut self) {
        self.version += 1;
        guests::install(
            &self.setup.plugins(),
            "torture",
            &guests::version("torture", self.version),
        );
    }

    /// A file that is none.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn spoil(&self) -> Result<()> {
        let draft = self.setup.plugins().join(".torture.draft");
        std::fs::write(&draft, b"\0asm and then nothing")?;
        std::fs::rename(draft, self.setup.plugins().join("torture.wasm"))?;
        Ok(())
    }

    /// Changes helix.toml as an editor would.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn edit(&self, change: impl FnOnce(&str) -> String) -> Result<String> {
        let before = std::fs::read_to_string(self.setup.path().join("helix.toml"))?;
        self.setup.configure(&change(&before));
        Ok(before)
    }

    /// What waits for a retry in this host's store, and what it has in hand; None: it does not answer.
    pub async fn unfinished(&self) -> Option<(u64, f64)> {
        let host = self.host.as_ref()?;
        let (status, health) = host.get("/v1/messaging/health").await;
        if status == 0 {
            return None;
        }
        let retries = health.get("retries_pending")?.as_u64()?;
        let in_flight = host.series("messaging_in_flight", &[]).await?;
        Some((retries, in_flight))
    }

    /// # Errors
    /// When it does not become ready.
    pub async fn ready(&self, limit: Duration) -> Result<()> {
        let deadline = tokio::time::Instant::now() + limit;
        while tokio::time::Instant::now() < deadline {
            if let Some(host) = &self.host
                && host.get("/readyz").await.0 == 200
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("{} is not ready after {limit:?}", self.name)
    }
}
