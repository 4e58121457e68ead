//! What the producers send, and what the handler says to it: fixed by the message and the attempt, so that the end of
//! every message is known beforehand, whatever faults come between.

use std::sync::Arc;
use std::time::Duration;

use super::dice::Dice;
use crate::dispatch::lanes::LaneKey;
use crate::model::{Failure, Outcome};

/// The place of a message in the order of publishing.
pub type Id = usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Handled,
    Dead,
}

#[derive(Debug, Clone)]
pub struct Message {
    pub key: Option<u8>,
    /// No envelope: a dead letter before any handler sees it.
    pub malformed: bool,
    /// Attempts that fail before the handler says its last word.
    failures: u32,
    rejected: bool,
    /// It publishes something, which has to be confirmed before the acknowledgement.
    pub outputs: bool,
}

impl Message {
    pub fn new(dice: &mut Dice, keys: usize, failing: usize) -> Self {
        let key = dice.percent(80).then(|| u8::try_from(dice.below(keys)).unwrap());
        let failures = if dice.percent(failing) {
            u32::try_from(dice.between(1, 5)).unwrap()
        } else {
            0
        };
        Self {
            key,
            malformed: key.is_none() && dice.percent(15),
            failures,
            rejected: dice.percent(10),
            outputs: dice.percent(20),
        }
    }

    pub fn outcome(&self, id: Id, attempt: u32, after: Duration) -> Outcome {
        let failure = Failure::default();
        if attempt > self.failures {
            return if self.rejected {
                Outcome::Reject { failure }
            } else {
                Outcome::Done
            };
        }
        match (id + attempt as usize) % 4 {
            0 => Outcome::Trap { failure },
            1 => Outcome::Timeout {
                limit: Duration::from_secs(5),
                failure,
            },
            2 => Outcome::Retry { failure, after: None },
            _ => Outcome::Retry {
                failure,
                after: Some(after),
            },
        }
    }

    pub fn end(&self, max_retries: u32) -> End {
        if self.malformed || self.rejected || self.failures > max_retries {
            End::Dead
        } else {
            End::Handled
        }
    }

    pub fn lane(&self) -> Option<LaneKey> {
        self.key.map(|key| Arc::from([key].as_slice()))
    }
}
