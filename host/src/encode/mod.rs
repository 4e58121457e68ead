//! Outgoing message → bytes and headers on the wire, in the format its target asks for. Pure.
//!
//! Type and id are always in the headers (and properties), so a reader can route without parsing. A message's own headers
//! cannot pose as those: names with a meaning on the wire are dropped from them. What a body has no field for goes into
//! headers, under the names that [`crate::decode`] looks for.
//!
//! Tasks leave on brokers with properties (AMQP, embedded), events on brokers that may have headers only (Kafka).

mod cloudevents;
mod flat;
mod legacy;
mod stamp;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::decode::{self, CONTENT_TYPE_HEADER, FORMAT_HEADER, FORMAT_RAW, KEY_HEADER};
use crate::model::raw::Properties;
use crate::model::{Headers, MessageKind, Outgoing, WireFormat};

/// What a broker adapter puts on its wire: body, key, headers and (AMQP, embedded) properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    pub body: Option<Bytes>,
    pub key: Option<Bytes>,
    pub headers: Headers,
    pub props: Properties,
}

/// A tombstone has no body to be wrapped: it goes out as `raw`, or as binary CloudEvent where CloudEvents are asked for.
/// Spaces around a JSON payload are not kept inside a JSON envelope; every other payload arrives byte for byte.
pub fn encode(message: &Outgoing, format: WireFormat) -> Wire {
    match format {
        WireFormat::CloudeventsBinary => cloudevents::binary(message),
        WireFormat::CloudeventsStructured if message.tombstone => cloudevents::binary(message),
        WireFormat::CloudeventsStructured => cloudevents::structured(message),
        WireFormat::Legacy if !message.tombstone => legacy::wire(message),
        WireFormat::Flat if !message.tombstone => match json_payload(message) {
            Some(payload) => flat::wire(message, payload),
            None => raw(message),
        },
        WireFormat::Flat | WireFormat::Legacy | WireFormat::Raw => raw(message),
    }
}

fn raw(message: &Outgoing) -> Wire {
    let mut wire = base(message, message.content_type.clone());
    wire.body = (!message.tombstone).then(|| message.payload.clone());
    set_text(&mut wire.headers, "source", message.source.as_deref());
    set_text(&mut wire.headers, "subject", message.subject.as_deref());
    set_text(&mut wire.headers, "schema", message.schema.as_deref());
    set(&mut wire.headers, "timestamp", stamp::text(message.time_ms));
    delivery_headers(&mut wire, message);
    if !message.tombstone && decode::may_be_envelope(&message.payload) {
        wire.headers.push(FORMAT_HEADER, FORMAT_RAW);
    }
    wire
}

/// Everything but the body: own headers, type, id, trace context, key, properties.
fn base(message: &Outgoing, content_type: Option<String>) -> Wire {
    let mut headers: Headers = message
        .headers
        .iter()
        .filter(|(name, _)| !is_reserved(name))
        .map(|(name, value)| (name, value.clone()))
        .collect();
    headers.push("type", message.message_type.clone());
    headers.push("id", message.id.clone());
    if let Some(trace) = message
        .trace
        .as_ref()
        .filter(|t| decode::valid_traceparent(&t.traceparent))
    {
        headers.push("traceparent", trace.traceparent.clone());
        if let Some(state) = &trace.tracestate {
            headers.push("tracestate", state.clone());
        }
    }
    if message.kind == MessageKind::Task
        && let Some(key) = &message.key
    {
        headers.push(KEY_HEADER, key.clone());
    }
    Wire {
        body: None,
        key: message.key.clone(),
        headers,
        props: Properties {
            content_type,
            message_type: Some(message.message_type.clone()),
            message_id: Some(message.id.clone()),
            correlation_id: message.correlation_id.clone(),
            reply_to: message.reply_to.clone(),
            priority: message.priority,
            expires_ms: message.deadline_ms,
        },
    }
}

/// Names that say what a message is.
const RESERVED: [&str; 10] = [
    "type",
    "id",
    "message_type",
    "message_id",
    "content-type",
    "traceparent",
    "tracestate",
    KEY_HEADER,
    FORMAT_HEADER,
    CONTENT_TYPE_HEADER,
];

fn is_reserved(name: &str) -> bool {
    RESERVED
        .iter()
        .any(|reserved| name.eq_ignore_ascii_case(reserved))
        || cloudevents::is_attribute(name)
}

/// What AMQP has properties for. `deadline` goes out for tasks too: AMQP's own expiration is a length, not a point in time.
fn delivery_headers(wire: &mut Wire, message: &Outgoing) {
    if let Some(deadline) = message.deadline_ms {
        set(&mut wire.headers, "deadline", stamp::text(deadline));
    }
    if message.kind == MessageKind::Event {
        set_text(
            &mut wire.headers,
            "content-type",
            wire.props.content_type.as_deref(),
        );
        set_text(
            &mut wire.headers,
            "correlation_id",
            message.correlation_id.as_deref(),
        );
        set_text(&mut wire.headers, "reply_to", message.reply_to.as_deref());
        set_text(
            &mut wire.headers,
            "priority",
            message.priority.map(|p| p.to_string()).as_deref(),
        );
    }
}

fn set_text(headers: &mut Headers, name: &str, value: Option<&str>) {
    if let Some(value) = value {
        set(headers, name, value.to_owned());
    }
}

/// The field wins over a header of that name.
fn set(headers: &mut Headers, name: &str, value: impl Into<Bytes>) {
    headers.remove(name);
    headers.push(name, value);
}

/// The payload as a JSON value, when it is one and is not said to be something else.
fn json_payload(message: &Outgoing) -> Option<&RawValue> {
    if message
        .content_type
        .as_deref()
        .is_some_and(|t| !decode::is_json(t))
    {
        return None;
    }
    serde_json::from_slice(&message.payload).ok()
}

/// Serializing plain strings, numbers and checked JSON into memory cannot fail.
fn json<T: serde::Serialize>(document: &T) -> Bytes {
    serde_json::to_vec(document).unwrap_or_default().into()
}
