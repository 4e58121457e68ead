//! Why there is no answer, and which outcome `?` makes of it.

use std::error::Error;
use std::fmt::{Display, Formatter};

use crate::failure::{Failure, reject, retry};

/// Why there is no answer.
///
/// By `?` it becomes a retry with a code when waiting may help (`fetch.timeout`, `fetch.connection`, `fetch.failed`),
/// else a reject (`fetch.denied`, `fetch.invalid`, `fetch.too-large`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FetchError {
    /// Host, address, method or scheme not granted.
    Denied(String),
    /// The request itself is wrong (URL, method, header).
    Invalid(String),
    /// Not finished in time.
    Timeout,
    /// Name not found, connection refused or broken, TLS not trusted.
    Connection(String),
    /// The answer is larger than this many bytes.
    TooLarge(u64),
    /// Anything else; a later host names new reasons here.
    Other(String),
}

impl FetchError {
    pub(crate) fn failure(&self) -> Failure {
        match self {
            Self::Denied(_) => reject(self).code("fetch.denied"),
            Self::Invalid(_) => reject(self).code("fetch.invalid"),
            Self::Timeout => retry(self).code("fetch.timeout"),
            Self::Connection(_) => retry(self).code("fetch.connection"),
            Self::TooLarge(_) => reject(self).code("fetch.too-large"),
            Self::Other(_) => retry(self).code("fetch.failed"),
        }
    }
}

impl Display for FetchError {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied(what) => write!(f, "the request is not granted: {what}"),
            Self::Invalid(what) => write!(f, "the request is wrong: {what}"),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Connection(what) => write!(f, "no connection: {what}"),
            Self::TooLarge(limit) => write!(f, "the answer is larger than {limit} bytes"),
            Self::Other(what) => write!(f, "the request failed: {what}"),
        }
    }
}

impl Error for FetchError {}
