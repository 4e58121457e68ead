//! The manual's dead letter message, as other programs put it into the queue: the message that failed, and why. Pure.
//!
//! What stands around the message is read as far as it can be: a field of the wrong type is as good as none.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::decode;
use crate::model::raw::Properties;
use crate::model::{Headers, MessageKind, RawMessage, UnixMs, header};

/// Of `failure_details`, which may be anything.
const DETAILS: usize = 1024;

/// Say what the message around it is, which is another one.
const ABOUT_THE_OUTER: [&str; 7] = [
    "type",
    "id",
    "message_type",
    "message_id",
    "content-type",
    "helix-format",
    "helix-content-type",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The message that failed, with its place where it is said; or why there is none.
    pub message: Result<RawMessage, String>,
    /// Where it came from is said.
    pub has_place: bool,
    pub reason: String,
    pub first_ms: Option<UnixMs>,
    pub last_ms: Option<UnixMs>,
    /// The letter that this says it is a copy of.
    pub letter: Option<String>,
    /// `original_message` as it stood.
    pub original: Option<String>,
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    original_message: Option<&'a RawValue>,
    #[serde(borrow)]
    original_queue: Option<&'a RawValue>,
    #[serde(borrow)]
    original_topic: Option<&'a RawValue>,
    #[serde(borrow)]
    failure_reason: Option<&'a RawValue>,
    #[serde(borrow)]
    failure_details: Option<&'a RawValue>,
    #[serde(borrow)]
    retry_count: Option<&'a RawValue>,
    #[serde(borrow)]
    first_failure: Option<&'a RawValue>,
    #[serde(borrow)]
    last_failure: Option<&'a RawValue>,
    #[serde(borrow)]
    status: Option<&'a RawValue>,
}

/// None: it is no such message. `events` is the broker that topics are on.
pub fn read(raw: &RawMessage, events: &std::sync::Arc<str>) -> Option<Told> {
    let body = raw.body.as_ref()?;
    told(raw, body, events).or_else(|| {
        // HelixAgent puts it into an envelope, like every message.
        let inside = decode::decode(raw, "", 0).ok()?.payload;
        (inside != *body).then(|| told(raw, &inside, events)).flatten()
    })
}

fn told(raw: &RawMessage, body: &Bytes, events: &std::sync::Arc<str>) -> Option<Told> {
    let wire: Wire<'_> = serde_json::from_slice(body).ok()?;
    let queue = text(wire.original_queue);
    let topic = text(wire.original_topic);
    let reason = text(wire.failure_reason);
    if wire.original_message.is_none() && (reason.is_none() || (queue.is_none() && topic.is_none())) {
        return None;
    }
    let has_place = queue.is_some() || topic.is_some();
    let mut inner = RawMessage {
        body: None,
        key: None,
        headers: of_the_wire(&raw.headers),
        props: Properties {
            content_type: Some("application/json".to_owned()),
            ..Properties::default()
        },
        ..raw.clone()
    };
    match (queue, topic) {
        (Some(queue), _) => inner.origin.destination = queue.into(),
        (None, Some(topic)) => {
            inner.origin.broker = std::sync::Arc::clone(events);
            inner.origin.kind = MessageKind::Event;
            inner.origin.destination = topic.into();
        }
        (None, None) => {}
    }
    let message = match wire.original_message.map(RawValue::get) {
        None => Err("`original_message` is missing".to_owned()),
        Some(text) if !text.starts_with('{') => Err("`original_message` is no object".to_owned()),
        Some(text) => {
            inner.body = Some(Bytes::copy_from_slice(text.as_bytes()));
            match decode::decode(&inner, "", 0) {
                Ok(_) => Ok(inner),
                Err(why) => Err(format!("`original_message` cannot be read: {why}")),
            }
        }
    };
    let details: Option<Value> = wire
        .failure_details
        .and_then(|details| serde_json::from_str(details.get()).ok());
    Some(Told {
        message,
        has_place,
        reason: explained(reason, &wire, details.as_ref()),
        first_ms: time(wire.first_failure),
        last_ms: time(wire.last_failure),
        letter: details
            .as_ref()
            .and_then(|details| details.get(header::EXPORTED))
            .and_then(Value::as_str)
            .map(str::to_owned),
        original: wire.original_message.map(|message| message.get().to_owned()),
    })
}

fn of_the_wire(headers: &Headers) -> Headers {
    headers
        .iter()
        .filter(|(name, _)| {
            let lower = name.to_ascii_lowercase();
            !ABOUT_THE_OUTER.contains(&lower.as_str())
                && !lower.starts_with("ce_")
                && !lower.starts_with("cloudevents")
        })
        .map(|(name, value)| (name, value.clone()))
        .collect()
}

/// Its own words first; what else it says comes after them.
fn explained(reason: Option<String>, wire: &Wire<'_>, details: Option<&Value>) -> String {
    let mut out = reason.unwrap_or_else(|| "another program gave up on it and does not say why".to_owned());
    if let Some(retries) = wire.retry_count.and_then(|n| n.get().parse::<u64>().ok()) {
        out.push_str(&format!("; retried {retries} times"));
    }
    if let Some(status) = text(wire.status).filter(|status| status != "pending") {
        out.push_str(&format!("; status {status}"));
    }
    let empty = |details: &&Value| match details {
        Value::Null => true,
        Value::Object(members) => members.is_empty(),
        _ => false,
    };
    if let Some(details) = details.filter(|details| !empty(details)) {
        let details: String = details.to_string().chars().take(DETAILS).collect();
        out.push_str(&format!("; {details}"));
    }
    out
}

/// A string that says something.
fn text(value: Option<&RawValue>) -> Option<String> {
    let text: String = serde_json::from_str(value?.get()).ok()?;
    Some(text).filter(|text| !text.is_empty())
}

/// RFC 3339; a time before 1970 is Go's "never".
fn time(value: Option<&RawValue>) -> Option<UnixMs> {
    let at: jiff::Timestamp = text(value)?.parse().ok()?;
    UnixMs::try_from(at.as_millisecond()).ok()
}
