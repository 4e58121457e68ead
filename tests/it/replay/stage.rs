//! A topic full of events, a host beside it, and what is in a topic as an observer sees it.

use std::sync::Arc;

use helix_host::broker::{Broker, Destination, Scan};
use helix_host::model::{Clock, MessageKind, Outgoing, RawMessage, SystemClock};
use helix_tests::{Host, Setup, brokers, unique};
use serde_json::json;

use crate::contract::brokers::Place;

pub const PARTITIONS: u32 = 4;

pub struct Stage {
    pub place: Place,
    pub setup: Setup,
    pub topic: String,
    pub group: String,
}

impl Stage {
    /// A host of this stage consumes the topic with a handler that does nothing.
    pub fn consumed(place: Place) -> Self {
        Self::new(place, |topic| topic.to_owned())
    }

    /// Nobody consumes it.
    pub fn alone(place: Place) -> Self {
        Self::new(place, |topic| format!("{topic}-idle"))
    }

    fn new(place: Place, route: impl Fn(&str) -> String) -> Self {
        let (topic, group) = (unique("replay"), unique("replay-group"));
        let broker = match place {
            Place::Kafka => format!("[messaging]\nevents = \"kafka\"\n{}", brokers::kafka_toml(&group)),
            _ => String::new(),
        };
        let config = format!(
            "{broker}[[routes]]\nname = \"live\"\ntopic = \"{}\"\nplugin = \"probe\"\n",
            route(&topic)
        );
        let topology: String = [topic.clone(), format!("{topic}-idle")]
            .map(|t| format!("[[topics]]\nname = \"{t}\"\npartitions = {PARTITIONS}\n"))
            .concat();
        Self {
            place,
            setup: Setup::new(&config, &["probe"]).topology(&topology),
            topic,
            group,
        }
    }

    pub fn target(&self) -> String {
        format!("{}.replay", self.topic)
    }

    /// The embedded one has one owner: no host may run.
    pub fn broker(&self) -> Arc<dyn Broker> {
        self.place
            .open("observer", &self.setup.path().join("state/broker.db"))
            .unwrap()
    }

    /// Makes the topic and puts events `from..to` into it; before a host has it.
    pub async fn fill(&self, from: usize, to: usize) {
        let broker = self.broker();
        create(&*broker, &self.topic).await;
        create(&*broker, &format!("{}-idle", self.topic)).await;
        let all: Vec<usize> = (from..to).collect();
        for some in all.chunks(1000) {
            let batch = some.iter().map(|&n| self.event(n)).collect();
            for confirmed in broker.publisher().publish(batch).await {
                confirmed.unwrap();
            }
        }
        broker.close().await;
    }

    pub fn event(&self, n: usize) -> Outgoing {
        outgoing(MessageKind::Event, &self.topic, n, payload(n))
    }

    pub async fn host(&self) -> Host {
        let host = self.setup.start().await;
        host.ready().await;
        host
    }

    /// Everything that is in a topic, partition by partition; of the embedded broker after its host has gone.
    pub async fn read(&self, topic: &str) -> Vec<RawMessage> {
        let mut all = Vec::new();
        self.each(topic, |raw| all.push(raw)).await;
        all
    }

    /// The same one by one: a million messages are not kept.
    pub async fn each(&self, topic: &str, look: impl FnMut(RawMessage)) {
        let broker = self.broker();
        each(&*broker.scan().unwrap(), topic, look).await;
        broker.close().await;
    }
}

/// The n-th message, to a topic or a stream.
pub fn outgoing(kind_of: MessageKind, to: &str, n: usize, payload: String) -> Outgoing {
    Outgoing {
        kind: kind_of,
        destination: to.into(),
        id: id(n),
        message_type: kind(n).to_owned(),
        payload: payload.into(),
        tombstone: false,
        content_type: Some("application/json".to_owned()),
        schema: None,
        source: None,
        subject: None,
        priority: None,
        key: Some(format!("k{}", n % 17).into()),
        time_ms: SystemClock.now_ms(),
        not_before_ms: None,
        deadline_ms: None,
        correlation_id: None,
        reply_to: None,
        trace: None,
        headers: [("x-team", if n.is_multiple_of(2) { "red" } else { "blue" })]
            .into_iter()
            .collect(),
    }
}

async fn create(broker: &dyn Broker, name: &str) {
    let want = Destination {
        kind: MessageKind::Event,
        name: name.into(),
        max_priority: 0,
        ttl: None,
        partitions: PARTITIONS,
        arguments: std::collections::BTreeMap::new(),
    };
    broker.topology().create(&want).await.unwrap();
}

pub async fn read_all(scan: &dyn Scan, topic: &str) -> Vec<RawMessage> {
    let mut all = Vec::new();
    each(scan, topic, |raw| all.push(raw)).await;
    all
}

async fn each(scan: &dyn Scan, topic: &str, mut look: impl FnMut(RawMessage)) {
    for bounds in scan.bounds(topic).await.unwrap() {
        let mut from = bounds.first;
        while from < bounds.end {
            let read = scan.read(topic, bounds.partition, from, 1000).await.unwrap();
            let Some(last) = read.last().and_then(|raw| raw.origin.offset) else {
                break;
            };
            from = last + 1;
            read.into_iter().for_each(&mut look);
        }
    }
}

pub fn id(n: usize) -> String {
    format!("event-{n:06}")
}

/// One in five is rare.
pub fn kind(n: usize) -> &'static str {
    if n.is_multiple_of(5) { "rare" } else { "common" }
}

/// Spaces and order of its members are part of it.
pub fn payload(n: usize) -> String {
    format!("{{ \"n\" : {n}, \"a\": {} }}", json!("ü"))
}

pub fn header(raw: &RawMessage, name: &str) -> String {
    raw.headers.text(name).unwrap_or_default().to_owned()
}

/// Topic, partition and offset, without the name that its reader gave the broker.
pub fn place_of(raw: &RawMessage) -> String {
    after_the_broker(&raw.origin.to_string())
}

/// The same of the original of a copy.
pub fn original_of(copy: &RawMessage) -> String {
    after_the_broker(&header(copy, "helix-replay-origin"))
}

pub fn after_the_broker(origin: &str) -> String {
    origin
        .split_once('/')
        .map_or_else(String::new, |(_, place)| place.to_owned())
}
