//! Steps of what the host does with dead letters by itself.

use helix_host::model::{FailureClass, UnixMs};
use helix_host::store::{Decided, KeepLetters, Progress, Step as Settling, Turn};

use super::super::stage::{LEASE, Store, note};
use super::dice::{Dice, HOLDERS, WORDS};
use super::said;

const POLICIES: [&str; 2] = ["p1", "p2"];
/// How long a letter is kept: not as long as it takes until most have failed again.
const KEPT_MS: u64 = 1_500;

#[derive(Debug)]
pub enum Step {
    Candidates(UnixMs, usize),
    Turn(String, Turn),
    Settle(Vec<Decided>),
    Reconsider(&'static str),
    Expire(UnixMs, usize),
    Close(UnixMs, usize),
}

impl Dice {
    /// Few, so that what is seen is often so.
    fn progress(&mut self, now: UnixMs) -> Progress {
        Progress {
            attempts: u32::from(self.chance(40)),
            due_ms: if self.chance(60) { 0 } else { now / 2_000 * 2_000 },
        }
    }

    fn decided(&mut self, now: UnixMs) -> Decided {
        let why = format!("tried {}", self.of(&WORDS));
        Decided {
            letter: self.letter_id(),
            seen: self.progress(now),
            step: match self.below(6) {
                0..3 => Settling::Set(self.progress(now)),
                3 => Settling::Leave {
                    policies: self.of(&POLICIES).to_owned(),
                },
                4 => Settling::Archive { why },
                _ => Settling::Discard { why },
            },
        }
    }
}

pub fn step(dice: &mut Dice, now: UnixMs) -> Step {
    match dice.below(12) {
        0..2 => Step::Candidates(now, dice.below(6)),
        2..4 => {
            let (seen, next) = (dice.progress(now), dice.progress(now));
            Step::Turn(dice.letter_id(), Turn { seen, next })
        }
        4..6 => Step::Settle((0..dice.below(4)).map(|_| dice.decided(now)).collect()),
        6 => Step::Reconsider(dice.of(&POLICIES)),
        7..10 => Step::Expire(now.saturating_sub(KEPT_MS), dice.below(4)),
        _ => Step::Close(now.saturating_sub(KEPT_MS), dice.below(4)),
    }
}

pub async fn take(store: &dyn Store, step: &Step) -> String {
    match step {
        Step::Candidates(now, limit) => {
            let classes = [FailureClass::Exhausted, FailureClass::TooLarge];
            said(store.candidates(&classes, *now, *limit).await)
        }
        Step::Turn(id, turn) => {
            let holder = HOLDERS[0].to_owned();
            said(store.claim_turn(id, turn, holder, LEASE, note("turn")).await)
        }
        Step::Settle(decided) => said(store.settle("host", decided.clone()).await),
        Step::Reconsider(policies) => said(store.reconsider(policies, 1_000).await),
        Step::Expire(until, limit) => {
            let expired = KeepLetters::expire(store, *until, "too old", *limit).await;
            format!("expire {}", said(expired))
        }
        Step::Close(until, limit) => format!("forget {}", said(store.forget_closed(*until, *limit).await)),
    }
}
