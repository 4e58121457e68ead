//! What follows from a verdict: the parker, the effects beside the workers, the question whether a lane may come back, and
//! the schedule.

use std::sync::Arc;

use super::super::store::Row;
use super::{Broker, Duty, Effect, Host, Item, LaneKey, Outside, Question, Write};

/// One transaction of the parker.
const BATCH: usize = 4;

impl Host {
    /// The parker writes a batch, or acknowledges what it has written.
    pub fn park<B: Broker>(&mut self, out: &mut Outside<B>) {
        if self.parked == 0 {
            if out.store.down {
                return;
            }
            self.parked = self.parking.len().min(out.dice.between(1, BATCH));
            for job in self.parking.iter().take(self.parked) {
                if job.dead {
                    out.store.hold(job.row.clone());
                } else {
                    out.store.park(job.row.clone());
                }
            }
            return;
        }
        for job in self.parking.drain(..std::mem::take(&mut self.parked)) {
            if let Some(key) = &job.lane {
                self.lanes.stored(key);
            }
            out.note(|| format!("parked {}", job.item.id));
            if let Duty::Delivery(receipt) = job.item.duty {
                receipt.ack();
            }
        }
    }

    pub(super) fn write(&mut self, effect: Effect, item: Item, lane: Option<LaneKey>) {
        self.writes.push(Write {
            effect,
            item,
            lane,
            done: false,
        });
    }

    /// One of the effects under way is carried out, or what follows from it.
    pub fn effect<B: Broker>(&mut self, out: &mut Outside<B>) {
        if self.writes.is_empty() {
            return;
        }
        let at = out.dice.below(self.writes.len());
        let write = &mut self.writes[at];
        if !write.done {
            write.done = out.carry_out(&write.effect, &write.item);
            return;
        }
        let Write {
            effect, item, lane, ..
        } = self.writes.swap_remove(at);
        match (effect, item.duty) {
            (Effect::Publish | Effect::Letter, Duty::Delivery(receipt)) => {
                receipt.ack();
                drop(item.permit);
                self.free(lane.as_ref());
            }
            (Effect::Complete | Effect::Bury, duty) => {
                self.ask(Item { duty, ..item }, out);
            }
            (Effect::Reschedule { .. } | Effect::Hold | Effect::Publish | Effect::Letter, _) => {}
        }
    }

    /// The first half of `Runner::unpark_if_empty`.
    fn ask<B: Broker>(&mut self, item: Item, out: &Outside<B>) {
        if let Some(key) = out.messages[item.id].lane()
            && let Some(generation) = self.lanes.parked_generation(&key)
        {
            self.questions.push(Question {
                key,
                generation,
                empty: None,
                _item: item,
            });
        }
    }

    /// The store answers, or its answer is acted upon.
    pub fn answer<B: Broker>(&mut self, out: &mut Outside<B>) {
        if self.questions.is_empty() {
            return;
        }
        let at = out.dice.below(self.questions.len());
        let question = &mut self.questions[at];
        if question.empty.is_none() {
            question.empty = Some(!out.store.down && out.store.lane_is_empty(question.key[0]));
            return;
        }
        let question = self.questions.swap_remove(at);
        if question.empty == Some(true) {
            self.lanes.unpark(&question.key, question.generation);
        }
    }

    /// The schedule takes due rows.
    pub fn claim<B: Broker>(&mut self, out: &mut Outside<B>) {
        if out.store.down {
            return;
        }
        let free = self.schedule.available_permits();
        for row in out.store.claim_due(out.clock.ms(), free) {
            out.note(|| format!("claimed {} attempt {}", row.id, row.attempt));
            let item = Item {
                id: row.id,
                attempt: row.attempt,
                duty: Duty::Row,
                permit: Arc::clone(&self.schedule).try_acquire_owned().unwrap(),
            };
            assert!(self.lanes.push(item, None).is_ok());
        }
    }
}

impl<B: Broker> Outside<B> {
    /// False: not now.
    fn carry_out(&mut self, effect: &Effect, item: &Item) -> bool {
        let id = item.id;
        match effect {
            Effect::Publish => self.journal.handled(id),
            _ if self.store.down => return false,
            Effect::Complete => self.store.remove(id),
            Effect::Letter => self.store.enter(id),
            Effect::Bury => self.store.bury(id),
            Effect::Hold => {
                let key = self.messages[id].key;
                self.store.hold(Row::new(id, key, item.attempt, u64::MAX));
            }
            Effect::Reschedule { due_ms } => self.store.reschedule(id, item.attempt, *due_ms),
        }
        self.note(|| format!("written {id}"));
        true
    }
}
