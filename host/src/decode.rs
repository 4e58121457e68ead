//! Bytes + headers → [`Envelope`] or [`Malformed`]. Pure: no clock, no I/O, never panics.

use crate::model::{Envelope, RawMessage};

/// Why bytes are no message. The raw message stays with the caller and goes into the dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Malformed {
    /// Short and stable, e.g. `json.syntax`, `type.missing`, `base64.invalid`.
    pub code: &'static str,
    pub reason: String,
}

/// `fallback_id` names the message when its producer did not; `now_ms` stands in for a missing time.
pub fn decode(_raw: &RawMessage, _fallback_id: &str, _now_ms: u64) -> Result<Envelope, Malformed> {
    Err(Malformed {
        code: "unfinished",
        reason: String::new(),
    })
}
