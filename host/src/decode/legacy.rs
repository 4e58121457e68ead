//! HelixAgent's envelope: the payload is base64, mostly of a task or event whose own payload is base64 again.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde_json::value::RawValue;

use super::fields::{Fields, string};
use super::{Found, Malformed, flat};

/// Go pads, other writers may not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The base64 text, if this is such an envelope: `state` and `delivery_mode`, which it always has, and a string (or Go's nil,
/// null) as payload.
pub(super) fn payload_of<'a>(fields: &Fields<'a>) -> Result<Option<Cow<'a, str>>, Malformed> {
    if fields.state.is_none() || fields.delivery_mode.is_none() {
        return Ok(None);
    }
    fields.payload.and_then(base64_text).transpose()
}

/// None: no string and no null, so no base64 field.
fn base64_text(value: &RawValue) -> Option<Result<Cow<'_, str>, Malformed>> {
    match value.get().as_bytes().first() {
        Some(b'"') => Some(
            string(value).ok_or_else(|| Malformed::new("json.syntax", "the payload has an invalid escape")),
        ),
        Some(b'n') => Some(Ok(Cow::Borrowed(""))),
        _ => None,
    }
}

pub(super) fn found(outer: &Fields<'_>, payload: &str) -> Result<Found, Malformed> {
    let decoded = bytes(payload)?;
    let envelope = flat::common(outer)?;
    match inner(outer, &decoded)? {
        Some(inner) => Ok(merge(envelope, inner)),
        None => Ok(Found {
            payload: decoded.into(),
            ..envelope
        }),
    }
}

/// The task or event inside, when there is one: its id and type are the envelope's, and its payload is base64 beside the
/// fields that it always has.
fn inner(outer: &Fields<'_>, decoded: &[u8]) -> Result<Option<Found>, Malformed> {
    let Some(fields) = std::str::from_utf8(decoded)
        .ok()
        .filter(|text| text.starts_with('{'))
        .and_then(|text| Fields::parse(text).ok())
    else {
        return Ok(None);
    };
    let same = |a: Result<Option<Cow<'_, str>>, Malformed>, b: Result<Option<Cow<'_, str>>, Malformed>| matches!((a, b), (Ok(Some(a)), Ok(Some(b))) if a == b);
    if !same(outer.id(), fields.id()) || !same(outer.message_type(), fields.message_type()) {
        return Ok(None);
    }
    let is_task = fields.state.is_some() && fields.created_at.is_some();
    let is_event = fields.source.is_some() && fields.timestamp.is_some();
    let value = match (fields.payload, fields.data) {
        (Some(payload), _) if is_task => payload,
        (_, Some(data)) if is_event => data,
        _ => return Ok(None),
    };
    let Some(text) = base64_text(value) else {
        return Ok(None);
    };
    let key = match fields.key.and_then(base64_text) {
        Some(key) => Some(Bytes::from(bytes(&key?)?)).filter(|key| !key.is_empty()),
        None => None,
    };
    Ok(Some(Found {
        payload: bytes(&text?)?.into(),
        content_type: fields.payload_content_type()?,
        key,
        ..flat::common(&fields)?
    }))
}

/// The inner message knows best; what it leaves open is the envelope's.
fn merge(envelope: Found, inner: Found) -> Found {
    let mut headers = envelope.headers;
    for header in inner.headers {
        // Events have their headers in both.
        if !headers.contains(&header) {
            headers.push(header);
        }
    }
    Found {
        schema: inner.schema.or(envelope.schema),
        source: inner.source.or(envelope.source),
        subject: inner.subject.or(envelope.subject),
        priority: inner.priority.or(envelope.priority),
        time_ms: inner.time_ms.or(envelope.time_ms),
        deadline_ms: inner.deadline_ms.into_iter().chain(envelope.deadline_ms).min(),
        correlation_id: inner.correlation_id.or(envelope.correlation_id),
        reply_to: inner.reply_to.or(envelope.reply_to),
        traceparent: inner.traceparent.or(envelope.traceparent),
        tracestate: inner.tracestate.or(envelope.tracestate),
        headers,
        ..inner
    }
}

fn bytes(text: &str) -> Result<Vec<u8>, Malformed> {
    BASE64
        .decode(text)
        .map_err(|e| Malformed::new("base64.invalid", format!("the payload is no base64: {e}")))
}
