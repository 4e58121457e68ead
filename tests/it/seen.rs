//! What handlers reported, read from the embedded broker's file after its host ended.

use std::collections::HashMap;
use std::sync::Arc;

use helix_host::broker::Broker;
use helix_host::broker::embedded::Embedded;
use helix_host::config::valid;
use helix_host::decode;
use helix_host::model::{RawMessage, SystemClock};
use helix_tests::Setup;
use serde_json::Value;

/// One event of a topic.
#[derive(Debug, Clone)]
pub struct Seen {
    pub raw: RawMessage,
    /// Its own id.
    pub id: String,
    pub body: Value,
}

impl Seen {
    /// The message that a report is about.
    pub fn of(&self) -> &str {
        self.body["id"].as_str().unwrap_or_default()
    }

    pub fn attempt(&self) -> u64 {
        self.body["attempt"].as_u64().unwrap_or_default()
    }

    /// When the broker took it.
    pub fn at_ms(&self) -> u64 {
        self.raw.timestamp_ms.unwrap_or_default()
    }
}

/// All events of a topic, partition by partition. The host has to be gone: one process owns the file.
pub async fn topic(setup: &Setup, topic: &str) -> Vec<Seen> {
    let options = valid::Embedded {
        path: setup.path().join("state/broker.db"),
        group: "observer".into(),
    };
    let broker = Embedded::open(
        "embedded",
        &options,
        valid::Formats::default(),
        Arc::new(SystemClock),
    )
    .unwrap();
    let scan = broker.scan().unwrap();
    let mut seen = Vec::new();
    for bounds in scan.bounds(topic).await.unwrap() {
        let mut from = bounds.first;
        while from < bounds.end {
            let read = scan.read(topic, bounds.partition, from, 1000).await.unwrap();
            let last = read
                .last()
                .and_then(|raw| raw.origin.offset)
                .expect("a message before the end");
            from = last + 1;
            seen.extend(read.into_iter().map(|raw| {
                let envelope = decode::decode(&raw, "none", 0).unwrap();
                Seen {
                    id: envelope.id.clone(),
                    body: serde_json::from_slice(&envelope.payload).unwrap_or_default(),
                    raw,
                }
            }));
        }
    }
    broker.close().await;
    seen
}

/// How often each message was reported as handled.
pub fn times(seen: &[Seen]) -> HashMap<String, usize> {
    let mut times = HashMap::new();
    for report in seen {
        *times.entry(report.of().to_owned()).or_default() += 1;
    }
    times
}

/// Every accepted id was handled exactly once, and nothing that was never sent.
pub fn assert_each_once(seen: &[Seen], accepted: &[String]) {
    let times = times(seen);
    let lost: Vec<&String> = accepted.iter().filter(|id| !times.contains_key(*id)).collect();
    assert!(
        lost.is_empty(),
        "{} of {} lost: {lost:?}",
        lost.len(),
        accepted.len()
    );
    let twice: Vec<_> = times.iter().filter(|(_, n)| **n > 1).collect();
    assert!(
        twice.is_empty(),
        "{} handled more than once: {twice:?}",
        twice.len()
    );
}
