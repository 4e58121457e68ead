//! A dead letter as JSON: times in RFC 3339, bytes as text where they are text and as base64 where they are not.

use base64::Engine;
use serde::{Deserialize, Serialize};

use super::adopt::deaths::{self, Death};
use crate::model::{Attempt, DeadLetter, FailureClass, LetterState, header};
use crate::store::{Entry, HeldKey, Mark, Progress};

#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "DeadLetter")]
pub struct Letter {
    pub id: String,
    #[schemars(with = "LetterState")]
    pub state: String,
    #[schemars(with = "FailureClass")]
    pub class: String,
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// `broker/destination[partition]@offset`.
    pub origin: String,
    pub destination: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub message_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// How often a handler ran.
    pub attempts: usize,
    /// How often the message that failed last had been sent again.
    #[serde(default)]
    pub reprocessed: u32,
    #[schemars(extend("format" = "date-time"))]
    pub first_failure: String,
    #[schemars(extend("format" = "date-time"))]
    pub last_failure: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// Messages of its key that wait behind it, when the key is parked. Only in `show`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u64>,
    /// How far the host is with it by itself, when it has begun or leaves it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto: Option<Unasked>,
    /// Only in `show`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original: Option<Original>,
    /// Only in `show`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<Attempt>,
    /// What its broker says about its deaths there, newest first. Only in `show`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deaths: Vec<DeathOf>,
    /// The queue of dead letters that it was found in, when nothing says which one it came from. Only in `show`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found_in: Option<String>,
    /// The token may not read payloads, so what was in the message and what its handler wrote is left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withheld: bool,
    /// What was done to it, oldest first. Only in `show`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trail: Vec<Step>,
}

/// So often it was dead-lettered from a queue for one reason: RabbitMQ's `x-death`.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "BrokerDeath")]
pub struct DeathOf {
    pub queue: String,
    pub reason: String,
    pub exchange: String,
    pub routing_keys: Vec<String>,
    pub count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub time: Option<String>,
}

impl From<Death> for DeathOf {
    fn from(death: Death) -> Self {
        Self {
            queue: death.queue,
            reason: death.reason,
            exchange: death.exchange,
            routing_keys: death.routing_keys,
            count: death.count,
            time: death.time_ms.map(time),
        }
    }
}

/// One change of a letter.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "LetterChange")]
pub struct Step {
    #[schemars(extend("format" = "date-time"))]
    pub time: String,
    pub actor: String,
    pub action: String,
    #[schemars(with = "LetterState")]
    pub from: String,
    #[schemars(with = "LetterState")]
    pub to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<Entry> for Step {
    fn from(entry: Entry) -> Self {
        Self {
            time: time(entry.at_ms),
            actor: entry.note.actor,
            action: entry.note.action.into_owned(),
            from: entry.from.as_str().to_owned(),
            to: entry.to.as_str().to_owned(),
            reason: entry.note.reason,
        }
    }
}

/// What the host did with a letter by itself, since a person had it last.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Unasked {
    /// `open`: it is tried again; `exhausted`: it waits for a person; `left`: no policy of `[dlq.auto]` wants it.
    pub state: String,
    pub attempts: u32,
    /// Not before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub next: Option<String>,
}

impl Unasked {
    pub fn new(progress: Progress, mark: Mark) -> Self {
        let open = mark == Mark::Open && progress.due_ms > 0;
        Self {
            state: match mark {
                Mark::Open => "open",
                Mark::Exhausted => "exhausted",
                Mark::Left => "left",
            }
            .to_owned(),
            attempts: progress.attempts,
            next: open.then(|| time(progress.due_ms)),
        }
    }
}

/// A key that waits behind a dead letter.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ParkedKey {
    pub route: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// When it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// When it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// The key is left out: the caller may not see what is in messages.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub withheld: bool,
    /// Id of the dead letter.
    pub letter: String,
    #[schemars(extend("format" = "date-time"))]
    pub since: String,
    /// Messages behind it.
    pub waiting: u64,
}

impl ParkedKey {
    /// `destination` and `key` are what the lane stands for.
    pub fn new(held: &HeldKey, destination: Option<&str>, key: &[u8]) -> Self {
        let text = std::str::from_utf8(key).ok();
        Self {
            route: held.route.clone(),
            destination: destination.map(str::to_owned),
            key: text.map(str::to_owned),
            key_base64: text.is_none().then(|| base64(key)),
            withheld: false,
            letter: held.letter.clone(),
            since: time(held.since_ms),
            waiting: held.waiting,
        }
    }

    /// Leaves the key out: it came from the message.
    pub fn withhold(&mut self) {
        self.key = None;
        self.key_base64 = None;
        self.withheld = true;
    }
}

/// What became of a request about one letter.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "LetterOutcome")]
pub struct Outcome {
    pub id: String,
    /// The state of the letter now.
    #[schemars(with = "LetterState")]
    pub status: String,
}

/// The message as the broker had it.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "OriginalMessage")]
pub struct Original {
    /// When the body is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// When it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// A Kafka null.
    pub tombstone: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_base64: Option<String>,
    /// In order; values that are not UTF-8, or that start with `base64:` themselves, as `base64:…`.
    pub headers: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub timestamp: Option<String>,
}

impl Letter {
    /// For lists: no payload, no attempts.
    pub fn summary(letter: &DeadLetter) -> Self {
        Self {
            id: letter.id.clone(),
            state: letter.state.as_str().to_owned(),
            class: letter.class.as_str().to_owned(),
            reason: letter.reason.clone(),
            code: letter.code.clone(),
            origin: letter.raw.origin.to_string(),
            destination: letter.raw.origin.destination.to_string(),
            message_id: letter.message_id.clone(),
            message_type: letter.message_type.clone(),
            route: letter.route.clone(),
            plugin: letter.plugin.clone(),
            digest: letter.digest.clone(),
            attempts: letter.attempts.len(),
            reprocessed: letter.reprocessed,
            first_failure: time(letter.first_failure_ms),
            last_failure: time(letter.last_failure_ms),
            trace_id: letter.trace_id.clone(),
            waiting: None,
            auto: None,
            original: None,
            history: Vec::new(),
            deaths: Vec::new(),
            found_in: None,
            withheld: false,
            trail: Vec::new(),
        }
    }

    /// Leaves out what was in the message, and what its handler wrote about it.
    pub fn withhold(&mut self) {
        self.original = None;
        for attempt in &mut self.history {
            attempt.log.clear();
        }
        for death in &mut self.deaths {
            death.routing_keys.clear();
        }
        self.withheld = true;
    }

    pub fn whole(letter: &DeadLetter, trail: Vec<Entry>) -> Self {
        let raw = &letter.raw;
        let text = raw.body.as_ref().map(|body| {
            std::str::from_utf8(body)
                .map(str::to_owned)
                .map_err(|_| base64(body))
        });
        let (body, body_base64) = match text {
            Some(Ok(text)) => (Some(text), None),
            Some(Err(encoded)) => (None, Some(encoded)),
            None => (None, None),
        };
        let original = Original {
            body,
            body_base64,
            tombstone: raw.body.is_none(),
            key_base64: raw.key.as_ref().map(|key| base64(key)),
            headers: raw
                .headers
                .iter()
                .map(|(name, value)| {
                    // A text that looks encoded is encoded, so that a reader can tell what the bytes were.
                    let value = std::str::from_utf8(value)
                        .ok()
                        .filter(|text| !text.starts_with("base64:"))
                        .map_or_else(|| format!("base64:{}", base64(value)), str::to_owned);
                    (name.to_owned(), value)
                })
                .collect(),
            content_type: raw.props.content_type.clone(),
            timestamp: raw.timestamp_ms.map(time),
        };
        Self {
            original: Some(original),
            history: letter.attempts.clone(),
            deaths: deaths::read(&raw.headers)
                .into_iter()
                .map(DeathOf::from)
                .collect(),
            found_in: raw
                .headers
                .text(header::ADOPTED)
                .filter(|queue| *queue == &*raw.origin.destination)
                .map(str::to_owned),
            trail: trail.into_iter().map(Step::from).collect(),
            ..Self::summary(letter)
        }
    }
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// RFC 3339 in UTC.
pub fn time(ms: u64) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| ms.to_string(), |time| time.to_string())
}
