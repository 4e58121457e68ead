//! What RabbitMQ wrote about a message when it dead-lettered it: the header `x-death`, newest first. Pure.

use serde_json::Value;

use crate::model::{FailureClass, Headers, UnixMs};

const HEADER: &str = "x-death";
/// RabbitMQ has one entry for a queue and a reason. Whoever writes the header itself may write more.
const MOST: usize = 100;

/// Written by the broker alone, as tables that other headers cannot be.
pub const BROKERS_OWN: [&str; 7] = [
    HEADER,
    "x-first-death-queue",
    "x-first-death-reason",
    "x-first-death-exchange",
    "x-last-death-queue",
    "x-last-death-reason",
    "x-last-death-exchange",
];

/// Its deaths in one queue for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    pub queue: String,
    pub reason: String,
    /// Where it had been published to before it came into the queue.
    pub exchange: String,
    pub routing_keys: Vec<String>,
    pub count: u64,
    pub time_ms: Option<UnixMs>,
}

/// Empty where the broker dead-lettered nothing, and where the header is none of a broker.
pub fn read(headers: &Headers) -> Vec<Death> {
    let entries: Option<Vec<Value>> = headers
        .text(HEADER)
        .and_then(|text| serde_json::from_str(text).ok());
    let entries = entries.unwrap_or_default();
    entries.iter().take(MOST).filter_map(death).collect()
}

fn death(entry: &Value) -> Option<Death> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str).map(str::to_owned);
    let keys = entry.get("routing-keys").and_then(Value::as_array);
    Some(Death {
        queue: text("queue")?,
        reason: text("reason").unwrap_or_default(),
        exchange: text("exchange").unwrap_or_default(),
        routing_keys: keys
            .into_iter()
            .flatten()
            .filter_map(|key| Some(key.as_str()?.to_owned()))
            .collect(),
        count: entry.get("count").and_then(Value::as_u64).unwrap_or(1),
        // AMQP has whole seconds.
        time_ms: entry
            .get("time")
            .and_then(Value::as_u64)
            .map(|seconds| seconds.saturating_mul(1000)),
    })
}

impl Death {
    /// For metrics: of few values, whatever the header says.
    pub fn label(&self) -> &'static str {
        match self.reason.as_str() {
            "expired" => "expired",
            "rejected" => "rejected",
            "maxlen" => "maxlen",
            "delivery_limit" => "delivery-limit",
            _ => "other",
        }
    }

    pub fn class(&self) -> FailureClass {
        match self.label() {
            "expired" => FailureClass::Expired,
            "rejected" => FailureClass::Rejected,
            _ => FailureClass::Broker,
        }
    }

    pub fn code(&self) -> String {
        format!("broker.{}", self.label())
    }

    pub fn told(&self) -> String {
        let Self { queue, reason, .. } = self;
        match self.label() {
            "expired" => format!("it waited in `{queue}` until its time to live was over"),
            "rejected" => format!("a consumer of `{queue}` that is none of this host rejected it"),
            "maxlen" => format!("`{queue}` was full, and its broker took it out"),
            "delivery-limit" => format!("it was delivered from `{queue}` as often as its broker allows"),
            _ => format!("its broker took it out of `{queue}` and says `{reason}`"),
        }
    }
}
