//! Which letter of a job goes next: in order, some at a time, of one lane one at a time, none after a stop. Pure.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

/// What must go one after another: place and key of the message.
pub type Lane = Vec<u8>;

/// How much of a job is in memory at a time.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Letters under way.
    pub under_way: usize,
    /// Letters that wait.
    pub waiting: usize,
    /// Bytes of both; more only while a single letter has more, or letters are larger than those before them.
    pub bytes: usize,
}

/// Letters of the first read, of which nobody knows how large they are.
const FIRST: usize = 64;

#[derive(Debug)]
struct Waiting {
    letter: Letter,
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Letter {
    lane: Option<Lane>,
    bytes: usize,
}

/// The part of a job that is in memory.
#[derive(Debug)]
pub struct Course {
    limits: Limits,
    waiting: BTreeMap<u64, Waiting>,
    under_way: BTreeMap<u64, Letter>,
    busy: HashSet<Lane>,
    /// Of those that wait and those under way.
    bytes: usize,
    /// How large the next letter may be: the mean of those that were read, of which the last ones count most.
    mean: usize,
    /// The last place that was read.
    read_to: Option<u64>,
    all_read: bool,
    stopped: bool,
}

impl Course {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits: Limits {
                waiting: limits.waiting.max(limits.under_way),
                ..limits
            },
            waiting: BTreeMap::new(),
            under_way: BTreeMap::new(),
            busy: HashSet::new(),
            bytes: 0,
            mean: limits.bytes / FIRST,
            read_to: None,
            all_read: false,
            stopped: false,
        }
    }

    /// How many more to read, from behind which place on. Only when it is worth it.
    pub fn wants(&self) -> Option<(Option<u64>, usize)> {
        let room = self.limits.waiting.saturating_sub(self.waiting.len());
        let few = room * 2 >= self.limits.waiting;
        let fitting = self.limits.bytes.saturating_sub(self.bytes) / self.mean.max(1);
        // One goes, however large it is.
        let at_least = usize::from(self.waiting.is_empty() && self.under_way.is_empty());
        let limit = room.min(fitting).max(at_least);
        (few && limit > 0 && !self.all_read && !self.stopped).then_some((self.read_to, limit))
    }

    /// In order, from behind the place that was read to.
    pub fn add(&mut self, place: u64, lane: Option<Lane>, bytes: usize) {
        self.read_to = Some(place);
        self.bytes += bytes;
        self.mean = (self.mean * 15 + bytes) / 16;
        let letter = Letter { lane, bytes };
        let not_before = None;
        self.waiting.insert(place, Waiting { letter, not_before });
    }

    /// There are no more.
    pub fn all_read(&mut self) {
        self.all_read = true;
    }

    /// The one that may go now.
    pub fn ready(&self, now: Instant) -> Option<u64> {
        if self.stopped || self.under_way.len() >= self.limits.under_way {
            return None;
        }
        // Behind one of its lane that waits itself nothing of it goes.
        let mut blocked: HashSet<&Lane> = HashSet::new();
        for (place, waiting) in &self.waiting {
            let lane = &waiting.letter.lane;
            let free = lane
                .as_ref()
                .is_none_or(|lane| !self.busy.contains(lane) && !blocked.contains(lane));
            if free && waiting.not_before.is_none_or(|at| at <= now) {
                return Some(*place);
            }
            blocked.extend(lane);
        }
        None
    }

    /// It goes. False: it may not.
    pub fn start(&mut self, place: u64) -> bool {
        let Some(waiting) = self.waiting.remove(&place).filter(|_| !self.stopped) else {
            return false;
        };
        self.busy.extend(waiting.letter.lane.clone());
        self.under_way.insert(place, waiting.letter);
        true
    }

    /// It has its result.
    pub fn ended(&mut self, place: u64) {
        let Some(letter) = self.under_way.remove(&place) else {
            return;
        };
        self.bytes -= letter.bytes;
        if let Some(lane) = &letter.lane {
            self.busy.remove(lane);
        }
    }

    /// It has none, and is tried again from then on, before those behind it.
    pub fn again(&mut self, place: u64, not_before: Instant) {
        let Some(letter) = self.under_way.remove(&place) else {
            return;
        };
        if let Some(lane) = &letter.lane {
            self.busy.remove(lane);
        }
        let not_before = Some(not_before);
        self.waiting.insert(place, Waiting { letter, not_before });
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
