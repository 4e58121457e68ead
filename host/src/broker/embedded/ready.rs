//! Keys of tasks that nobody holds: a bounded window over the table, refilled by range scan. Pure.
//!
//! Order of keys is order of claims. The table holds all tasks; memory holds at most [`WINDOW`] keys per priority (plus
//! what was given back), so that neither memory nor the time to open depend on the backlog.

use std::collections::BTreeSet;

/// Keys in memory per (queue, priority).
pub const WINDOW: usize = 4096;
/// Keys read by one scan: about 1 ms, so that the first claim after a start does not wait for the whole window.
pub const REFILL: usize = 512;
/// Priorities 0 to 15 fit into the key's four bits.
pub const LEVELS: usize = 16;
/// The largest queue number: the key stays positive.
pub const MAX_QUEUE: u16 = 0x7ffe;

const SEQUENCE_BITS: u32 = 44;
const SEQUENCE_MASK: u64 = (1 << SEQUENCE_BITS) - 1;

/// Queue (15 bits), 15 − priority (4 bits), sequence (44 bits).
pub fn key(queue: u16, priority: u8, sequence: u64) -> u64 {
    let level = u64::from(15 - priority.min(15));
    (u64::from(queue) << 48) | (level << SEQUENCE_BITS) | (sequence & SEQUENCE_MASK)
}

pub fn queue_of(key: u64) -> u16 {
    u16::try_from(key >> 48).unwrap_or(u16::MAX)
}

/// 0 is claimed first.
pub fn level_of(key: u64) -> usize {
    usize::try_from((key >> SEQUENCE_BITS) & 0xf).unwrap_or(0)
}

pub fn sequence_of(key: u64) -> u64 {
    key & SEQUENCE_MASK
}

/// First and last key of a level.
pub fn range(queue: u16, level: usize) -> (u64, u64) {
    let priority = u8::try_from(15 - level.min(15)).unwrap_or(0);
    (key(queue, priority, 0), key(queue, priority, SEQUENCE_MASK))
}

#[derive(Debug)]
pub struct Ready {
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    keys: BTreeSet<u64>,
    /// Keys up to here are, or were, in memory. Later keys have to come by `append` or by a scan.
    loaded_to: u64,
    last: u64,
    /// The table may hold keys above `loaded_to`.
    beyond: bool,
    /// A scan is under way; it may or may not see what is appended meanwhile.
    scanning: bool,
    appended_while_scanning: bool,
}

/// A scan that has to happen before more can be claimed: keys `> after` and `<= last`, ascending, at most `limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    pub level: usize,
    pub after: u64,
    pub last: u64,
    pub limit: usize,
}

impl Ready {
    /// Nothing is in memory; the table may hold anything.
    pub fn new(queue: u16) -> Self {
        let level = |n| {
            let (first, last) = range(queue, n);
            Level {
                keys: BTreeSet::new(),
                // Sequences start at 1, so the first key of a range is never issued.
                loaded_to: first,
                last,
                beyond: true,
                scanning: false,
                appended_while_scanning: false,
            }
        };
        Self {
            levels: (0..LEVELS).map(level).collect(),
        }
    }

    /// A task was committed. Keys of one level arrive in ascending order.
    pub fn append(&mut self, key: u64) {
        let Some(level) = self.levels.get_mut(level_of(key)) else {
            return;
        };
        if key <= level.loaded_to {
            return; // A scan saw it first.
        }
        if level.scanning {
            level.appended_while_scanning = true;
        } else if !level.beyond && level.keys.len() < WINDOW {
            level.keys.insert(key);
            level.loaded_to = key;
        } else {
            level.beyond = true;
        }
    }

    /// A claimed task is ready again, in its old place.
    pub fn put_back(&mut self, key: u64) {
        if let Some(level) = self.levels.get_mut(level_of(key)) {
            level.keys.insert(key);
        }
    }

    /// Moves up to `max` keys into `out`, highest priority first. A returned scan has to be carried out and reported with
    /// [`Ready::scanned`]; then ask again.
    pub fn take(&mut self, max: usize, out: &mut Vec<u64>) -> Option<Scan> {
        let mut left = max;
        for (number, level) in self.levels.iter_mut().enumerate() {
            while left > 0 {
                let Some(key) = level.keys.pop_first() else { break };
                out.push(key);
                left -= 1;
            }
            if left == 0 {
                return None;
            }
            if level.beyond && !level.scanning {
                level.scanning = true;
                level.appended_while_scanning = false;
                return Some(Scan {
                    level: number,
                    after: level.loaded_to,
                    last: level.last,
                    limit: REFILL,
                });
            }
        }
        None
    }

    /// What a scan found. None: it failed, everything stays as it was.
    pub fn scanned(&mut self, scan: Scan, found: Option<&[u64]>) {
        let Some(level) = self.levels.get_mut(scan.level) else {
            return;
        };
        level.scanning = false;
        let Some(found) = found else { return };
        level.beyond = found.len() >= scan.limit || level.appended_while_scanning;
        if let Some(last) = found.last() {
            level.loaded_to = *last;
        }
        level.keys.extend(found);
    }

    /// True when `take` would find something or ask for a scan.
    pub fn may_have(&self) -> bool {
        self.levels
            .iter()
            .any(|level| !level.keys.is_empty() || (level.beyond && !level.scanning))
    }
}

#[cfg(test)]
#[path = "ready_tests.rs"]
mod tests;
