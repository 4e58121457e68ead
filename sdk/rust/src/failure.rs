//! How a handler says no: "not now" (retry) or "never" (reject), with a reason for people and a code for machines.

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Display;
use std::time::Duration;

use crate::fetch::FetchError;
use crate::publish::PublishError;

/// What a handler returns: done, or why not.
pub type Handled = Result<(), Failure>;

/// Why a message was not handled. What was published for it is thrown away.
///
/// It is no [`Error`] itself, so that `?` can turn every error into one: the host's own errors by what they mean
/// ([`PublishError`], [`FetchError`]), any other error into a retry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "return it as Err(…) to take effect"]
pub struct Failure {
    pub(crate) verdict: Verdict,
    pub(crate) reason: String,
    pub(crate) code: Option<Cow<'static, str>>,
}

/// What the host shall do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try again by the route's policy, or after the given time.
    Retry { after: Option<Duration> },
    /// To the dead letter queue now.
    Reject,
}

/// "Not now": try again by the route's policy; when its attempts are used up, dead letter queue.
pub fn retry(reason: impl Display) -> Failure {
    Failure {
        verdict: Verdict::Retry { after: None },
        reason: reason.to_string(),
        code: None,
    }
}

/// "Not now": try again, not before `after` from now. The number of attempts stays that of the policy.
pub fn retry_after(after: Duration, reason: impl Display) -> Failure {
    Failure {
        verdict: Verdict::Retry { after: Some(after) },
        reason: reason.to_string(),
        code: None,
    }
}

/// "Never": no retry can help. Straight to the dead letter queue.
pub fn reject(reason: impl Display) -> Failure {
    Failure {
        verdict: Verdict::Reject,
        reason: reason.to_string(),
        code: None,
    }
}

impl Failure {
    /// Short, stable, without ids: `gateway.timeout`. Dead letters are grouped by it.
    pub fn code(mut self, code: impl Into<Cow<'static, str>>) -> Self {
        self.code = Some(code.into());
        self
    }

    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The code, if one was given.
    pub fn code_str(&self) -> Option<&str> {
        self.code.as_deref()
    }

    pub fn is_reject(&self) -> bool {
        self.verdict == Verdict::Reject
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let any: &(dyn Error + 'static) = &error;
        if let Some(error) = any.downcast_ref::<PublishError>() {
            return error.failure();
        }
        if let Some(error) = any.downcast_ref::<FetchError>() {
            return error.failure();
        }
        retry(chain(any))
    }
}

/// The error and its causes, in one line; causes that the error already tells are left out.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = error.to_string();
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}

/// Turns any `Result` or `Option` into a failure of the chosen kind, with words of its own.
///
/// ```
/// # use helix_sdk::prelude::*;
/// fn amount(text: &str) -> Result<u64, Failure> {
///     text.parse().or_reject("amount is not a number")
/// }
/// assert_eq!(amount("ten").unwrap_err().reason(), "amount is not a number: invalid digit found in string");
/// ```
pub trait OrFail<T> {
    fn or_retry(self, reason: impl Display) -> Result<T, Failure>;
    fn or_reject(self, reason: impl Display) -> Result<T, Failure>;
}

impl<T, E: Display> OrFail<T> for Result<T, E> {
    fn or_retry(self, reason: impl Display) -> Result<T, Failure> {
        self.map_err(|error| retry(format_args!("{reason}: {error}")))
    }

    fn or_reject(self, reason: impl Display) -> Result<T, Failure> {
        self.map_err(|error| reject(format_args!("{reason}: {error}")))
    }
}

impl<T> OrFail<T> for Option<T> {
    fn or_retry(self, reason: impl Display) -> Result<T, Failure> {
        self.ok_or_else(|| retry(reason))
    }

    fn or_reject(self, reason: impl Display) -> Result<T, Failure> {
        self.ok_or_else(|| reject(reason))
    }
}

/// What a handler function may return.
pub trait IntoHandled {
    fn into_handled(self) -> Handled;
}

impl IntoHandled for () {
    fn into_handled(self) -> Handled {
        Ok(())
    }
}

impl<E: Into<Failure>> IntoHandled for Result<(), E> {
    fn into_handled(self) -> Handled {
        self.map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn questioned<E: Into<Failure>>(error: E) -> Failure {
        error.into()
    }

    #[test]
    fn any_error_is_a_retry_that_tells_its_causes() {
        #[derive(Debug)]
        struct Outer(std::num::ParseIntError);
        impl Display for Outer {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("no amount")
            }
        }
        impl Error for Outer {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&self.0)
            }
        }
        let failure = questioned(Outer("x".parse::<u8>().unwrap_err()));
        assert_eq!(failure.verdict(), Verdict::Retry { after: None });
        assert_eq!(failure.reason(), "no amount: invalid digit found in string");
        assert_eq!(failure.code_str(), None);
    }

    #[test]
    fn errors_of_the_host_become_what_they_mean() {
        let denied = questioned(PublishError::Denied("topic a".into()));
        assert!(denied.is_reject());
        assert_eq!(denied.code_str(), Some("publish.denied"));
        let away = questioned(PublishError::Unavailable("broker".into()));
        assert_eq!(
            (away.is_reject(), away.code_str()),
            (false, Some("publish.unavailable"))
        );
        let late = questioned(FetchError::Timeout);
        assert_eq!(
            (late.is_reject(), late.code_str()),
            (false, Some("fetch.timeout"))
        );
        assert!(questioned(FetchError::Denied("h".into())).is_reject());
    }

    #[test]
    fn the_reason_of_a_wait_keeps_its_time() {
        let failure = retry_after(Duration::from_secs(5), "busy").code("gateway.busy");
        assert_eq!(
            failure.verdict(),
            Verdict::Retry {
                after: Some(Duration::from_secs(5))
            }
        );
        assert_eq!(failure.code_str(), Some("gateway.busy"));
        assert_eq!(Some(1).or_reject("x"), Ok(1));
        assert!(None::<u8>.or_reject("x").unwrap_err().is_reject());
    }
}
