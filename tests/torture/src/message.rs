//! What a message is called and what it must come to: both follow from the seed, so nothing has to be remembered.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One queue or topic under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stream {
    /// A queue of the embedded broker, no order asked.
    EmbeddedTasks,
    /// A topic of the embedded broker, `order = "key"`.
    EmbeddedEvents,
    /// A RabbitMQ queue, no order asked.
    RabbitTasks,
    /// A Kafka topic, `order = "key"`.
    KafkaEvents,
    /// A RabbitMQ queue of hosts that share a store, no order asked.
    StoreTasks,
    /// A Kafka topic of hosts that share a store, `order = "key"`, of which a key waits behind its dead letter.
    StoreEvents,
}

impl Stream {
    pub const ALL: [Self; 6] = [
        Self::EmbeddedTasks,
        Self::EmbeddedEvents,
        Self::RabbitTasks,
        Self::KafkaEvents,
        Self::StoreTasks,
        Self::StoreEvents,
    ];

    fn letter(self) -> char {
        match self {
            Self::EmbeddedTasks => 't',
            Self::EmbeddedEvents => 'e',
            Self::RabbitTasks => 'r',
            Self::KafkaEvents => 'k',
            Self::StoreTasks => 'q',
            Self::StoreEvents => 'p',
        }
    }

    pub fn is_keyed(self) -> bool {
        matches!(self, Self::EmbeddedEvents | Self::KafkaEvents | Self::StoreEvents)
    }

    /// Its letters are in the store of all hosts, and somebody deals with each of them.
    pub fn is_shared(self) -> bool {
        matches!(self, Self::StoreTasks | Self::StoreEvents)
    }

    /// The arena of its hosts: what is done in the other one does not reach them.
    pub fn arena(self) -> &'static str {
        match self {
            Self::EmbeddedTasks | Self::EmbeddedEvents => "embedded",
            Self::RabbitTasks | Self::KafkaEvents => "brokers",
            Self::StoreTasks | Self::StoreEvents => "store",
        }
    }

    /// The broker kills and cuts of which concern it.
    pub fn broker(self) -> &'static str {
        match self {
            Self::EmbeddedTasks | Self::EmbeddedEvents => "embedded",
            Self::RabbitTasks | Self::StoreTasks => "rabbitmq",
            Self::KafkaEvents | Self::StoreEvents => "kafka",
        }
    }
}

/// `<stream><key>-<sequence>`: `k007-0000123`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id {
    pub stream: Stream,
    pub key: u32,
    /// Ascending within the key, without holes.
    pub sequence: u64,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:03}-{:07}", self.stream.letter(), self.key, self.sequence)
    }
}

impl Id {
    /// None: no id of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let mut letters = text.chars();
        let letter = letters.next()?;
        let stream = Stream::ALL.into_iter().find(|s| s.letter() == letter)?;
        let (key, sequence) = letters.as_str().split_once('-')?;
        Some(Self {
            stream,
            key: key.parse().ok()?,
            sequence: sequence.parse().ok()?,
        })
    }

    pub fn key_text(&self) -> String {
        format!("key-{}", self.key)
    }
}

/// What a message orders, and so what it must come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Done,
    RetryOnce,
    RetryTwice,
    LoopOnce,
    Reject,
    Trap,
    /// Rejected until it is sent again.
    Repair,
}

/// Attempts of a route of the torture run.
pub const ATTEMPTS: u32 = 4;

impl Fate {
    /// Of 10,000 messages 150 are retried once, 50 twice, 60 rejected, 30 trap until they are dead and 2 loop until their
    /// time is over. Where somebody deals with letters, 20 are rejected whatever he does, 10 trap, and 300 are rejected until
    /// they are sent again.
    pub fn of(seed: u64, id: &Id) -> Self {
        let shared = id.stream.is_shared();
        match mix(seed ^ mix(id.sequence) ^ mix(u64::from(id.key) << 32 | id.stream as u64)) % 10_000 {
            0..150 => Self::RetryOnce,
            150..200 => Self::RetryTwice,
            200..220 => Self::Reject,
            260..270 => Self::Trap,
            290..292 => Self::LoopOnce,
            220..260 | 270..290 | 300..540 if shared => Self::Repair,
            220..260 => Self::Reject,
            270..290 => Self::Trap,
            _ => Self::Done,
        }
    }

    /// It is never done, however often it is sent again.
    pub fn is_dead(self) -> bool {
        matches!(self, Self::Reject | Self::Trap)
    }

    /// The host gives it up when this attempt is not done.
    pub fn gives_up(self, attempt: u32) -> bool {
        (self.is_dead() || self == Self::Repair) && attempt >= self.last_attempt()
    }

    /// The attempt that ends it.
    pub fn last_attempt(self) -> u32 {
        match self {
            Self::Done | Self::Reject | Self::Repair => 1,
            Self::RetryOnce | Self::LoopOnce => 2,
            Self::RetryTwice => 3,
            Self::Trap => ATTEMPTS,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::RetryOnce => "retry-once",
            Self::RetryTwice => "retry-twice",
            Self::LoopOnce => "loop-once",
            Self::Reject => "reject",
            Self::Trap => "trap",
            Self::Repair => "repair",
        }
    }
}

/// What handlers do with messages of a run.
#[derive(Debug, Clone)]
pub struct Orders {
    pub seed: u64,
    /// URL of the observer.
    pub sink: String,
}

impl Orders {
    /// One message in eight and each that is not simply done has an output.
    pub fn payload(&self, id: &Id, out: &str) -> Value {
        let fate = Fate::of(self.seed, id);
        let output = (fate != Fate::Done || id.sequence.is_multiple_of(8)).then_some(out);
        json!({ "sink": self.sink, "do": fate.word(), "out": output })
    }
}

/// Steele, Lea, Flood: Fast splittable pseudorandom number generators (SplitMix64), its finalizer.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A sequence of choices that a seed fixes.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// From `low` up to below `high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.roll() % (high - low).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_what_it_is() {
        let id = Id {
            stream: Stream::KafkaEvents,
            key: 7,
            sequence: 123,
        };
        assert_eq!(id.to_string(), "k007-0000123");
        assert_eq!(Id::parse("k007-0000123"), Some(id));
        for foreign in ["", "k", "x007-1", "k07x-1", "0192-abc"] {
            assert_eq!(Id::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn every_fate_happens_and_most_messages_are_done() {
        let fates: Vec<Fate> = (0..100_000)
            .map(|sequence| {
                let id = Id {
                    stream: Stream::StoreTasks,
                    key: 1,
                    sequence,
                };
                Fate::of(42, &id)
            })
            .collect();
        let count = |fate| fates.iter().filter(|f| **f == fate).count();
        assert!(count(Fate::Done) > 90_000);
        for fate in [
            Fate::RetryOnce,
            Fate::RetryTwice,
            Fate::Reject,
            Fate::Trap,
            Fate::LoopOnce,
            Fate::Repair,
        ] {
            assert!(count(fate) > 0, "{fate:?}");
        }
    }
}
