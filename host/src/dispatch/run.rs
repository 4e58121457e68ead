//! A worker of a route: takes what may run, calls the guest, turns outcomes into verdicts, hands them to settlement.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Histogram;
use prometheus::local::LocalHistogram;
use tokio::sync::OwnedSemaphorePermit;

use super::item::{Duty, Item};
use super::lanes::LaneKey;
use super::letter;
use super::runner::Runner;
use super::settle::{self, PublishFailure};
use crate::broker::{self, Receipt};
use crate::config::valid::Route;
use crate::guest::{Completion, Invocation, Version};
use crate::model::clock::duration_ms;
use crate::model::{Attempt, DeadLetter, Envelope, Failure, FailureClass, Outcome, Outgoing, Verdict};
use crate::planted::{self, Bug};
use crate::retry;

/// How long to wait before looking again for a plugin that has no version yet.
const PLUGIN_POLL: Duration = Duration::from_millis(200);
/// Handlers that together take no longer than this are not worth sharing between workers.
const TURN: Duration = Duration::from_millis(1);
/// The most of them that a worker takes in one turn, when the handler takes one message a call.
const SINGLES: usize = 16;
/// The end of the guest's output that an attempt keeps.
pub(super) const LOG_LINES: usize = 50;

pub(super) async fn work(runner: Arc<Runner>, slot: usize) -> Result<(), String> {
    let context = Arc::clone(&runner.context);
    // A route that is gone from the table finishes what it holds, also when its plugin went with it.
    let mut last: Option<Arc<dyn Version>> = None;
    while !context.stop.is_cancelled() && !runner.surplus(slot) && !runner.is_over() {
        let route = runner.route.load_full();
        let Some(version) = runner
            .version()
            .or_else(|| last.take().filter(|_| runner.is_retired()))
        else {
            if runner.is_retired() {
                // Nothing will ever handle these: they go back to their broker.
                runner.clear();
                continue;
            }
            tokio::select! {
                () = context.stop.cancelled() => {}
                () = tokio::time::sleep(PLUGIN_POLL) => {}
            }
            continue;
        };
        last = Some(Arc::clone(&version));
        let batch_limit = if route.fresh_instance {
            1
        } else {
            version.batch_limit(route.kind)
        };
        let most = if batch_limit > 1 { batch_limit } else { SINGLES }.min(paced(&route));
        let usual = runner.usual_duration();
        let taken = runner.take(|runnable| {
            let fair = if batch_limit > 1 {
                runnable.div_ceil(route.concurrency)
            } else {
                1
            };
            share(fair, most, usual)
        });
        if taken.is_empty() {
            runner.changed().await;
            continue;
        }
        let n = taken.len();
        let batch = Batch {
            runner: &runner,
            route: &route,
            version,
        };
        tokio::select! {
            biased;
            () = context.abort.cancelled() => {}
            () = batch.run_all(taken, batch_limit) => {}
        }
        context.busy.leave(n);
    }
    Ok(())
}

/// How many messages to take at once. A fair share, so that one worker does not hold what others could run meanwhile; more
/// when handlers are so quick that nobody would notice.
fn share(fair: usize, most: usize, usual: Option<Duration>) -> usize {
    let unnoticed = usual.map_or(0, |each| TURN.as_nanos() / each.as_nanos().max(1));
    let unnoticed = usize::try_from(unnoticed).unwrap_or(usize::MAX);
    fair.max(unnoticed).clamp(1, most)
}

/// What the route's rate lets through in a tenth of a second: a batch waits until all of it may run.
fn paced(route: &Route) -> usize {
    let rate = route.rate.filter(|rate| *rate > 0);
    rate.map_or(usize::MAX, |rate| {
        usize::try_from(rate / 10).unwrap_or(usize::MAX).max(1)
    })
}

/// How a route has a message run.
pub(super) fn invocation<'a>(route: &'a Route, envelope: &'a Envelope, attempt: u32) -> Invocation<'a> {
    Invocation {
        envelope,
        attempt,
        max_attempts: route.retry.max_retries.saturating_add(1),
        timeout: route.timeout,
        headers: Some(&route.headers),
        fresh: route.fresh_instance,
    }
}

struct Batch<'a> {
    runner: &'a Arc<Runner>,
    route: &'a Arc<Route>,
    version: Arc<dyn Version>,
}

impl Batch<'_> {
    /// In one call, or one by one: each begins right before it runs and is settled right after. When one is not as quick as
    /// they usually are, those behind it are given to other workers.
    async fn run_all(&self, mut taken: Vec<(Box<Item>, Option<LaneKey>)>, batch_limit: usize) {
        if taken.len() <= batch_limit {
            return self.run(taken).await;
        }
        taken.reverse();
        while let Some(one) = taken.pop() {
            let mut run = std::pin::pin!(self.run(vec![one]));
            if !taken.is_empty() {
                tokio::select! {
                    biased;
                    () = &mut run => continue,
                    () = tokio::time::sleep(TURN) => {
                        taken.reverse();
                        self.runner.put_back(std::mem::take(&mut taken));
                    }
                }
            }
            run.await;
        }
    }

    async fn run(&self, taken: Vec<(Box<Item>, Option<LaneKey>)>) {
        let context = &self.runner.context;
        self.runner.pace(taken.len()).await;
        let started = context.clock.now_ms();
        let mut starting = Vec::with_capacity(taken.len());
        let ours = broker::begin_all(taken.iter().map(|(item, _)| item.duty.receipt()));
        for ((item, lane), ours) in taken.into_iter().zip(ours) {
            if !ours {
                // Fenced: another host has it or will get it.
                self.free(lane.as_ref());
                continue;
            }
            if item
                .envelope
                .deadline_ms
                .is_some_and(|deadline| deadline <= started)
            {
                self.expire(item, lane);
                continue;
            }
            starting.push((item, lane));
        }
        if starting.is_empty() {
            return;
        }
        let invocations: Vec<Invocation<'_>> = starting
            .iter()
            .map(|(item, _)| invocation(self.route, &item.envelope, item.attempt))
            .collect();
        let mut completions = self.version.call(&invocations).await;
        drop(invocations);
        if planted::is(Bug::NonAtomicSwap)
            && self.runner.version().map(|v| v.digest()) != Some(self.version.digest())
        {
            for completion in &mut completions {
                let failure = Failure::coded("trap.unloaded", "the version is gone");
                completion.outcome = Outcome::Trap { failure };
            }
        }
        let mut settled = Settled::new(self.runner, starting.len());
        let done = completions.iter().filter(|c| c.outcome == Outcome::Done).count();
        self.runner.done.inc_by(done as u64);
        self.runner
            .took(completions.iter().map(|c| c.duration).sum(), completions.len());
        let ended = context.clock.now_ms();
        let mut completions = completions.into_iter();
        for (item, lane) in starting {
            let completion = completions.next().unwrap_or_else(|| Completion {
                outcome: Outcome::Trap {
                    failure: Failure::coded("trap.results", "no result for this message"),
                },
                outputs: Vec::new(),
                withheld: None,
                log: Vec::new(),
                duration: Duration::ZERO,
            });
            self.conclude(item, lane, completion, (started, ended), &mut settled);
        }
        self.release(settled);
    }

    /// What a batch is done with, under one lock each.
    fn release(&self, settled: Settled<'_>) {
        broker::ack_all(settled.receipts);
        drop(settled.permits);
        if !settled.lanes.is_empty() {
            self.runner.finish(&settled.lanes);
        }
    }

    fn free(&self, lane: Option<&LaneKey>) {
        if let Some(key) = lane {
            self.runner.finish(std::slice::from_ref(key));
        }
    }

    fn conclude(
        &self,
        mut item: Box<Item>,
        lane: Option<LaneKey>,
        completion: Completion,
        (started_ms, ended_ms): (u64, u64),
        settled: &mut Settled<'_>,
    ) {
        let context = &self.runner.context;
        let Completion {
            outcome,
            outputs,
            mut log,
            duration,
            // Withheld is what a rehearsal runs.
            ..
        } = completion;
        // Those that are done were counted together.
        if outcome != Outcome::Done {
            context
                .metrics
                .outcomes
                .with_label_values(&[&*self.route.name, outcome.label()])
                .inc();
        }
        settled.handler_duration.observe(duration.as_secs_f64());
        if item.attempt > 1 {
            context
                .metrics
                .retries
                .with_label_values(&[&*self.route.name])
                .inc();
        }
        if planted::is(Bug::PermitLeakedOnTrap) && matches!(outcome, Outcome::Trap { .. }) {
            item.permit.semaphore().forget_permits(1);
        }
        if planted::is(Bug::OutputBeforeDone) && outcome != Outcome::Done {
            let (context, early) = (Arc::clone(context), outputs.clone());
            tokio::spawn(async move { settle::publish(&context, early).await.is_ok() });
        }
        if outcome == Outcome::Done {
            return self.done(item, lane, outputs, ended_ms, settled);
        }
        let verdict = retry::decide(&outcome, item.attempt, &self.route.retry, (context.random)());
        if verdict != Verdict::Acknowledge {
            log.drain(..log.len().saturating_sub(LOG_LINES));
            item.history.push(Attempt {
                number: item.attempt,
                started_ms,
                duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
                outcome,
                digest: Some(self.version.digest().to_string()),
                log,
            });
            item.first_failure_ms.get_or_insert(ended_ms);
        }
        match verdict {
            Verdict::Acknowledge => self.done(item, lane, outputs, ended_ms, settled),
            Verdict::RetryAfter { delay, failure } => {
                tracing::info!(
                    route = %self.route.name, id = %item.envelope.id, attempt = item.attempt,
                    in_ms = duration_ms(delay), reason = %crate::telemetry::logs::printable(&failure.reason), "retry"
                );
                self.again(item, lane, delay);
            }
            Verdict::DeadLetter { class, failure } => self.bury(item, lane, class, &failure),
        }
    }

    fn done(
        &self,
        item: Box<Item>,
        lane: Option<LaneKey>,
        outputs: Vec<Outgoing>,
        ended_ms: u64,
        settled: &mut Settled<'_>,
    ) {
        let latency = ended_ms.saturating_sub(item.envelope.time_ms);
        #[allow(clippy::cast_precision_loss, reason = "milliseconds below 2^53 are exact")]
        settled.delivery_latency.observe(latency as f64 / 1000.0);
        if !outputs.is_empty() || item.duty.receipt().is_none() {
            return self.effect(item, lane, outputs);
        }
        // The hot path: nothing to wait for.
        if let Duty::Delivery(receipt) = item.duty {
            settled.receipts.push(receipt);
            settled.permits.push(item.permit);
            settled.lanes.extend(lane);
        }
    }

    /// Effects that wait for a disk run beside the worker; drain waits for them.
    fn effect(&self, item: Box<Item>, lane: Option<LaneKey>, outputs: Vec<Outgoing>) {
        let batch = self.detach();
        batch.runner.context.busy.enter(1);
        tokio::spawn(async move {
            let context = Arc::clone(&batch.runner.context);
            match settle::publish(&context, outputs).await {
                Ok(()) => batch.view().acknowledge(item, lane).await,
                Err(PublishFailure::Permanent(failure)) => {
                    batch.view().bury(item, lane, FailureClass::Refused, &failure);
                }
                Err(PublishFailure::GivenUp) => drop(item),
            }
            context.busy.leave(1);
        });
    }

    async fn acknowledge(&self, item: Box<Item>, lane: Option<LaneKey>) {
        let context = &self.runner.context;
        let item = *item;
        match item.duty {
            Duty::Delivery(receipt) => receipt.ack(),
            Duty::Parked {
                id,
                lane: parked_lane,
            } => {
                let written = settle::persist(context, "record that a retry succeeded", || {
                    context.retries.complete(&id)
                })
                .await
                .is_some();
                if written && let Some(key) = parked_lane {
                    self.runner.unpark_if_empty(&key).await;
                }
                context.due_changed.notify_one();
            }
        }
        drop(item.permit);
        self.free(lane.as_ref());
    }

    fn again(&self, mut item: Box<Item>, lane: Option<LaneKey>, delay: Duration) {
        item.attempt = item.attempt.saturating_add(1);
        match (&item.duty, lane) {
            (Duty::Parked { .. }, lane) => {
                self.reschedule(item, delay);
                // Its lane does not wait for it: what came after a dead letter went on long ago.
                self.free(lane.as_ref());
            }
            (Duty::Delivery(_), None) => self.runner.park(item, delay),
            // Kafka and embedded topics: the lane waits in memory, uncommitted, and a crash redelivers it in order.
            // Queues (no position): never unacknowledged through a back-off, the broker's consumer timeout would return
            // the whole prefetch.
            (Duty::Delivery(receipt), Some(key)) if item.raw.origin.partition.is_some() => {
                receipt.rest();
                let due = self.runner.context.clock.instant() + delay;
                if let Err(item) = self.runner.hold(&key, item, due) {
                    self.runner.park_lane(item, &key, delay);
                }
            }
            (Duty::Delivery(_), Some(key)) => self.runner.park_lane(item, &key, delay),
        }
    }

    fn reschedule(&self, item: Box<Item>, delay: Duration) {
        let batch = self.detach();
        let context = Arc::clone(&self.runner.context);
        context.busy.enter(1);
        tokio::spawn(async move {
            let due = context.clock.now_ms().saturating_add(duration_ms(delay));
            let lane = match &item.duty {
                Duty::Parked { lane, .. } => lane.clone(),
                Duty::Delivery(_) => None,
            };
            let row = item.to_parked(&batch.route, lane.as_ref(), item.attempt, due);
            settle::persist(&context, "reschedule a retry", || {
                context.retries.reschedule(row.clone())
            })
            .await;
            drop(item);
            context.due_changed.notify_one();
            context.busy.leave(1);
        });
    }

    fn expire(&self, item: Box<Item>, lane: Option<LaneKey>) {
        let deadline = item.envelope.deadline_ms.unwrap_or_default();
        let late = self.runner.context.clock.now_ms().saturating_sub(deadline);
        let failure = Failure::coded(
            "deadline",
            format!("its deadline passed {late} ms before it could run"),
        );
        self.runner
            .context
            .metrics
            .outcomes
            .with_label_values(&[&*self.route.name, "expired"])
            .inc();
        self.bury(item, lane, FailureClass::Expired, &failure);
    }

    fn bury(&self, item: Box<Item>, lane: Option<LaneKey>, class: FailureClass, failure: &Failure) {
        let batch = self.detach();
        let context = Arc::clone(&self.runner.context);
        let letter = letter::of_item(&item, Some(self.route), class, failure, context.clock.now_ms());
        // What was too late is nobody's to repair, so nothing waits for it.
        let parks = class != FailureClass::Expired && item.parks(self.route, lane.as_ref());
        if let (true, Duty::Delivery(_), Some(key)) = (parks, &item.duty, &lane) {
            return self.runner.hold_lane(item, key, letter);
        }
        context.busy.enter(1);
        tokio::spawn(async move {
            batch.view().write_letter(item, lane, letter, parks).await;
            context.busy.leave(1);
        });
    }

    /// `parks`: the row that it has holds up its lane from now on.
    async fn write_letter(&self, item: Box<Item>, lane: Option<LaneKey>, letter: DeadLetter, parks: bool) {
        let context = &self.runner.context;
        if item.duty.ack_too_early(Bug::DeadLetterAfterAck) {
            tokio::time::sleep(planted::PAUSE).await;
        }
        let written = match &item.duty {
            Duty::Delivery(_) => settle::persist(context, "write a dead letter", || {
                context.letters.enter(vec![letter.clone()])
            })
            .await
            .map(|mut ids| ids.pop()),
            Duty::Parked { lane: Some(key), .. } if parks => {
                let row = item.to_parked(self.route, Some(key), item.attempt, letter.last_failure_ms);
                settle::persist(context, "write a dead letter", || {
                    context.held.hold(row.clone(), letter.clone())
                })
                .await
                .map(Some)
            }
            Duty::Parked { id, .. } => settle::persist(context, "write a dead letter", || {
                context.retries.bury(id, letter.clone())
            })
            .await
            .map(Some),
        };
        let Some(row) = written else { return };
        settle::count_letter(context, &letter, row.as_deref().unwrap_or(&letter.id));
        let item = *item;
        match item.duty {
            Duty::Delivery(receipt) => receipt.ack(),
            Duty::Parked { lane: Some(key), .. } if !parks => self.runner.unpark_if_empty(&key).await,
            Duty::Parked { .. } => {}
        }
        drop(item.permit);
        self.free(lane.as_ref());
    }

    fn detach(&self) -> Detached {
        Detached {
            runner: Arc::clone(self.runner),
            route: Arc::clone(self.route),
            version: Arc::clone(&self.version),
        }
    }
}

/// Messages that are done and wait for nothing: settled together at the end of their batch.
struct Settled<'a> {
    receipts: Vec<Receipt>,
    permits: Permits,
    lanes: Vec<LaneKey>,
    handler_duration: Observer<'a>,
    delivery_latency: Observer<'a>,
}

impl<'a> Settled<'a> {
    fn new(runner: &'a Runner, messages: usize) -> Self {
        Self {
            receipts: Vec::with_capacity(messages),
            permits: Permits::default(),
            lanes: Vec::with_capacity(messages),
            handler_duration: Observer::new(&runner.handler_duration, messages),
            delivery_latency: Observer::new(&runner.delivery_latency, messages),
        }
    }
}

/// Workers share a histogram's counters, so a batch counts by itself first. That pays from some messages on.
enum Observer<'a> {
    Direct(&'a Histogram),
    Batch(LocalHistogram),
}

impl<'a> Observer<'a> {
    fn new(histogram: &'a Histogram, messages: usize) -> Self {
        if messages < 8 {
            Self::Direct(histogram)
        } else {
            Self::Batch(histogram.local())
        }
    }

    fn observe(&self, value: f64) {
        match self {
            Self::Direct(histogram) => histogram.observe(value),
            // Flushed when it is dropped.
            Self::Batch(histogram) => histogram.observe(value),
        }
    }
}

/// Permits of one batch, mostly of one source: given back at once.
#[derive(Default)]
struct Permits(Vec<OwnedSemaphorePermit>);

impl Permits {
    fn push(&mut self, permit: OwnedSemaphorePermit) {
        match self.0.last_mut() {
            Some(last) if Arc::ptr_eq(last.semaphore(), permit.semaphore()) => last.merge(permit),
            _ => self.0.push(permit),
        }
    }
}

/// A batch whose effects outlive the worker's turn.
struct Detached {
    runner: Arc<Runner>,
    route: Arc<Route>,
    version: Arc<dyn Version>,
}

impl Detached {
    fn view(&self) -> Batch<'_> {
        Batch {
            runner: &self.runner,
            route: &self.route,
            version: Arc::clone(&self.version),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_handlers_share_and_quick_ones_batch() {
        let slow = Some(Duration::from_millis(5));
        let quick = Some(Duration::from_micros(3));
        assert_eq!(share(25, 100, None), 25);
        assert_eq!(share(25, 100, slow), 25);
        assert_eq!(share(1, SINGLES, slow), 1);
        assert_eq!(share(3, 100, quick), 100);
        assert_eq!(share(1, 100, Some(Duration::from_micros(50))), 20);
        assert_eq!(share(0, 100, Some(Duration::ZERO)), 100);
        assert_eq!(share(500, 100, slow), 100);
    }
}
