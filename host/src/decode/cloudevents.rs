//! CloudEvents 1.0, binary and structured, on Kafka and AMQP.
//!
//! Rules: <https://github.com/cloudevents/spec>, `bindings/kafka-protocol-binding.md`, `bindings/amqp-protocol-binding.md`,
//! `formats/json-format.md`, extensions `distributed-tracing`, `partitioning` and `expirytime`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::assemble::content_type;
use super::fields::{Members, header_value, not_null, owned, point_in_time, string};
use super::{Found, Malformed, slice_of, time};
use crate::model::RawMessage;

/// In the order in which they are looked for; `cloudEvents_` is what the AMQP binding prefers.
const PREFIXES: [&str; 3] = ["ce_", "cloudEvents_", "cloudEvents:"];

/// What has a place of its own in the envelope; everything else is an extension attribute.
const CONTEXT: [&str; 8] = [
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "dataschema",
    "datacontenttype",
];

const MEDIA_TYPE: &str = "application/cloudevents";

pub(super) fn is_structured(raw: &RawMessage) -> bool {
    content_type(raw)
        .and_then(|text| text.get(..MEDIA_TYPE.len()))
        .is_some_and(|start| start.eq_ignore_ascii_case(MEDIA_TYPE))
}

/// None when it is no CloudEvent: a mandatory attribute is missing, or the version is not 1.x.
pub(super) fn binary(raw: &RawMessage) -> Option<Found> {
    PREFIXES.iter().find_map(|prefix| binary_with(raw, prefix))
}

fn binary_with(raw: &RawMessage, prefix: &str) -> Option<Found> {
    // Nearly every message stops here, so no name is put together before a header has the prefix.
    let attributes: Vec<(&str, &Bytes)> = raw
        .headers
        .iter()
        .filter_map(|(name, value)| Some((strip(name, prefix)?, value)))
        .collect();
    let attribute = |wanted: &str| {
        attributes
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted))
            .and_then(|(_, value)| std::str::from_utf8(value).ok())
            .filter(|text| !text.is_empty())
    };
    attribute("specversion").filter(|v| v.starts_with("1."))?;
    let at = |name| {
        attribute(name)
            .and_then(time::from_text)
            .and_then(time::Time::set)
    };
    let mut found = Found {
        id: Some(attribute("id")?.to_owned()),
        source: Some(attribute("source")?.to_owned()),
        message_type: Some(attribute("type")?.to_owned()),
        payload: raw.body.clone().unwrap_or_default(),
        tombstone: raw.body.is_none(),
        content_type: content_type(raw)
            .or(attribute("datacontenttype"))
            .map(str::to_owned),
        schema: attribute("dataschema").map(str::to_owned),
        subject: attribute("subject").map(str::to_owned),
        time_ms: at("time"),
        deadline_ms: at("expirytime"),
        key: attribute("partitionkey").map(|key| Bytes::copy_from_slice(key.as_bytes())),
        traceparent: attribute("traceparent").map(str::to_owned),
        tracestate: attribute("tracestate").map(str::to_owned),
        ..Found::default()
    };
    if prefix != "ce_" {
        // One name for an extension attribute, whatever broker it came over.
        found.headers = attributes
            .iter()
            .filter(|(name, _)| !CONTEXT.iter().any(|known| name.eq_ignore_ascii_case(known)))
            .map(|(name, value)| (format!("ce_{name}"), Bytes::clone(value)))
            .collect();
    }
    Some(found)
}

fn strip<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let (start, rest) = name.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

pub(super) fn structured(body: &Bytes) -> Result<Found, Malformed> {
    let text = std::str::from_utf8(body).map_err(|e| {
        Malformed::new(
            "utf8.invalid",
            format!("a structured CloudEvent has to be UTF-8: {e}"),
        )
    })?;
    if text.trim_start().starts_with('[') {
        return Err(Malformed::new(
            "cloudevents.batch",
            "batches of CloudEvents are not taken apart",
        ));
    }
    let event = Members::parse(text, "cloudevents.type")?;
    let version = mandatory(&event, "specversion")?;
    if !version.starts_with("1.") {
        return Err(Malformed::new(
            "cloudevents.version",
            format!("CloudEvents {version} is not known here, only 1.x"),
        ));
    }
    let optional = |name: &'static str| owned(event.get(name), "cloudevents.attribute");
    let content_type = optional("datacontenttype")?;
    let (payload, content_type) = data(body, &event, content_type)?;
    Ok(Found {
        id: Some(mandatory(&event, "id")?),
        source: Some(mandatory(&event, "source")?),
        message_type: Some(mandatory(&event, "type")?),
        payload,
        content_type,
        schema: optional("dataschema")?,
        subject: optional("subject")?,
        time_ms: point_in_time(event.get("time"), "time.type")?,
        deadline_ms: point_in_time(event.get("expirytime"), "expirytime.type")?,
        key: optional("partitionkey")?.map(Bytes::from),
        traceparent: optional("traceparent")?,
        tracestate: optional("tracestate")?,
        headers: extensions(&event)?,
        ..Found::default()
    })
}

fn mandatory(event: &Members<'_>, name: &str) -> Result<String, Malformed> {
    owned(event.get(name), "cloudevents.attribute")?.ok_or_else(|| {
        Malformed::new(
            "cloudevents.attribute",
            format!("the CloudEvent has no `{name}`, which is mandatory"),
        )
    })
}

/// JSON data as it stands; a string as its content when the data is said to be something else; `data_base64` decoded.
fn data(
    body: &Bytes,
    event: &Members<'_>,
    content_type: Option<String>,
) -> Result<(Bytes, Option<String>), Malformed> {
    if let Some(value) = not_null(event.get("data_base64")) {
        let decoded = string(value).and_then(|text| STANDARD.decode(text.as_bytes()).ok());
        let decoded =
            decoded.ok_or_else(|| Malformed::new("base64.invalid", "`data_base64` is no base64 string"))?;
        return Ok((decoded.into(), content_type));
    }
    let Some(value) = event.get("data") else {
        return Ok((Bytes::new(), content_type));
    };
    if content_type.as_deref().is_none_or(is_json) {
        let content_type = content_type.or_else(|| Some("application/json".to_owned()));
        return Ok((slice_of(body, value.get()), content_type));
    }
    let payload = string(value).map_or_else(
        || slice_of(body, value.get()),
        |text| Bytes::from(text.into_owned()),
    );
    Ok((payload, content_type))
}

/// `*/json` and `*/*+json`, as the CloudEvents JSON format defines it.
pub(crate) fn is_json(content_type: &str) -> bool {
    let media = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    media
        .split_once('/')
        .is_some_and(|(_, sub)| sub == "json" || sub.ends_with("+json"))
}

/// Extension attributes are headers named as binary mode on Kafka names them.
fn extensions(event: &Members<'_>) -> Result<Vec<(String, Bytes)>, Malformed> {
    let mut out = Vec::new();
    for (name, value) in &event.0 {
        let known = CONTEXT.contains(&name.as_str()) || matches!(name.as_str(), "data" | "data_base64");
        if !known {
            out.push((format!("ce_{name}"), header_value(value)?));
        }
    }
    Ok(out)
}
