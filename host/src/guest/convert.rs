//! Envelope → the borrowed records of the contract.

use bytes::Bytes;

use super::Invocation;
use super::bindings::helix::messaging::messages::{Event, Task};
use crate::model::Envelope;

/// The headers that the route passes on.
pub(super) fn headers<'a>(
    invocation: &Invocation<'a>,
) -> impl Iterator<Item = (&'a str, &'a Bytes)> + use<'a> {
    let wanted = invocation.headers;
    invocation.envelope.headers.iter().filter(move |(name, _)| {
        wanted.is_none_or(|names| names.iter().any(|n| n.eq_ignore_ascii_case(name)))
    })
}

/// Headers in the shape of the bindings; kept by the caller while the record borrows them.
pub(super) fn header_list<'a>(invocation: &Invocation<'a>) -> Vec<(&'a str, &'a [u8])> {
    headers(invocation)
        .map(|(name, value)| (name, value.as_ref()))
        .collect()
}

pub(super) fn task<'a>(invocation: &Invocation<'a>, headers: &'a [(&'a str, &'a [u8])]) -> Task<'a> {
    let e: &Envelope = invocation.envelope;
    Task {
        id: &e.id,
        message_type: &e.message_type,
        queue: &e.origin.destination,
        payload: &e.payload,
        content_type: e.content_type.as_deref(),
        schema: e.schema.as_deref(),
        priority: e.priority,
        key: e.key.as_deref(),
        time_ms: e.time_ms,
        deadline_ms: e.deadline_ms,
        attempt: invocation.attempt,
        max_attempts: invocation.max_attempts,
        redelivered: e.redelivered,
        reprocessed: e.reprocessed,
        replay: e.replay.as_deref(),
        correlation_id: e.correlation_id.as_deref(),
        reply_to: e.reply_to.as_deref(),
        traceparent: e.trace.as_ref().map(|t| t.traceparent.as_str()),
        tracestate: e.trace.as_ref().and_then(|t| t.tracestate.as_deref()),
        headers,
    }
}

pub(super) fn event<'a>(invocation: &Invocation<'a>, headers: &'a [(&'a str, &'a [u8])]) -> Event<'a> {
    let e: &Envelope = invocation.envelope;
    Event {
        id: &e.id,
        message_type: &e.message_type,
        source: e.source.as_deref(),
        subject: e.subject.as_deref(),
        data: &e.payload,
        tombstone: e.tombstone,
        content_type: e.content_type.as_deref(),
        schema: e.schema.as_deref(),
        time_ms: e.time_ms,
        key: e.key.as_deref(),
        topic: &e.origin.destination,
        partition: e.origin.partition,
        offset: e.origin.offset,
        attempt: invocation.attempt,
        max_attempts: invocation.max_attempts,
        redelivered: e.redelivered,
        reprocessed: e.reprocessed,
        replay: e.replay.as_deref(),
        correlation_id: e.correlation_id.as_deref(),
        traceparent: e.trace.as_ref().map(|t| t.traceparent.as_str()),
        tracestate: e.trace.as_ref().and_then(|t| t.tracestate.as_deref()),
        headers,
    }
}
