//! What others gave up on becomes a letter of this host: RabbitMQ (time to live, length, rejections by foreign consumers),
//! and programs that write the manual's dead letter message. Pure; [`intake`] does it.
//!
//! A letter comes from the queue its message died in, so that sending it again puts it back there. Where nothing says which
//! one that was it comes from the queue it was found in, carries [`header::ADOPTED`], and is not sent again.

pub mod deaths;
pub mod intake;
pub mod shape;

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use self::deaths::Death;
use crate::decode;
use crate::model::ids::stable_id;
use crate::model::{DeadLetter, Failure, FailureClass, LetterState, RawMessage, UnixMs, header};

/// Where dead letters of others are found.
#[derive(Debug, Clone)]
pub struct Place {
    pub queue: Arc<str>,
    /// The broker that topics are on.
    pub events: Arc<str>,
}

/// A letter to be written, once it has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    letter: DeadLetter,
    /// Its producer gave no id: the beginning of the name it gets, the same for the same bytes and deaths.
    pub nameless: Option<String>,
    /// When it died is said.
    pub died: bool,
    /// By whose doing, for metrics.
    pub label: &'static str,
    /// It says that it is a copy of this letter.
    pub copy_of: Option<CopyOf>,
}

/// What has to be so for it to be true: headers and details can be written by anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyOf {
    pub letter: String,
    pub original: String,
}

/// Why it is a letter, before it is known what the message says.
struct Cause {
    class: FailureClass,
    code: Option<String>,
    reason: String,
    label: &'static str,
    first_ms: Option<UnixMs>,
    last_ms: Option<UnixMs>,
}

impl Cause {
    fn of(death: &Death) -> Self {
        Self {
            class: death.class(),
            code: Some(death.code()),
            reason: death.told(),
            label: death.label(),
            first_ms: death.time_ms,
            last_ms: death.time_ms,
        }
    }
}

/// The letter of a message that lay in a queue of dead letters, whatever it is.
pub fn read(mut raw: RawMessage, place: &Place, now: UnixMs) -> Found {
    // Of an earlier life; nobody else may say it.
    raw.headers.remove(header::ADOPTED);
    let nameless = mark(&raw);
    let mut copy_of = None;
    let deaths = deaths::read(&raw.headers);
    let mut cause = if let Some(death) = deaths.iter().find(|death| *death.queue != *place.queue) {
        raw.origin.destination = death.queue.as_str().into();
        Cause::of(death)
    } else if let Some(told) = shape::read(&raw, &place.events) {
        copy_of = told
            .letter
            .zip(told.original)
            .map(|(letter, original)| CopyOf { letter, original });
        let mut cause = Cause {
            class: FailureClass::Foreign,
            code: None,
            reason: told.reason,
            label: "foreign",
            first_ms: told.first_ms.or(told.last_ms),
            last_ms: told.last_ms,
        };
        match told.message {
            Ok(message) => {
                raw = message;
                if !told.has_place {
                    found_in(&mut raw, place);
                }
            }
            Err(why) => {
                cause.class = FailureClass::Malformed;
                cause.code = Some("dead-letter.original".to_owned());
                cause.reason = format!("{why}; it says: {}", cause.reason);
                found_in(&mut raw, place);
            }
        }
        cause
    } else {
        found_in(&mut raw, place);
        Cause {
            class: FailureClass::Foreign,
            code: None,
            reason: format!("it was put into `{}` and nothing says why", place.queue),
            label: "foreign",
            first_ms: None,
            last_ms: None,
        }
    };
    let said = decode::decode(&raw, "", now);
    if let (Err(why), FailureClass::Foreign) = (&said, cause.class) {
        cause.class = FailureClass::Malformed;
        cause.code = Some(why.code.to_owned());
        cause.reason = format!("{}; it is no message: {why}", cause.reason);
    }
    let envelope = said.ok();
    let id = envelope
        .as_ref()
        .map(|envelope| envelope.id.clone())
        .filter(|id| !id.is_empty())
        .or_else(|| raw.props.message_id.clone());
    let died = cause.last_ms.is_some();
    let last_ms = cause.last_ms.map_or(now, |at| at.min(now));
    let letter = DeadLetter {
        id: stable_id(&raw, id.as_deref()),
        message_id: id.clone(),
        message_type: envelope
            .as_ref()
            .map(|envelope| envelope.message_type.clone())
            .or_else(|| raw.props.message_type.clone()),
        route: None,
        plugin: None,
        digest: None,
        class: cause.class,
        reason: Failure::new(cause.reason).reason,
        code: cause.code,
        attempts: Vec::new(),
        first_failure_ms: cause.first_ms.map_or(last_ms, |at| at.min(last_ms)),
        last_failure_ms: last_ms,
        trace_id: envelope
            .as_ref()
            .and_then(|envelope| envelope.trace.as_ref()?.trace_id().map(str::to_owned)),
        // Whatever it was: somebody may want to send it again.
        state: LetterState::Dead,
        reprocessed: raw.reprocessed(),
        raw,
    };
    Found {
        letter,
        nameless: id.is_none().then_some(nameless),
        died,
        label: cause.label,
        copy_of,
    }
}

impl Found {
    pub fn letter(&self) -> &DeadLetter {
        &self.letter
    }

    /// Gives a message a name that its producer gave none.
    pub fn name(&mut self, name: String) {
        self.letter.raw.props.message_id = Some(name.clone());
        self.letter.id = stable_id(&self.letter.raw, Some(&name));
        self.letter.message_id = Some(name);
        self.nameless = None;
    }
}

fn found_in(raw: &mut RawMessage, place: &Place) {
    raw.headers.push(header::ADOPTED, place.queue.to_string());
}

/// The same for a message that is delivered again, another one for one that differs in anything, also in when it died.
fn mark(raw: &RawMessage) -> String {
    use std::fmt::Write;
    let mut sha = Sha256::new();
    let mut part = |bytes: &[u8]| {
        sha.update((bytes.len() as u64).to_be_bytes());
        sha.update(bytes);
    };
    part(raw.origin.broker.as_bytes());
    part(raw.origin.destination.as_bytes());
    part(raw.body.as_deref().unwrap_or_default());
    part(raw.key.as_deref().unwrap_or_default());
    part(&raw.timestamp_ms.unwrap_or_default().to_be_bytes());
    part(raw.props.message_type.as_deref().unwrap_or_default().as_bytes());
    for (name, value) in raw.headers.iter().filter(|(name, _)| *name != COUNTED) {
        part(name.as_bytes());
        part(value);
    }
    let mut out = String::from("adopted-");
    for byte in sha.finalize().iter().take(10) {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out.push('-');
    out
}

/// How often a quorum queue has delivered it.
const COUNTED: &str = "x-delivery-count";

/// It was certainly delivered before. What a quorum queue counts may be deliveries from the queue it died in.
pub fn came_before(raw: &RawMessage) -> bool {
    raw.redelivered && raw.headers.get(COUNTED).is_none()
}

#[cfg(test)]
mod tests;
