//! Builds dead letters: complete, from what is known at that point.

use super::item::Item;
use crate::config::valid::Route;
use crate::decode::Malformed;
use crate::model::ids::stable_id;
use crate::model::{DeadLetter, Failure, FailureClass, LetterState, RawMessage, UnixMs};

/// A message that went through a route, or at least was decoded.
pub(crate) fn of_item(
    item: &Item,
    route: Option<&Route>,
    class: FailureClass,
    failure: &Failure,
    now: UnixMs,
) -> DeadLetter {
    let envelope = &item.envelope;
    DeadLetter {
        id: item.stable_id(),
        raw: item.raw.clone(),
        message_id: Some(envelope.id.clone()),
        message_type: Some(envelope.message_type.clone()),
        route: route.map(|r| r.name.to_string()),
        plugin: route.map(|r| r.plugin.to_string()),
        digest: item.history.last().and_then(|attempt| attempt.digest.clone()),
        class,
        reason: failure.reason.clone(),
        code: failure.code.clone(),
        attempts: item.history.clone(),
        first_failure_ms: item.first_failure_ms.unwrap_or(now),
        last_failure_ms: now,
        trace_id: envelope
            .trace
            .as_ref()
            .and_then(|t| t.trace_id())
            .map(str::to_owned),
        state: LetterState::after_failure(class),
        reprocessed: envelope.reprocessed,
    }
}

/// Bytes that are no message, or too many of them.
pub(crate) fn of_raw(raw: RawMessage, class: FailureClass, malformed: &Malformed, now: UnixMs) -> DeadLetter {
    DeadLetter {
        id: stable_id(&raw, raw.props.message_id.as_deref()),
        message_id: raw.props.message_id.clone(),
        message_type: raw.props.message_type.clone(),
        reprocessed: raw.reprocessed(),
        raw,
        route: None,
        plugin: None,
        digest: None,
        class,
        reason: malformed.reason.clone(),
        code: Some(malformed.code.to_owned()),
        attempts: Vec::new(),
        first_failure_ms: now,
        last_failure_ms: now,
        trace_id: None,
        state: LetterState::after_failure(class),
    }
}
