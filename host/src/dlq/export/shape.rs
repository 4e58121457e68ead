//! A letter as the manual's dead letter message, for those who read them from a topic. Pure.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::broker::Replica;
use crate::decode;
use crate::dlq::view::time;
use crate::model::raw::Properties;
use crate::model::{DeadLetter, Headers, LetterState, MessageKind, RawMessage, header};

/// How Go writes a time that was never set.
const NEVER: &str = "0001-01-01T00:00:00Z";
/// The header `type` of the record.
const TYPE: &str = "dlq.message";
/// HelixAgent's default, for messages that say none.
const NORMAL_PRIORITY: u8 = 5;

#[derive(Serialize)]
struct Message<'a> {
    id: &'a str,
    original_queue: &'a str,
    original_topic: &'a str,
    original_message: Original<'a>,
    failure_reason: &'a str,
    failure_details: Details<'a>,
    retry_count: usize,
    first_failure: String,
    last_failure: String,
    next_retry: &'static str,
    status: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Original<'a> {
    /// It is JSON that says its id and type itself.
    AsItWas(&'a RawValue),
    /// Everything else, in HelixAgent's envelope.
    Wrapped(Box<Envelope<'a>>),
}

#[derive(Serialize)]
struct Envelope<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    message_type: &'a str,
    payload: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<&'a str, &'a str>,
    timestamp: String,
    priority: u8,
    retry_count: usize,
    max_retries: usize,
    expiration: &'static str,
    delivery_mode: u8,
    state: &'static str,
}

#[derive(Serialize)]
struct Details<'a> {
    class: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    broker: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    /// By this it is known that the letter is here already: see `dlq/adopt`.
    #[serde(rename = "helix-exported")]
    letter: &'a str,
}

/// The record: the same for the same letter, its id in a header as well. Letters of one key go to one partition.
pub fn replica(letter: &DeadLetter) -> Replica {
    let raw = &letter.raw;
    let task = raw.origin.kind == MessageKind::Task;
    let place = |wanted: bool| if wanted { &*raw.origin.destination } else { "" };
    let message = Message {
        id: &letter.id,
        original_queue: place(task),
        original_topic: place(!task),
        original_message: original(letter),
        failure_reason: &letter.reason,
        failure_details: Details {
            class: letter.class.as_str(),
            code: letter.code.as_deref(),
            broker: &raw.origin.broker,
            partition: raw.origin.partition,
            offset: raw.origin.offset,
            route: letter.route.as_deref(),
            plugin: letter.plugin.as_deref(),
            digest: letter.digest.as_deref(),
            trace_id: letter.trace_id.as_deref(),
            letter: &letter.id,
        },
        retry_count: retries(letter),
        first_failure: time(letter.first_failure_ms),
        last_failure: time(letter.last_failure_ms),
        next_retry: NEVER,
        status: match letter.state {
            LetterState::Dead => "pending",
            LetterState::Retrying => "retrying",
            LetterState::Reprocessed => "processed",
            LetterState::Discarded => "discarded",
            LetterState::Expired => "expired",
        },
    };
    let mut headers = Headers::new();
    headers.push("id", letter.id.clone());
    headers.push("type", TYPE);
    headers.push("content-type", "application/json");
    headers.push(header::EXPORTED, letter.id.clone());
    Replica {
        raw: RawMessage {
            origin: raw.origin.clone(),
            body: Some(json(&message)),
            key: Some(raw.key.clone().unwrap_or_else(|| Bytes::from(letter.id.clone()))),
            headers,
            props: Properties {
                content_type: Some("application/json".to_owned()),
                message_type: Some(TYPE.to_owned()),
                message_id: Some(letter.id.clone()),
                ..Properties::default()
            },
            timestamp_ms: None,
            redelivered: false,
        },
        partition: None,
    }
}

/// What stands under `original_message`.
pub fn original_of(letter: &DeadLetter) -> String {
    String::from_utf8_lossy(&json(&original(letter))).into_owned()
}

fn original(letter: &DeadLetter) -> Original<'_> {
    let raw = &letter.raw;
    if let Some(value) = raw.body.as_ref().and_then(|body| self_contained(letter, body)) {
        return Original::AsItWas(value);
    }
    Original::Wrapped(Box::new(Envelope {
        id: letter.message_id.as_deref().unwrap_or(&letter.id),
        message_type: letter.message_type.as_deref().unwrap_or_default(),
        payload: STANDARD.encode(raw.body.as_deref().unwrap_or_default()),
        headers: raw
            .headers
            .iter()
            .filter_map(|(name, value)| Some((name, std::str::from_utf8(value).ok()?)))
            .collect(),
        timestamp: time(raw.timestamp_ms.unwrap_or(letter.first_failure_ms)),
        priority: raw.props.priority.unwrap_or(NORMAL_PRIORITY),
        retry_count: retries(letter),
        max_retries: retries(letter),
        expiration: NEVER,
        delivery_mode: 2,
        state: "dead_lettered",
    }))
}

/// Without its headers it says the same.
fn self_contained<'a>(letter: &DeadLetter, body: &'a Bytes) -> Option<&'a RawValue> {
    let value: &RawValue = serde_json::from_slice(body).ok()?;
    let bare = RawMessage {
        origin: letter.raw.origin.clone(),
        body: Some(body.clone()),
        key: None,
        headers: Headers::new(),
        props: Properties::default(),
        timestamp_ms: None,
        redelivered: false,
    };
    let envelope = decode::decode(&bare, "", 0).ok()?;
    let same = Some(&envelope.id) == letter.message_id.as_ref()
        && Some(&envelope.message_type) == letter.message_type.as_ref();
    (same && value.get().starts_with('{')).then_some(value)
}

/// Attempts after the first.
fn retries(letter: &DeadLetter) -> usize {
    letter.attempts.len().saturating_sub(1)
}

/// Serializing plain strings, numbers and checked JSON into memory cannot fail.
fn json<T: Serialize>(document: &T) -> Bytes {
    serde_json::to_vec(document).unwrap_or_default().into()
}

#[cfg(test)]
mod tests;
