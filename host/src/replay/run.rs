//! Runs one replay: reads ahead while a batch is confirmed, writes the checkpoint, keeps the pace and the lease.

mod hand;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::job::{Batch, Job, Read};
use super::pace::{Meter, Pace};
use super::{Desk, Place};
use crate::broker::{Confirmed, Error, PublishError, Replica, Scan};
use crate::model::{RawMessage, Replay, ReplayStatus};
use crate::planted::{self, Bug};
use crate::store::Hold;
use crate::telemetry::logs::printable;

/// How long another host waits for a sign of life.
pub(super) const LEASE: Duration = Duration::from_secs(30);
/// A lease this old is renewed before anything is sent, and while there is nothing to record.
const RENEW: Duration = Duration::from_secs(10);
/// While broker or store are away: first and longest pause.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A source that was there is gone when its broker has said so for that long: a Kafka broker that just started does not know its topics
/// for a moment. (Its producer is as patient by itself: `topic.metadata.propagation.max.ms`.)
const GONE: Duration = if cfg!(test) {
    Duration::from_secs(1)
} else {
    Duration::from_secs(30)
};
/// So long one lies that waits for a route, before this host, or another one that has the route, looks again.
const LIE: Duration = Duration::from_secs(2);
/// A host that stops waits so long for the confirms of a batch; without them it is sent again.
const LAST_CONFIRMS: Duration = Duration::from_secs(3);

/// Why it goes no further here.
#[derive(Debug)]
enum End {
    Completed,
    /// For good, with the reason.
    Failed(String),
    Cancelled,
    /// Somebody else has it.
    Lost,
    /// The host stops.
    Stopped,
    /// The route or its plugin is not there, on this host.
    Waits(String),
}

pub(super) async fn run_one(desk: Arc<Desk>, replay: Replay, holder: String, stop: CancellationToken) {
    desk.metrics.replay_active.inc();
    let id = replay.id.clone();
    let shown = printable(&id);
    if replay.progress.done() > 0 && replay.progress.error.is_none() {
        tracing::info!(replay = %shown, done = replay.progress.done(), total = replay.total(), "replay goes on from its checkpoint");
    }
    let now = desk.clock.instant();
    let mut run = Run {
        pace: Pace::new(&replay.plan.options, now),
        meter: Meter::new(now, replay.progress.done()),
        job: Job::new(replay),
        id,
        holder,
        recorded: now,
        stop,
        desk,
    };
    let end = run.run_out().await;
    let progress = run.job.progress();
    match &end {
        End::Completed => {
            tracing::info!(replay = %shown, replayed = progress.replayed, skipped = progress.skipped, failed = progress.failed, "replay completed");
        }
        End::Failed(reason) => {
            tracing::error!(replay = %shown, %reason, done = progress.done(), "replay failed; repair what the reason names and ask for the rest again");
        }
        End::Cancelled => {
            tracing::info!(replay = %shown, done = progress.done(), "replay stopped, it was cancelled");
        }
        End::Lost => tracing::warn!(replay = %shown, "another host has the replay now"),
        End::Waits(reason) => run.lie(reason).await,
        End::Stopped => {
            if let Err(error) = run.desk.store.give_back(&run.id, &run.holder).await {
                tracing::warn!(replay = %shown, %error, "the replay goes on elsewhere when its lease has run out");
            }
        }
    }
    run.desk.metrics.replay_active.dec();
}

/// How a batch went out.
enum Sent {
    /// To a topic; the refusals.
    Copied(Vec<PublishError>),
    /// To a route.
    Handed(hand::Back),
}

struct Run {
    desk: Arc<Desk>,
    job: Job,
    id: String,
    holder: String,
    /// When the lease began, or a little before.
    recorded: Instant,
    pace: Pace,
    meter: Meter,
    stop: CancellationToken,
}

impl Run {
    async fn run_out(&mut self) -> End {
        match self.go().await {
            Ok(()) => self.finish(ReplayStatus::Completed, End::Completed).await,
            Err(End::Failed(reason)) => {
                self.job.progress_mut().error = Some(reason.clone());
                self.finish(ReplayStatus::Failed, End::Failed(reason)).await
            }
            Err(end) => end,
        }
    }

    fn place(&self) -> Result<&Place, End> {
        let broker = self.job.plan().broker.as_deref();
        self.desk.place(broker).ok_or_else(|| match broker {
            // Another host may have it.
            Some(name) => End::Waits(format!(
                "this host has no broker `{name}` that can read a topic again; add it again, or cancel the replay"
            )),
            None => End::Failed("the broker of events cannot read a topic again".to_owned()),
        })
    }

    async fn go(&mut self) -> Result<(), End> {
        let scan = Arc::clone(&self.place()?.scan);
        let mut ahead = None;
        while let Some(read) = self.job.next() {
            let messages = match ahead.take() {
                Some(messages) => messages,
                None => self.read(&*scan, read).await?,
            };
            let batch = self.job.sift(read, messages, self.desk.clock.now_ms());
            self.wait().await?;
            let following = self.job.after(&batch);
            if planted::is(Bug::CheckpointBeforeConfirm) {
                let copies = batch.send.clone();
                self.settled(batch, &[]).await?;
                self.sleep(planted::PAUSE).await;
                self.send(&copies).await?;
                continue;
            }
            let topic = self.job.plan().topic.clone();
            let stop = self.stop.clone();
            let (sent, found) = tokio::join!(self.deliver(&batch.send), async {
                let read = following?;
                tokio::select! {
                    // An error is met again, and told, when it is this one's turn.
                    found = get(&*scan, &topic, read) => found.ok(),
                    () = stop.cancelled() => None,
                }
            });
            let sent = sent?;
            ahead = found;
            match sent {
                Sent::Copied(refused) => self.settled(batch, &refused).await?,
                Sent::Handed(handed) => self.handed(batch, handed).await?,
            }
        }
        Ok(())
    }

    /// To the topic or the route.
    async fn deliver(&mut self, batch: &[Replica]) -> Result<Sent, End> {
        match self.job.plan().route.clone() {
            None => self.send(batch).await.map(Sent::Copied),
            Some(route) => self.hand_over(route, batch).await.map(Sent::Handed),
        }
    }

    async fn settled(&mut self, batch: Batch, refused: &[PublishError]) -> Result<(), End> {
        let sent = batch.send.len();
        let (done, failed) = ((sent - refused.len()) as u64, refused.len() as u64);
        self.count(done, failed, batch.skipped());
        self.job.settled(batch, refused);
        self.went_on(sent).await
    }

    fn count(&self, done: u64, failed: u64, skipped: u64) {
        for (result, messages) in [("sent", done), ("failed", failed), ("skipped", skipped)] {
            let counter = &self.desk.metrics.replay_messages;
            counter.with_label_values(&[result]).inc_by(messages);
        }
    }

    async fn went_on(&mut self, sent: usize) -> Result<(), End> {
        let now = self.desk.clock.instant();
        self.pace.sent(sent, now);
        if self.job.progress().failed == 0 {
            self.job.progress_mut().error = None;
        }
        let rate = self.meter.rate_milli(now, self.job.progress().done());
        self.job.progress_mut().rate_milli = rate;
        self.record().await
    }

    /// Until the next batch may go out; afterwards it is certain that it is ours and was not cancelled.
    async fn wait(&mut self) -> Result<(), End> {
        let mut waited = false;
        loop {
            if self.stop.is_cancelled() {
                return Err(End::Stopped);
            }
            let now = self.desk.clock.instant();
            let age = now.saturating_duration_since(self.recorded);
            if age >= RENEW {
                self.record().await?;
                continue;
            }
            let wait = self.pace.wait(now);
            if wait.is_zero() {
                break;
            }
            waited = true;
            self.sleep(wait.min(RENEW.saturating_sub(age))).await;
        }
        if waited {
            return match self.desk.store.holds(&self.id, &self.holder).await {
                // A store that cannot be asked is no reason to stop: the lease says how long it is ours.
                Ok(Hold::Ours) | Err(_) => Ok(()),
                Ok(Hold::Cancelled) => Err(End::Cancelled),
                Ok(Hold::Lost) => Err(End::Lost),
            };
        }
        Ok(())
    }

    /// Returns early when the host stops.
    async fn sleep(&self, how_long: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(how_long) => {}
        }
    }

    /// Writes the checkpoint down, for as long as that takes.
    async fn record(&mut self) -> Result<(), End> {
        let mut pause = PAUSE;
        loop {
            // Taken before, so that the lease is never believed to be longer than it is.
            let now = self.desk.clock.instant();
            let progress = self.job.progress();
            match self
                .desk
                .store
                .record(&self.id, &self.holder, LEASE, progress)
                .await
            {
                Ok(Hold::Ours) => {
                    self.recorded = now;
                    return Ok(());
                }
                Ok(Hold::Cancelled) => return Err(End::Cancelled),
                Ok(Hold::Lost) => return Err(End::Lost),
                Err(error) => {
                    tracing::debug!(replay = %printable(&self.id), %error, "the checkpoint of a replay cannot be written");
                }
            }
            self.sleep(pause).await;
            if self.stop.is_cancelled() {
                return Err(End::Stopped);
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn finish(&mut self, status: ReplayStatus, end: End) -> End {
        let mut pause = PAUSE;
        loop {
            let store = &self.desk.store;
            match store
                .finish(&self.id, &self.holder, status, self.job.progress())
                .await
            {
                Ok(Hold::Ours) => return end,
                Ok(Hold::Cancelled) => return End::Cancelled,
                Ok(Hold::Lost) => return End::Lost,
                Err(error) => {
                    tracing::debug!(replay = %printable(&self.id), %error, "the end of a replay cannot be written");
                }
            }
            self.sleep(pause).await;
            if self.stop.is_cancelled() {
                return End::Stopped;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Until the broker has answered.
    async fn read(&mut self, scan: &dyn Scan, read: Read) -> Result<Vec<RawMessage>, End> {
        let mut pause = PAUSE;
        let topic = self.job.plan().topic.clone();
        let mut missing_since = None;
        loop {
            let found = tokio::select! {
                found = get(scan, &topic, read) => found,
                () = self.stop.cancelled() => return Err(End::Stopped),
            };
            let error = match found {
                Ok(messages) => return Ok(messages),
                Err(error @ Error::Unsupported(_)) => {
                    return Err(End::Failed(format!("the source is gone: {error}")));
                }
                Err(error @ Error::UnknownDestination(_)) => {
                    let now = self.desk.clock.instant();
                    let since = *missing_since.get_or_insert(now);
                    if now.saturating_duration_since(since) >= GONE {
                        return Err(End::Failed(format!("the source is gone: {error}")));
                    }
                    error.to_string()
                }
                Err(error) => {
                    missing_since = None;
                    error.to_string()
                }
            };
            self.away(&error, &mut pause).await?;
        }
    }

    /// Tells what is wrong where people look, and waits.
    async fn away(&mut self, error: &str, pause: &mut Duration) -> Result<(), End> {
        if self.stop.is_cancelled() {
            return Err(End::Stopped);
        }
        if self.job.progress().error.as_deref() != Some(error) {
            tracing::warn!(replay = %printable(&self.id), %error, "the replay waits for its broker; it goes on by itself");
            self.job.progress_mut().error = Some(error.to_owned());
        }
        self.record().await?;
        self.sleep(*pause).await;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    /// Until all are confirmed or refused for good; the refusals.
    async fn send(&mut self, all: &[Replica]) -> Result<Vec<PublishError>, End> {
        let (mut refused, mut pause) = (Vec::new(), PAUSE);
        let mut left: Vec<Replica> = Vec::new();
        let mut first = true;
        loop {
            let now = if first { all } else { &left };
            if now.is_empty() {
                return Ok(refused);
            }
            let results = self.publish(now).await?;
            let mut why = None;
            let mut again = Vec::new();
            for (replica, result) in now.iter().zip(results) {
                match result {
                    // Behind one that has to be sent again everything is, or messages of one key would change places.
                    _ if why.is_some() && self.job.plan().options.preserve_order => {
                        again.push(replica.clone());
                    }
                    Ok(_) => {}
                    Err(PublishError::UnknownTarget(name)) => {
                        return Err(End::Failed(format!("the target `{name}` is gone")));
                    }
                    Err(error) if error.is_transient() => {
                        why = Some(error);
                        again.push(replica.clone());
                    }
                    Err(error) => refused.push(error),
                }
            }
            (left, first) = (again, false);
            if let Some(error) = why {
                self.away(&error.to_string(), &mut pause).await?;
                if self.stop.is_cancelled() {
                    return Err(End::Stopped);
                }
            }
        }
    }

    async fn publish(&self, batch: &[Replica]) -> Result<Vec<Result<Confirmed, PublishError>>, End> {
        let publisher = Arc::clone(&self.place()?.publisher);
        let target: Arc<str> = self.job.plan().target.as_str().into();
        let too_late = async {
            self.stop.cancelled().await;
            tokio::time::sleep(LAST_CONFIRMS).await;
        };
        tokio::select! {
            results = publisher.copy(&target, batch) => Ok(results),
            () = too_late => Err(End::Stopped),
        }
    }
}

async fn get(scan: &dyn Scan, topic: &str, read: Read) -> Result<Vec<RawMessage>, Error> {
    scan.read(topic, read.partition, read.from, read.max).await
}

#[cfg(test)]
mod tests;
