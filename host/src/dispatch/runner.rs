//! One route at work: its lanes, its workers, its parker. Lives as long as the route's name is in the table.

use std::collections::BTreeSet;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use governor::DefaultDirectRateLimiter;
use prometheus::{Histogram, IntCounter};
use tokio::sync::{Notify, mpsc};

use super::context::Context;
use super::item::{Duty, Item};
use super::lanes::{LaneKey, Lanes};
use super::park::{self, Job};
use crate::config::valid::Route;
use crate::guest::Version;
use crate::model::clock::duration_ms;
use crate::model::{DeadLetter, Outcome};

/// No handler has run yet.
const UNKNOWN: u64 = u64::MAX;

pub struct Runner {
    pub(super) context: Arc<Context>,
    pub(super) route: ArcSwap<Route>,
    lanes: Mutex<Lanes<Box<Item>>>,
    /// Something may have become runnable.
    changed: Notify,
    /// Unbounded, and bounded all the same: every job holds a permit of its source.
    parker: mpsc::UnboundedSender<Job>,
    rate: ArcSwap<Option<DefaultDirectRateLimiter>>,
    /// Slots whose worker runs.
    workers: Mutex<BTreeSet<usize>>,
    retired: AtomicBool,
    /// What a handler took of late, or [`UNKNOWN`].
    usual_ns: AtomicU64,
    /// Outcomes that are `done`: nearly all, so that their counter is not looked up each time.
    pub(super) done: IntCounter,
    pub(super) handler_duration: Histogram,
    pub(super) delivery_latency: Histogram,
}

/// Why a parked message was not taken.
pub(super) enum Back {
    /// The route is gone from the table; look it up again.
    Retired(Box<Item>),
    /// Its lane is held up: in the store, where one of it may be running, or by a retry, and it would keep others from being
    /// scheduled while it waits here.
    Behind(Box<Item>, LaneKey),
}

/// A long-lived task's work, for [`crate::tasks::Tasks::spawn`].
pub(super) type Work = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

impl Runner {
    /// The runner and its parker's work. It has no workers before [`Runner::change`].
    pub(super) fn new(context: Arc<Context>, route: Arc<Route>) -> (Arc<Self>, Work) {
        let (parker, jobs) = mpsc::unbounded_channel();
        let mut lanes = Lanes::default();
        for key in context.parked_lanes(&route.name) {
            lanes.mark_parked(&key, 0);
        }
        let runner = Arc::new(Self {
            done: context
                .metrics
                .outcomes
                .with_label_values(&[&*route.name, Outcome::Done.label()]),
            handler_duration: context
                .metrics
                .handler_duration
                .with_label_values(&[&*route.name]),
            delivery_latency: context
                .metrics
                .delivery_latency
                .with_label_values(&[&*route.name]),
            route: ArcSwap::new(route),
            lanes: Mutex::new(lanes),
            changed: Notify::new(),
            parker,
            rate: ArcSwap::from_pointee(None),
            workers: Mutex::default(),
            retired: AtomicBool::new(false),
            usual_ns: AtomicU64::new(UNKNOWN),
            context: Arc::clone(&context),
        });
        let work = park::run(context, Arc::downgrade(&runner), jobs);
        (runner, Box::pin(work))
    }

    /// The route as it is now; messages that are running finish under the old one. Returns the workers that are missing.
    pub(super) fn change(self: &Arc<Self>, route: Arc<Route>) -> Vec<Work> {
        let rate = route
            .rate
            .and_then(NonZeroU32::new)
            .map(|rate| DefaultDirectRateLimiter::direct(governor::Quota::per_second(rate)));
        if route.rate != self.route.load().rate || self.rate.load().is_none() {
            self.rate.store(Arc::new(rate));
        }
        let wanted = route.concurrency;
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        self.route.store(route);
        self.changed.notify_waiters();
        self.wake();
        (0..wanted)
            .filter(|slot| workers.insert(*slot))
            .map(|slot| -> Work { Box::pin(super::run::work(Arc::clone(self), slot)) })
            .collect()
    }

    /// A worker leaves because the route wants fewer.
    pub(super) fn surplus(&self, slot: usize) -> bool {
        if slot < self.route.load().concurrency {
            return false;
        }
        // Again under the lock: a change that wants this worker back either sees it or gets it replaced.
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        slot >= self.route.load().concurrency && workers.remove(&slot)
    }

    pub(super) fn lanes(&self) -> MutexGuard<'_, Lanes<Box<Item>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From intake, which wakes workers when it has placed everything. `Err`: the route is gone from the table; look it up
    /// again.
    pub(super) fn push(&self, items: Vec<Box<Item>>) -> Result<(), Vec<Box<Item>>> {
        let route = self.route.load();
        let mut lanes = self.lanes();
        if self.is_retired() {
            return Err(items);
        }
        for item in items {
            let lane = Item::lane(&route, &item.envelope);
            if let Err(item) = lanes.push(item, lane.as_ref()) {
                // Under the lock, so that the store sees the lane's messages in the order they came.
                self.send_to_store(item, lane, &route, None);
            }
        }
        Ok(())
    }

    /// From the store, which keeps the order of its lanes itself. What has no lane there takes its turn in the one it has
    /// here: it was a dead letter, or was parked when the route asked for no order.
    pub(super) fn push_parked(&self, item: Box<Item>) -> Result<(), Back> {
        let lane = match &item.duty {
            Duty::Parked { lane: None, .. } => Item::lane(&self.route.load(), &item.envelope),
            _ => None,
        };
        {
            let mut lanes = self.lanes();
            if self.is_retired() {
                return Err(Back::Retired(item));
            }
            match lane {
                Some(key) if lanes.is_held_up(&key) => return Err(Back::Behind(item, key)),
                // Not parked, so it is taken.
                lane => lanes.push(item, lane.as_ref()).map_err(Back::Retired)?,
            }
        }
        self.wake();
        Ok(())
    }

    /// The lane waits for the retry of its head. `Err`: nobody here will run it any more, it goes to the store.
    pub(super) fn hold(&self, key: &LaneKey, item: Box<Item>, due: Instant) -> Result<(), Box<Item>> {
        {
            let mut lanes = self.lanes();
            // Under the lock: either [`Runner::shelve`] finds it, or the stop is seen here.
            if self.context.stop.is_cancelled() && self.context.is_ours_alone(&item) {
                return Err(item);
            }
            lanes.hold(key, item, due);
        }
        self.wake();
        Ok(())
    }

    /// Lanes that wait for a retry give their permits back: they go to the store, where the head waits on.
    pub(super) fn relieve(&self) {
        self.move_to_store(|_| true);
    }

    /// Drain: lanes that wait for a retry go to the store when this host is the only one that will ever go on with them.
    /// Given back, the head would keep its partition's position where it is, all that was finished behind it would run
    /// again, and the head would forget its attempts. Elsewhere they go back: another host may have the next of the key now.
    pub(super) fn shelve(&self) {
        self.move_to_store(|item| self.context.is_ours_alone(item));
    }

    fn move_to_store(&self, may_go: impl Fn(&Item) -> bool) {
        let route = self.route.load();
        let now = self.context.clock.instant();
        let mut lanes = self.lanes();
        for (key, due, items) in lanes.relieve(|item| may_go(item)) {
            let mut delay = Some(due.saturating_duration_since(now));
            for item in items {
                self.send_to_store(item, Some(Arc::clone(&key)), &route, delay.take());
            }
        }
    }

    /// The running message of a lane goes to the store now, its followers behind it.
    pub(super) fn park_lane(&self, head: Box<Item>, key: &LaneKey, delay: Duration) {
        let route = self.route.load();
        let mut lanes = self.lanes();
        let followers = lanes.park_running(key);
        self.send_to_store(head, Some(Arc::clone(key)), &route, Some(delay));
        for item in followers {
            self.send_to_store(item, Some(Arc::clone(key)), &route, None);
        }
        self.remember(key);
    }

    /// The running message of a lane was given up on and the lane waits for it: it goes to the store with its letter, its
    /// followers behind it.
    pub(super) fn hold_lane(&self, head: Box<Item>, key: &LaneKey, letter: DeadLetter) {
        let route = self.route.load();
        let mut lanes = self.lanes();
        let followers = lanes.park_running(key);
        let now = self.context.clock.now_ms();
        self.hand_over(Job {
            parked: head.to_parked(&route, Some(key), head.attempt, now),
            lane: Some(Arc::clone(key)),
            item: head,
            letter: Some(Box::new(letter)),
        });
        for item in followers {
            self.send_to_store(item, Some(Arc::clone(key)), &route, None);
        }
        self.remember(key);
    }

    /// A route of this name may come back after this runner, and has to know.
    fn remember(&self, key: &LaneKey) {
        if self.is_retired() {
            let route = Arc::clone(&self.route.load().name);
            self.context.remember_parked([(route.to_string(), key.to_vec())]);
        }
    }

    /// A message without a lane goes to the store until it is due.
    pub(super) fn park(&self, item: Box<Item>, delay: Duration) {
        self.send_to_store(item, None, &self.route.load(), Some(delay));
    }

    fn send_to_store(&self, item: Box<Item>, lane: Option<LaneKey>, route: &Route, delay: Option<Duration>) {
        let now = self.context.clock.now_ms();
        let due = now.saturating_add(delay.map_or(0, duration_ms));
        let parked = item.to_parked(route, lane.as_ref(), item.attempt, due);
        self.hand_over(Job {
            parked,
            lane,
            item,
            letter: None,
        });
    }

    fn hand_over(&self, job: Job) {
        self.context.busy.enter(1);
        if self.parker.send(job).is_err() {
            // The parker ends only after dispatch is idle; the dropped receipt brings the message back.
            self.context.busy.leave(1);
        }
    }

    /// These live in the store: another host may have brought them there.
    pub(super) fn mark_parked(&self, keys: &[LaneKey]) {
        let mut lanes = self.lanes();
        for key in keys {
            lanes.mark_parked(key, 0);
        }
    }

    pub(super) fn stored(&self, key: &LaneKey) {
        self.lanes().stored(key);
    }

    /// A parked message of the lane is settled: when the store has nothing left of it, arrivals run directly again.
    pub(super) async fn unpark_if_empty(&self, key: &LaneKey) {
        let Some(generation) = self.lanes().parked_generation(key) else {
            return;
        };
        let name = Arc::clone(&self.route.load().name);
        match self.context.retries.lane_is_empty(&name, key).await {
            Ok(true) => {
                self.lanes().unpark(key, generation);
            }
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, route = %name, "cannot ask the store; the lane keeps going through it");
            }
        }
    }

    /// A lane in which nobody is busy is kept, until [`Runner::finish`].
    pub(super) fn claim(&self, key: &LaneKey) -> bool {
        self.lanes().claim(key)
    }

    /// The running messages of these lanes are settled; their followers may run.
    pub(super) fn finish(&self, keys: &[LaneKey]) {
        {
            let mut lanes = self.lanes();
            for key in keys {
                lanes.finish(key);
            }
        }
        self.wake();
    }

    /// Up to `max` messages that may run now, counted as busy; when more are left, another worker is woken.
    pub(super) fn take(&self, max: impl FnOnce(usize) -> usize) -> Vec<(Box<Item>, Option<LaneKey>)> {
        let mut lanes = self.lanes();
        let taken = self.context.busy.begin(|| {
            lanes.wake(self.context.clock.instant());
            let max = max(lanes.runnable());
            lanes.take(max)
        });
        if lanes.runnable() > 0 {
            self.changed.notify_one();
        }
        taken
    }

    /// Messages that a worker took and does not get to: others may have them. In a drain they go back to their broker.
    pub(super) fn put_back(&self, taken: Vec<(Box<Item>, Option<LaneKey>)>) {
        if !self.context.stop.is_cancelled() {
            self.lanes().put_back(taken);
            self.wake();
        }
    }

    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Until something may have become runnable.
    pub(super) async fn changed(&self) {
        let next_due = self.lanes().next_due();
        let due = async {
            match next_due {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending::<()>().await,
            }
        };
        tokio::select! {
            () = self.changed.notified() => {}
            () = due => {}
            () = self.context.stop.cancelled() => {}
        }
    }

    /// Handlers of a batch took so long together.
    pub(super) fn took(&self, together: Duration, messages: usize) {
        let messages = u128::try_from(messages).unwrap_or(u128::MAX).max(1);
        let each = u64::try_from(together.as_nanos() / messages).unwrap_or(u64::MAX);
        // Workers may overwrite each other's news: it is an estimate.
        let before = self.usual_ns.load(Ordering::Relaxed);
        let after = if before == UNKNOWN {
            each
        } else {
            before - before / 8 + each / 8
        };
        self.usual_ns.store(after.min(UNKNOWN - 1), Ordering::Relaxed);
    }

    /// A moving average of what a message takes; none before the first.
    pub(super) fn usual_duration(&self) -> Option<Duration> {
        let ns = self.usual_ns.load(Ordering::Relaxed);
        (ns != UNKNOWN).then(|| Duration::from_nanos(ns))
    }

    /// Waits for the route's rate.
    pub(super) async fn pace(&self, messages: usize) {
        let rate = self.rate.load_full();
        if let Some(limiter) = rate.as_ref()
            && let Some(n) = u32::try_from(messages).ok().and_then(NonZeroU32::new)
        {
            for _ in 0..n.get() {
                limiter.until_ready().await;
            }
        }
    }

    /// The serving version, when it can handle this route's kind of message.
    pub(super) fn version(&self) -> Option<Arc<dyn Version>> {
        let route = self.route.load();
        self.context
            .plugins
            .current(&route.plugin)
            .filter(|version| version.exports().handles(route.kind))
    }

    /// Why the route's messages wait, if they do.
    pub(super) fn lacks_plugin(&self) -> Option<String> {
        let route = self.route.load();
        let kind = route.kind.as_str();
        match self.context.plugins.current(&route.plugin) {
            None => Some(format!(
                "route `{}` waits: plugin `{}` has no version that loads",
                route.name, route.plugin
            )),
            Some(version) if !version.exports().handles(route.kind) => Some(format!(
                "route `{}` waits: plugin `{}` exports no {kind} handler (HX0302)",
                route.name, route.plugin
            )),
            Some(_) => None,
        }
    }

    /// The route is gone from the table: workers end when nothing is left.
    pub(super) fn retire(&self) {
        {
            // Under the lock, so that nothing is pushed after the workers have seen the last message.
            let lanes = self.lanes();
            self.retired.store(true, Ordering::Release);
            let route = Arc::clone(&self.route.load().name);
            let parked = lanes.parked().map(|key| (route.to_string(), key.to_vec()));
            self.context.remember_parked(parked);
        }
        self.changed.notify_waiters();
        self.changed.notify_one();
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_retired() && self.lanes().queued() == 0
    }

    /// Something could run now. A lane that waits for its retry does not hold up a drain.
    pub(super) fn has_work(&self) -> bool {
        self.lanes().runnable() > 0
    }

    /// Drain: what has not started goes back to its broker.
    pub(super) fn clear(&self) {
        let items = self.lanes().clear();
        drop(items);
        self.changed.notify_waiters();
    }
}
