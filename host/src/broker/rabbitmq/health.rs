//! What is wrong right now, said once to the log and at any time to `/health`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::broker::{Error, Health};
use crate::error::{BROKER_REFUSED, BROKER_UNREACHABLE, Code};

/// The same complaint is logged again after this time at the earliest.
const REPEAT: Duration = Duration::from_secs(30);
/// Complaints remembered for that; a handful of causes alternate at most.
const REMEMBERED: usize = 16;

/// Why there is no connection, in full sentences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// True: somebody answered and said no. Trying again helps only after somebody has changed something.
    pub refused: bool,
    pub text: Arc<str>,
}

impl Failure {
    pub fn code(&self) -> Code {
        if self.refused {
            BROKER_REFUSED
        } else {
            BROKER_UNREACHABLE
        }
    }

    pub fn to_error(&self) -> Error {
        if self.refused {
            Error::Refused(self.text.to_string())
        } else {
            Error::Unreachable(self.text.to_string())
        }
    }
}

/// State of one connection, for health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkHealth {
    /// Nobody needed it yet.
    Idle,
    Up,
    /// `connection.blocked`, with the broker's reason.
    Blocked(Arc<str>),
    Down(Failure),
}

/// Queue, and what keeps it from being consumed.
type Trouble = (Arc<str>, Option<Arc<str>>);

/// Shared by the links and sources of one broker.
#[derive(Debug, Default)]
pub struct Board {
    said: Mutex<Vec<(Arc<str>, Instant)>>,
    /// By the number of the source.
    sources: Mutex<BTreeMap<u64, Trouble>>,
    next: AtomicU64,
    stale: AtomicU64,
}

impl Board {
    /// A number never given out before: for sources, and for the epochs of channels.
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// True when this complaint should be logged now.
    pub fn complain(&self, text: &Arc<str>, now: Instant) -> bool {
        let mut said = lock(&self.said);
        said.retain(|(_, at)| now.saturating_duration_since(*at) < REPEAT);
        if said.len() >= REMEMBERED || said.iter().any(|(known, _)| known == text) {
            return false;
        }
        said.push((Arc::clone(text), now));
        true
    }

    pub fn source(&self, number: u64, queue: &Arc<str>, trouble: Option<Arc<str>>) {
        lock(&self.sources).insert(number, (Arc::clone(queue), trouble));
    }

    pub fn source_gone(&self, number: u64) {
        lock(&self.sources).remove(&number);
    }

    /// An acknowledgement came after its channel had gone: the broker delivers the message again.
    pub fn stale_ack(&self) {
        self.stale.fetch_add(1, Ordering::Relaxed);
    }

    pub fn stale_acks(&self) -> u64 {
        self.stale.load(Ordering::Relaxed)
    }

    pub fn health(&self, links: &[LinkHealth]) -> Health {
        let mut degraded = Vec::new();
        for link in links {
            match link {
                LinkHealth::Down(failure) => {
                    return Health::Down {
                        reason: format!("{}: {}", failure.code(), failure.text),
                    };
                }
                LinkHealth::Blocked(reason) => {
                    degraded.push(format!(
                        "the broker does not take messages now (connection.blocked: {reason})"
                    ));
                }
                LinkHealth::Idle | LinkHealth::Up => {}
            }
        }
        for (queue, trouble) in lock(&self.sources).values() {
            if let Some(trouble) = trouble {
                degraded.push(format!("queue `{queue}` is not consumed: {trouble}"));
            }
        }
        if degraded.is_empty() {
            Health::Up
        } else {
            Health::Degraded {
                reason: degraded.join("; "),
            }
        }
    }
}

/// Nothing that holds these locks can leave half a change behind.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
