//! `helix run` in a folder of its own, watched from outside through `/metrics`.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::process::{Figures, Running, cpu_seconds};

/// Between two looks at the counters. Part of the window's error, 1 % of a run of two seconds, and against us: see [`Host::handled`].
const LOOK: Duration = Duration::from_millis(20);
/// Without progress for so long, a run has failed.
const STUCK: Duration = Duration::from_secs(30);

/// A folder with configuration and plugins; several hosts may run in it, one after another.
pub struct Folder {
    dir: TempDir,
    helix: PathBuf,
    address: String,
}

impl Folder {
    /// `toml` is helix.toml without `[host]`; `topology` is topology.toml; `plugins` are copied from `guests`.
    pub fn new(helix: &Path, guests: &Path, toml: &str, topology: &str, plugins: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let folder = Self {
            helix: helix.to_owned(),
            // Bound and let go: free a moment ago, and a collision is an error that the host names.
            address: TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string(),
            dir,
        };
        fs::create_dir(folder.path("plugins"))?;
        for plugin in plugins {
            let name = format!("{plugin}.wasm");
            let from = guests.join(&name);
            fs::copy(&from, folder.path("plugins").join(&name))
                .with_context(|| format!("cannot copy {}", from.display()))?;
        }
        let host = format!(
            "[host]\nlisten = \"{}\"\nstate_dir = \"state\"\nplugins_dir = \"plugins\"\nlog = \"warn,helix_host::guest=info\"\n",
            folder.address
        );
        fs::write(folder.path("helix.toml"), format!("{host}{toml}"))?;
        fs::write(folder.path("topology.toml"), topology)?;
        Ok(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn start(&self) -> Result<Host<'_>> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path("helix.log"))?;
        let mut command = Command::new(&self.helix);
        command
            .args(["run", "--config", "helix.toml", "--log-json"])
            .current_dir(self.dir.path())
            // Variables of the shell would change the configuration.
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(std::env::vars_os().filter(|(name, _)| name == "HELIX_TEST_RABBITMQ_PASSWORD"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = Running(command.spawn().context("cannot start helix")?);
        Ok(Host {
            process,
            folder: self,
        })
    }

    pub fn log(&self) -> String {
        self.log_from(0)
    }

    /// What was written since the log had `from` bytes: looking again and again must not cost what a long log costs.
    pub fn log_from(&self, from: u64) -> String {
        let mut text = String::new();
        if let Ok(mut file) = File::open(self.path("helix.log"))
            && file.seek(SeekFrom::Start(from)).is_ok()
        {
            // What it got before an error is what there is.
            let _ = file.read_to_string(&mut text);
        }
        text
    }

    pub fn log_size(&self) -> u64 {
        fs::metadata(self.path("helix.log")).map_or(0, |meta| meta.len())
    }
}

/// A running host. Dropping it kills it.
pub struct Host<'a> {
    process: Running,
    folder: &'a Folder,
}

impl Host<'_> {
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits for `/readyz`.
    pub fn ready(&mut self) -> Result<()> {
        self.until("ready", Duration::from_secs(60), |host| {
            Ok(host
                .get("/readyz")
                .is_ok_and(|(status, _)| status == 200)
                .then_some(()))
        })
    }

    /// Looks again and again until there is an answer.
    pub fn until<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(found) = look(self)? {
                return Ok(found);
            }
            self.process.check().with_context(|| self.folder.log())?;
            if Instant::now() > deadline {
                bail!("helix: not {what} within {limit:?}\n{}", self.folder.log());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// One request, one connection; HTTP/1.0, so that the answer is never chunked.
    pub fn request(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.folder.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let head = format!(
            "{method} {path} HTTP/1.0\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let status = answer
            .split_whitespace()
            .nth(1)
            .and_then(|code| code.parse().ok());
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        Ok((status.context("no HTTP")?, body.unwrap_or_default()))
    }

    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        self.request("GET", path, "")
    }

    /// Messages that were handled, whatever came of it; an error when something else than `done` came of one.
    pub fn count(&self) -> Result<u64> {
        let (_, text) = self.get("/metrics")?;
        let mut done = 0;
        for line in text
            .lines()
            .filter(|line| line.starts_with("messaging_outcomes_total{"))
        {
            let value: f64 = line
                .rsplit_once(' ')
                .context("a metric without value")?
                .1
                .parse()?;
            ensure!(line.contains("outcome=\"done\"") || value == 0.0, "helix: {line}");
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
            let value = value as u64;
            done += value;
        }
        Ok(done)
    }

    /// Rate and CPU time from the first look that sees a handled message to the first that sees `total` of them. The time
    /// before the first look's question and after the last one's answer counts as ours, what was handled before it does not.
    pub fn handled(&mut self, total: u64) -> Result<Figures> {
        let mut first: Option<(Instant, u64, f64)> = None;
        let (mut seen, mut moved) = (0, Instant::now());
        loop {
            let asked = Instant::now();
            // Not listening yet, while it starts.
            let count = if first.is_none() {
                self.count().unwrap_or(0)
            } else {
                self.count()?
            };
            if count > 0 && first.is_none() {
                first = Some((asked, count, cpu_seconds(self.pid())?));
            }
            if let Some((started, before, cpu)) = first
                && count >= total
            {
                #[allow(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
                let messages = (count - before) as f64;
                ensure!(
                    messages > 0.0,
                    "all {count} messages were handled before the first look"
                );
                return Ok(Figures {
                    rate: messages / started.elapsed().as_secs_f64(),
                    cpu_us: (cpu_seconds(self.pid())? - cpu) * 1e6 / messages,
                    ..Figures::default()
                });
            }
            if count != seen {
                (seen, moved) = (count, Instant::now());
            }
            self.process.check().with_context(|| self.folder.log())?;
            if moved.elapsed() > STUCK {
                bail!("helix: stuck at {seen} of {total}\n{}", self.folder.log());
            }
            std::thread::sleep(LOOK.saturating_sub(asked.elapsed()));
        }
    }
}
