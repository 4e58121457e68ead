//! What the host decides from an outcome.

use std::time::Duration;

use super::{FailureClass, outcome::Failure};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Acknowledge,
    /// Run again after this delay, as attempt + 1.
    RetryAfter {
        delay: Duration,
        failure: Failure,
    },
    DeadLetter {
        class: FailureClass,
        failure: Failure,
    },
}
