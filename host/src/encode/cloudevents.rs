//! CloudEvents 1.0, binary and structured.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Wire, base, delivery_headers, json, json_payload, set, set_text, stamp};
use crate::decode::valid_traceparent;
use crate::model::{MessageKind, Outgoing};

/// `source` is mandatory; this stands in for a message that has none.
const DEFAULT_SOURCE: &str = "/helix";

const ATTRIBUTES: [&str; 10] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "dataschema",
    "datacontenttype",
    "traceparent",
    "tracestate",
];

/// Names of context attributes in any of the three spellings. Other extension attributes may be set as headers.
pub(super) fn is_attribute(name: &str) -> bool {
    ["ce_", "cloudEvents_", "cloudEvents:"].iter().any(|prefix| {
        name.split_at_checked(prefix.len()).is_some_and(|(start, rest)| {
            start.eq_ignore_ascii_case(prefix) && ATTRIBUTES.iter().any(|a| rest.eq_ignore_ascii_case(a))
        })
    })
}

pub(super) fn binary(message: &Outgoing) -> Wire {
    let mut wire = base(message, message.content_type.clone());
    wire.body = (!message.tombstone).then(|| message.payload.clone());
    let prefix = match message.kind {
        MessageKind::Task => "cloudEvents_",
        MessageKind::Event => "ce_",
    };
    let time = stamp::rfc3339(message.time_ms);
    let trace = message
        .trace
        .as_ref()
        .filter(|t| valid_traceparent(&t.traceparent));
    for (name, value) in [
        ("specversion", Some("1.0")),
        ("id", Some(message.id.as_str())),
        ("source", Some(source(message))),
        ("type", Some(message.message_type.as_str())),
        ("time", time.as_deref()),
        ("subject", message.subject.as_deref()),
        ("dataschema", message.schema.as_deref()),
        ("traceparent", trace.map(|t| t.traceparent.as_str())),
        ("tracestate", trace.and_then(|t| t.tracestate.as_deref())),
    ] {
        set_text(&mut wire.headers, &format!("{prefix}{name}"), value);
    }
    finish(&mut wire, message);
    wire
}

#[derive(Serialize)]
struct Structured<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'a str,
    #[serde(rename = "type")]
    message_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dataschema: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

pub(super) fn structured(message: &Outgoing) -> Wire {
    let trace = message
        .trace
        .as_ref()
        .filter(|t| valid_traceparent(&t.traceparent));
    let data = json_payload(message);
    let body = json(&Structured {
        specversion: "1.0",
        id: &message.id,
        source: source(message),
        message_type: &message.message_type,
        time: stamp::rfc3339(message.time_ms),
        subject: message.subject.as_deref(),
        dataschema: message.schema.as_deref(),
        datacontenttype: message.content_type.as_deref(),
        traceparent: trace.map(|t| t.traceparent.as_str()),
        tracestate: trace.and_then(|t| t.tracestate.as_deref()),
        data,
        data_base64: data.is_none().then(|| STANDARD.encode(&message.payload)),
    });
    let mut wire = base(
        message,
        Some("application/cloudevents+json; charset=utf-8".to_owned()),
    );
    wire.body = Some(body);
    finish(&mut wire, message);
    wire
}

fn finish(wire: &mut Wire, message: &Outgoing) {
    delivery_headers(wire, message);
    if stamp::rfc3339(message.time_ms).is_none() {
        // CloudEvents knows RFC 3339 only.
        set(&mut wire.headers, "timestamp", stamp::text(message.time_ms));
    }
}

fn source(message: &Outgoing) -> &str {
    message
        .source
        .as_deref()
        .filter(|s| !s.is_empty())
        .unwrap_or(DEFAULT_SOURCE)
}
