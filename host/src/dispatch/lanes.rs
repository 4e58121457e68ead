//! What may run now: messages of one lane one after another, lanes beside each other. Sans-I/O.
//!
//! A lane is a key, a partition, or nothing. The head of a lane that waits for its retry keeps its followers behind it and
//! nobody else. Under pressure such a lane is *relieved*: head and followers go to the store, in order, and from then on
//! everything that arrives for the lane follows them there until the store has nothing of it left. The store hands out
//! only the head of a lane, so what comes back from it needs no lane here.
//!
//! Must hold: of one lane at most one message is running, and messages leave it in the order they came.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// The bytes that name a lane, unique within its route.
pub type LaneKey = Arc<[u8]>;

#[derive(Debug)]
pub struct Lanes<T> {
    /// No order asked, or the order is kept by the store.
    free: VecDeque<T>,
    lanes: HashMap<LaneKey, Lane<T>>,
    /// Lanes whose head may run, in the order they became ready.
    ready: VecDeque<LaneKey>,
    waiting: BTreeSet<(Instant, LaneKey)>,
    parked: HashMap<LaneKey, Parked>,
    /// Arrivals of all parked lanes. Never starts again, so that an answer from an earlier stay in the store is known as such.
    arrivals: u64,
    queued: usize,
}

#[derive(Debug)]
struct Lane<T> {
    state: State,
    items: VecDeque<T>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Running,
    Waiting(Instant),
}

/// A lane that lives in the store.
#[derive(Debug, Default)]
struct Parked {
    /// Handed to the parker and not yet on disk.
    pending: usize,
    /// The last arrival, so that "the store is empty" can be recognised as out of date.
    generation: u64,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self {
            free: VecDeque::new(),
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            waiting: BTreeSet::new(),
            parked: HashMap::new(),
            arrivals: 0,
            queued: 0,
        }
    }
}

impl<T> Lanes<T> {
    /// `Err`: the lane lives in the store, the item has to be parked there (it is counted as pending already).
    pub fn push(&mut self, item: T, lane: Option<&LaneKey>) -> Result<(), T> {
        let Some(key) = lane else {
            self.queued += 1;
            self.free.push_back(item);
            return Ok(());
        };
        if let Some(parked) = self.parked.get_mut(key) {
            parked.pending += 1;
            self.arrivals += 1;
            parked.generation = self.arrivals;
            return Err(item);
        }
        self.queued += 1;
        let lane = self.lanes.entry(Arc::clone(key)).or_insert_with(|| {
            self.ready.push_back(Arc::clone(key));
            Lane {
                state: State::Ready,
                items: VecDeque::new(),
            }
        });
        lane.items.push_back(item);
        Ok(())
    }

    /// Up to `max` messages that may run now, with the lane each of them keeps busy.
    pub fn take(&mut self, max: usize) -> Vec<(T, Option<LaneKey>)> {
        let mut taken = Vec::with_capacity(max.min(self.free.len() + self.ready.len()));
        while taken.len() < max {
            if let Some(item) = self.free.pop_front() {
                taken.push((item, None));
                continue;
            }
            let Some(key) = self.ready.pop_front() else { break };
            let Some(lane) = self.lanes.get_mut(&key) else {
                continue;
            };
            let Some(item) = lane.items.pop_front() else {
                continue;
            };
            lane.state = State::Running;
            taken.push((item, Some(key)));
        }
        self.queued -= taken.len();
        taken
    }

    /// Messages that were taken and have not begun: they are the next to run, in the order in which they were taken.
    pub fn put_back(&mut self, taken: Vec<(T, Option<LaneKey>)>) {
        self.queued += taken.len();
        for (item, lane) in taken.into_iter().rev() {
            let Some(key) = lane else {
                self.free.push_front(item);
                continue;
            };
            let lane = self.lanes.entry(Arc::clone(&key)).or_insert_with(|| Lane {
                state: State::Running,
                items: VecDeque::new(),
            });
            lane.items.push_front(item);
            lane.state = State::Ready;
            self.ready.push_front(key);
        }
    }

    /// Keeps a lane in which nobody is busy for something that is in no lane; what comes for it meanwhile waits, until
    /// [`Lanes::finish`]. False: something of it runs, waits, or lives in the store.
    pub fn claim(&mut self, key: &LaneKey) -> bool {
        if self.parked.contains_key(key) {
            return false;
        }
        match self.lanes.entry(Arc::clone(key)) {
            Entry::Occupied(_) => false,
            Entry::Vacant(lane) => {
                lane.insert(Lane {
                    state: State::Running,
                    items: VecDeque::new(),
                });
                true
            }
        }
    }

    /// The running message of the lane is settled; its follower may run.
    pub fn finish(&mut self, key: &LaneKey) {
        let Entry::Occupied(mut lane) = self.lanes.entry(Arc::clone(key)) else {
            return;
        };
        if lane.get().items.is_empty() {
            lane.remove();
        } else {
            lane.get_mut().state = State::Ready;
            self.ready.push_back(Arc::clone(key));
        }
    }

    /// The running message of the lane has to run again at `due`; its followers wait with it.
    pub fn hold(&mut self, key: &LaneKey, item: T, due: Instant) {
        let lane = self.lanes.entry(Arc::clone(key)).or_insert_with(|| Lane {
            state: State::Running,
            items: VecDeque::new(),
        });
        lane.items.push_front(item);
        lane.state = State::Waiting(due);
        self.waiting.insert((due, Arc::clone(key)));
        self.queued += 1;
    }

    /// Lanes whose time has come become ready. True when there were any.
    pub fn wake(&mut self, now: Instant) -> bool {
        let mut woken = false;
        while let Some((due, key)) = self.waiting.pop_first() {
            if due > now {
                self.waiting.insert((due, key));
                break;
            }
            if let Some(lane) = self.lanes.get_mut(&key) {
                lane.state = State::Ready;
                self.ready.push_back(key);
                woken = true;
            }
        }
        woken
    }

    pub fn next_due(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// Moves lanes that wait for a retry out, those of which every message may go: when the head is due, head and followers,
    /// in order, to be parked in the store.
    pub fn relieve(&mut self, may_go: impl Fn(&T) -> bool) -> Vec<(LaneKey, Instant, Vec<T>)> {
        let lanes = &self.lanes;
        let goes = |key: &LaneKey| lanes.get(key).is_none_or(|lane| lane.items.iter().all(&may_go));
        let (going, staying) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<BTreeSet<_>, _>(|(_, key)| goes(key));
        self.waiting = staying;
        going
            .into_iter()
            .filter_map(|(due, key)| {
                let lane = self.lanes.remove(&key)?;
                self.queued -= lane.items.len();
                let items: Vec<T> = lane.items.into();
                self.mark_parked(&key, items.len());
                Some((key, due, items))
            })
            .collect()
    }

    /// The running message of the lane goes to the store, and its followers (returned) after it.
    pub fn park_running(&mut self, key: &LaneKey) -> Vec<T> {
        let items: Vec<T> = self
            .lanes
            .remove(key)
            .map(|lane| lane.items.into())
            .unwrap_or_default();
        self.queued -= items.len();
        self.mark_parked(key, items.len() + 1);
        items
    }

    /// The lane lives in the store (found there at start), or got `count` more that are on their way there.
    pub fn mark_parked(&mut self, key: &LaneKey, count: usize) {
        let parked = self.parked.entry(Arc::clone(key)).or_default();
        parked.pending += count;
        self.arrivals += 1;
        parked.generation = self.arrivals;
    }

    /// The lane lives in the store, or its head waits for a retry: what comes for it now would wait long.
    pub fn is_held_up(&self, key: &LaneKey) -> bool {
        let waits = |lane: &Lane<T>| matches!(lane.state, State::Waiting(_));
        self.parked.contains_key(key) || self.lanes.get(key).is_some_and(waits)
    }

    /// Lanes that live in the store.
    pub fn parked(&self) -> impl Iterator<Item = &LaneKey> {
        self.parked.keys()
    }

    /// One message of the lane arrived in the store.
    pub fn stored(&mut self, key: &LaneKey) {
        if let Some(parked) = self.parked.get_mut(key) {
            parked.pending = parked.pending.saturating_sub(1);
        }
    }

    /// Read before asking the store whether the lane is empty. None: something is still on its way there.
    pub fn parked_generation(&self, key: &LaneKey) -> Option<u64> {
        self.parked
            .get(key)
            .filter(|p| p.pending == 0)
            .map(|p| p.generation)
    }

    /// The store had nothing of the lane left. Ignored when something arrived since `generation` was read.
    pub fn unpark(&mut self, key: &LaneKey, generation: u64) -> bool {
        let current = self
            .parked
            .get(key)
            .is_some_and(|p| p.pending == 0 && p.generation == generation);
        if current {
            self.parked.remove(key);
        }
        current
    }

    /// Messages that are neither running nor settled.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Messages that could run now.
    pub fn runnable(&self) -> usize {
        self.free.len() + self.ready.len()
    }

    /// Drain: forget everything that has not started. Dropping the items releases their deliveries.
    pub fn clear(&mut self) -> Vec<T> {
        self.ready.clear();
        self.waiting.clear();
        let mut items: Vec<T> = std::mem::take(&mut self.free).into();
        for lane in self.lanes.values_mut() {
            items.extend(std::mem::take(&mut lane.items));
        }
        self.lanes.retain(|_, lane| lane.state == State::Running);
        self.queued = 0;
        items
    }
}

#[cfg(test)]
#[path = "lanes_model_tests.rs"]
mod model_tests;
#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
