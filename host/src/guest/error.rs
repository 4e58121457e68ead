//! Why a plugin was not loaded: what, and what to do next.

use super::log;
use crate::error::Code;

/// The compiler repeats names of the file, which may have any length.
const WHAT: usize = 1000;

/// Shown as `HX0302 <what>. <next>`; also kept as the reason of a stale plugin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code} {what}. {next}")]
pub struct Error {
    pub code: Code,
    /// What is wrong and where, without a full stop.
    pub what: String,
    /// What the person can do about it.
    pub next: String,
}

impl Error {
    pub(crate) fn new(code: Code, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            code,
            what: log::brief(&what.into(), WHAT),
            next: next.into(),
        }
    }
}
