//! What went wrong inside a guest, as an outcome: a stable code, and the guest's own last words.

use std::time::Duration;

use wasmtime::Trap;

use super::log::Stream;
use crate::model::{Failure, Outcome};

/// Raised by the epoch callback when the call's time is over.
#[derive(Debug, thiserror::Error)]
#[error("the call's time is over")]
pub(super) struct DeadlinePassed;

/// How a call failed.
#[derive(Debug)]
pub(super) enum Fault {
    Trap {
        code: &'static str,
        text: String,
        /// The guest's functions it happened in, as far as the component carries names.
        place: Option<String>,
    },
    Timeout,
}

impl Fault {
    pub(super) fn trap(code: &'static str, text: impl Into<String>) -> Self {
        Self::Trap {
            code,
            text: text.into(),
            place: None,
        }
    }
}

/// `memory_refused`: growing was refused during this call, so that the abort that followed has a cause.
pub(super) fn classify(error: &wasmtime::Error, memory_refused: bool) -> Fault {
    if error.is::<DeadlinePassed>() {
        return Fault::Timeout;
    }
    if error.is::<wasmtime_wasi::I32Exit>() {
        return Fault::trap("trap.exit", "the handler called exit");
    }
    if memory_refused {
        return Fault::trap(
            "trap.memory",
            "out of memory: the plugin's memory limit was reached",
        );
    }
    let trap = error.downcast_ref::<Trap>().copied();
    let root = error.root_cause().to_string();
    let code = match trap {
        Some(Trap::Interrupt) => return Fault::Timeout,
        Some(Trap::UnreachableCodeReached) => "trap.unreachable",
        Some(Trap::StackOverflow) => "trap.stack",
        Some(Trap::MemoryOutOfBounds | Trap::TableOutOfBounds | Trap::HeapMisaligned) => "trap.bounds",
        Some(Trap::IndirectCallToNull | Trap::BadSignature) => "trap.call",
        Some(Trap::IntegerOverflow | Trap::IntegerDivisionByZero | Trap::BadConversionToInteger) => {
            "trap.arithmetic"
        }
        Some(_) => "trap.wasm",
        None if root.contains("hostcall") && root.contains("fuel") => "trap.too-large",
        None => "trap.host",
    };
    let text = trap.map_or(root, |trap| trap.to_string());
    Fault::Trap {
        code,
        text,
        place: place(error),
    }
}

/// "inner ← outer"
fn place(error: &wasmtime::Error) -> Option<String> {
    let frames = error.downcast_ref::<wasmtime::WasmBacktrace>()?.frames();
    let names = frames.iter().filter_map(wasmtime::FrameInfo::func_name).take(4);
    let names: Vec<_> = names.map(super::log::escape).collect();
    (!names.is_empty()).then(|| names.join(" ← "))
}

/// The outcome of a fault, its reason headed by what the guest said last.
pub(super) fn outcome(fault: Fault, log: &[(Stream, String)], limit: Duration) -> Outcome {
    let said = last_words(log);
    match fault {
        Fault::Timeout => {
            let said = said.map(|s| format!("; its last words: {s}")).unwrap_or_default();
            let text = format!("the handler did not end within {limit:?}{said}");
            Outcome::Timeout {
                limit,
                failure: Failure::coded("timeout", text),
            }
        }
        Fault::Trap { code, text, place } => {
            let reason = match (said, place) {
                (Some(said), _) => format!("{said} ({text})"),
                (None, Some(place)) => format!("{text}, in {place}"),
                (None, None) => text,
            };
            Outcome::Trap {
                failure: Failure::coded(code, reason),
            }
        }
    }
}

/// Lines that runtimes add after the user's own: Rust's hint, Go's and SpiderMonkey's abort notes, Python's ending.
const KNOWN: &[&str] = &[
    "note: run with",
    "note: Some details are omitted",
    "Redirecting call to abort()",
    "stack backtrace:",
    "goroutine ",
    "exit status",
];

/// The same, anywhere in a line: Python's bridge panics after the exception was printed.
const KNOWN_PARTS: &[&str] = &[
    "panicked at runtime/src/lib.rs",
    "Python function threw an unexpected exception",
];

/// The end of stderr without what the runtime wrote: from the last panic on, or the last line.
fn last_words(log: &[(Stream, String)]) -> Option<String> {
    let mut words: Vec<&str> = log
        .iter()
        .filter(|(stream, _)| *stream == Stream::Stderr)
        .map(|(_, line)| line.trim())
        .filter(|line| !line.is_empty() && !KNOWN.iter().any(|known| line.starts_with(known)))
        .filter(|line| !KNOWN_PARTS.iter().any(|known| line.contains(known)))
        .collect();
    let from = words
        .iter()
        .rposition(|line| line.contains("panicked at"))
        .unwrap_or(words.len().saturating_sub(1));
    words.drain(..from);
    words.truncate(4);
    (!words.is_empty()).then(|| words.join(" "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn stderr(lines: &[&str]) -> Vec<(Stream, String)> {
        lines.iter().map(|l| (Stream::Stderr, (*l).to_owned())).collect()
    }

    #[test]
    fn the_panic_comes_before_the_trap() {
        let log = stderr(&[
            "starting",
            "thread '<unnamed>' panicked at src/lib.rs:3:5:",
            "no such user",
            "note: run with `RUST_BACKTRACE=1`",
        ]);
        let outcome = outcome(
            Fault::trap("trap.unreachable", "wasm trap: unreachable"),
            &log,
            Duration::from_secs(1),
        );
        let failure = outcome.failure().unwrap();
        assert_eq!(
            failure.reason,
            "thread '<unnamed>' panicked at src/lib.rs:3:5: no such user (wasm trap: unreachable)"
        );
        assert_eq!(failure.code.as_deref(), Some("trap.unreachable"));
    }

    #[test]
    fn python_names_its_exception_last() {
        let log = stderr(&[
            "Traceback (most recent call last):",
            "  File \"app.py\", line 3, in handle",
            "KeyError: 'user'",
            "Redirecting call to abort() to mp_abort",
        ]);
        assert_eq!(last_words(&log).as_deref(), Some("KeyError: 'user'"));
        assert_eq!(last_words(&[]), None);
    }
}
