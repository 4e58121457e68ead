//! What is under way, and the moment of a drain when nothing is and nothing more will be.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// How often a drain looks whether anything is queued; it happens once in a host's life.
const POLL: Duration = Duration::from_millis(20);

/// Counts messages between "the handler is about to run" and "settled".
#[derive(Default)]
pub(super) struct Busy {
    count: AtomicUsize,
    idle: Notify,
    /// Nothing begins any more.
    frozen: AtomicBool,
}

impl Busy {
    pub fn enter(&self, n: usize) {
        self.count.fetch_add(n, Ordering::AcqRel);
    }

    pub fn leave(&self, n: usize) {
        if self.count.fetch_sub(n, Ordering::AcqRel) == n {
            self.idle.notify_waiters();
        }
    }

    /// Counts what `take` finds, unless nothing may begin. To be called under the lock of the lanes that it is taken from.
    pub fn begin<T>(&self, take: impl FnOnce() -> Vec<T>) -> Vec<T> {
        if self.frozen.load(Ordering::Acquire) {
            return Vec::new();
        }
        let taken = take();
        self.enter(taken.len());
        taken
    }

    /// Nothing begins from now on.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::Release);
    }

    pub async fn idle(&self) {
        loop {
            let notified = self.idle.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.is_idle() {
                return;
            }
            notified.await;
        }
    }

    fn is_idle(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }
}

/// Until no message is running or being settled and none could run; from then on none begins.
///
/// `has_work` looks under the locks of the lanes whether something could run, `wake` tells workers that they may begin
/// again.
pub(super) async fn come_to_rest(busy: &Busy, has_work: impl Fn() -> bool, wake: impl Fn()) {
    loop {
        busy.idle().await;
        busy.freeze();
        // One look is not enough: between it and the count a worker takes what was seen as waiting, or a message ends and
        // the next of its key becomes ready. The first look waits for the lock under which others begin, so whoever has
        // begun is counted; while nobody is, nothing becomes ready; so what the second look sees stays.
        if !has_work() && busy.is_idle() && !has_work() {
            return;
        }
        busy.frozen.store(false, Ordering::Release);
        wake();
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::super::lanes::{LaneKey, Lanes};
    use super::*;

    /// Steps of the worker around the first looks of the drain: before and after each of three.
    const HOOKS: u32 = 6;
    /// None, one or two at each.
    const STEPS: u32 = 3;

    /// One worker, and messages of one key.
    #[derive(Default)]
    struct Host {
        busy: Busy,
        lanes: RefCell<Lanes<u32>>,
        running: RefCell<Option<LaneKey>>,
    }

    impl Host {
        fn with(messages: u32) -> Self {
            let host = Self::default();
            let key: LaneKey = b"key".as_slice().into();
            for n in 0..messages {
                host.lanes.borrow_mut().push(n, Some(&key)).unwrap();
            }
            host
        }

        /// Settles what runs; nothing does, so takes the next.
        fn step(&self) {
            let running = self.running.borrow_mut().take();
            if let Some(key) = running {
                self.lanes.borrow_mut().finish(&key);
                self.busy.leave(1);
                return;
            }
            let mut lanes = self.lanes.borrow_mut();
            let taken = self.busy.begin(|| lanes.take(1)).pop();
            *self.running.borrow_mut() = taken.and_then(|(_, lane)| lane);
        }

        fn has_work(&self) -> bool {
            self.lanes.borrow().runnable() > 0
        }
    }

    /// A drain that took a moment between two messages for the end gave back what had not begun; what was finished behind
    /// it ran again.
    #[tokio::test(start_paused = true)]
    async fn at_rest_nothing_runs_or_could_run_however_the_looks_fall() {
        for messages in 0..4 {
            for script in 0..STEPS.pow(HOOKS) {
                let (host, hook) = (Host::with(messages), Cell::new(0));
                let steps = || {
                    let at = hook.replace(hook.get() + 1);
                    let count = if at < HOOKS {
                        script / STEPS.pow(at) % STEPS
                    } else {
                        0
                    };
                    (0..count).for_each(|_| host.step());
                };
                let look = || {
                    steps();
                    let has_work = host.has_work();
                    steps();
                    has_work
                };
                let worker = async {
                    loop {
                        tokio::time::sleep(POLL / 3).await;
                        host.step();
                    }
                };
                tokio::select! {
                    () = come_to_rest(&host.busy, look, || {}) => {}
                    () = worker => {}
                }
                let place = format!("{messages} messages, script {script}");
                assert!(host.running.borrow().is_none() && !host.has_work(), "{place}");
                assert!(host.busy.is_idle(), "{place}");
                // What arrives now does not begin.
                host.lanes.borrow_mut().push(9, None).unwrap();
                host.step();
                assert!(host.has_work(), "{place}");
            }
        }
    }
}
