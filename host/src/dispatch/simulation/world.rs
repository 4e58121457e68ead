//! One seed: a life full of events, then quiet, in which everything has to come to its end.

use std::sync::Arc;
use std::time::Duration;

use super::broker::Broker;
use super::dice::{Clock, Dice};
use super::host::{Host, Outside};
use super::journal::Journal;
use super::message::Message;
use super::store::Store;
use crate::config::valid::RetryPolicy;

/// Rounds of a drain; the longest that was seen takes a tenth.
const ROUNDS: usize = 3000;

pub struct World<B> {
    out: Outside<B>,
    host: Host,
    workers: usize,
    window: usize,
    published: usize,
    steps: usize,
    /// In percent of the steps; none in a quarter of the seeds, where nothing may be run twice.
    faults: usize,
}

impl<B: Broker> World<B> {
    pub fn new(mut dice: Dice, clock: Arc<Clock>, broker: B, trace: bool) -> Self {
        let (keys, failing) = (dice.between(1, 4), dice.between(0, 60));
        let messages = (0..dice.between(5, 30))
            .map(|_| Message::new(&mut dice, keys, failing))
            .collect();
        let policy = RetryPolicy {
            max_retries: u32::try_from(dice.below(4)).unwrap(),
            delay: Duration::from_millis(dice.below(2000) as u64),
            multiplier: 2.0,
            max_delay: Duration::from_secs(5),
            jitter: 0.25,
        };
        let parks = dice.percent(50);
        let (workers, window) = (dice.between(1, 4), dice.between(2, 12));
        let mut store = Store::default();
        Self {
            workers,
            window,
            published: 0,
            steps: dice.between(50, 250),
            faults: if dice.percent(25) { 0 } else { dice.between(1, 4) },
            host: Host::start(workers, window, &mut store),
            out: Outside {
                dice,
                clock,
                messages,
                store,
                broker,
                journal: Journal::new(policy.max_retries),
                policy,
                parks,
                repaired: false,
                trace,
            },
        }
    }

    pub fn live(&mut self) {
        for _ in 0..self.steps {
            self.step();
            self.host.check();
        }
    }

    fn step(&mut self) {
        if self.out.dice.percent(self.faults) {
            return self.fault();
        }
        match self.out.dice.below(100) {
            0..12 => self.publish(),
            12..27 => self.host.pull(&mut self.out),
            27..44 => self.host.take(&mut self.out),
            44..61 => self.host.conclude(&mut self.out),
            61..70 => self.host.park(&mut self.out),
            70..78 => self.host.effect(&mut self.out),
            78..83 => self.host.answer(&mut self.out),
            83..88 => self.host.claim(&mut self.out),
            88..93 => self.report(),
            93..95 => self.operate(),
            95..97 => self.out.clock.advance(self.out.dice.below(1500) as u64),
            97 => self.stop(),
            _ => {
                self.out.store.down = !self.out.store.down && self.out.dice.percent(50);
                self.out.note(|| format!("store down: {}", self.out.store.down));
            }
        }
    }

    /// Somebody deals with a letter behind which a key waits, or repairs the handler.
    fn operate(&mut self) {
        let held = self.out.store.held();
        if held.is_empty() || self.out.store.down {
            return;
        }
        if self.out.dice.percent(20) {
            self.out.repaired = true;
        }
        let id = held[self.out.dice.below(held.len())];
        let now = self.out.clock.ms();
        match self.out.dice.below(3) {
            0 => self.out.store.release(id),
            1 => self.out.store.discard(id),
            _ => {
                self.out.journal.sent_again(id);
                self.out.store.resume(id, now);
            }
        }
        self.out
            .note(|| format!("somebody deals with the letter of {id}"));
    }

    fn publish(&mut self) {
        if let Some(message) = self.out.messages.get(self.published) {
            self.out
                .broker
                .publish(self.published, message.key, &mut self.out.dice);
            self.out.journal.published(self.published, message.key);
            self.published += 1;
        }
    }

    fn report(&mut self) {
        let (journal, store) = (&self.out.journal, &self.out.store);
        let lost = self.faults > 0 && self.out.dice.percent(20);
        self.out.broker.report(lost, &|id| journal.is_durable(id, store));
    }

    fn fault(&mut self) {
        if self.out.dice.percent(60) {
            let (journal, store) = (&self.out.journal, &self.out.store);
            let durable = |id| journal.is_durable(id, store);
            let taken = self.out.broker.disturb(&mut self.out.dice, &durable);
            self.out.journal.faults += u32::from(taken);
            self.out.note(|| "the broker disturbs".to_owned());
            return;
        }
        if self.out.dice.percent(30) {
            self.host.clear();
            self.report();
            self.out.note(|| "the host stops".to_owned());
        }
        self.out.note(|| "the host dies".to_owned());
        self.out.journal.faults += 1;
        // What it had in memory is dropped after the broker has let go: a dead process releases nothing.
        self.out.broker.restart();
        self.host = Host::start(self.workers, self.window, &mut self.out.store);
    }

    /// `Dispatcher::drain` with time enough, and the next start. No fault: nothing may run twice for it.
    fn stop(&mut self) {
        self.out.note(|| "the host stops in good order".to_owned());
        self.out.store.down = false;
        self.settle();
        self.host.shelve(&self.out);
        self.settle();
        self.host.clear();
        self.report_all();
        self.out.broker.restart();
        self.host = Host::start(self.workers, self.window, &mut self.out.store);
    }

    /// Nothing is pulled or claimed; what may run does, and is settled.
    fn settle(&mut self) {
        for _ in 0..ROUNDS {
            if self.host.is_settled() {
                return;
            }
            self.host.take(&mut self.out);
            self.host.conclude(&mut self.out);
            self.host.park(&mut self.out);
            self.host.effect(&mut self.out);
            self.host.answer(&mut self.out);
            self.host.check();
        }
        panic!("not settled after {ROUNDS} rounds");
    }

    /// A source that leaves sends what it has.
    fn report_all(&mut self) {
        let (journal, store) = (&self.out.journal, &self.out.store);
        loop {
            self.out.broker.report(false, &|id| journal.is_durable(id, store));
            let Some(due) = self.out.broker.next_report() else {
                return;
            };
            self.out.clock.advance(due.saturating_sub(self.out.clock.ms()));
        }
    }

    /// No more faults: everything comes to its end, and every permit back.
    pub fn drain(&mut self) {
        self.out.note(|| "quiet from here".to_owned());
        self.faults = 0;
        self.out.store.down = false;
        {
            let (journal, store) = (&self.out.journal, &self.out.store);
            self.out.broker.heal(&|id| journal.is_durable(id, store));
        }
        while self.published < self.out.messages.len() {
            self.publish();
        }
        for _ in 0..ROUNDS {
            self.host.pull(&mut self.out);
            self.host.take(&mut self.out);
            self.host.conclude(&mut self.out);
            self.host.park(&mut self.out);
            self.host.effect(&mut self.out);
            self.host.answer(&mut self.out);
            self.host.claim(&mut self.out);
            self.operate();
            self.report();
            self.host.check();
            if self.host.is_idle() && self.out.store.is_empty() && self.out.broker.is_finished() {
                self.out
                    .journal
                    .ends(&self.out.messages, &self.out.store, self.out.repaired);
                return;
            }
            self.skip();
        }
        panic!(
            "not finished after {ROUNDS} rounds: idle {}, store empty {}, broker finished {}",
            self.host.is_idle(),
            self.out.store.is_empty(),
            self.out.broker.is_finished()
        );
    }

    /// Time passes; when somebody waits for it, up to there.
    fn skip(&mut self) {
        let now = self.out.clock.ms();
        let due = [
            self.host.next_due(&self.out.clock),
            self.out.store.next_due(),
            self.out.broker.next_report(),
        ];
        let next = due.into_iter().flatten().filter(|due| *due > now).min();
        self.out
            .clock
            .advance(next.map_or(1, |due| (due - now).min(1000)));
    }
}
