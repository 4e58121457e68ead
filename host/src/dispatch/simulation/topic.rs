//! A topic of two partitions with the real Kafka ledger in front of it.

use std::sync::{Arc, Mutex};

use super::broker::{Broker, Durable};
use super::dice::Dice;
use super::message::Id;
use crate::broker::kafka::{Ledger, Receive};
use crate::broker::{Receipt, Settle, Token};

const PARTITIONS: usize = 2;

#[derive(Debug, Default)]
struct Desk(Mutex<Ledger>);

impl Settle for Desk {
    fn begin(&self, token: Token) -> bool {
        self.0.lock().unwrap().begin(token)
    }

    fn rest(&self, token: Token) {
        self.0.lock().unwrap().rest(token);
    }

    fn ack(&self, token: Token) {
        self.0.lock().unwrap().ack(token);
    }

    /// A failed run takes its host down without further ado.
    fn release(&self, token: Token) {
        if !std::thread::panicking() {
            self.0.lock().unwrap().release(token);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Assignment {
    Ours,
    /// Being revoked: what runs may finish.
    Leaving,
    Away,
}

#[derive(Debug)]
struct Partition {
    /// Ascending offsets, with holes.
    records: Vec<(u64, Id)>,
    end: u64,
    position: u64,
    committed: u64,
    assignment: Assignment,
    epoch: u64,
}

#[derive(Debug)]
pub struct Topic {
    desk: Arc<Desk>,
    partitions: Vec<Partition>,
}

impl Topic {
    pub fn new() -> Self {
        let partition = || Partition {
            records: Vec::new(),
            end: 0,
            position: 0,
            committed: 0,
            assignment: Assignment::Away,
            epoch: 0,
        };
        let mut topic = Self {
            desk: Arc::default(),
            partitions: (0..PARTITIONS).map(|_| partition()).collect(),
        };
        topic.restart();
        topic
    }

    fn ledger<T>(&self, f: impl FnOnce(&mut Ledger) -> T) -> T {
        f(&mut self.desk.0.lock().unwrap())
    }

    fn assign(&mut self, number: usize) {
        let epoch = self.ledger(|l| l.assign(u32::try_from(number).unwrap()));
        let partition = &mut self.partitions[number];
        partition.epoch = epoch;
        partition.assignment = Assignment::Ours;
        partition.position = partition.committed;
    }

    fn forget(&mut self, number: usize) {
        self.ledger(|l| l.forget(u32::try_from(number).unwrap()));
        self.partitions[number].assignment = Assignment::Away;
    }

    fn leave(&mut self, number: usize, durable: Durable<'_>) {
        let prefixes = self.ledger(|l| l.prefixes(&[u32::try_from(number).unwrap()]));
        for (_, next) in prefixes {
            self.partitions[number].commit(next, durable);
        }
        self.forget(number);
    }
}

impl Partition {
    fn commit(&mut self, next: u64, durable: Durable<'_>) {
        assert!(
            next >= self.committed,
            "a commit goes back from {} to {next}",
            self.committed
        );
        let covered = self
            .records
            .iter()
            .filter(|(offset, _)| (self.committed..next).contains(offset));
        for (offset, id) in covered {
            assert!(
                durable(*id),
                "committed {next}, but offset {offset} (message {id}) is not finished"
            );
        }
        self.committed = next;
    }
}

impl Broker for Topic {
    const HOLDS: bool = true;

    fn publish(&mut self, id: Id, key: Option<u8>, dice: &mut Dice) {
        let number = key.map_or(id, usize::from) % PARTITIONS;
        let partition = &mut self.partitions[number];
        partition.end += dice.below(3) as u64;
        partition.records.push((partition.end, id));
        partition.end += 1;
    }

    fn recv(&mut self, max: usize, dice: &mut Dice) -> Vec<(Id, Receipt)> {
        let mut out = Vec::new();
        let first = dice.below(PARTITIONS);
        for number in [first, 1 - first] {
            loop {
                let partition = &mut self.partitions[number];
                let at = partition.records.partition_point(|r| r.0 < partition.position);
                let Some(&(offset, id)) = partition.records.get(at) else {
                    break;
                };
                if out.len() == max || partition.assignment != Assignment::Ours {
                    break;
                }
                partition.position = offset + 1;
                match self.ledger(|l| l.receive(u32::try_from(number).unwrap(), offset)) {
                    Receive::Deliver(token) => {
                        let desk: Arc<dyn Settle> = self.desk.clone();
                        out.push((id, Receipt::new(desk, token)));
                    }
                    Receive::Known => {}
                    other => panic!("offset {offset}: {other:?}"),
                }
            }
        }
        out
    }

    fn report(&mut self, lost: bool, durable: Durable<'_>) {
        for (number, next) in self.ledger(Ledger::commits) {
            if !lost {
                self.partitions[number as usize].commit(next, durable);
            }
        }
        if lost {
            self.ledger(Ledger::commit_failed);
        }
        for rewind in self.ledger(Ledger::rewinds) {
            self.partitions[rewind.partition as usize].position = rewind.offset;
        }
    }

    fn disturb(&mut self, dice: &mut Dice, durable: Durable<'_>) -> bool {
        let number = dice.below(PARTITIONS);
        match self.partitions[number].assignment {
            Assignment::Ours if dice.percent(60) => {
                self.ledger(|l| l.freeze(u32::try_from(number).unwrap()));
                self.partitions[number].assignment = Assignment::Leaving;
                true
            }
            // Lost: nothing may be committed.
            Assignment::Ours => {
                self.forget(number);
                true
            }
            Assignment::Leaving => {
                self.leave(number, durable);
                false
            }
            Assignment::Away => {
                self.assign(number);
                false
            }
        }
    }

    fn is_ours(&self, token: Token) -> bool {
        let partition = &self.partitions[token.lane as usize];
        partition.assignment == Assignment::Ours && partition.epoch == token.epoch
    }

    fn heal(&mut self, durable: Durable<'_>) {
        for number in 0..PARTITIONS {
            if self.partitions[number].assignment == Assignment::Leaving {
                self.leave(number, durable);
            }
            if self.partitions[number].assignment == Assignment::Away {
                self.assign(number);
            }
        }
    }

    fn restart(&mut self) {
        self.desk = Arc::default();
        (0..PARTITIONS).for_each(|number| self.assign(number));
    }

    fn next_report(&self) -> Option<u64> {
        None
    }

    fn is_finished(&self) -> bool {
        self.ledger(|l| l.tracked()) == 0
            && self.partitions.iter().all(|p| {
                let end = p.records.last().map_or(0, |(offset, _)| offset + 1);
                p.committed >= end
            })
    }
}
