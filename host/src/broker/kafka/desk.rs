//! Where the polling thread, the rebalance callback and the receipts of one source meet: the ledger under a lock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ledger::Ledger;
use crate::broker::{Settle, Token};

/// Windows of finished offsets that may wait behind one that is not. They are delivered again after a crash or a
/// revocation, so they stay in proportion to what is in flight; less would let one slow message stop the others sooner.
const AHEAD: usize = 4;

#[derive(Debug, Default)]
struct Books {
    ledger: Ledger,
    /// Receipts that are out, of all epochs: they hold memory even when their partition is gone.
    outstanding: usize,
    /// Somebody waits for `outstanding` to come down to this.
    wake_at: Option<usize>,
}

#[derive(Debug)]
pub struct Desk {
    books: Mutex<Books>,
    change: Condvar,
    window: usize,
    closing: AtomicBool,
}

impl Desk {
    pub fn new(window: usize) -> Self {
        Self {
            books: Mutex::default(),
            change: Condvar::new(),
            window: window.max(1),
            closing: AtomicBool::new(false),
        }
    }

    /// Deliveries that may be handed out now. When there is no room, waits up to `wait` for a quarter of the window, so
    /// that batches do not shrink to single messages under load.
    pub fn room(&self, wait: Duration) -> usize {
        let mut books = self.lock();
        if books.room(self.window) == 0 {
            books.wake_at = Some(self.window - self.window.div_ceil(4));
            books = self.wait(books, wait);
            books.wake_at = None;
        }
        books.room(self.window)
    }

    /// Changes the ledger; `handed` deliveries of the result go to the host.
    pub fn hand_out<T>(&self, f: impl FnOnce(&mut Ledger) -> (T, usize)) -> T {
        let mut books = self.lock();
        let (result, handed) = f(&mut books.ledger);
        books.outstanding += handed;
        result
    }

    pub fn ledger<T>(&self, f: impl FnOnce(&mut Ledger) -> T) -> T {
        f(&mut self.lock().ledger)
    }

    /// Nothing of these partitions begins any more; waits until what runs has finished. False: time is up.
    pub fn drain(&self, partitions: &[u32], limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut books = self.lock();
        for &partition in partitions {
            books.ledger.freeze(partition);
        }
        while books.ledger.running(partitions) > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            // Counting walks the books, so not at every acknowledgement.
            books = self.wait(books, left.min(Duration::from_millis(5)));
        }
        true
    }

    /// From now on a revocation waits for nobody: [`Desk::drain`] was done before.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, books: MutexGuard<'a, Books>, limit: Duration) -> MutexGuard<'a, Books> {
        let result = self.change.wait_timeout(books, limit);
        result.unwrap_or_else(PoisonError::into_inner).0
    }

    fn settle(&self, count: usize, f: impl FnOnce(&mut Ledger)) {
        let mut books = self.lock();
        f(&mut books.ledger);
        books.outstanding = books.outstanding.saturating_sub(count);
        // Waking costs a system call; nobody waits most of the time.
        if books.wake_at.is_some_and(|at| books.outstanding <= at) {
            books.wake_at = None;
            self.change.notify_one();
        }
    }
}

impl Books {
    fn room(&self, window: usize) -> usize {
        let ahead = (window + AHEAD * window).saturating_sub(self.ledger.tracked());
        window.saturating_sub(self.outstanding).min(ahead)
    }
}

impl Settle for Desk {
    fn begin(&self, token: Token) -> bool {
        self.lock().ledger.begin(token)
    }

    fn rest(&self, token: Token) {
        self.lock().ledger.rest(token);
    }

    fn ack(&self, token: Token) {
        self.settle(1, |ledger| ledger.ack(token));
    }

    fn release(&self, token: Token) {
        self.settle(1, |ledger| ledger.release(token));
    }

    fn begin_all(&self, tokens: &[Token]) -> Vec<bool> {
        let mut books = self.lock();
        tokens.iter().map(|&token| books.ledger.begin(token)).collect()
    }

    fn ack_all(&self, tokens: &[Token]) {
        self.settle(tokens.len(), |ledger| {
            for &token in tokens {
                ledger.ack(token);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;
    use crate::broker::kafka::ledger::Receive;

    fn deliver(desk: &Desk, offset: u64) -> Token {
        desk.hand_out(|ledger| match ledger.receive(0, offset) {
            Receive::Deliver(token) => (token, 1),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn the_window_counts_receipts_of_gone_partitions_too() {
        let desk = Desk::new(4);
        desk.ledger(|l| l.assign(0));
        let tokens: Vec<_> = (0..4).map(|o| deliver(&desk, o)).collect();
        assert_eq!(desk.room(Duration::ZERO), 0);
        desk.ledger(|l| l.forget(0));
        assert_eq!(desk.room(Duration::ZERO), 0);
        for token in tokens {
            desk.release(token);
        }
        assert_eq!(desk.room(Duration::ZERO), 4);
    }

    #[test]
    fn one_stuck_offset_does_not_let_the_books_grow_without_bound() {
        let desk = Desk::new(4);
        desk.ledger(|l| l.assign(0));
        deliver(&desk, 0);
        let mut next = 1;
        while desk.room(Duration::ZERO) > 0 {
            let token = deliver(&desk, next);
            desk.ack(token);
            next += 1;
        }
        assert_eq!(next as usize, 4 + AHEAD * 4);
    }

    #[test]
    fn a_drain_ends_with_the_last_running_handler_or_with_its_time() {
        let desk = Desk::new(4);
        desk.ledger(|l| l.assign(0));
        let (running, waiting) = (deliver(&desk, 0), deliver(&desk, 1));
        assert!(desk.begin(running));
        assert!(!desk.drain(&[0], Duration::from_millis(1)));
        assert!(!desk.begin(waiting), "nothing begins in a drain");
        std::thread::scope(|scope| {
            let drained = scope.spawn(|| desk.drain(&[0], Duration::from_secs(60)));
            desk.ack(running);
            assert!(drained.join().unwrap());
        });
    }
}
