//! Runs jobs: takes one under a lease, sends or discards its letters, and goes on with it after a crash.
//!
//! What is done is in the store with the letter, so a host that takes the job over begins where the other stopped. While
//! the store or a broker is away the job waits; a letter gets a result only when something became of it.

mod flight;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use self::flight::Landing;
use super::job::{Course, Lane, Limits};
use super::pace::Pace;
use super::redrive::Redrive;
use crate::model::{Clock, DeadLetter, Ids};
use crate::store::{Job, JobState, Jobs, Standing};
use crate::telemetry::Metrics;

/// Jobs that one host runs at a time; more wait.
const AT_A_TIME: usize = 8;
/// Of one job. The store and the embedded broker write what comes together with one fsync, so that many at a time cost little
/// more than one: 512 are two transactions of the store, one that begins letters and one that ends others.
const LIMITS: Limits = Limits {
    under_way: 512,
    waiting: 1_000,
    bytes: 64 * 1024 * 1024,
};
/// Renewed three times before it ends.
const LEASE: Duration = Duration::from_secs(30);
/// For jobs that other hosts made or let go of; those made here are told of.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A letter that somebody else is sending right now is looked at again after this.
const BUSY: Duration = Duration::from_secs(2);
/// While a broker or the store is away: doubled each time, up to the last.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

pub struct Runner {
    pub jobs: Arc<dyn Jobs>,
    pub redrive: Arc<Redrive>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub metrics: Arc<Metrics>,
    /// All that wait are woken when somebody made a job, or cancelled one.
    pub nudge: Arc<Notify>,
    /// Cancelled first of all when the host stops: brokers are still there to finish what is under way.
    pub stop: CancellationToken,
    /// Cancelled here when nothing is under way any more.
    pub idle: CancellationToken,
}

impl Runner {
    /// Runs until `stop`, then until what is under way has ended.
    ///
    /// # Errors
    /// Never: a store that cannot be asked is asked again.
    pub async fn run(self) -> Result<(), String> {
        let runner = Arc::new(self);
        let _idle = runner.idle.clone().drop_guard();
        let mut running: JoinSet<()> = JoinSet::new();
        while !runner.stop.is_cancelled() {
            while running.len() < AT_A_TIME {
                let holder = runner.ids.next();
                match runner.jobs.take(&holder, LEASE).await {
                    Ok(Some(job)) => {
                        running.spawn(Arc::clone(&runner).guard(job, holder));
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(%error, "cannot look for jobs over dead letters");
                        break;
                    }
                }
            }
            tokio::select! {
                () = runner.stop.cancelled() => {}
                () = runner.nudge.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                Some(_) = running.join_next() => {}
            }
        }
        while running.join_next().await.is_some() {}
        Ok(())
    }

    /// A job that panics is failed, and no other.
    async fn guard(self: Arc<Self>, job: Job, holder: String) {
        let (number, id) = (job.number, job.id.clone());
        self.metrics.dlq_jobs_active.inc();
        // Within a task of its own, which ends with this one.
        let mut inside = JoinSet::new();
        if job.state == JobState::Preparing {
            inside.spawn(prepare(Arc::clone(&self), job, holder.clone()));
        } else {
            inside.spawn(Run::new(Arc::clone(&self), job, holder.clone()).drive());
        }
        let ended = inside.join_next().await;
        self.metrics.dlq_jobs_active.dec();
        if let Some(Err(error)) = ended
            && error.is_panic()
        {
            tracing::error!(job = %id, %error, "a job over dead letters broke; its letters are what its results say");
            let why = "the host could not run it; see its log".to_owned();
            if let Err(error) = self.jobs.end(number, &holder, Some(why)).await {
                tracing::warn!(job = %id, %error, "that a job failed cannot be recorded; it is taken up again when its lease ends");
            }
        }
    }
}

/// Writes the letters of a job down until all are. It is taken once more then, to be run: by this host or another one.
async fn prepare(runner: Arc<Runner>, job: Job, holder: String) {
    tracing::info!(job = %job.id, letters = job.total, "the letters of a job are being written down");
    let mut renew_at = runner.clock.instant() + LEASE / 3;
    let mut failures = 0;
    while !runner.stop.is_cancelled() {
        match runner.jobs.prepare(job.number).await {
            Ok(Some(now)) if now.state == JobState::Preparing => failures = 0,
            Ok(_) => return,
            Err(error) => {
                tracing::debug!(job = %job.id, %error, "the letters of a job cannot be written down");
                let (first, most) = BACK_OFF;
                let pause = first
                    .saturating_mul(1 << failures.min(16))
                    .min(most.min(LEASE / 3));
                failures += 1;
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = runner.stop.cancelled() => {}
                }
            }
        }
        let now = runner.clock.instant();
        if now >= renew_at {
            renew_at = now + LEASE / 3;
            // Two that do it are in each other's way, and no worse.
            if let Ok(false) = runner.jobs.renew(job.number, &holder, LEASE, None).await {
                return;
            }
        }
    }
    if let Err(error) = runner.jobs.let_go(job.number, &holder).await {
        tracing::warn!(job = %job.id, %error, "the job is taken up again when its lease ends");
    }
}

/// One job on this host.
struct Run {
    runner: Arc<Runner>,
    job: Arc<Job>,
    holder: String,
    course: Course,
    pace: Option<Pace>,
    letters: HashMap<u64, Standing>,
    flights: JoinSet<(u64, Landing)>,
    /// Nothing is begun before then.
    paused_until: Option<Instant>,
    /// Pauses in a row.
    pauses: u32,
    /// Why it does not go on, as people are told.
    trouble: Option<String>,
    told: Option<String>,
    renew_at: Instant,
    /// Cancelled, or another host has it.
    lost: bool,
    done: u64,
}

impl Run {
    fn new(runner: Arc<Runner>, job: Job, holder: String) -> Self {
        let now = runner.clock.instant();
        Self {
            course: Course::new(LIMITS),
            pace: job.rate.map(Pace::new),
            letters: HashMap::new(),
            flights: JoinSet::new(),
            paused_until: None,
            pauses: 0,
            trouble: None,
            told: None,
            renew_at: now + LEASE / 3,
            lost: false,
            done: 0,
            job: Arc::new(job),
            holder,
            runner,
        }
    }

    async fn drive(mut self) {
        tracing::info!(job = %self.job.id, action = self.job.action.as_str(), letters = self.job.total, "job over dead letters runs");
        loop {
            if self.runner.stop.is_cancelled() {
                self.course.stop();
            }
            self.read().await;
            let wait = self.begin();
            if self.course.is_over() {
                if self.over().await {
                    return;
                }
                continue;
            }
            let stopping = self.course.is_stopped();
            tokio::select! {
                Some(landed) = self.flights.join_next() => self.land(landed),
                () = tokio::time::sleep(wait) => {}
                () = self.runner.stop.cancelled(), if !stopping => {}
                // Perhaps it is this one that was cancelled.
                () = self.runner.nudge.notified() => self.renew_at = self.runner.clock.instant(),
            }
            // All that landed meanwhile, so that what follows is decided once for them.
            while let Some(landed) = self.flights.try_join_next() {
                self.land(landed);
            }
            self.renew().await;
        }
    }

    async fn read(&mut self) {
        let now = self.runner.clock.instant();
        if self.paused_until.is_some_and(|until| until > now) {
            return;
        }
        let Some((after, limit)) = self.course.wants() else {
            return;
        };
        match self.runner.jobs.standing(self.job.number, after, limit).await {
            Ok(standing) => {
                if standing.len() < limit {
                    self.course.all_read();
                }
                for letter in standing {
                    let bytes = letter.letter.as_ref().map_or(0, |letter| letter.raw.size());
                    let lane = letter.letter.as_ref().and_then(lane);
                    self.course.add(letter.place, lane, bytes);
                    self.letters.insert(letter.place, letter);
                }
            }
            Err(error) => self.pause(format!("the store cannot be read: {error}")),
        }
    }

    /// Begins what may; how long to wait for when nothing lands.
    fn begin(&mut self) -> Duration {
        loop {
            let now = self.runner.clock.instant();
            let until = |at: Instant| at.saturating_duration_since(now);
            let at_most = until(self.renew_at);
            if let Some(paused) = self.paused_until.filter(|at| *at > now) {
                return until(paused).min(at_most);
            }
            let Some(place) = self.course.ready(now) else {
                return self.course.wake_at().map_or(at_most, |at| until(at).min(at_most));
            };
            if let Some(wait) = self.pace.as_ref().and_then(|pace| pace.wait(now)) {
                return wait.min(at_most);
            }
            let Some(standing) = self.letters.remove(&place) else {
                return at_most;
            };
            if !self.course.start(place) {
                return at_most;
            }
            if let Some(pace) = &mut self.pace {
                pace.took(now);
            }
            let flight = flight::Flight {
                runner: Arc::clone(&self.runner),
                job: Arc::clone(&self.job),
                holder: self.holder.clone(),
                standing,
            };
            self.flights.spawn(async move { (place, flight.fly().await) });
        }
    }

    fn land(&mut self, landed: Result<(u64, Landing), JoinError>) {
        let now = self.runner.clock.instant();
        let (place, landing) = match landed {
            Ok(landed) => landed,
            // The whole job breaks with it: which letter it was is not known here.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        match landing {
            Landing::Ended(ending) => {
                self.course.ended(place);
                self.done += 1;
                (self.pauses, self.trouble, self.paused_until) = (0, None, None);
                let labels = [self.job.action.as_str(), ending.as_str()];
                self.runner
                    .metrics
                    .dlq_job_letters
                    .with_label_values(&labels)
                    .inc();
            }
            Landing::Had => self.course.ended(place),
            Landing::Busy(standing) => {
                self.course.again(place, now + BUSY);
                self.letters.insert(place, *standing);
            }
            Landing::Away(standing, why) => {
                self.course.again(place, now);
                self.letters.insert(place, *standing);
                self.pause(why);
            }
            Landing::Stopped => {
                self.course.ended(place);
                self.lost = true;
                self.course.stop();
            }
        }
    }

    /// Once for all that failed together.
    fn pause(&mut self, why: String) {
        let now = self.runner.clock.instant();
        self.trouble = Some(why);
        if self.paused_until.is_none_or(|until| until <= now) {
            let (first, most) = BACK_OFF;
            let pause = first.saturating_mul(1 << self.pauses.min(16)).min(most);
            self.pauses += 1;
            self.paused_until = Some(now + pause);
        }
    }

    async fn renew(&mut self) {
        let now = self.runner.clock.instant();
        let news = self.trouble.is_some() != self.told.is_some();
        if self.lost || (now < self.renew_at && !news) {
            return;
        }
        self.renew_at = now + LEASE / 3;
        let (number, trouble) = (self.job.number, self.trouble.clone());
        match self
            .runner
            .jobs
            .renew(number, &self.holder, LEASE, trouble.clone())
            .await
        {
            Ok(true) => self.told = trouble,
            Ok(false) => {
                self.lost = true;
                self.course.stop();
            }
            // Whoever takes it when the lease has ended keeps this one from beginning anything.
            Err(error) => tracing::debug!(job = %self.job.id, %error, "the lease of a job cannot be renewed"),
        }
    }

    /// Nothing is under way. False: there is more to do, later.
    async fn over(&mut self) -> bool {
        let (id, number, done) = (&self.job.id, self.job.number, self.done);
        if self.lost {
            tracing::info!(job = %id, letters = done, "job over dead letters was stopped");
            return true;
        }
        if self.course.is_stopped() {
            tracing::info!(job = %id, letters = done, "job over dead letters is let go, the host stops");
            if let Err(error) = self.runner.jobs.let_go(number, &self.holder).await {
                tracing::warn!(job = %id, %error, "the job is taken up again when its lease ends");
            }
            return true;
        }
        match self.runner.jobs.end(number, &self.holder, None).await {
            Ok(completed) => {
                if completed {
                    tracing::info!(job = %id, letters = done, "job over dead letters is completed");
                }
                true
            }
            Err(error) => {
                self.pause(format!("its end cannot be recorded: {error}"));
                let (pause, most) = BACK_OFF;
                tokio::select! {
                    () = tokio::time::sleep(pause.saturating_mul(1 << self.pauses.min(16)).min(most)) => {}
                    () = self.runner.stop.cancelled() => self.course.stop(),
                }
                false
            }
        }
    }
}

/// Of what has no key none waits for another.
pub(super) fn lane(letter: &DeadLetter) -> Option<Lane> {
    let key = letter.raw.key.as_deref()?;
    let place = letter.route.as_deref().unwrap_or(&letter.raw.origin.destination);
    let mut lane = Vec::with_capacity(place.len() + 1 + key.len());
    lane.extend_from_slice(place.as_bytes());
    // In no name.
    lane.push(0);
    lane.extend_from_slice(key);
    Some(lane)
}

#[cfg(test)]
mod tests;
