//! What a shape said, completed from headers and properties: the envelope.

use bytes::Bytes;

use super::{Found, Malformed, time};
use crate::model::{Envelope, Headers, RawMessage, TraceContext, UnixMs, header};

/// The ordering key, on brokers that have none of their own.
pub(crate) const KEY_HEADER: &str = "helix-key";
/// `raw`: the body is the payload, whatever it looks like.
pub(crate) const FORMAT_HEADER: &str = "helix-format";
pub(crate) const FORMAT_RAW: &str = "raw";
/// Content type of the payload inside an envelope that has no field for it.
pub(crate) const CONTENT_TYPE_HEADER: &str = "helix-content-type";

/// The media type of the body.
pub(super) fn content_type(raw: &RawMessage) -> Option<&str> {
    raw.props
        .content_type
        .as_deref()
        .or_else(|| raw.headers.text("content-type"))
        .filter(|t| !t.is_empty())
}

pub(super) fn envelope(
    raw: &RawMessage,
    found: Found,
    fallback_id: impl FnOnce() -> String,
    now_ms: UnixMs,
) -> Result<Envelope, Malformed> {
    let message_type = found
        .message_type
        .ok_or_else(|| Malformed::new("type.missing", "neither headers nor body say its type"))?;
    let headers = headers(raw, found.headers);
    let text = |name: &str| headers.text(name).filter(|t| !t.is_empty()).map(str::to_owned);
    let at = |name: &str| {
        headers
            .text(name)
            .and_then(time::from_text)
            .and_then(time::Time::set)
    };
    let number = |name: &str| headers.text(name).and_then(|t| t.trim().parse::<u32>().ok());
    let said_priority = found
        .priority
        .or(raw.props.priority)
        .map(u32::from)
        .or_else(|| number("priority"));
    let deadlines = [
        found.deadline_ms,
        at("deadline"),
        at("expiration"),
        raw.props.expires_ms,
    ];
    Ok(Envelope {
        id: found.id.unwrap_or_else(fallback_id),
        message_type,
        origin: raw.origin.clone(),
        payload: found.payload,
        tombstone: found.tombstone,
        content_type: found.content_type.or_else(|| text(CONTENT_TYPE_HEADER)),
        schema: found.schema.or_else(|| text("schema")),
        source: found.source.or_else(|| text("source")),
        subject: found.subject.or_else(|| text("subject")),
        priority: said_priority.map_or(0, |p| u8::try_from(p).unwrap_or(u8::MAX).min(10)),
        key: found
            .key
            .or_else(|| raw.key.clone())
            .or_else(|| headers.get(KEY_HEADER).cloned()),
        time_ms: found
            .time_ms
            .or_else(|| at("timestamp"))
            .or(raw.timestamp_ms)
            .unwrap_or(now_ms),
        // The earliest: past any of them it is worthless.
        deadline_ms: deadlines.into_iter().flatten().min(),
        correlation_id: found
            .correlation_id
            .or_else(|| raw.props.correlation_id.clone())
            .or_else(|| text("correlation_id")),
        reply_to: found
            .reply_to
            .or_else(|| raw.props.reply_to.clone())
            .or_else(|| text("reply_to")),
        trace: trace(&headers, found.traceparent, found.tracestate),
        redelivered: raw.redelivered,
        reprocessed: raw.reprocessed(),
        replay: text(header::REPLAY),
        headers,
    })
}

/// The wire's headers, then those from inside the body that the wire did not name.
fn headers(raw: &RawMessage, inside: Vec<(String, Bytes)>) -> Headers {
    let mut headers = raw.headers.clone();
    for (name, value) in inside {
        if raw.headers.get(&name).is_none() {
            headers.push(name, value);
        }
    }
    headers
}

/// The hop's own context, else the one the message was created in. A bare trace id invents none: it stays a header.
fn trace(headers: &Headers, parent: Option<String>, state: Option<String>) -> Option<TraceContext> {
    if let Some(parent) = headers.text("traceparent").filter(|p| valid_traceparent(p)) {
        return Some(TraceContext {
            traceparent: parent.to_owned(),
            tracestate: headers
                .text("tracestate")
                .filter(|s| !s.is_empty())
                .map(str::to_owned),
        });
    }
    let traceparent = parent.filter(|p| valid_traceparent(p))?;
    Some(TraceContext {
        traceparent,
        tracestate: state,
    })
}

/// W3C Trace Context §3.2: `00-<32 hex>-<16 hex>-<2 hex>`, lower case, ids not all zero; later versions may append.
pub(crate) fn valid_traceparent(text: &str) -> bool {
    let hex = |part: &str, len: usize| {
        part.len() == len && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let set = |part: &str| part.bytes().any(|b| b != b'0');
    let mut parts = text.split('-');
    let (Some(version), Some(trace), Some(span), Some(flags)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && set(trace)
        && hex(span, 16)
        && set(span)
        && hex(flags, 2)
        && (version != "00" || parts.next().is_none())
}
