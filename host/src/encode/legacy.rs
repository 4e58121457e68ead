//! HelixAgent's envelope: base64 inside base64, every field and zero time it expects, in its order.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::stamp::{GO_ZERO, Stamp, or_zero, stamp};
use super::{Wire, base, json, set_text};
use crate::decode::CONTENT_TYPE_HEADER;
use crate::model::{MessageKind, Outgoing};

/// HelixAgent's default, for messages that say none.
const NORMAL_PRIORITY: u8 = 5;
/// HelixAgent's default. Readers of these messages count for themselves.
const MAX_RETRIES: u32 = 3;
const PERSISTENT: u8 = 2;

#[derive(Serialize)]
struct Message<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    message_type: &'a str,
    payload: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<&'a str, &'a str>,
    timestamp: Stamp,
    priority: u8,
    retry_count: u32,
    max_retries: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<&'a str>,
    expiration: Stamp,
    delivery_mode: u8,
    state: &'static str,
}

#[derive(Serialize)]
struct Task<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    message_type: &'a str,
    payload: String,
    priority: u8,
    state: &'static str,
    max_retries: u32,
    retry_count: u32,
    deadline: Stamp,
    created_at: Stamp,
    scheduled_at: Stamp,
    started_at: &'static str,
    completed_at: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Event<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    message_type: &'a str,
    source: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    data: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_schema: Option<&'a str>,
    timestamp: Stamp,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

/// The record key stays the message's key: HelixAgent puts the id there, which orders nothing.
pub(super) fn wire(message: &Outgoing) -> Wire {
    let mut wire = base(message, Some("application/json".to_owned()));
    if message.kind == MessageKind::Task {
        // A HelixAgent task has no fields for these.
        set_text(&mut wire.headers, "source", message.source.as_deref());
        set_text(&mut wire.headers, "subject", message.subject.as_deref());
        set_text(&mut wire.headers, "schema", message.schema.as_deref());
        set_text(
            &mut wire.headers,
            CONTENT_TYPE_HEADER,
            message.content_type.as_deref(),
        );
    }
    let trace_id = message.trace.as_ref().and_then(|t| t.trace_id());
    set_text(&mut wire.headers, "trace-id", trace_id);
    // Its headers are a map of strings, so repeated and binary ones are on the wire only.
    let headers: BTreeMap<&str, &str> = message
        .headers
        .iter()
        .filter(|(name, _)| !super::is_reserved(name))
        .filter_map(|(name, value)| Some((name, std::str::from_utf8(value).ok()?)))
        .collect();
    let inner = match message.kind {
        MessageKind::Task => json(&task(message, trace_id)),
        MessageKind::Event => json(&event(message, trace_id, headers.clone())),
    };
    wire.body = Some(json(&Message {
        id: &message.id,
        message_type: &message.message_type,
        payload: STANDARD.encode(inner),
        headers,
        timestamp: stamp(message.time_ms),
        priority: message.priority.unwrap_or(NORMAL_PRIORITY),
        retry_count: 0,
        max_retries: MAX_RETRIES,
        trace_id,
        correlation_id: message.correlation_id.as_deref(),
        reply_to: message.reply_to.as_deref(),
        expiration: or_zero(message.deadline_ms),
        delivery_mode: PERSISTENT,
        state: "pending",
    }));
    wire
}

fn task<'a>(message: &'a Outgoing, trace_id: Option<&'a str>) -> Task<'a> {
    Task {
        id: &message.id,
        message_type: &message.message_type,
        payload: STANDARD.encode(&message.payload),
        priority: message.priority.unwrap_or(NORMAL_PRIORITY),
        state: "pending",
        max_retries: MAX_RETRIES,
        retry_count: 0,
        deadline: or_zero(message.deadline_ms),
        created_at: stamp(message.time_ms),
        scheduled_at: or_zero(message.not_before_ms),
        started_at: GO_ZERO,
        completed_at: GO_ZERO,
        trace_id,
        correlation_id: message.correlation_id.as_deref(),
    }
}

fn event<'a>(
    message: &'a Outgoing,
    trace_id: Option<&'a str>,
    headers: BTreeMap<&'a str, &'a str>,
) -> Event<'a> {
    Event {
        id: &message.id,
        message_type: &message.message_type,
        source: message.source.as_deref().unwrap_or_default(),
        subject: message.subject.as_deref(),
        data: STANDARD.encode(&message.payload),
        data_content_type: message.content_type.as_deref(),
        data_schema: message.schema.as_deref(),
        timestamp: stamp(message.time_ms),
        headers,
        trace_id,
        correlation_id: message.correlation_id.as_deref(),
        key: message.key.as_ref().map(|key| STANDARD.encode(key)),
    }
}
