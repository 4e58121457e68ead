//! A message the host gave up on, with everything needed to understand it and to send it again.

use serde::{Deserialize, Serialize};

use super::{Outcome, RawMessage, UnixMs};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Made from the origin when that is stable, so that a crash between writing and acknowledging makes no second one.
    pub id: String,
    /// The message byte for byte, with its headers.
    pub raw: RawMessage,
    /// What decoding found; none for malformed messages.
    pub message_id: Option<String>,
    pub message_type: Option<String>,
    pub route: Option<String>,
    pub plugin: Option<String>,
    /// `sha256:…` of the plugin version that ran last.
    pub digest: Option<String>,
    pub class: FailureClass,
    pub reason: String,
    pub code: Option<String>,
    pub attempts: Vec<Attempt>,
    pub first_failure_ms: UnixMs,
    pub last_failure_ms: UnixMs,
    pub trace_id: Option<String>,
    pub state: LetterState,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// 1 for the first.
    pub number: u32,
    pub started_ms: UnixMs,
    pub duration_us: u64,
    #[serde(flatten)]
    pub outcome: Outcome,
    /// `sha256:…` of the plugin version.
    pub digest: Option<String>,
    /// The end of the guest's stdout and stderr.
    pub log: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// The bytes are no message.
    Malformed,
    /// Larger than the limits.
    TooLarge,
    /// No route wants this type.
    Unrouted,
    /// The handler said "never".
    Rejected,
    /// The attempts of the route's policy are used up.
    Exhausted,
    /// The host refused to run it.
    Refused,
    /// Past its deadline before it ran.
    Expired,
}

impl FailureClass {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too-large",
            Self::Unrouted => "unrouted",
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
            Self::Refused => "refused",
            Self::Expired => "expired",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LetterState {
    Dead,
    Retrying,
    Reprocessed,
    Discarded,
    Expired,
}

impl LetterState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Retrying => "retrying",
            Self::Reprocessed => "reprocessed",
            Self::Discarded => "discarded",
            Self::Expired => "expired",
        }
    }
}
