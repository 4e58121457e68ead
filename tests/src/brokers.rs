//! Where the real brokers are; `cargo xtask test` starts them and says so in the environment.

use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::{unique, variable};

/// RabbitMQ as helix.toml names it.
pub fn rabbitmq_toml() -> String {
    format!(
        "[brokers.rabbitmq]\nkind = \"rabbitmq\"\nhost = \"{}\"\nport = {}\nuser = \"{}\"\npassword = \"env:HELIX_TEST_RABBITMQ_PASSWORD\"\n",
        variable("HELIX_TEST_RABBITMQ_HOST"),
        variable("HELIX_TEST_RABBITMQ_PORT"),
        variable("HELIX_TEST_RABBITMQ_USER"),
    )
}

/// RabbitMQ over TLS, trusting only the CA of the test.
pub fn rabbitmq_tls_toml() -> String {
    format!(
        "[brokers.rabbitmq]\nkind = \"rabbitmq\"\nhost = \"localhost\"\nport = {}\nuser = \"{}\"\npassword = \"env:HELIX_TEST_RABBITMQ_PASSWORD\"\ntls = {{ ca = \"{}/ca.pem\" }}\n",
        variable("HELIX_TEST_RABBITMQ_TLS_PORT"),
        variable("HELIX_TEST_RABBITMQ_USER"),
        variable("HELIX_TEST_TLS_DIR"),
    )
}

/// Kafka, with a consumer group of its own.
pub fn kafka_toml(group: &str) -> String {
    format!(
        "[brokers.kafka]\nkind = \"kafka\"\nservers = [\"{}\"]\ngroup = \"{group}\"\nsession_timeout = \"6s\"\nheartbeat_interval = \"1s\"\n",
        variable("HELIX_TEST_KAFKA_BOOTSTRAP"),
    )
}

/// Kafka over TLS.
pub fn kafka_tls_toml(group: &str) -> String {
    format!(
        "[brokers.kafka]\nkind = \"kafka\"\nservers = [\"{}\"]\ngroup = \"{group}\"\ntls = {{ ca = \"{}/ca.pem\" }}\n",
        variable("HELIX_TEST_KAFKA_TLS_BOOTSTRAP"),
        variable("HELIX_TEST_TLS_DIR"),
    )
}

/// Kafka over TLS with SASL/SCRAM-SHA-512.
pub fn kafka_scram_toml(group: &str) -> String {
    format!(
        "[brokers.kafka]\nkind = \"kafka\"\nservers = [\"{}\"]\ngroup = \"{group}\"\ntls = {{ ca = \"{}/ca.pem\" }}\nsasl = {{ mechanism = \"SCRAM-SHA-512\", user = \"{}\", password = \"env:HELIX_TEST_KAFKA_PASSWORD\" }}\n",
        variable("HELIX_TEST_KAFKA_SASL_BOOTSTRAP"),
        variable("HELIX_TEST_TLS_DIR"),
        variable("HELIX_TEST_KAFKA_USER"),
    )
}

/// `brokers kill rabbitmq`, `brokers restart kafka`, …
///
/// # Panics
/// When the command fails.
pub fn control(arguments: &[&str]) {
    let status = Command::new(variable("HELIX_TEST_BROKERS_CTL"))
        .arg("brokers")
        .args(arguments)
        .status()
        .unwrap_or_else(|error| panic!("cannot run the broker control: {error}"));
    assert!(status.success(), "brokers {arguments:?}: {status}");
}

/// A Postgres of one test alone, to be killed and stopped. Dropping it stops it.
pub struct Postgres {
    name: String,
    pub url: String,
}

impl Postgres {
    /// # Panics
    /// When it does not start.
    pub fn start() -> Self {
        // A port of its own also while it is killed, when another test would find it free.
        static NEXT: AtomicU16 = AtomicU16::new(24_432);
        let free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let port = std::iter::repeat_with(|| NEXT.fetch_add(1, Ordering::Relaxed))
            .find(free)
            .unwrap_or_default();
        let name = unique("own");
        let output = Command::new(variable("HELIX_TEST_BROKERS_CTL"))
            .args(["brokers", "start", "postgres", "--json", "--name", &name])
            .args(["--postgres-port", &port.to_string()])
            .output()
            .unwrap_or_else(|error| panic!("cannot run the broker control: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "starting Postgres: {said}");
        let env: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
        let url = env["HELIX_TEST_POSTGRES_URL"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        Self { name, url }
    }

    /// `kill`, `restart`, `pause`, `resume`, …
    pub fn control(&self, verb: &str) {
        control(&[verb, "postgres", "--name", &self.name]);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A test that failed already says more than a panic here.
        let _ = Command::new(variable("HELIX_TEST_BROKERS_CTL"))
            .args(["brokers", "stop", "postgres", "--name", &self.name])
            .status();
    }
}
