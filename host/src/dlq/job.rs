//! Which letter of a job goes next: in order, some at a time, of one lane one at a time, none after a stop. Pure.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

/// What must go one after another: place and key of the message.
pub type Lane = Vec<u8>;

#[derive(Debug)]
struct Waiting {
    lane: Option<Lane>,
    not_before: Option<Instant>,
}

/// The part of a job that is in memory.
#[derive(Debug)]
pub struct Course {
    /// Under way at a time.
    most: usize,
    /// In memory at a time.
    window: usize,
    waiting: BTreeMap<u64, Waiting>,
    under_way: BTreeMap<u64, Option<Lane>>,
    busy: HashSet<Lane>,
    /// The last place that was read.
    read_to: Option<u64>,
    all_read: bool,
    stopped: bool,
}

impl Course {
    pub fn new(most: usize, window: usize) -> Self {
        Self {
            most,
            window: window.max(most),
            waiting: BTreeMap::new(),
            under_way: BTreeMap::new(),
            busy: HashSet::new(),
            read_to: None,
            all_read: false,
            stopped: false,
        }
    }

    /// How many more to read, from behind which place on. Only when it is worth it.
    pub fn wants(&self) -> Option<(Option<u64>, usize)> {
        let room = self.window - self.waiting.len().min(self.window);
        let few = room * 2 >= self.window;
        (few && !self.all_read && !self.stopped).then_some((self.read_to, room))
    }

    /// In order, from behind the place that was read to.
    pub fn add(&mut self, place: u64, lane: Option<Lane>) {
        self.read_to = Some(place);
        let not_before = None;
        self.waiting.insert(place, Waiting { lane, not_before });
    }

    /// There are no more.
    pub fn all_read(&mut self) {
        self.all_read = true;
    }

    /// The one that may go now.
    pub fn ready(&self, now: Instant) -> Option<u64> {
        if self.stopped || self.under_way.len() >= self.most {
            return None;
        }
        // Behind one of its lane that waits itself nothing of it goes.
        let mut blocked: HashSet<&Lane> = HashSet::new();
        for (place, waiting) in &self.waiting {
            let free = waiting
                .lane
                .as_ref()
                .is_none_or(|lane| !self.busy.contains(lane) && !blocked.contains(lane));
            if free && waiting.not_before.is_none_or(|at| at <= now) {
                return Some(*place);
            }
            blocked.extend(&waiting.lane);
        }
        None
    }

    /// It goes. False: it may not.
    pub fn start(&mut self, place: u64) -> bool {
        let Some(waiting) = self.waiting.remove(&place).filter(|_| !self.stopped) else {
            return false;
        };
        self.busy.extend(waiting.lane.clone());
        self.under_way.insert(place, waiting.lane);
        true
    }

    /// It has its result.
    pub fn ended(&mut self, place: u64) {
        if let Some(Some(lane)) = self.under_way.remove(&place) {
            self.busy.remove(&lane);
        }
    }

    /// It has none, and is tried again from then on, before those behind it.
    pub fn again(&mut self, place: u64, not_before: Instant) {
        let Some(lane) = self.under_way.remove(&place) else {
            return;
        };
        if let Some(lane) = &lane {
            self.busy.remove(lane);
        }
        let not_before = Some(not_before);
        self.waiting.insert(place, Waiting { lane, not_before });
    }

    /// None goes any more; those under way end.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// When somebody has to look again though nothing ended.
    pub fn wake_at(&self) -> Option<Instant> {
        self.waiting
            .values()
            .filter_map(|waiting| waiting.not_before)
            .min()
    }

    pub fn is_over(&self) -> bool {
        let nothing_left = self.all_read && self.waiting.is_empty();
        self.under_way.is_empty() && (self.stopped || nothing_left)
    }
}

#[cfg(test)]
mod tests;
