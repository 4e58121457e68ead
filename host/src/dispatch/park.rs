//! Writes retries of one route to the store, in the order they were handed over, then lets go of the messages.

mod overflow;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use self::overflow::{Offered, Overflow};
use super::context::Context;
use super::item::{Duty, Item};
use super::lanes::LaneKey;
use super::runner::Runner;
use super::settle::{count_letter, persist};
use crate::model::DeadLetter;
use crate::planted::{self, Bug};
use crate::store::Parked;

/// A message on its way to the store.
pub(super) struct Job {
    pub parked: Parked,
    pub lane: Option<LaneKey>,
    pub item: Box<Item>,
    /// It was given up on, and its lane waits behind it.
    pub letter: Option<Box<DeadLetter>>,
}

/// One transaction of the store takes at most this many; more wait for the next.
const BATCH: usize = 128;
/// How often to look whether a lane that was full has room again: another host may have made it.
const LOOK: Duration = Duration::from_millis(500);

/// Ends when the route's runner is gone and everything handed over is written. What there was no room for goes back to its
/// broker then.
pub(super) async fn run(
    context: Arc<Context>,
    runner: Weak<Runner>,
    mut jobs: mpsc::UnboundedReceiver<Job>,
) -> Result<(), String> {
    let mut parker = Parker {
        context: Arc::clone(&context),
        runner,
        overflow: Overflow::default(),
    };
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let received = tokio::select! {
            n = jobs.recv_many(&mut batch, BATCH) => n,
            // Nothing is handed over any more once dispatch is idle.
            () = context.closing.cancelled() => 0,
            _ = look.tick(), if !parker.overflow.is_empty() => {
                let admitted = parker.admit().await;
                parker.write(admitted).await;
                continue;
            }
        };
        if received == 0 {
            return Ok(());
        }
        if planted::is(Bug::RetryRowAfterAck) {
            for job in &batch {
                job.item.duty.ack_too_early(Bug::RetryRowAfterAck);
            }
            tokio::time::sleep(planted::PAUSE).await;
        }
        let fitting = parker.offer(std::mem::take(&mut batch)).await;
        parker.write(fitting).await;
    }
}

struct Parker {
    context: Arc<Context>,
    runner: Weak<Runner>,
    /// Holds the permits of what is in it, so that a key that is full slows its source down.
    overflow: Overflow<Job>,
}

impl Parker {
    /// Rows that a key may have which waits behind a dead letter.
    fn limit(&self) -> Option<(Arc<str>, u64)> {
        let route = self.runner.upgrade()?.route.load_full();
        Some((Arc::clone(&route.name), route.park?.limit))
    }

    async fn room(&self, key: &LaneKey) -> Option<u64> {
        let (route, limit) = self.limit()?;
        let asked = persist(&self.context, "ask how many of a key are parked", || {
            self.context.held.room(&route, key, limit)
        });
        // Given up at the drain limit: nothing is written any more.
        asked.await.unwrap_or(Some(0))
    }

    /// Those there is room for.
    async fn offer(&mut self, jobs: Vec<Job>) -> Vec<Job> {
        let bounds = self.limit();
        if bounds.is_none() && self.overflow.is_empty() {
            return jobs;
        }
        // A route that parks nothing any more has room for everything.
        let (route, limit) = bounds.unwrap_or_else(|| ("".into(), u64::MAX));
        let mut rooms: HashMap<LaneKey, Option<u64>> = HashMap::new();
        let mut fitting = Vec::with_capacity(jobs.len());
        let full = self.overflow.len();
        for job in jobs {
            let Some(key) = job.lane.clone() else {
                fitting.push(job);
                continue;
            };
            if job.letter.is_some() {
                // From memory, so it is the first of its lane in the store.
                rooms.insert(key, Some(limit.saturating_sub(1)));
                fitting.push(job);
                continue;
            }
            if !rooms.contains_key(&key) && !self.overflow.has(&key) {
                let room = self.room(&key).await;
                rooms.insert(LaneKey::clone(&key), room);
            }
            let room = rooms.entry(LaneKey::clone(&key)).or_insert(Some(0));
            match self.overflow.offer(&key, job, room) {
                Offered::Goes(job) => fitting.push(job),
                offered => {
                    // It waits for people: that must not hold up a drain.
                    self.context.busy.leave(1);
                    if matches!(offered, Offered::First) {
                        tracing::warn!(
                            %route, limit,
                            "a key that waits behind a dead letter has park.limit messages; further ones stay with their broker, and when they have taken up limits.in_flight nothing more is pulled there. Look at `helix dlq parked`, then reprocess, release or discard its letter"
                        );
                    }
                }
            }
        }
        if self.overflow.len() != full {
            self.say();
        }
        fitting
    }

    /// Those that waited and fit now.
    async fn admit(&mut self) -> Vec<Job> {
        let mut admitted = Vec::new();
        for key in self.overflow.keys() {
            let room = self.room(&key).await;
            admitted.extend(self.overflow.admit(&key, room));
        }
        self.context.busy.enter(admitted.len());
        self.say();
        admitted
    }

    fn say(&self) {
        let full = i64::try_from(self.overflow.len()).unwrap_or(i64::MAX);
        if let Some(runner) = self.runner.upgrade() {
            let metric = &self.context.metrics.parked_full;
            metric.with_label_values(&[&*runner.route.load().name]).set(full);
        }
    }

    /// In order. What follows one that could not be written is not tried: it would be in its place.
    async fn write(&self, jobs: Vec<Job>) {
        let context = &self.context;
        let mut jobs = jobs.into_iter().peekable();
        let mut given_up = false;
        while let Some(mut job) = jobs.next() {
            let mut written = false;
            if let Some(letter) = job.letter.take() {
                if !given_up {
                    written = self.hold(&job.parked, *letter).await;
                }
                self.settle(job, written).await;
            } else {
                let mut run = vec![job];
                while run.len() < BATCH
                    && let Some(next) = jobs.next_if(|job| job.letter.is_none())
                {
                    run.push(next);
                }
                if !given_up {
                    let rows: Vec<Parked> = run.iter().map(|job| job.parked.clone()).collect();
                    written = persist(context, "park a retry", || context.retries.park(rows.clone()))
                        .await
                        .is_some();
                }
                for job in run {
                    self.settle(job, written).await;
                }
            }
            given_up |= !written;
        }
        context.due_changed.notify_one();
    }

    /// False: nothing is known to be written.
    async fn hold(&self, row: &Parked, letter: DeadLetter) -> bool {
        let context = &self.context;
        let id = persist(context, "write a dead letter", || {
            context.held.hold(row.clone(), letter.clone())
        })
        .await;
        if let Some(id) = &id {
            count_letter(context, &letter, id);
        }
        id.is_some()
    }

    async fn settle(&self, job: Job, written: bool) {
        let context = &self.context;
        if let Some(key) = &job.lane
            && let Some(runner) = self.runner.upgrade()
        {
            runner.stored(key);
        }
        // Durable first, then acknowledged. Given up at the drain limit: the dropped receipt brings the message back.
        let item = *job.item;
        match item.duty {
            Duty::Delivery(receipt) if written => receipt.ack(),
            Duty::Delivery(_) => {}
            // It has its row already, and waited in a lane that moved to the store: nobody runs it under this claim.
            Duty::Parked { id, .. } => {
                if let Err(error) = context.retries.release(&id).await {
                    tracing::warn!(%id, %error, "cannot let go of a parked message; it is due again when its lease ends");
                }
            }
        }
        context.busy.leave(1);
    }
}
