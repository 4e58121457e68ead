//! The manual's flat JSON: `{"id", "type", "payload" | "data", …}`, the payload a JSON value.

use bytes::Bytes;

use super::fields::{Fields, owned, text};
use super::{Found, Malformed, slice_of};
use crate::model::MessageKind;

/// The payload is the value as it stood, no byte changed, sharing the body's memory.
pub(super) fn found(kind: MessageKind, body: &Bytes, fields: &Fields<'_>) -> Result<Found, Malformed> {
    let value = match kind {
        MessageKind::Task => fields.payload.or(fields.data),
        MessageKind::Event => fields.data.or(fields.payload),
    };
    Ok(Found {
        payload: value.map(|v| slice_of(body, v.get())).unwrap_or_default(),
        content_type: Some(
            fields
                .payload_content_type()?
                .unwrap_or_else(|| "application/json".to_owned()),
        ),
        key: text(fields.key, "key.type")?.map(|key| Bytes::from(key.into_owned())),
        ..common(fields)?
    })
}

/// The members that flat JSON and HelixAgent's envelopes share.
pub(super) fn common(fields: &Fields<'_>) -> Result<Found, Malformed> {
    Ok(Found {
        id: owned(fields.id, "id.type")?,
        message_type: owned(fields.kind, "type.type")?,
        schema: fields.payload_schema()?,
        source: owned(fields.source, "source.type")?,
        subject: owned(fields.subject, "subject.type")?,
        priority: fields.priority()?,
        time_ms: fields.time_ms()?,
        deadline_ms: fields.deadline_ms()?,
        correlation_id: owned(fields.correlation_id, "correlation_id.type")?,
        reply_to: owned(fields.reply_to, "reply_to.type")?,
        traceparent: owned(fields.traceparent, "traceparent.type")?,
        tracestate: owned(fields.tracestate, "tracestate.type")?,
        headers: fields.extra_headers()?,
        ..Found::default()
    })
}
