//! Runs the clients of `tests/interop/publish.py`.

use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use helix_tests::variable;
use serde_json::{Value, json};

/// How a client gets to Kafka.
#[derive(Debug, Clone, Copy)]
pub enum Kafka {
    Plain,
    Tls,
    /// SCRAM-SHA-512 over TLS.
    Scram,
}

#[derive(Debug, Clone, Copy)]
pub enum Client {
    Pika { tls: bool },
    Confluent(Kafka),
    Kcat(Kafka),
}

/// A message as its client sent it.
#[derive(Debug)]
pub struct Sent {
    pub shape: String,
    pub id: String,
    pub message_type: String,
    pub payload_bytes: u64,
    pub traceparent: Value,
    /// None is a null value.
    pub body: Option<Vec<u8>>,
    pub to: String,
}

impl Client {
    /// Publishes every shape; panics when the broker does not take one.
    pub fn publish(self, to: &str, report: &str) -> Vec<Sent> {
        let (name, mut job) = match self {
            Self::Pika { tls } => ("pika", amqp(tls)),
            Self::Confluent(way) => ("confluent", kafka(way)),
            Self::Kcat(way) => ("kcat", kafka(way)),
        };
        job["to"] = json!(to);
        job["report"] = json!(report);
        let lines = run(&[name, &job.to_string()]);
        lines.lines().map(|line| sent(line, to)).collect()
    }
}

fn sent(line: &str, to: &str) -> Sent {
    let line: Value = serde_json::from_str(line).expect("a line of JSON");
    let text = |name: &str| line[name].as_str().expect("a text").to_owned();
    Sent {
        shape: text("shape"),
        id: text("id"),
        message_type: text("type"),
        payload_bytes: line["payload_bytes"].as_u64().expect("a number"),
        traceparent: line["traceparent"].clone(),
        body: line["body"]
            .as_str()
            .map(|body| STANDARD.decode(body).expect("base64")),
        to: to.to_owned(),
    }
}

fn amqp(tls: bool) -> Value {
    let port = variable(if tls {
        "HELIX_TEST_RABBITMQ_TLS_PORT"
    } else {
        "HELIX_TEST_RABBITMQ_PORT"
    });
    json!({
        "host": variable("HELIX_TEST_RABBITMQ_HOST"),
        "port": port.parse::<u16>().expect("a port"),
        "user": variable("HELIX_TEST_RABBITMQ_USER"),
        "password": variable("HELIX_TEST_RABBITMQ_PASSWORD"),
        "ca": tls.then(ca),
    })
}

fn ca() -> String {
    format!("{}/ca.pem", variable("HELIX_TEST_TLS_DIR"))
}

fn kafka(way: Kafka) -> Value {
    let (servers, protocol) = match way {
        Kafka::Plain => ("HELIX_TEST_KAFKA_BOOTSTRAP", "PLAINTEXT"),
        Kafka::Tls => ("HELIX_TEST_KAFKA_TLS_BOOTSTRAP", "SSL"),
        Kafka::Scram => ("HELIX_TEST_KAFKA_SASL_BOOTSTRAP", "SASL_SSL"),
    };
    let mut config = json!({ "bootstrap.servers": variable(servers), "security.protocol": protocol });
    if !matches!(way, Kafka::Plain) {
        config["ssl.ca.location"] = json!(ca());
    }
    if matches!(way, Kafka::Scram) {
        config["sasl.mechanism"] = json!("SCRAM-SHA-512");
        config["sasl.username"] = json!(variable("HELIX_TEST_KAFKA_USER"));
        config["sasl.password"] = json!(variable("HELIX_TEST_KAFKA_PASSWORD"));
    }
    json!({ "config": config })
}

pub fn delete_queue(queue: &str) {
    let mut job = amqp(false);
    job["to"] = json!(queue);
    run(&["delete-queue", &job.to_string()]);
}

fn run(arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/publish.py");
    // -B: no compiled files beside the sources.
    let output = Command::new(variable("HELIX_TEST_PYTHON"))
        .arg("-B")
        .arg(script)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("run Python: {error}"));
    assert!(
        output.status.success(),
        "{}: {}",
        arguments[0],
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("UTF-8")
}
