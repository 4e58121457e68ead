//! What the handler said, or what happened to it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
#[schemars(rename = "HandlerOutcome")]
pub enum Outcome {
    Done,
    /// "Not now." `after` overrides the delay of the route's policy.
    Retry {
        failure: Failure,
        after: Option<Duration>,
    },
    /// "Never."
    Reject {
        failure: Failure,
    },
    /// Panic, unreachable, out of memory, wrong number of results, stack overflow, …
    Trap {
        failure: Failure,
    },
    Timeout {
        limit: Duration,
        failure: Failure,
    },
    /// The host did not run it or refused what it did: no such plugin, wrong export, message over a limit.
    Refused {
        failure: Failure,
    },
}

/// Why it was not handled. `reason` is for people, `code` is what dead letters are grouped by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Failure {
    /// Cut at 4 KiB where it is made.
    pub reason: String,
    pub code: Option<String>,
}

/// The contract's limit for reasons (wit/messages.wit).
pub const REASON_LIMIT: usize = 4096;

impl Failure {
    pub fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: cut(reason.into()),
            code: None,
        }
    }

    pub fn coded(code: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            reason: cut(reason.into()),
            code: Some(code.into()),
        }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > REASON_LIMIT {
        let mut end = REASON_LIMIT;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    text
}

impl Outcome {
    /// Metrics label `outcome`.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retry { .. } => "retry",
            Self::Reject { .. } => "reject",
            Self::Trap { .. } => "trap",
            Self::Timeout { .. } => "timeout",
            Self::Refused { .. } => "refused",
        }
    }

    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Done => None,
            Self::Retry { failure, .. }
            | Self::Reject { failure }
            | Self::Trap { failure }
            | Self::Timeout { failure, .. }
            | Self::Refused { failure } => Some(failure),
        }
    }
}
