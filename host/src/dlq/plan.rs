//! What sending a letter again means. Pure.
//!
//! A task has one consumer, its queue: it goes to the end of that, byte for byte, under headers that say which letter it was
//! and how often it was sent again. An event was read by others as well, so its topic never sees it twice: it goes to the
//! route that failed on this host, as a parked message that is due. Where a key waits behind it, either runs in its place there.

use super::adopt::deaths;
use crate::decode;
use crate::model::{DeadLetter, MessageKind, RawMessage, UnixMs, header};
use crate::store::{HeldKey, Parked};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    Queue(Box<RawMessage>),
    Route(Box<Parked>),
}

/// Why a letter cannot be sent again as it is, and what to do instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "no route has handled this event (it is {class}), and its topic is read by others, so there is nowhere to send it \
         again; publish a repaired message with `helix send --topic {topic}`, then discard this one"
    )]
    NoRoute { class: &'static str, topic: String },
    #[error(
        "its route `{0}` is not configured any more; add the route again, or discard the letter with a reason"
    )]
    RouteGone(String),
    #[error(
        "it failed in the replay `{0}`, which carried out no side effects, and sending it again would; start a replay with \
         `side_effects`, or discard the letter"
    )]
    Withheld(String),
    #[error(
        "its deadline passed {late_ms} ms ago: it would expire without being run; discard it with a reason, or publish it anew"
    )]
    TooLate { late_ms: u64 },
    #[error(
        "it was found in `{queue}`, and nothing says which queue it came from, so there is nowhere to send it again; publish \
         it with `helix send`, then discard this one"
    )]
    NoPlace { queue: String },
}

/// Set by the broker at each delivery.
const DELIVERIES: &str = "x-delivery-count";

/// The row that holds up its key, to run again in its place, as the first attempt.
///
/// # Errors
/// There is nobody to run it, or no sense in it.
pub fn resume(
    letter: &DeadLetter,
    held: &HeldKey,
    has_route: impl Fn(&str) -> bool,
    now: UnixMs,
) -> Result<Parked, Refusal> {
    let mut raw = again(letter, now)?;
    if !has_route(&held.route) {
        return Err(Refusal::RouteGone(held.route.clone()));
    }
    // Of a task that had been sent again the row has another id than the letter.
    set(&mut raw, header::LETTER, letter.id.clone());
    Ok(Parked {
        id: letter.id.clone(),
        route: held.route.clone(),
        raw,
        attempt: 1,
        due_ms: now,
        lane: Some(held.lane.clone()),
        history: Vec::new(),
        first_failure_ms: letter.first_failure_ms,
    })
}

/// # Errors
/// There is nowhere to send it, or no sense in it.
pub fn plan(letter: &DeadLetter, has_route: impl Fn(&str) -> bool, now: UnixMs) -> Result<Plan, Refusal> {
    let mut raw = again(letter, now)?;
    match raw.origin.kind {
        // A stream never gets back what was read in it again: with a position it is an event, whatever its route takes it for.
        MessageKind::Task if raw.origin.partition.is_none() => {
            // Its producer may have written the header; then it came from somewhere else.
            let queue = &*raw.origin.destination;
            if letter.raw.headers.text(header::ADOPTED) == Some(queue) {
                return Err(Refusal::NoPlace {
                    queue: queue.to_owned(),
                });
            }
            set(&mut raw, header::LETTER, letter.id.clone());
            Ok(Plan::Queue(Box::new(raw)))
        }
        MessageKind::Task | MessageKind::Event => {
            if raw.headers.get(header::REPLAY_EFFECTS).is_some() {
                let replay = raw.headers.text(header::REPLAY).unwrap_or_default();
                return Err(Refusal::Withheld(replay.to_owned()));
            }
            let route = letter.route.clone().ok_or_else(|| Refusal::NoRoute {
                class: letter.class.as_str(),
                topic: raw.origin.destination.to_string(),
            })?;
            if !has_route(&route) {
                return Err(Refusal::RouteGone(route));
            }
            Ok(Plan::Route(Box::new(Parked {
                // The letter's own: failing again it comes back to its row.
                id: letter.id.clone(),
                route,
                raw,
                attempt: 1,
                due_ms: now,
                // Behind nothing: what came after it went on long ago. The route gives it a turn in its lane.
                lane: None,
                history: Vec::new(),
                first_failure_ms: letter.first_failure_ms,
            })))
        }
    }
}

/// The message as it was, under the header that says how often it was sent again.
fn again(letter: &DeadLetter, now: UnixMs) -> Result<RawMessage, Refusal> {
    let mut raw = letter.raw.clone();
    // The time to live of a queue is in here as well, and begins anew with the message; a deadline of its own stands in its
    // headers or its body.
    raw.props.expires_ms = raw.props.expires_ms.filter(|at| *at > now);
    // What cannot be decoded has no deadline.
    let deadline = decode::decode(&raw, "", now).ok().and_then(|e| e.deadline_ms);
    if let Some(deadline) = deadline.filter(|at| *at <= now) {
        return Err(Refusal::TooLate {
            late_ms: now.saturating_sub(deadline),
        });
    }
    set(
        &mut raw,
        header::REPROCESSED,
        letter.reprocessed.saturating_add(1).to_string(),
    );
    raw.headers.remove(header::ADOPTED);
    // What a broker knows of a message begins anew with it.
    raw.headers.remove(DELIVERIES);
    for name in deaths::BROKERS_OWN {
        raw.headers.remove(name);
    }
    Ok(raw)
}

fn set(raw: &mut RawMessage, name: &'static str, value: String) {
    raw.headers.remove(name);
    raw.headers.push(name, value);
}

#[cfg(test)]
mod tests;
