//! Why a plugin was not loaded: what, and what to do next.

use super::log;
use crate::error::Code;

/// The compiler repeats names of the file, which may have any length: bytes of a line, and lines.
const WHAT: (usize, usize) = (1000, 20);

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
            what: tame(&what.into()),
            next: next.into(),
        }
    }
}

/// Names inside a component may be any text; a terminal that shows why it was refused must not obey them.
fn tame(text: &str) -> String {
    let (bytes, lines) = WHAT;
    let shown: Vec<_> = text
        .lines()
        .take(lines)
        .map(|line| log::brief(line, bytes))
        .collect();
    shown.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::PLUGIN_INVALID;

    #[test]
    fn names_of_a_component_do_not_reach_the_terminal() {
        let error = Error::new(
            PLUGIN_INVALID,
            "field `of\u{7}ets\u{1b}[2J`\nsecond line é",
            "next",
        );
        assert_eq!(
            error.to_string(),
            "HX0301 field `of\\u{7}ets\\u{1b}[2J`\nsecond line é. next"
        );
    }
}
