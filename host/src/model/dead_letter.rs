//! A message the host gave up on, with everything needed to understand it and to send it again.

use serde::{Deserialize, Serialize};

use super::{Outcome, RawMessage, UnixMs, header};

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
    /// How often the message that failed had been sent again before.
    pub reprocessed: u32,
}

impl DeadLetter {
    /// The letter that this message was sent again from, as its header says. Anybody may write headers: believed only when
    /// [`DeadLetter::is_again`] holds.
    pub fn sent_from(&self) -> Option<&str> {
        self.raw.headers.text(header::LETTER)
    }

    /// The same message from the same place. Its position is another one, and the broker may have changed its headers.
    pub fn is_again(&self, original: &RawMessage) -> bool {
        let (ours, theirs) = (&self.raw.origin, &original.origin);
        (&ours.broker, ours.kind, &ours.destination) == (&theirs.broker, theirs.kind, &theirs.destination)
            && self.raw.body == original.body
            && self.raw.key == original.key
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// The bytes are no message.
    Malformed,
    /// Larger than the limits.
    TooLarge,
    /// No route wants this type.
    Unrouted,
    /// The handler said "never", or a consumer that is none of this host's refused it.
    Rejected,
    /// The attempts of the route's policy are used up.
    Exhausted,
    /// The host refused to run it.
    Refused,
    /// Past its deadline before it ran, or too long in its queue.
    Expired,
    /// Its broker gave up on it: the queue was full, or it was delivered too often.
    Broker,
    /// Another program gave up on it.
    Foreign,
}

impl FailureClass {
    pub const ALL: [Self; 9] = [
        Self::Malformed,
        Self::TooLarge,
        Self::Unrouted,
        Self::Rejected,
        Self::Exhausted,
        Self::Refused,
        Self::Expired,
        Self::Broker,
        Self::Foreign,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too-large",
            Self::Unrouted => "unrouted",
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Broker => "broker",
            Self::Foreign => "foreign",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LetterState {
    Dead,
    Retrying,
    Reprocessed,
    Discarded,
    Expired,
}

/// A letter's life: `dead → retrying → reprocessed`, `retrying → dead`, `dead → discarded`, `retrying → discarded` when a
/// changed copy was sent in its place, and `dead → expired` when nobody dealt with it for too long. A message that fails again
/// brings its letter back from wherever it is ([`LetterState::after_failure`]).
impl LetterState {
    pub const ALL: [Self; 5] = [
        Self::Dead,
        Self::Retrying,
        Self::Reprocessed,
        Self::Discarded,
        Self::Expired,
    ];

    /// May somebody change a letter like that?
    pub fn may_become(self, to: Self) -> bool {
        matches!(
            (self, to),
            (Self::Dead, Self::Retrying | Self::Discarded | Self::Expired)
                | (Self::Retrying, Self::Reprocessed | Self::Dead | Self::Discarded)
        )
    }

    /// The state of a letter whose message failed for good on this host. What a broker let expire is `dead`: nobody said until
    /// when it was worth something.
    /// Nothing is done with a letter like that any more.
    pub fn is_closed(self) -> bool {
        matches!(self, Self::Reprocessed | Self::Discarded | Self::Expired)
    }

    /// The state of a letter whose message failed for good.
    pub fn after_failure(class: FailureClass) -> Self {
        if class == FailureClass::Expired {
            Self::Expired
        } else {
            Self::Dead
        }
    }

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
