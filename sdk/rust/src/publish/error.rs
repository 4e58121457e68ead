//! Why a message was not taken, and which outcome `?` makes of it.

use std::error::Error;
use std::fmt::{Display, Formatter};

use crate::failure::{Failure, reject, retry};

/// Why a message was not taken.
///
/// By `?` it becomes a retry with a code when waiting may help (`publish.unavailable`, `publish.failed`), else a reject
/// (`publish.denied`, `publish.unknown-target`, `publish.invalid`, `publish.too-large`, `publish.too-many`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The plugin may not publish there.
    Denied(String),
    /// No queue or topic of that name, or none chosen for that type.
    UnknownTarget(String),
    /// A field has a value that the target cannot carry; says which.
    Invalid(String),
    /// The body is larger than this many bytes.
    TooLarge(u64),
    /// More than this many messages for one input.
    TooMany(u32),
    /// The broker is away and the outbox is full or switched off.
    Unavailable(String),
    /// Anything else; a later host names new reasons here.
    Other(String),
}

impl PublishError {
    pub(crate) fn failure(&self) -> Failure {
        match self {
            Self::Denied(_) => reject(self).code("publish.denied"),
            Self::UnknownTarget(_) => reject(self).code("publish.unknown-target"),
            Self::Invalid(_) => reject(self).code("publish.invalid"),
            Self::TooLarge(_) => reject(self).code("publish.too-large"),
            Self::TooMany(_) => reject(self).code("publish.too-many"),
            Self::Unavailable(_) => retry(self).code("publish.unavailable"),
            Self::Other(_) => retry(self).code("publish.failed"),
        }
    }
}

impl Display for PublishError {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Denied(what) => write!(f, "publishing is not granted: {what}"),
            Self::UnknownTarget(what) => write!(f, "no such queue or topic: {what}"),
            Self::Invalid(what) => write!(f, "the message cannot be published: {what}"),
            Self::TooLarge(limit) => write!(f, "the message is larger than {limit} bytes"),
            Self::TooMany(limit) => write!(f, "more than {limit} messages published for one input"),
            Self::Unavailable(what) => write!(f, "publishing is not possible now: {what}"),
            Self::Other(what) => write!(f, "publishing failed: {what}"),
        }
    }
}

impl Error for PublishError {}
