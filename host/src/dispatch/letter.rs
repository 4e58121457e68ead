//! Builds dead letters: complete, from what is known at that point.

use super::item::Item;
use crate::config::valid::Route;
use crate::decode::Malformed;
use crate::model::ids::stable_id;
use crate::model::{Attempt, DeadLetter, Envelope, Failure, FailureClass, LetterState, RawMessage, UnixMs};

/// What is known of a message that was decoded.
pub(crate) struct Known<'a> {
    pub id: String,
    pub raw: &'a RawMessage,
    pub envelope: &'a Envelope,
    pub attempts: &'a [Attempt],
    pub first_failure_ms: Option<UnixMs>,
}

/// A message that went through a route, or at least was decoded.
pub(crate) fn of_item(
    item: &Item,
    route: Option<&Route>,
    class: FailureClass,
    failure: &Failure,
    now: UnixMs,
) -> DeadLetter {
    let known = Known {
        id: item.stable_id(),
        raw: &item.raw,
        envelope: &item.envelope,
        attempts: &item.history,
        first_failure_ms: item.first_failure_ms,
    };
    of_known(known, route, class, failure, now)
}

pub(crate) fn of_known(
    known: Known<'_>,
    route: Option<&Route>,
    class: FailureClass,
    failure: &Failure,
    now: UnixMs,
) -> DeadLetter {
    let Known {
        id,
        raw,
        envelope,
        attempts,
        first_failure_ms,
    } = known;
    DeadLetter {
        id,
        raw: raw.clone(),
        message_id: Some(envelope.id.clone()),
        message_type: Some(envelope.message_type.clone()),
        route: route.map(|r| r.name.to_string()),
        plugin: route.map(|r| r.plugin.to_string()),
        digest: attempts.last().and_then(|attempt| attempt.digest.clone()),
        class,
        reason: failure.reason.clone(),
        code: failure.code.clone(),
        attempts: attempts.to_vec(),
        first_failure_ms: first_failure_ms.unwrap_or(now),
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
