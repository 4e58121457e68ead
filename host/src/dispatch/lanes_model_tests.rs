//! Random calls against the plainest bookkeeping there is: one queue a key, one note where each message is.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

const KEYS: u8 = 2;

#[derive(Debug, Clone)]
enum Step {
    Push(Option<u8>),
    Take(usize),
    Finish(Index),
    Hold(Index, u64),
    ParkRunning(Index),
    Wake(u64),
    Relieve,
    /// The oldest message on its way to the store has arrived there.
    Stored,
    /// The store's head of the lane is settled.
    Settled(u8),
    /// Reads the generation and asks the store, acted upon by a later `Unpark`.
    Ask(u8),
    Unpark(Index),
    Clear,
}

fn step() -> impl Strategy<Value = Step> {
    let pick = any::<Index>;
    prop_oneof![
        8 => prop::option::weighted(0.9, 0..KEYS).prop_map(Step::Push),
        8 => (0..4usize).prop_map(Step::Take),
        6 => pick().prop_map(Step::Finish),
        4 => (pick(), 0..4u64).prop_map(|(i, ms)| Step::Hold(i, ms)),
        3 => pick().prop_map(Step::ParkRunning),
        3 => (0..3u64).prop_map(Step::Wake),
        2 => Just(Step::Relieve),
        8 => Just(Step::Stored),
        8 => (0..KEYS).prop_map(Step::Settled),
        6 => (0..KEYS).prop_map(Step::Ask),
        4 => pick().prop_map(Step::Unpark),
        1 => Just(Step::Clear),
    ]
}

#[derive(Debug, Default)]
struct Queue {
    /// In the lane and not running.
    items: VecDeque<u32>,
    running: bool,
    due: Option<u64>,
}

#[derive(Debug, Default)]
struct Model {
    free: VecDeque<u32>,
    lanes: [Queue; KEYS as usize],
    running: Vec<(u32, Option<u8>)>,
    transit: VecDeque<(u8, u32)>,
    store: [VecDeque<u32>; KEYS as usize],
    parked: BTreeSet<u8>,
    /// Messages that ever went to the store.
    arrivals: [u64; KEYS as usize],
    /// (key, generation, arrivals when it was read).
    questions: Vec<(u8, u64, u64)>,
    ended: usize,
    pushed: u32,
    now: u64,
}

impl Model {
    fn send_off(&mut self, key: u8, items: impl IntoIterator<Item = u32>) {
        self.parked.insert(key);
        for item in items {
            self.transit.push_back((key, item));
            self.arrivals[usize::from(key)] += 1;
        }
    }

    fn runnable(&self) -> usize {
        let ready = |q: &&Queue| !q.items.is_empty() && !q.running && q.due.is_none();
        self.free.len() + self.lanes.iter().filter(ready).count()
    }

    fn queued(&self) -> usize {
        self.free.len() + self.lanes.iter().map(|q| q.items.len()).sum::<usize>()
    }

    fn pending(&self, key: u8) -> usize {
        self.transit.iter().filter(|(k, _)| *k == key).count()
    }

    /// One of the running messages that have a lane.
    fn pick(&mut self, index: Index) -> Option<(u32, u8)> {
        let keyed: Vec<usize> = (0..self.running.len())
            .filter(|i| self.running[*i].1.is_some())
            .collect();
        let at = (!keyed.is_empty()).then(|| keyed[index.index(keyed.len())])?;
        let (item, key) = self.running.swap_remove(at);
        self.lanes[usize::from(key.unwrap())].running = false;
        Some((item, key.unwrap()))
    }
}

fn name(key: u8) -> LaneKey {
    Arc::from([key].as_slice())
}

struct Pair {
    base: Instant,
    lanes: Lanes<u32>,
    model: Model,
}

impl Pair {
    fn at(&self, ms: u64) -> Instant {
        self.base + Duration::from_millis(ms)
    }

    fn take(&mut self, max: usize) {
        let count = self.model.runnable().min(max);
        let taken = self.lanes.take(max);
        assert_eq!(taken.len(), count);
        for (item, lane) in taken {
            let key = lane.map(|lane| lane[0]);
            if let Some(key) = key {
                let queue = &mut self.model.lanes[usize::from(key)];
                assert!(!queue.running, "two of lane {key}");
                assert!(queue.due.is_none(), "lane {key} waits");
                assert_eq!(Some(item), queue.items.pop_front(), "order of lane {key}");
                queue.running = true;
            } else {
                assert_eq!(Some(item), self.model.free.pop_front());
            }
            self.model.running.push((item, key));
        }
    }

    fn push(&mut self, key: Option<u8>) {
        let item = self.model.pushed;
        self.model.pushed += 1;
        let pushed = self.lanes.push(item, key.map(name).as_ref());
        match key {
            Some(key) if self.model.parked.contains(&key) => {
                assert_eq!(pushed, Err(item));
                self.model.send_off(key, [item]);
            }
            Some(key) => {
                assert_eq!(pushed, Ok(()));
                self.model.lanes[usize::from(key)].items.push_back(item);
            }
            None => {
                assert_eq!(pushed, Ok(()));
                self.model.free.push_back(item);
            }
        }
    }

    fn relieve(&mut self) {
        let mut expect = BTreeMap::new();
        for key in 0..KEYS {
            let queue = &mut self.model.lanes[usize::from(key)];
            if let Some(due) = queue.due.take() {
                expect.insert(key, (due, std::mem::take(&mut queue.items)));
            }
        }
        for (key, due, items) in self.lanes.relieve(|_| true) {
            let (at, queue) = expect.remove(&key[0]).unwrap();
            assert_eq!((due, &items), (self.at(at), &Vec::from(queue)));
            self.model.send_off(key[0], items);
        }
        assert!(expect.is_empty(), "not relieved: {expect:?}");
    }

    fn wake(&mut self, ms: u64) {
        self.model.now += ms;
        let mut woken = false;
        for queue in &mut self.model.lanes {
            if queue.due.is_some_and(|due| due <= self.model.now) {
                queue.due = None;
                woken = true;
            }
        }
        assert_eq!(self.lanes.wake(self.at(self.model.now)), woken);
    }

    fn clear(&mut self) {
        let mut expect: Vec<u32> = self.model.free.drain(..).collect();
        for queue in &mut self.model.lanes {
            queue.due = None;
            expect.extend(queue.items.drain(..));
        }
        let mut cleared = self.lanes.clear();
        self.model.ended += cleared.len();
        cleared.sort_unstable();
        expect.sort_unstable();
        assert_eq!(cleared, expect);
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Push(key) => self.push(key),
            Step::Take(max) => self.take(max),
            Step::Finish(index) => {
                if let Some((_, key)) = self.model.pick(index) {
                    self.lanes.finish(&name(key));
                    self.model.ended += 1;
                }
            }
            Step::Hold(index, ms) => {
                if let Some((item, key)) = self.model.pick(index) {
                    let due = self.model.now + ms;
                    self.lanes.hold(&name(key), item, self.at(due));
                    let queue = &mut self.model.lanes[usize::from(key)];
                    queue.items.push_front(item);
                    queue.due = Some(due);
                }
            }
            Step::ParkRunning(index) => {
                if let Some((item, key)) = self.model.pick(index) {
                    let followers = self.lanes.park_running(&name(key));
                    let queue = std::mem::take(&mut self.model.lanes[usize::from(key)].items);
                    assert_eq!(followers, Vec::from(queue));
                    self.model.send_off(key, std::iter::once(item).chain(followers));
                }
            }
            Step::Wake(ms) => self.wake(ms),
            Step::Relieve => self.relieve(),
            Step::Stored => {
                if let Some((key, item)) = self.model.transit.pop_front() {
                    self.lanes.stored(&name(key));
                    self.model.store[usize::from(key)].push_back(item);
                }
            }
            Step::Settled(key) => {
                let settled = self.model.store[usize::from(key)].pop_front();
                self.model.ended += usize::from(settled.is_some());
            }
            Step::Ask(key) => {
                let generation = self.lanes.parked_generation(&name(key));
                let expect = self.model.parked.contains(&key) && self.model.pending(key) == 0;
                assert_eq!(generation.is_some(), expect);
                if let Some(generation) = generation
                    && self.model.store[usize::from(key)].is_empty()
                {
                    let arrivals = self.model.arrivals[usize::from(key)];
                    self.model.questions.push((key, generation, arrivals));
                }
            }
            Step::Unpark(index) => {
                if self.model.questions.is_empty() {
                    return;
                }
                let at = index.index(self.model.questions.len());
                let (key, generation, arrivals) = self.model.questions.swap_remove(at);
                let current =
                    self.model.parked.contains(&key) && self.model.arrivals[usize::from(key)] == arrivals;
                assert_eq!(self.lanes.unpark(&name(key), generation), current);
                if current {
                    self.model.parked.remove(&key);
                }
            }
            Step::Clear => self.clear(),
        }
    }

    fn check(&self) {
        let model = &self.model;
        assert_eq!(self.lanes.queued(), model.queued());
        assert_eq!(self.lanes.runnable(), model.runnable());
        let due = model.lanes.iter().filter_map(|q| q.due).min();
        assert_eq!(self.lanes.next_due(), due.map(|ms| self.at(ms)));
        let stored = model.transit.len() + model.store.iter().map(VecDeque::len).sum::<usize>();
        assert_eq!(
            self.lanes.queued() + model.running.len() + stored + model.ended,
            model.pushed as usize,
            "lost or doubled"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn lanes_do_what_the_plainest_bookkeeping_does(steps in prop::collection::vec(step(), 0..150)) {
        let mut pair = Pair { base: Instant::now(), lanes: Lanes::default(), model: Model::default() };
        for step in &steps {
            pair.run(step);
            pair.check();
        }
    }
}
