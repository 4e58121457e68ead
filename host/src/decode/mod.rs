//! Bytes + headers → [`Envelope`] or [`Malformed`]. Pure: no clock, no I/O, never panics.
//!
//! The shape is found out for each message by itself; the first rule that holds decides.
//!
//! 1. **CloudEvents, structured**: the content type starts with `application/cloudevents` (any case). Mandatory
//!    attributes that are missing make it malformed, because its producer said what it is.
//! 2. **CloudEvents, binary**: `specversion`, `id`, `source` and `type` are all there as headers prefixed `ce_` (Kafka),
//!    `cloudEvents_` or `cloudEvents:` (AMQP). With one of them missing it is no CloudEvent, and the next rules apply.
//! 3. **Type in a header** (AMQP property `type`, header `type`, `message_type`, `ce_type`): the body is the payload and is
//!    not parsed, unless it is an *envelope that says the same*: a JSON object with `payload` or `data`, whose `type` equals
//!    the type of the header, and whose `id` equals the id of the header when both are there. HelixAgent and this host put
//!    type and id into headers *and* body, so agreement is what tells an envelope from a payload that happens to have a
//!    `type` and a `data` of its own. A cheap search for those names runs first, so other bodies cost no parsing. The header
//!    `helix-format: raw`, which this host sets on payloads that could be mistaken, switches the unwrapping off.
//! 4. **No type in a header**: the body must be a JSON object with a `type`. With `payload` or `data` it is an envelope
//!    (both: `payload` for tasks, `data` for events); without, the whole body is the payload.
//!
//! An envelope with `state`, `delivery_mode` and a string (or null) as payload is HelixAgent's (base64, mostly inside base64,
//! [`legacy`]); any other one is flat JSON ([`flat`]), whose payload is the value byte for byte as it stood.
//!
//! A null value (tombstone) takes its type from the headers; without one it is malformed like everything else that has no
//! type (`type.missing`), since nothing could route it. Envelope fields are strict: a wrong JSON type is malformed, with the
//! code `<field>.type`. Headers are lenient: one that cannot be read (`priority: high`) is just a header. Each header
//! reaches the envelope as it came; fields the body leaves open are looked up there (`source`, `subject`, `schema`,
//! `priority`, `timestamp`, `deadline`, `correlation_id`, `reply_to`). The nesting depth of a payload is not
//! limited: nothing here recurses into it.

mod assemble;
mod cloudevents;
mod fields;
mod flat;
mod legacy;
mod raw;
mod time;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::model::{Envelope, RawMessage, UnixMs};

pub(crate) use assemble::{CONTENT_TYPE_HEADER, FORMAT_HEADER, FORMAT_RAW, KEY_HEADER, valid_traceparent};
pub(crate) use cloudevents::is_json;
pub(crate) use raw::may_be_envelope;

/// Why bytes are no message. The raw message stays with the caller and goes into the dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    /// Short and stable, e.g. `json.syntax`, `type.missing`, `base64.invalid`.
    pub code: &'static str,
    pub reason: String,
}

impl Malformed {
    fn new(code: &'static str, reason: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
        }
    }
}

/// What a shape said about its message; the rest is filled in from headers and properties.
#[derive(Debug, Default)]
struct Found {
    id: Option<String>,
    message_type: Option<String>,
    payload: Bytes,
    tombstone: bool,
    content_type: Option<String>,
    schema: Option<String>,
    source: Option<String>,
    subject: Option<String>,
    priority: Option<u8>,
    key: Option<Bytes>,
    time_ms: Option<UnixMs>,
    deadline_ms: Option<UnixMs>,
    correlation_id: Option<String>,
    reply_to: Option<String>,
    traceparent: Option<String>,
    tracestate: Option<String>,
    /// Headers that came inside the body.
    headers: Vec<(String, Bytes)>,
}

impl Found {
    /// The record's own key comes before one inside the message.
    fn with_record_key(mut self, raw: &RawMessage) -> Self {
        if raw.key.is_some() {
            self.key.clone_from(&raw.key);
        }
        self
    }
}

/// `fallback_id` names the message when its producer did not; `now_ms` stands in for a missing time.
pub fn decode(raw: &RawMessage, fallback_id: &str, now_ms: u64) -> Result<Envelope, Malformed> {
    decode_or(raw, || fallback_id.to_owned(), now_ms)
}

/// The same; the id is made only when it is needed.
pub(crate) fn decode_or(
    raw: &RawMessage,
    fallback_id: impl FnOnce() -> String,
    now_ms: u64,
) -> Result<Envelope, Malformed> {
    let found = find(raw)?;
    assemble::envelope(raw, found, fallback_id, now_ms)
}

fn find(raw: &RawMessage) -> Result<Found, Malformed> {
    if cloudevents::is_structured(raw)
        && let Some(body) = &raw.body
    {
        return cloudevents::structured(body).map(|found| found.with_record_key(raw));
    }
    if let Some(found) = cloudevents::binary(raw) {
        return Ok(found.with_record_key(raw));
    }
    let Some(message_type) = raw::header_type(raw) else {
        let Some(body) = &raw.body else {
            return Err(Malformed::new(
                "type.missing",
                "a null value, and no header says its type",
            ));
        };
        return raw::untyped(raw, body);
    };
    if let Some(body) = &raw.body
        && let Some(found) = raw::agreeing_envelope(raw, body, message_type)?
    {
        return Ok(found);
    }
    Ok(raw::payload(raw, message_type))
}

/// The part of `body` that `part` borrows, without copying it.
fn slice_of(body: &Bytes, part: &str) -> Bytes {
    // `Bytes::slice_ref` panics when the part lies elsewhere; this copies instead.
    let start = (part.as_ptr() as usize).checked_sub(body.as_ptr() as usize);
    match start.and_then(|at| Some(at..at.checked_add(part.len())?)) {
        Some(range) if range.end <= body.len() => body.slice(range),
        _ => Bytes::copy_from_slice(part.as_bytes()),
    }
}
