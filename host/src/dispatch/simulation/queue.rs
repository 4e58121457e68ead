//! A queue with the real core of the RabbitMQ acknowledgements in front of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use super::broker::{Broker, Durable};
use super::dice::{Clock, Dice};
use super::message::Id;
use crate::broker::rabbitmq::{Coalescer, Frame};
use crate::broker::{Receipt, Settle, Token};

#[derive(Debug)]
struct Channel {
    acks: Mutex<Coalescer>,
    clock: Arc<Clock>,
}

impl Settle for Channel {
    fn begin(&self, token: Token) -> bool {
        self.acks.lock().unwrap().begin(token)
    }

    fn ack(&self, token: Token) {
        self.acks.lock().unwrap().finish(token, self.clock.instant());
    }

    /// A failed run takes its host down without further ado.
    fn release(&self, token: Token) {
        if !std::thread::panicking() {
            self.acks.lock().unwrap().release(token);
        }
    }
}

#[derive(Debug)]
pub struct Queue {
    clock: Arc<Clock>,
    channel: Arc<Channel>,
    epoch: u64,
    window: usize,
    /// What is returned goes back to its old place.
    ready: BTreeSet<Id>,
    unacked: BTreeMap<u64, Id>,
    next_tag: u64,
}

impl Queue {
    pub fn new(clock: &Arc<Clock>, window: usize) -> Self {
        let channel = |epoch| Channel {
            acks: Mutex::new(Coalescer::new(epoch, 1, window)),
            clock: Arc::clone(clock),
        };
        Self {
            clock: Arc::clone(clock),
            channel: Arc::new(channel(0)),
            epoch: 0,
            window,
            ready: BTreeSet::new(),
            unacked: BTreeMap::new(),
            next_tag: 1,
        }
    }

    fn acks<T>(&self, f: impl FnOnce(&mut Coalescer) -> T) -> T {
        f(&mut self.channel.acks.lock().unwrap())
    }

    fn acked(&mut self, tag: u64, durable: Durable<'_>) {
        let id = self.unacked.remove(&tag);
        let id = id.unwrap_or_else(|| panic!("delivery tag {tag} is not outstanding"));
        assert!(durable(id), "message {id} was acknowledged and is not finished");
    }

    fn apply(&mut self, frame: Frame, durable: Durable<'_>) {
        match frame {
            Frame::Single(tag) => self.acked(tag, durable),
            Frame::Prefix(last) => {
                assert!(
                    self.unacked.contains_key(&last),
                    "delivery tag {last} is not outstanding"
                );
                let tags: Vec<u64> = self.unacked.range(..=last).map(|(tag, _)| *tag).collect();
                tags.into_iter().for_each(|tag| self.acked(tag, durable));
            }
            Frame::Requeue(tag) => {
                let id = self.unacked.remove(&tag);
                self.ready
                    .insert(id.unwrap_or_else(|| panic!("delivery tag {tag} is not outstanding")));
            }
        }
    }
}

impl Broker for Queue {
    const HOLDS: bool = false;

    fn publish(&mut self, id: Id, _: Option<u8>, _: &mut Dice) {
        self.ready.insert(id);
    }

    fn recv(&mut self, max: usize, _: &mut Dice) -> Vec<(Id, Receipt)> {
        let mut out = Vec::new();
        while out.len() < max
            && self.unacked.len() < self.window
            && let Some(id) = self.ready.pop_first()
        {
            let tag = self.next_tag;
            self.next_tag += 1;
            self.unacked.insert(tag, id);
            let token = self.acks(|a| a.delivered(tag));
            let channel: Arc<dyn Settle> = self.channel.clone();
            out.push((id, Receipt::new(channel, token)));
        }
        out
    }

    /// A lost acknowledgement is a lost connection here, see `disturb`.
    fn report(&mut self, _: bool, durable: Durable<'_>) {
        let now = self.clock.instant();
        if self.acks(|a| a.is_full() || a.due().is_some_and(|due| due <= now)) {
            for frame in self.acks(|a| a.flush(now, false)) {
                self.apply(frame, durable);
            }
        }
    }

    fn disturb(&mut self, _: &mut Dice, _: Durable<'_>) -> bool {
        self.acks(Coalescer::close);
        self.restart();
        true
    }

    fn is_ours(&self, token: Token) -> bool {
        token.epoch == self.epoch
    }

    fn heal(&mut self, _: Durable<'_>) {}

    fn restart(&mut self) {
        self.ready.extend(std::mem::take(&mut self.unacked).into_values());
        self.epoch += 1;
        self.next_tag = 1;
        self.channel = Arc::new(Channel {
            acks: Mutex::new(Coalescer::new(self.epoch, 1, self.window)),
            clock: Arc::clone(&self.clock),
        });
    }

    fn next_report(&self) -> Option<u64> {
        self.acks(|a| a.due()).map(|at| self.clock.ms_of(at))
    }

    fn is_finished(&self) -> bool {
        self.ready.is_empty() && self.unacked.is_empty()
    }
}
