//! What a host has in memory, and one step of each of its tasks: intake, workers, parker, effects, schedule. The lanes, the
//! verdicts, the receipts and the permits are the real ones; a step is what the task does between two awaits.

mod settle;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::broker::Broker;
use super::dice::{Clock, Dice};
use super::journal::Journal;
use super::message::{Id, Message};
use super::store::{Row, Store};
use crate::broker::Receipt;
use crate::config::valid::RetryPolicy;
use crate::dispatch::lanes::{LaneKey, Lanes};
use crate::model::clock::duration_ms;
use crate::model::{Outcome, Verdict};
use crate::retry;

enum Duty {
    Delivery(Receipt),
    Row,
}

pub struct Item {
    id: Id,
    attempt: u32,
    duty: Duty,
    permit: OwnedSemaphorePermit,
}

struct Job {
    row: Row,
    lane: Option<LaneKey>,
    item: Item,
    /// It was given up on, and its lane waits behind it.
    dead: bool,
}

enum Effect {
    /// Output, then the acknowledgement.
    Publish,
    Complete,
    Letter,
    Bury,
    /// As `Bury`, and its row holds up its lane.
    Hold,
    Reschedule {
        due_ms: u64,
    },
}

struct Write {
    effect: Effect,
    item: Item,
    lane: Option<LaneKey>,
    done: bool,
}

/// The question whether the store has anything of a lane left.
struct Question {
    key: LaneKey,
    generation: u64,
    empty: Option<bool>,
    _item: Item,
}

/// The world outside of the host's memory.
pub struct Outside<B> {
    pub dice: Dice,
    pub clock: Arc<Clock>,
    pub messages: Vec<Message>,
    pub store: Store,
    pub broker: B,
    pub journal: Journal,
    pub policy: RetryPolicy,
    /// `on_dead_letter = "park"`.
    pub parks: bool,
    /// The handler takes every message that has a key.
    pub repaired: bool,
    pub trace: bool,
}

pub struct Host {
    lanes: Lanes<Item>,
    workers: usize,
    window: usize,
    permits: Arc<Semaphore>,
    schedule: Arc<Semaphore>,
    running: Vec<(Item, Option<LaneKey>)>,
    parking: VecDeque<Job>,
    /// So many of the first jobs are written and not yet acknowledged.
    parked: usize,
    writes: Vec<Write>,
    questions: Vec<Question>,
}

/// Due rows under way at a time: fewer than there may be, so that some have to wait.
const SCHEDULED: usize = 3;
impl Host {
    pub fn start(workers: usize, window: usize, store: &mut Store) -> Self {
        store.open();
        let mut lanes = Lanes::default();
        for key in store.lanes() {
            lanes.mark_parked(&Arc::from([key].as_slice()), 0);
        }
        Self {
            lanes,
            workers,
            window,
            permits: Arc::new(Semaphore::new(window)),
            schedule: Arc::new(Semaphore::new(SCHEDULED)),
            running: Vec::new(),
            parking: VecDeque::new(),
            parked: 0,
            writes: Vec::new(),
            questions: Vec::new(),
        }
    }

    /// Every message in the host has one permit, and every permit one message.
    pub fn check(&self) {
        let held =
            self.window + SCHEDULED - self.permits.available_permits() - self.schedule.available_permits();
        let messages = self.lanes.queued()
            + self.running.len()
            + self.parking.len()
            + self.writes.len()
            + self.questions.len();
        assert_eq!(held, messages, "permits taken and messages in the host");
    }

    pub fn is_idle(&self) -> bool {
        self.permits.available_permits() == self.window && self.schedule.available_permits() == SCHEDULED
    }

    pub fn next_due(&self, clock: &Clock) -> Option<u64> {
        self.lanes.next_due().map(|at| clock.ms_of(at))
    }

    /// `Context::finished`, and no runner has work.
    pub fn is_settled(&self) -> bool {
        self.lanes.runnable() == 0
            && self.running.is_empty()
            && self.parking.is_empty()
            && self.writes.is_empty()
            && self.questions.is_empty()
    }

    /// `Runner::shelve`, on a broker that no other host consumes from.
    pub fn shelve<B: Broker>(&mut self, out: &Outside<B>) {
        self.relieve(out);
    }

    /// `Runner::clear`: what has not started goes back to its broker.
    pub fn clear(&mut self) {
        self.lanes.clear();
    }

    /// `Intake::acquire` and `Intake::place`.
    pub fn pull<B: Broker>(&mut self, out: &mut Outside<B>) {
        let want = self.permits.available_permits().min(out.dice.between(1, 6));
        if want == 0 {
            return self.relieve(out);
        }
        let taken = Arc::clone(&self.permits).try_acquire_many_owned(u32::try_from(want).unwrap());
        let mut permits = taken.unwrap();
        for (id, receipt) in out.broker.recv(want, &mut out.dice) {
            out.note(|| format!("delivered {id}"));
            let item = Item {
                id,
                attempt: 1,
                duty: Duty::Delivery(receipt),
                permit: permits.split(1).unwrap(),
            };
            if out.messages[id].malformed {
                self.write(Effect::Letter, item, None);
                continue;
            }
            let lane = out.messages[id].lane();
            if let Err(item) = self.lanes.push(item, lane.as_ref()) {
                self.send_to_store(item, lane, None, out);
            }
        }
    }

    fn relieve<B: Broker>(&mut self, out: &Outside<B>) {
        let now = out.clock.instant();
        for (key, due, items) in self.lanes.relieve(|_| true) {
            out.note(|| format!("relieved lane {key:?}"));
            let mut delay = Some(due.saturating_duration_since(now));
            for item in items {
                self.send_to_store(item, Some(Arc::clone(&key)), delay.take(), out);
            }
        }
    }

    fn send_to_store<B: Broker>(
        &mut self,
        item: Item,
        lane: Option<LaneKey>,
        delay: Option<Duration>,
        out: &Outside<B>,
    ) {
        let due = out.clock.ms() + delay.map_or(0, duration_ms);
        let row = Row::new(item.id, lane.as_ref().map(|key| key[0]), item.attempt, due);
        self.parking.push_back(Job {
            row,
            lane,
            item,
            dead: false,
        });
    }

    /// The start of `Batch::run`.
    pub fn take<B: Broker>(&mut self, out: &mut Outside<B>) {
        self.lanes.wake(out.clock.instant());
        let free = self.workers - self.running.len();
        let most = out.dice.between(1, 3).min(free);
        for (item, lane) in self.lanes.take(most) {
            if let Duty::Delivery(receipt) = &item.duty {
                if !receipt.begin() {
                    out.note(|| format!("fenced {}", item.id));
                    self.free(lane.as_ref());
                    continue;
                }
                let ours = out.broker.is_ours(receipt.token());
                assert!(ours, "message {} begins and is no longer ours", item.id);
            }
            out.note(|| format!("begins {} attempt {}", item.id, item.attempt));
            let key = out.messages[item.id].key;
            let beside = self
                .running
                .iter()
                .find(|(other, _)| key.is_some() && out.messages[other.id].key == key);
            assert!(
                beside.is_none(),
                "message {} runs beside message {} of the same key",
                item.id,
                beside.map_or(0, |(other, _)| other.id)
            );
            out.journal
                .begins(item.id, key, item.attempt, out.clock.ms(), &out.store);
            self.running.push((item, lane));
        }
    }

    fn free(&mut self, lane: Option<&LaneKey>) {
        if let Some(key) = lane {
            self.lanes.finish(key);
        }
    }

    /// A handler is over: `Batch::conclude`.
    pub fn conclude<B: Broker>(&mut self, out: &mut Outside<B>) {
        if self.running.is_empty() {
            return;
        }
        let (item, lane) = self.running.swap_remove(out.dice.below(self.running.len()));
        let message = &out.messages[item.id];
        let after = Duration::from_millis(out.dice.below(3000) as u64);
        let outcome = if out.repaired && message.key.is_some() {
            Outcome::Done
        } else {
            message.outcome(item.id, item.attempt, after)
        };
        let verdict = retry::decide(&outcome, item.attempt, &out.policy, out.dice.unit());
        out.note(|| format!("{} attempt {}: {}", item.id, item.attempt, outcome_name(&outcome)));
        match (verdict, item.duty) {
            (Verdict::Acknowledge, Duty::Delivery(receipt)) if !message.outputs => {
                out.journal.handled(item.id);
                receipt.ack();
                drop(item.permit);
                self.free(lane.as_ref());
            }
            (Verdict::Acknowledge, duty @ Duty::Delivery(_)) => {
                self.write(Effect::Publish, Item { duty, ..item }, lane);
            }
            (Verdict::Acknowledge, Duty::Row) => {
                out.journal.handled(item.id);
                self.write(
                    Effect::Complete,
                    Item {
                        duty: Duty::Row,
                        ..item
                    },
                    lane,
                );
            }
            (Verdict::RetryAfter { delay, .. }, duty) => {
                let item = Item {
                    attempt: item.attempt + 1,
                    duty,
                    ..item
                };
                let due = out.clock.ms() + duration_ms(delay);
                out.journal.fails(item.id, item.attempt, due);
                self.again(item, lane, delay, out);
            }
            (Verdict::DeadLetter { .. }, duty @ Duty::Delivery(_)) if out.parks && lane.is_some() => {
                self.hold_lane(Item { duty, ..item }, lane, out);
            }
            (Verdict::DeadLetter { .. }, Duty::Row) if out.parks && message.key.is_some() => {
                let duty = Duty::Row;
                self.write(Effect::Hold, Item { duty, ..item }, lane);
            }
            (Verdict::DeadLetter { .. }, duty) => {
                let effect = match &duty {
                    Duty::Delivery(_) => Effect::Letter,
                    Duty::Row => Effect::Bury,
                };
                self.write(effect, Item { duty, ..item }, lane);
            }
        }
    }

    /// `Runner::hold_lane`.
    fn hold_lane<B: Broker>(&mut self, item: Item, lane: Option<LaneKey>, out: &Outside<B>) {
        let Some(key) = lane else { return };
        let followers = self.lanes.park_running(&key);
        let row = Row::new(item.id, Some(key[0]), item.attempt, out.clock.ms());
        self.parking.push_back(Job {
            row,
            lane: Some(Arc::clone(&key)),
            item,
            dead: true,
        });
        for follower in followers {
            self.send_to_store(follower, Some(Arc::clone(&key)), None, out);
        }
    }

    fn again<B: Broker>(&mut self, item: Item, lane: Option<LaneKey>, delay: Duration, out: &Outside<B>) {
        match (&item.duty, lane) {
            (Duty::Row, lane) => {
                let due_ms = out.clock.ms() + duration_ms(delay);
                self.write(Effect::Reschedule { due_ms }, item, lane);
            }
            (Duty::Delivery(_), None) => self.send_to_store(item, None, Some(delay), out),
            (Duty::Delivery(receipt), Some(key)) if B::HOLDS => {
                receipt.rest();
                self.lanes.hold(&key, item, out.clock.instant() + delay);
            }
            (Duty::Delivery(_), Some(key)) => {
                let followers = self.lanes.park_running(&key);
                self.send_to_store(item, Some(Arc::clone(&key)), Some(delay), out);
                for follower in followers {
                    self.send_to_store(follower, Some(Arc::clone(&key)), None, out);
                }
            }
        }
    }
}

fn outcome_name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Done => "done",
        Outcome::Retry { .. } => "retry",
        Outcome::Reject { .. } => "reject",
        Outcome::Trap { .. } => "trap",
        Outcome::Timeout { .. } => "timeout",
        Outcome::Refused { .. } => "refused",
    }
}

impl<B: Broker> Outside<B> {
    pub fn note(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>7} ms  {}", self.clock.ms(), what());
        }
    }
}
