//! How many messages of a stream are under way: publishers wait, the sink lets go.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::message::{Id, Stream};

pub struct Flow {
    books: Mutex<Books>,
    changed: Notify,
}

#[derive(Default)]
struct Books {
    open: BTreeMap<Stream, HashSet<Id>>,
    limits: BTreeMap<Stream, usize>,
    published: u64,
}

impl Flow {
    pub fn new(limits: impl IntoIterator<Item = (Stream, usize)>) -> Self {
        Self {
            books: Mutex::new(Books {
                limits: limits.into_iter().collect(),
                ..Books::default()
            }),
            changed: Notify::new(),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Books) -> T) -> T {
        f(&mut self.books.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for room, then counts the message in.
    pub async fn enter(&self, id: Id) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let entered = self.with(|books| {
                let limit = books.limits.get(&id.stream).copied().unwrap_or(1);
                let open = books.open.entry(id.stream).or_default();
                if open.len() < limit {
                    open.insert(id);
                    books.published += 1;
                    return true;
                }
                false
            });
            if entered {
                return;
            }
            changed.await;
        }
    }

    /// It is handled, given up on, or was never taken.
    pub fn leave(&self, id: &Id) {
        let left = self.with(|books| books.open.get_mut(&id.stream).is_some_and(|open| open.remove(id)));
        if left {
            self.changed.notify_waiters();
        }
    }

    pub fn under_way(&self, stream: Stream) -> usize {
        self.with(|books| books.open.get(&stream).map_or(0, HashSet::len))
    }

    pub fn published(&self) -> u64 {
        self.with(|books| books.published)
    }
}
