//! Type in a header: the body is the payload, unless it is an envelope that says the same.

use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;

use super::assemble::{FORMAT_HEADER, FORMAT_RAW, content_type};
use super::fields::Fields;
use super::{Found, Malformed, flat, legacy};
use crate::model::RawMessage;

pub(super) fn header_type(raw: &RawMessage) -> Option<&str> {
    named(
        raw,
        raw.props.message_type.as_deref(),
        &[
            "type",
            "message_type",
            "ce_type",
            "cloudEvents_type",
            "cloudEvents:type",
        ],
    )
}

pub(super) fn header_id(raw: &RawMessage) -> Option<&str> {
    named(
        raw,
        raw.props.message_id.as_deref(),
        &["id", "message_id", "ce_id", "cloudEvents_id", "cloudEvents:id"],
    )
}

fn named<'a>(raw: &'a RawMessage, property: Option<&'a str>, headers: &[&str]) -> Option<&'a str> {
    property.filter(|text| !text.is_empty()).or_else(|| {
        headers
            .iter()
            .find_map(|name| raw.headers.text(name).filter(|text| !text.is_empty()))
    })
}

/// The whole body as payload.
pub(super) fn payload(raw: &RawMessage, message_type: &str) -> Found {
    Found {
        id: header_id(raw).map(str::to_owned),
        message_type: Some(message_type.to_owned()),
        payload: raw.body.clone().unwrap_or_default(),
        tombstone: raw.body.is_none(),
        content_type: content_type(raw).map(str::to_owned),
        ..Found::default()
    }
}

/// A search of some nanoseconds that spares most payloads the parsing: true for everything that could be an envelope whose
/// member names are written without escapes, which is how every JSON writer writes them.
pub(crate) fn may_be_envelope(body: &[u8]) -> bool {
    static TYPE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"type\""));
    static PAYLOAD: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"payload\""));
    static DATA: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"data\""));
    starts_object(body)
        && TYPE.find(body).is_some()
        && (PAYLOAD.find(body).is_some() || DATA.find(body).is_some())
}

fn starts_object(body: &[u8]) -> bool {
    body.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'{')
}

/// Unwraps a body that is an envelope and agrees with the headers; everything else is a payload (`None`).
pub(super) fn agreeing_envelope(
    raw: &RawMessage,
    body: &Bytes,
    message_type: &str,
) -> Result<Option<Found>, Malformed> {
    if !may_be_envelope(body) || raw.headers.text(FORMAT_HEADER) == Some(FORMAT_RAW) {
        return Ok(None);
    }
    let Some(fields) = std::str::from_utf8(body)
        .ok()
        .and_then(|text| Fields::parse(text).ok())
    else {
        return Ok(None);
    };
    let same_type = fields
        .message_type()
        .is_ok_and(|t| t.as_deref() == Some(message_type));
    let same_id = match (header_id(raw), fields.id()) {
        (Some(header), Ok(Some(id))) => header == id,
        (_, Ok(None)) | (None, Ok(_)) => true,
        (_, Err(_)) => false,
    };
    if !same_type || !same_id || !fields.is_envelope() {
        return Ok(None);
    }
    unwrap_envelope(raw, body, &fields).map(Some)
}

/// No header says the type, so the body has to.
pub(super) fn untyped(raw: &RawMessage, body: &Bytes) -> Result<Found, Malformed> {
    if !starts_object(body) {
        return Err(Malformed::new(
            "type.missing",
            "no header says its type, and the body is no JSON object that could",
        ));
    }
    let text = std::str::from_utf8(body)
        .map_err(|e| Malformed::new("utf8.invalid", format!("the body is JSON but not UTF-8: {e}")))?;
    let fields = Fields::parse(text)?;
    if fields.is_envelope() {
        return unwrap_envelope(raw, body, &fields);
    }
    let message_type = fields.message_type()?.ok_or_else(|| {
        Malformed::new(
            "type.missing",
            "neither a header nor a member `type` says its type",
        )
    })?;
    Ok(Found {
        // A business document may well have an id that is no text; it only names the message when it is.
        id: fields
            .id()
            .ok()
            .flatten()
            .map(std::borrow::Cow::into_owned)
            .or_else(|| header_id(raw).map(str::to_owned)),
        content_type: Some(content_type(raw).unwrap_or("application/json").to_owned()),
        ..payload(raw, &message_type)
    })
}

fn unwrap_envelope(raw: &RawMessage, body: &Bytes, fields: &Fields<'_>) -> Result<Found, Malformed> {
    let mut found = match legacy::payload_of(fields)? {
        // HelixAgent's record key is the message id; the key that means something is inside.
        Some(base64) => legacy::found(fields, &base64)?,
        None => flat::found(raw.origin.kind, body, fields)?.with_record_key(raw),
    };
    if found.message_type.is_none() {
        return Err(Malformed::new(
            "type.missing",
            "the envelope has no `type`, and no header says it",
        ));
    }
    if found.id.is_none() {
        found.id = header_id(raw).map(str::to_owned);
    }
    Ok(found)
}
