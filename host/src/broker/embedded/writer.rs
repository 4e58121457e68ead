//! The one thread that writes: takes what waits, commits it with one fsync, confirms, and starts over.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};

use super::batch::{self, Context};
use super::inbox::{Control, Job, Taken};
use super::queue::Queue;
use super::{Core, housekeeping, schema, topology};
use crate::broker::{Error, Health, PublishError};
use crate::error::BROKER_STORAGE;
use crate::model::UnixMs;

/// While delayed tasks wait, the clock is looked at this often; a wall clock may jump.
const DELAY_POLL: Duration = Duration::from_millis(100);
/// Retention is looked at this often.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Under publishes without a pause, retention gets its turn after so long.
const HOUSEKEEPING_OVERDUE: Duration = Duration::from_secs(1);
/// After a full disk, acknowledgements are tried again after so long.
const FULL_PAUSE: Duration = Duration::from_millis(250);

pub struct Writer {
    core: Arc<Core>,
    db: Connection,
    queues: HashMap<u16, Arc<Queue>>,
    partitions: HashMap<u32, (Arc<super::log::Topic>, u32)>,
    next_due: Option<UnixMs>,
    delayed_seq: u64,
    next_housekeeping: Instant,
    settle_after: Instant,
    /// Held as long as the thread lives.
    _lock: File,
}

/// How a transaction ended that did not commit.
enum Fate {
    /// Rolled back; nothing of it is stored. Worth another try.
    RolledBack(PublishError),
    /// Nobody knows what is on disk. The writer has to stop.
    Broken(String),
}

impl Writer {
    pub fn new(core: Arc<Core>, db: Connection, lock: File) -> rusqlite::Result<Self> {
        let now = Instant::now();
        let (next_due, delayed_seq) = (batch::next_due(&db)?, batch::last_delayed(&db)?);
        let mut writer = Self {
            core,
            db,
            queues: HashMap::new(),
            partitions: HashMap::new(),
            next_due,
            delayed_seq,
            next_housekeeping: now,
            settle_after: now,
            _lock: lock,
        };
        writer.index();
        Ok(writer)
    }

    pub fn run(mut self) {
        let stopped = StopOnDrop(Arc::clone(&self.core));
        match self.work() {
            Ok(()) => self.core.closed(),
            Err(reason) => self.core.failed(&reason),
        }
        drop(self);
        drop(stopped);
    }

    /// Err: why nothing can be written any more.
    fn work(&mut self) -> Result<(), String> {
        let core = Arc::clone(&self.core);
        let mut closing = None;
        loop {
            let settle = closing.is_some() || Instant::now() >= self.settle_after;
            let limit = if closing.is_some() {
                Duration::ZERO
            } else {
                self.patience()
            };
            let mut taken = core.inbox.take(limit, settle);
            if taken.stop {
                return Ok(());
            }
            for control in std::mem::take(&mut taken.controls) {
                if let Control::Close(reply) = control {
                    core.inbox.refuse_new();
                    closing = Some(reply);
                } else {
                    self.control(control)?;
                }
            }
            let quiet = taken.jobs.is_empty();
            let done = self.commit(taken, settle)?;
            if closing.is_some() && (!done || core.inbox.is_empty()) {
                break;
            }
            core.inbox.answer_flushes();
            self.housekeeping(quiet)?;
            self.checkpoint()?;
        }
        let clean = core.inbox.is_empty() && !core.has_unsettled_runs();
        if !clean {
            tracing::info!(broker = %core.name, "closed before all that ran was settled; it is delivered again, flagged as redelivered");
        }
        housekeeping::finish(&self.db, clean).map_err(|e| schema::cause(&e))?;
        if let Some(reply) = closing {
            let _ = reply.send(());
        }
        Ok(())
    }

    fn patience(&self) -> Duration {
        let now = Instant::now();
        let patience = self.next_housekeeping.saturating_duration_since(now);
        if self.settle_after > now {
            return patience.max(DELAY_POLL).min(self.settle_after - now);
        }
        match self.next_due {
            Some(due) => {
                let wait = Duration::from_millis(due.saturating_sub(self.core.clock.now_ms()));
                patience.min(wait).min(DELAY_POLL)
            }
            None => patience,
        }
    }

    /// True unless it was rolled back. `settle`: the last rollback is long enough ago for more than publishes.
    fn commit(&mut self, taken: Taken, settle: bool) -> Result<bool, String> {
        let Taken {
            jobs,
            mut acks,
            offsets,
            ..
        } = taken;
        let now = self.core.clock.now_ms();
        let due = settle && self.next_due.is_some_and(|due| due <= now);
        if jobs.is_empty() && acks.is_empty() && offsets.is_empty() && !due {
            return Ok(true);
        }
        match self.transaction(&jobs, &mut acks, &offsets, now, due) {
            Ok(effects) => {
                self.delayed_seq = effects.delayed_seq;
                if let Some(at) = effects.delayed_due {
                    self.next_due = Some(self.next_due.map_or(at, |other| other.min(at)));
                }
                self.core.commits.fetch_add(1, Ordering::Relaxed);
                self.core.set_health(Health::Up);
                effects.publish();
                for (partition, position) in &offsets {
                    if let Some((topic, index)) = self.partitions.get(partition)
                        && let Some(p) = topic.at(*index)
                    {
                        p.committed.store(*position, Ordering::Release);
                        topic.ready.notify_waiters();
                    }
                }
                for (job, confirms) in jobs.into_iter().zip(effects.confirms) {
                    let _ = job.reply.send(Ok(confirms));
                }
                if due {
                    self.next_due = batch::next_due(&self.db).map_err(|e| schema::cause(&e))?;
                }
                Ok(true)
            }
            Err(Fate::RolledBack(error)) => {
                self.core.set_health(Health::Degraded {
                    reason: error.to_string(),
                });
                self.core.inbox.put_back(acks, offsets);
                self.settle_after = Instant::now() + FULL_PAUSE;
                refuse(jobs, &error);
                Ok(false)
            }
            Err(Fate::Broken(reason)) => {
                refuse(jobs, &PublishError::Unknown(reason.clone()));
                Err(reason)
            }
        }
    }

    fn transaction(
        &self,
        jobs: &[Job],
        acks: &mut [u64],
        offsets: &HashMap<u32, u64>,
        now: UnixMs,
        due: bool,
    ) -> Result<batch::Effects, Fate> {
        let context = Context {
            db: &self.db,
            group: &self.core.group,
            now,
            queues: &self.queues,
        };
        let mut run = || {
            self.db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
            let effects = context.run(jobs, acks, offsets, self.delayed_seq, due)?;
            self.db.prepare_cached("COMMIT")?.execute([])?;
            Ok(effects)
        };
        run().map_err(|error: rusqlite::Error| self.roll_back(&error))
    }

    /// What an error means, after the transaction is gone.
    fn roll_back(&self, error: &rusqlite::Error) -> Fate {
        let gone = self.db.is_autocommit() || self.db.execute_batch("ROLLBACK").is_ok();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) if gone => {
                Fate::RolledBack(PublishError::Full(self.core.file.display().to_string()))
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) if gone => {
                let why = format!("{} is locked by another program", self.core.file.display());
                Fate::RolledBack(PublishError::Unavailable(why))
            }
            _ => Fate::Broken(schema::cause(error)),
        }
    }

    fn control(&mut self, control: Control) -> Result<(), String> {
        match control {
            Control::Create(want, reply) => {
                let result = topology::create(&self.db, &self.core, &want);
                self.index();
                let _ = reply.send(self.settled(result)?);
            }
            Control::WatchQueue(queue, window, reply) => {
                let result = housekeeping::watch_queue(&self.db, queue.no, window);
                let _ = reply.send(self.settled(result)?);
            }
            Control::WatchTopic(topic, span, reply) => {
                let result = housekeeping::watch_topic(&self.db, &self.core.group, &topic, span);
                let _ = reply.send(self.settled(result)?);
            }
            Control::Close(_) => {}
            #[cfg(test)]
            Control::Sql(text, reply) => {
                let _ = self.db.execute_batch(&text);
                let _ = reply.send(());
            }
        }
        Ok(())
    }

    /// Outer error: the writer has to stop.
    fn settled(&self, result: rusqlite::Result<()>) -> Result<Result<(), Error>, String> {
        match result.map_err(|error| self.roll_back(&error)) {
            Ok(()) => Ok(Ok(())),
            Err(Fate::RolledBack(why)) => Ok(Err(Error::Storage(format!("{BROKER_STORAGE} {why}")))),
            Err(Fate::Broken(why)) => Err(why),
        }
    }

    fn index(&mut self) {
        let catalog = self.core.catalog();
        self.queues = catalog.queues.values().map(|q| (q.no, Arc::clone(q))).collect();
        self.partitions.clear();
        for topic in catalog.topics.values() {
            for (index, partition) in (0u32..).zip(&topic.partitions) {
                self.partitions.insert(partition.no, (Arc::clone(topic), index));
            }
        }
    }

    /// One slice of retention. While it is behind it gets one slice per batch, so that it deletes about as fast as
    /// publishers append.
    fn housekeeping(&mut self, quiet: bool) -> Result<(), String> {
        let now = Instant::now();
        if now < self.next_housekeeping || !(quiet || now >= self.next_housekeeping + HOUSEKEEPING_OVERDUE) {
            return Ok(());
        }
        let topics: Vec<_> = self.core.catalog().topics.values().cloned().collect();
        match housekeeping::retain(&self.db, &topics, self.core.clock.now_ms()) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => {
                if let Fate::Broken(reason) = self.roll_back(&error) {
                    return Err(reason);
                }
            }
        }
        self.next_housekeeping = now + HOUSEKEEPING;
        Ok(())
    }

    /// Err: the disk failed. A sync is never tried twice: what it should have written may be lost although it reads back.
    fn checkpoint(&self) -> Result<(), String> {
        match housekeeping::checkpoint(&self.db).map_err(|error| self.roll_back(&error)) {
            Ok(()) => Ok(()),
            Err(Fate::Broken(reason)) => Err(reason),
            // Without room in the file it goes on after a later commit.
            Err(Fate::RolledBack(error)) => {
                tracing::debug!(%error, "checkpoint of the embedded broker put off");
                Ok(())
            }
        }
    }
}

fn refuse(jobs: Vec<Job>, error: &PublishError) {
    for job in jobs {
        let _ = job.reply.send(Err(error.clone()));
    }
}

/// A panic of the writer must not leave publishers waiting.
struct StopOnDrop(Arc<Core>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.failed("the writer thread ended unexpectedly");
        refuse(
            self.0.inbox.shut(),
            &PublishError::Unavailable("the embedded broker has stopped".into()),
        );
    }
}
