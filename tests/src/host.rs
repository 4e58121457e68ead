//! A `helix run` of one test: its own folder, its own port, its log.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::Client;
use crate::{guests, until, variable};

/// A folder with configuration and plugins, before a host runs in it. Stays when the host is killed, so that another can
/// start where it stopped.
pub struct Setup {
    dir: TempDir,
    env: Vec<(String, String)>,
}

impl Setup {
    /// `plugins` are names of test guests; `toml` is helix.toml without `[host]`, which the harness writes.
    ///
    /// # Panics
    /// When the folder cannot be written.
    pub fn new(toml: &str, plugins: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("make a folder: {error}"));
        let setup = Self { dir, env: Vec::new() };
        std::fs::create_dir_all(setup.plugins()).unwrap_or_else(|error| panic!("make plugins/: {error}"));
        for name in plugins {
            let bytes =
                std::fs::read(guests::path(name)).unwrap_or_else(|error| panic!("read {name}: {error}"));
            guests::install(&setup.plugins(), name, &bytes);
        }
        setup.configure(toml);
        setup
    }

    /// topology.toml beside helix.toml; without it the manual's topology is used.
    #[must_use]
    pub fn topology(self, toml: &str) -> Self {
        write(&self.path().join("topology.toml"), toml);
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Replaces helix.toml, as an editor would while a host runs.
    pub fn configure(&self, toml: &str) {
        let host = "[host]\nlisten = \"127.0.0.1:0\"\nstate_dir = \"state\"\nplugins_dir = \"plugins\"\ndrain = \"10s\"\n";
        let text = if toml.contains("[host]") {
            toml.to_owned()
        } else {
            format!("{toml}\n{host}")
        };
        let draft = self.path().join(".helix.toml.draft");
        write(&draft, &text);
        std::fs::rename(draft, self.path().join("helix.toml"))
            .unwrap_or_else(|error| panic!("rename: {error}"));
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn plugins(&self) -> PathBuf {
        self.path().join("plugins")
    }

    /// `helix …` in this folder, to its end.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn helix(&self, arguments: &[&str]) -> Output {
        self.command(arguments)
            .output()
            .unwrap_or_else(|error| panic!("run helix {arguments:?}: {error}"))
    }

    /// `helix …` in this folder, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.inside(Command::new(variable("HELIX_BIN")));
        command.args(arguments);
        command
    }

    /// Any command, in this folder and with the variables of this host.
    pub fn inside(&self, mut command: Command) -> Command {
        command
            .current_dir(self.path())
            .env("NO_COLOR", "1")
            .env_remove("HELIX_URL")
            .env_remove("HELIX_CONFIG")
            .envs(self.env.iter().map(|(n, v)| (n, v)))
            .stdin(Stdio::null());
        command
    }

    /// A host that answers; whether it is ready is another question ([`Host::ready`]).
    pub async fn start(&self) -> Host {
        let log = self.path().join("helix.log");
        let append = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap_or_else(|error| panic!("open {}: {error}", log.display()));
        let skip = std::fs::metadata(&log).map_or(0, |m| usize::try_from(m.len()).unwrap_or(0));
        // More to see while looking for a bug: HELIX_TEST_LOG="debug".
        let filter =
            std::env::var("HELIX_TEST_LOG").unwrap_or_else(|_| "info,helix_host::dispatch=debug".to_owned());
        let child = self
            .command(&["run", "--log", &filter, "--log-json"])
            .stderr(append)
            .spawn()
            .unwrap_or_else(|error| panic!("start helix: {error}"));
        let mut host = Host {
            child,
            url: String::new(),
            log,
            skip,
            http: Client::default(),
        };
        host.url = until("the host says where it listens", Duration::from_secs(30), || {
            let found = host.announced();
            assert!(
                found.is_some() || host.log_text().is_empty() || host.alive(),
                "helix ended:\n{}",
                host.log_text()
            );
            async { found }
        })
        .await;
        host
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
}

/// A running host. Dropping it kills it.
pub struct Host {
    child: Child,
    url: String,
    log: PathBuf,
    skip: usize,
    http: Client,
}

impl Host {
    fn announced(&self) -> Option<String> {
        self.log_lines()
            .iter()
            .find_map(|line| line["fields"]["http"].as_str().map(str::to_owned))
    }

    fn alive(&self) -> bool {
        // Signal 0 asks only whether the process exists; a zombie that was not waited for counts as alive until then.
        Path::new(&format!("/proc/{}/cmdline", self.child.id()))
            .metadata()
            .is_ok_and(|_| {
                std::fs::read(format!("/proc/{}/cmdline", self.child.id())).is_ok_and(|c| !c.is_empty())
            })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What this host wrote to its log.
    pub fn log_text(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.get(self.skip..).unwrap_or_default().to_owned()
    }

    /// The same as JSON, one value a line.
    pub fn log_lines(&self) -> Vec<Value> {
        self.log_text()
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Lines at WARN or ERROR whose text holds none of `expected`: an end-to-end test wants none of them.
    pub fn unexpected_lines(&self, expected: &[&str]) -> Vec<String> {
        self.log_lines()
            .iter()
            .filter(|line| matches!(line["level"].as_str(), Some("WARN" | "ERROR")))
            .map(Value::to_string)
            .filter(|line| !expected.iter().any(|known| line.contains(known)))
            .collect()
    }

    /// Waits until `/readyz` says 200.
    ///
    /// # Panics
    /// When it does not within a minute; shows the last report and the log.
    pub async fn ready(&self) {
        let mut last = Value::Null;
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            let (status, report) = self.get("/readyz").await;
            if status == 200 {
                return;
            }
            last = if report.is_null() { last } else { report };
            assert!(
                std::time::Instant::now() < deadline,
                "not ready: {last}\n{}",
                self.log_text()
            );
            tokio::time::sleep(Duration::from_millis(50)).await; // the pace of polling
        }
    }

    /// Status (0: no answer) and JSON body (null: none).
    pub async fn get(&self, path: &str) -> (u16, Value) {
        match self.http.get(format!("{}{path}", self.url)).send().await {
            Ok(response) => (response.status().as_u16(), response.json().unwrap_or(Value::Null)),
            Err(_) => (0, Value::Null),
        }
    }

    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        match self
            .http
            .post(format!("{}{path}", self.url))
            .json(body)
            .send()
            .await
        {
            Ok(response) => (response.status().as_u16(), response.json().unwrap_or(Value::Null)),
            Err(_) => (0, Value::Null),
        }
    }

    /// Publishes a task through the API; its id.
    ///
    /// # Panics
    /// When the answer is not 202.
    pub async fn send_task(&self, queue: &str, message_type: &str, payload: Value) -> String {
        self.send(
            &format!("/v1/messaging/tasks/{queue}"),
            json!({ "type": message_type, "payload": payload }),
        )
        .await
    }

    /// Publishes an event through the API; its id.
    ///
    /// # Panics
    /// When the answer is not 202.
    pub async fn send_event(&self, topic: &str, message_type: &str, key: &str, payload: Value) -> String {
        let body = json!({ "type": message_type, "key": key, "payload": payload });
        self.send(&format!("/v1/messaging/events/{topic}"), body).await
    }

    async fn send(&self, path: &str, body: Value) -> String {
        let (status, answer) = self.post(path, &body).await;
        assert_eq!(status, 202, "{path}: {answer}\n{}", self.log_text());
        answer["id"].as_str().unwrap_or_default().to_owned()
    }

    /// Dead letters with their messages and attempts.
    pub async fn letters(&self) -> Vec<Value> {
        let (_, listing) = self.get("/v1/messaging/dlq?limit=1000").await;
        let mut letters = Vec::new();
        for summary in listing["messages"].as_array().cloned().unwrap_or_default() {
            let id = summary["id"].as_str().unwrap_or_default();
            letters.push(self.get(&format!("/v1/messaging/dlq/{id}")).await.1);
        }
        letters
    }

    /// How many dead letters there are.
    pub async fn letter_count(&self) -> u64 {
        self.get("/v1/messaging/dlq?limit=1").await.1["count"]
            .as_u64()
            .unwrap_or(0)
    }

    /// Waits for so many dead letters and returns them.
    pub async fn wait_letters(&self, count: usize) -> Vec<Value> {
        until(
            &format!("{count} dead letters"),
            Duration::from_secs(60),
            || async {
                let letters = self.letters().await;
                (letters.len() >= count).then_some(letters)
            },
        )
        .await
    }

    /// The sum of a metric over all label sets that hold every pair of `labels`; 0 when there is none.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.series(name, labels).await.unwrap_or(0.0)
    }

    /// The same; none when no label set holds them.
    pub async fn series(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let text = self
            .http
            .get(format!("{}/metrics", self.url))
            .send()
            .await
            .ok()?
            .text();
        text.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.rsplit_once(' '))
            .filter(|(series, _)| series.split('{').next() == Some(name))
            .filter(|(series, _)| {
                labels
                    .iter()
                    .all(|(k, v)| series.contains(&format!("{k}=\"{v}\"")))
            })
            .filter_map(|(_, value)| value.parse::<f64>().ok())
            .reduce(|sum, value| sum + value)
    }

    /// Waits until a counter has reached `value`.
    pub async fn wait_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let what = format!("{name}{labels:?} >= {value}");
        let limit = Duration::from_secs(120);
        let deadline = std::time::Instant::now() + limit;
        while self.metric(name, labels).await < value {
            let now = self.metric(name, labels).await;
            assert!(
                std::time::Instant::now() < deadline,
                "not within {limit:?}: {what}, it is {now}\n{}",
                self.log_text()
            );
            tokio::time::sleep(Duration::from_millis(50)).await; // the pace of polling
        }
    }

    /// SIGKILL.
    ///
    /// # Panics
    /// When the process cannot be signalled.
    pub fn kill(mut self) {
        self.child.kill().unwrap_or_else(|error| panic!("kill: {error}"));
        self.child.wait().unwrap_or_else(|error| panic!("wait: {error}"));
    }

    /// SIGTERM, and no waiting for what comes of it.
    ///
    /// # Panics
    /// When the process cannot be signalled.
    pub fn sigterm(&self) {
        let pid = i32::try_from(self.child.id()).unwrap_or(0);
        // SAFETY: kill(2) with a valid pid of our own child; it was not waited for, so the pid is not reused.
        let sent = unsafe { libc::kill(pid, libc::SIGTERM) };
        assert_eq!(sent, 0, "SIGTERM");
    }

    /// SIGTERM; how it ended and what it had logged.
    ///
    /// # Panics
    /// When it does not end within 40 seconds.
    pub async fn terminate(self) -> (ExitStatus, String) {
        self.sigterm();
        self.ended().await
    }

    /// How it ended and what it had logged.
    ///
    /// # Panics
    /// When it does not end within 40 seconds.
    pub async fn ended(mut self) -> (ExitStatus, String) {
        let status = until("the host ends after SIGTERM", Duration::from_secs(40), || {
            let ended = self
                .child
                .try_wait()
                .unwrap_or_else(|error| panic!("wait: {error}"));
            async move { ended }
        })
        .await;
        let log = self.log_text();
        (status, log)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
