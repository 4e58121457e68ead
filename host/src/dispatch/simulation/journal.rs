//! Notes what happened to every message and fails at the first thing that must not happen.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::message::{End, Id, Message};
use super::store::Store;

/// Retries of rows are kept in whole milliseconds.
const ROUNDING_MS: u64 = 1;

#[derive(Debug)]
pub struct Journal {
    max_attempts: u32,
    /// Crashes, rebalances, lost connections: each of them excuses duplicates.
    pub faults: u32,
    handled: BTreeSet<Id>,
    /// (message, attempt) → when it may run.
    due: HashMap<(Id, u32), u64>,
    runs: HashMap<(Id, u32), u32>,
    /// How often it was sent again.
    lives: HashMap<Id, u32>,
    /// Of each key its messages in order, and how many of them are at their end.
    keys: BTreeMap<u8, (Vec<Id>, usize)>,
}

impl Journal {
    pub fn new(max_retries: u32) -> Self {
        Self {
            max_attempts: max_retries + 1,
            faults: 0,
            handled: BTreeSet::new(),
            due: HashMap::new(),
            runs: HashMap::new(),
            lives: HashMap::new(),
            keys: BTreeMap::new(),
        }
    }

    pub fn published(&mut self, id: Id, key: Option<u8>) {
        if let Some(key) = key {
            self.keys.entry(key).or_default().0.push(id);
        }
    }

    /// Its handler starts.
    pub fn begins(&mut self, id: Id, key: Option<u8>, attempt: u32, now_ms: u64, store: &Store) {
        assert!(
            (1..=self.max_attempts).contains(&attempt),
            "message {id} runs as attempt {attempt} of {}",
            self.max_attempts
        );
        if attempt > 1 {
            let due = self.due.get(&(id, attempt));
            let due = due.unwrap_or_else(|| panic!("message {id}: attempt {attempt} without the one before"));
            assert!(
                now_ms + ROUNDING_MS >= *due,
                "message {id}: attempt {attempt} at {now_ms}, it is due at {due}"
            );
        }
        // A fault brings back at most one copy by the broker, and one by the store's lease.
        let runs = self.runs.entry((id, attempt)).or_default();
        *runs += 1;
        let lives = 1 + self.lives.get(&id).copied().unwrap_or_default();
        assert!(
            *runs <= lives * (1 + 2 * self.faults),
            "message {id}: attempt {attempt} ran {runs} times with {} faults",
            self.faults
        );
        let Some((ids, ended)) = key.and_then(|key| self.keys.get_mut(&key)) else {
            return;
        };
        while let Some(first) = ids.get(*ended)
            && (self.handled.contains(first) || store.has_letter(*first) && !store.is_held(*first))
        {
            *ended += 1;
        }
        if let Some(&first) = ids.get(*ended) {
            assert!(
                id <= first,
                "message {id} overtakes message {first} of the same key"
            );
        }
    }

    /// Everything the handler did is confirmed.
    pub fn handled(&mut self, id: Id) {
        self.handled.insert(id);
    }

    pub fn sent_again(&mut self, id: Id) {
        *self.lives.entry(id).or_default() += 1;
    }

    pub fn fails(&mut self, id: Id, next_attempt: u32, due_ms: u64) {
        let due = self.due.entry((id, next_attempt)).or_insert(due_ms);
        *due = due_ms.min(*due);
    }

    /// May its broker forget it?
    pub fn is_durable(&self, id: Id, store: &Store) -> bool {
        self.handled.contains(&id) || store.has_letter(id) || store.has_row(id)
    }

    pub fn ends(&self, messages: &[Message], store: &Store, repaired: bool) {
        for (id, message) in messages.iter().enumerate() {
            if repaired && message.key.is_some() {
                // It failed before the repair or came after it.
                let end = (self.handled.contains(&id), store.has_letter(id));
                assert!(end.0 || end.1, "message {id} has no end; {message:?}");
                // A fault may bring one back whose key was released.
                assert!(
                    self.faults > 0 || end != (true, true),
                    "message {id} has two ends"
                );
                continue;
            }
            let wanted = message.end(self.max_attempts - 1);
            let end = (self.handled.contains(&id), store.has_letter(id));
            assert_eq!(
                end,
                (wanted == End::Handled, wanted == End::Dead),
                "message {id}: (handled, dead), and it should be {wanted:?}; {message:?}"
            );
        }
    }
}
