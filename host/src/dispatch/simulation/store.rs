//! The store as the host relies on it: parked rows, of each lane only the head handed out, dead letters, and rows that wait
//! for theirs. Everything written survives a crash; leases do not, since they are taken back at start.

use std::collections::{BTreeMap, BTreeSet};

use super::message::Id;

#[derive(Debug, Clone)]
pub struct Row {
    pub id: Id,
    pub key: Option<u8>,
    pub attempt: u32,
    pub due_ms: u64,
    claimed: bool,
    /// Its letter holds up its lane.
    held: bool,
}

/// What people did about a message that was given up on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Letter {
    Dead,
    Reprocessed,
    Discarded,
}

impl Row {
    pub fn new(id: Id, key: Option<u8>, attempt: u32, due_ms: u64) -> Self {
        Self {
            id,
            key,
            attempt,
            due_ms,
            claimed: false,
            held: false,
        }
    }
}

#[derive(Debug, Default)]
pub struct Store {
    /// In the order they were parked.
    rows: Vec<Row>,
    letters: BTreeMap<Id, Letter>,
    /// The disk is full: nothing can be written or read.
    pub down: bool,
}

impl Store {
    pub fn park(&mut self, row: Row) {
        if !self.has_row(row.id) {
            self.rows.push(row);
        }
    }

    fn is_head(&self, at: usize) -> bool {
        let key = self.rows[at].key;
        key.is_none() || self.rows[..at].iter().all(|row| row.key != key)
    }

    pub fn claim_due(&mut self, now_ms: u64, limit: usize) -> Vec<Row> {
        let mut due: Vec<usize> = (0..self.rows.len())
            .filter(|&at| {
                let row = &self.rows[at];
                row.due_ms <= now_ms && !row.claimed && !row.held && self.is_head(at)
            })
            .collect();
        due.sort_by_key(|&at| self.rows[at].due_ms);
        due.truncate(limit);
        due.into_iter()
            .map(|at| {
                self.rows[at].claimed = true;
                self.rows[at].clone()
            })
            .collect()
    }

    pub fn next_due(&self) -> Option<u64> {
        let waiting = (0..self.rows.len())
            .filter(|&at| !self.rows[at].claimed && !self.rows[at].held && self.is_head(at));
        waiting.map(|at| self.rows[at].due_ms).min()
    }

    pub fn remove(&mut self, id: Id) {
        self.rows.retain(|row| row.id != id);
    }

    pub fn reschedule(&mut self, id: Id, attempt: u32, due_ms: u64) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.id == id) {
            (row.attempt, row.due_ms, row.claimed) = (attempt, due_ms, false);
        }
    }

    pub fn enter(&mut self, id: Id) {
        self.letters.insert(id, Letter::Dead);
    }

    /// A row and its letter together: new, or the row it has.
    pub fn hold(&mut self, row: Row) {
        let id = row.id;
        self.park(row);
        self.enter(id);
        if let Some(row) = self.rows.iter_mut().find(|row| row.id == id) {
            (row.held, row.claimed) = (true, false);
        }
    }

    pub fn held(&self) -> Vec<Id> {
        let held = self.rows.iter().filter(|row| row.held);
        held.map(|row| row.id).collect()
    }

    pub fn is_held(&self, id: Id) -> bool {
        self.rows.iter().any(|row| row.id == id && row.held)
    }

    pub fn resume(&mut self, id: Id, now_ms: u64) {
        self.letters.insert(id, Letter::Reprocessed);
        if let Some(row) = self.rows.iter_mut().find(|row| row.id == id) {
            (row.held, row.attempt, row.due_ms) = (false, 1, now_ms);
        }
    }

    pub fn release(&mut self, id: Id) {
        self.remove(id);
    }

    pub fn discard(&mut self, id: Id) {
        self.remove(id);
        self.letters.insert(id, Letter::Discarded);
    }

    pub fn bury(&mut self, id: Id) {
        self.remove(id);
        self.enter(id);
    }

    /// Leases of the last run are taken back.
    pub fn open(&mut self) {
        self.rows.iter_mut().for_each(|row| row.claimed = false);
    }

    pub fn lanes(&self) -> BTreeSet<u8> {
        self.rows.iter().filter_map(|row| row.key).collect()
    }

    pub fn lane_is_empty(&self, key: u8) -> bool {
        self.rows.iter().all(|row| row.key != Some(key))
    }

    pub fn has_row(&self, id: Id) -> bool {
        self.rows.iter().any(|row| row.id == id)
    }

    pub fn has_letter(&self, id: Id) -> bool {
        self.letters
            .get(&id)
            .is_some_and(|letter| *letter != Letter::Reprocessed)
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}
