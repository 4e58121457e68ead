#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn deliver(ledger: &mut Ledger, partition: u32, offset: u64) -> Token {
    match ledger.receive(partition, offset) {
        Receive::Deliver(token) => token,
        other => panic!("{offset}: {other:?}"),
    }
}

#[test]
fn only_the_contiguous_prefix_is_committable_and_holes_do_not_matter() {
    let mut ledger = Ledger::default();
    ledger.assign(0);
    let tokens: Vec<_> = [3, 4, 9, 10].map(|o| deliver(&mut ledger, 0, o)).into();
    ledger.ack(tokens[1]);
    ledger.ack(tokens[2]);
    assert_eq!(ledger.commits(), vec![]);
    ledger.ack(tokens[0]);
    assert_eq!(ledger.commits(), vec![(0, 10)]);
    assert_eq!(ledger.commits(), vec![], "nothing new");
    ledger.commit_failed();
    assert_eq!(ledger.commits(), vec![(0, 10)], "said again after a failure");
    assert_eq!(ledger.tracked(), 1);
}

#[test]
fn tokens_of_an_old_assignment_are_void() {
    let mut ledger = Ledger::default();
    ledger.assign(0);
    let old = deliver(&mut ledger, 0, 5);
    ledger.assign(0);
    let new = deliver(&mut ledger, 0, 5);
    assert!(!ledger.begin(old));
    ledger.ack(old);
    assert_eq!(ledger.commits(), vec![]);
    assert!(ledger.begin(new));
    ledger.ack(new);
    assert_eq!(ledger.commits(), vec![(0, 6)]);
}

#[test]
fn a_frozen_partition_begins_nothing_but_lets_the_running_finish() {
    let mut ledger = Ledger::default();
    ledger.assign(0);
    let running = deliver(&mut ledger, 0, 0);
    let waiting = deliver(&mut ledger, 0, 1);
    assert!(ledger.begin(running));
    ledger.freeze(0);
    assert!(!ledger.begin(waiting));
    assert_eq!(ledger.running(&[0]), 1);
    ledger.ack(running);
    assert_eq!(ledger.running(&[0]), 0);
    assert_eq!(ledger.prefixes(&[0]), vec![(0, 1)]);
}

#[test]
fn what_waits_for_its_retry_begins_again_and_holds_up_no_revocation() {
    let mut ledger = Ledger::default();
    ledger.assign(0);
    let token = deliver(&mut ledger, 0, 0);
    assert!(ledger.begin(token));
    assert!(!ledger.begin(token), "it runs");
    ledger.rest(token);
    assert_eq!(ledger.running(&[0]), 0);
    assert_eq!(ledger.rewinds(), vec![], "it is still in our hands");
    assert!(ledger.begin(token), "the second attempt");
    ledger.rest(token);
    ledger.freeze(0);
    assert!(!ledger.begin(token), "the partition moves: its new owner runs it");
    assert_eq!(ledger.prefixes(&[0]), vec![]);
}

#[test]
fn a_released_offset_is_read_again_and_its_neighbours_are_not_run_twice() {
    let mut ledger = Ledger::default();
    ledger.assign(0);
    let tokens: Vec<_> = (0..4).map(|o| deliver(&mut ledger, 0, o)).collect();
    ledger.ack(tokens[2]);
    ledger.release(tokens[1]);
    let rewinds = ledger.rewinds();
    assert_eq!(
        rewinds
            .iter()
            .map(|r| (r.partition, r.offset))
            .collect::<Vec<_>>(),
        [(0, 1)]
    );
    assert_eq!(ledger.rewinds(), vec![], "one seek is enough");
    let again = deliver(&mut ledger, 0, 1);
    assert_eq!(ledger.receive(0, 2), Receive::Known);
    assert_eq!(ledger.receive(0, 3), Receive::Known, "still in flight");
    deliver(&mut ledger, 0, 4);
    ledger.ack(tokens[0]);
    assert!(ledger.begin(again));
    ledger.ack(again);
    assert_eq!(ledger.commits(), vec![(0, 3)]);
}

#[test]
fn a_refused_seek_is_asked_for_again() {
    let mut ledger = Ledger::default();
    ledger.assign(0);
    let token = deliver(&mut ledger, 0, 7);
    ledger.release(token);
    let rewind = ledger.rewinds()[0];
    ledger.rewind_failed(rewind);
    assert_eq!(ledger.rewinds(), vec![rewind]);
}

#[test]
fn a_released_offset_that_has_left_the_log_holds_nobody_up() {
    let mut ledger = Ledger::default();
    ledger.assign(0);
    let gone = deliver(&mut ledger, 0, 7);
    ledger.release(gone);
    ledger.rewinds();
    let next = deliver(&mut ledger, 0, 20);
    ledger.ack(next);
    assert_eq!(ledger.commits(), vec![(0, 21)]);
}

#[test]
fn a_log_that_starts_anew_is_delivered_under_a_new_epoch() {
    let mut ledger = Ledger::default();
    ledger.assign(0);
    let old = deliver(&mut ledger, 0, 100);
    ledger.ack(old);
    assert_eq!(ledger.commits(), vec![(0, 101)]);
    let Receive::Restarted(token) = ledger.receive(0, 0) else {
        panic!("not restarted")
    };
    assert_ne!(token.epoch, old.epoch);
    ledger.ack(token);
    assert_eq!(ledger.commits(), vec![(0, 1)]);
}

/// A log with holes, a reader that follows the rewinds, and a host that begins, acks and releases at random, with the
/// tokens of all assignments, living and dead.
#[derive(Debug, Clone)]
enum Step {
    Poll { partition: u32, count: usize },
    Begin(usize),
    Rest(usize),
    Ack(usize),
    Release(usize),
    Rewind { refused: bool },
    Commit { lost: bool },
    Freeze(u32),
    Reassign(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..2u32, 1..6usize).prop_map(|(partition, count)| Step::Poll { partition, count }),
        4 => any::<prop::sample::Index>().prop_map(|i| Step::Begin(i.index(1 << 16))),
        2 => any::<prop::sample::Index>().prop_map(|i| Step::Rest(i.index(1 << 16))),
        6 => any::<prop::sample::Index>().prop_map(|i| Step::Ack(i.index(1 << 16))),
        2 => any::<prop::sample::Index>().prop_map(|i| Step::Release(i.index(1 << 16))),
        2 => any::<bool>().prop_map(|refused| Step::Rewind { refused }),
        2 => any::<bool>().prop_map(|lost| Step::Commit { lost }),
        1 => (0..2u32).prop_map(Step::Freeze),
        1 => (0..2u32).prop_map(Step::Reassign),
    ]
}

/// What a plain, slow bookkeeper says.
#[derive(Debug, Default)]
struct Model {
    epoch: u64,
    open: bool,
    position: u64,
    committed: u64,
    received: BTreeSet<u64>,
    acked: BTreeSet<u64>,
    /// In the host's hands; true when it runs.
    held: BTreeMap<u64, bool>,
}

impl Model {
    fn lowest_unfinished(&self) -> u64 {
        let open = self.received.iter().find(|o| !self.acked.contains(o));
        open.copied().unwrap_or(u64::MAX)
    }
}

struct World {
    ledger: Ledger,
    models: BTreeMap<u32, Model>,
    tokens: Vec<Token>,
    log: Vec<u64>,
}

impl World {
    fn assign(&mut self, partition: u32) {
        let epoch = self.ledger.assign(partition);
        let committed = self.models.get(&partition).map_or(0, |m| m.committed);
        let model = Model {
            epoch,
            open: true,
            position: committed,
            committed,
            ..Model::default()
        };
        self.models.insert(partition, model);
    }

    fn poll(&mut self, partition: u32, count: usize) {
        for _ in 0..count {
            let model = self.models.get_mut(&partition).unwrap();
            let at = self.log.partition_point(|o| *o < model.position);
            let Some(&offset) = self.log.get(at) else { return };
            model.position = offset + 1;
            let expect = !model.acked.contains(&offset) && !model.held.contains_key(&offset);
            match self.ledger.receive(partition, offset) {
                Receive::Deliver(token) => {
                    assert!(expect, "{offset} was delivered while held or done");
                    model.received.insert(offset);
                    model.held.insert(offset, false);
                    self.tokens.push(token);
                }
                Receive::Known => assert!(!expect, "{offset} was swallowed"),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The model's view of a token: its partition, when it is alive and the offset is in the host's hands.
    fn holder(&mut self, pick: usize) -> Option<(Token, bool)> {
        let token = *self.tokens.get(pick % self.tokens.len().max(1))?;
        let model = &self.models[&token.lane];
        Some((
            token,
            model.epoch == token.epoch && model.held.contains_key(&token.position),
        ))
    }

    fn commit(&mut self, lost: bool) {
        for (partition, next) in self.ledger.commits() {
            let model = self.models.get_mut(&partition).unwrap();
            assert!(
                next <= model.lowest_unfinished(),
                "{next} beyond an unfinished one"
            );
            assert!(next >= model.committed, "{next} goes back");
            if !lost {
                model.committed = next;
            }
        }
        if lost {
            self.ledger.commit_failed();
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Poll { partition, count } => self.poll(partition, count),
            Step::Begin(pick) => {
                let Some((token, alive)) = self.holder(pick) else {
                    return;
                };
                let model = self.models.get_mut(&token.lane).unwrap();
                let expect = alive && model.open && !model.held[&token.position];
                assert_eq!(self.ledger.begin(token), expect);
                if expect {
                    model.held.insert(token.position, true);
                }
                let running = model.held.values().filter(|running| **running).count();
                assert_eq!(self.ledger.running(&[token.lane]), running);
            }
            Step::Rest(pick) => {
                let Some((token, alive)) = self.holder(pick) else {
                    return;
                };
                self.ledger.rest(token);
                if alive {
                    let model = self.models.get_mut(&token.lane).unwrap();
                    model.held.insert(token.position, false);
                }
            }
            Step::Ack(pick) => {
                let Some((token, alive)) = self.holder(pick) else {
                    return;
                };
                self.ledger.ack(token);
                if alive {
                    let model = self.models.get_mut(&token.lane).unwrap();
                    model.held.remove(&token.position);
                    model.acked.insert(token.position);
                }
            }
            Step::Release(pick) => {
                let Some((token, alive)) = self.holder(pick) else {
                    return;
                };
                self.ledger.release(token);
                if alive {
                    self.models
                        .get_mut(&token.lane)
                        .unwrap()
                        .held
                        .remove(&token.position);
                }
            }
            Step::Rewind { refused } => {
                for rewind in self.ledger.rewinds() {
                    if refused {
                        self.ledger.rewind_failed(rewind);
                    } else {
                        self.models.get_mut(&rewind.partition).unwrap().position = rewind.offset;
                    }
                }
            }
            Step::Commit { lost } => self.commit(lost),
            Step::Freeze(partition) => {
                self.ledger.freeze(partition);
                self.models.get_mut(&partition).unwrap().open = false;
            }
            Step::Reassign(partition) => self.assign(partition),
        }
    }

    /// Gives every partition a fresh start and finishes everything.
    fn finish(&mut self) {
        for partition in [0, 1] {
            if !self.models[&partition].open {
                self.assign(partition);
            }
        }
        for _ in 0..4 {
            self.run(&Step::Rewind { refused: false });
            for partition in [0, 1] {
                self.poll(partition, self.log.len() * 2);
            }
            for token in self.tokens.clone() {
                if self.models[&token.lane].epoch == token.epoch {
                    self.ledger.ack(token);
                    let model = self.models.get_mut(&token.lane).unwrap();
                    if model.held.remove(&token.position).is_some() {
                        model.acked.insert(token.position);
                    }
                }
            }
        }
        self.commit(false);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn commits_never_pass_an_unfinished_offset_and_reach_the_end_at_last(
        log in prop::collection::btree_set(0..60u64, 1..40),
        steps in prop::collection::vec(step(), 0..150),
    ) {
        let mut world = World {
            ledger: Ledger::default(),
            models: BTreeMap::new(),
            tokens: Vec::new(),
            log: log.into_iter().collect(),
        };
        world.assign(0);
        world.assign(1);
        for step in &steps {
            world.run(step);
        }
        world.finish();
        let end = world.log.last().unwrap() + 1;
        prop_assert_eq!(world.models[&0].committed, end);
        prop_assert_eq!(world.models[&1].committed, end);
        prop_assert_eq!(world.ledger.tracked(), 0);
    }
}
