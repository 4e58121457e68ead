//! What waits for the writer thread. No timer: the writer takes whatever is there when it comes back from a commit.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::guard;
use super::log::Topic;
use super::queue::Queue;
use super::row::Stored;
use crate::broker::{Confirmed, Destination, Error, PublishError};
use crate::model::UnixMs;

/// A commit takes at most so many messages, unless one publish brought more.
pub const BATCH_ROWS: usize = 1_024;
pub const BATCH_BYTES: usize = 1 << 20;
/// Acknowledgements per commit while publishes wait. Unbounded, 65,000 deletions were seen in one commit and publishers
/// waited for seconds.
pub const BATCH_ACKS: usize = 256;

pub enum Target {
    Queue(Arc<Queue>),
    /// Topic and partition index.
    Partition(Arc<Topic>, u32),
}

pub struct Entry {
    pub target: Target,
    pub priority: u8,
    pub not_before: Option<UnixMs>,
    pub stored: Stored,
}

pub type Confirms = Result<Vec<Confirmed>, PublishError>;

/// Messages that are committed together.
pub struct Job {
    pub entries: Vec<Entry>,
    pub bytes: usize,
    pub reply: oneshot::Sender<Confirms>,
    /// Room in the inbox, free again when the job is answered.
    pub _room: OwnedSemaphorePermit,
}

pub enum Control {
    Create(Destination, oneshot::Sender<Result<(), Error>>),
    /// A source with this window begins: what a crash may leave running is on disk before the first claim.
    WatchQueue(Arc<Queue>, usize, oneshot::Sender<Result<(), Error>>),
    WatchTopic(Arc<Topic>, u64, oneshot::Sender<Result<(), Error>>),
    /// Write everything, set the clean flag, leave.
    Close(oneshot::Sender<()>),
    #[cfg(test)]
    Sql(String, oneshot::Sender<()>),
}

#[derive(Default)]
pub struct Taken {
    pub jobs: Vec<Job>,
    pub acks: Vec<u64>,
    /// Partition number → position of our group.
    pub offsets: HashMap<u32, u64>,
    pub controls: Vec<Control>,
    /// Leave at once, write nothing.
    pub stop: bool,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    acks: VecDeque<u64>,
    offsets: HashMap<u32, u64>,
    controls: VecDeque<Control>,
    flushes: Vec<oneshot::Sender<()>>,
    stop: bool,
    /// No new jobs or controls.
    shut: bool,
    /// The writer sleeps; waking one that works costs a system call for nothing.
    asleep: bool,
}

#[derive(Default)]
pub struct Inbox {
    state: Mutex<State>,
    wake: Condvar,
}

impl Inbox {
    fn rouse(&self, mut state: MutexGuard<'_, State>) {
        let asleep = std::mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            self.wake.notify_one();
        }
    }

    /// Gives the job back when nobody will ever take it.
    pub fn publish(&self, job: Job) -> Result<(), Job> {
        let mut state = guard(&self.state);
        if state.shut {
            return Err(job);
        }
        state.jobs.push_back(job);
        self.rouse(state);
        Ok(())
    }

    pub fn control(&self, control: Control) -> Result<(), Control> {
        let mut state = guard(&self.state);
        if state.shut {
            return Err(control);
        }
        state.controls.push_back(control);
        self.rouse(state);
        Ok(())
    }

    pub fn ack(&self, key: u64) {
        let mut state = guard(&self.state);
        state.acks.push_back(key);
        self.rouse(state);
    }

    pub fn commit(&self, partition: u32, position: u64) {
        let mut state = guard(&self.state);
        let slot = state.offsets.entry(partition).or_insert(position);
        *slot = position.max(*slot);
        self.rouse(state);
    }

    /// Acknowledgements of a commit that failed wait for the next one.
    pub fn put_back(&self, acks: Vec<u64>, offsets: HashMap<u32, u64>) {
        let mut state = guard(&self.state);
        for key in acks.into_iter().rev() {
            state.acks.push_front(key);
        }
        for (partition, position) in offsets {
            let slot = state.offsets.entry(partition).or_insert(position);
            *slot = position.max(*slot);
        }
    }

    /// Answers when nothing that was acknowledged is left in the inbox.
    pub fn flush(&self, reply: oneshot::Sender<()>) {
        let mut state = guard(&self.state);
        if !state.shut {
            state.flushes.push(reply);
        }
        self.rouse(state);
    }

    /// To be called when the writer has nothing in hand.
    pub fn answer_flushes(&self) {
        let mut state = guard(&self.state);
        if state.acks.is_empty() && state.offsets.is_empty() {
            state.flushes.drain(..).for_each(|reply| {
                let _ = reply.send(());
            });
        }
    }

    pub fn stop(&self) {
        let mut state = guard(&self.state);
        state.stop = true;
        self.rouse(state);
    }

    /// Nothing new from now on. Returns what is in it, for the refusal.
    pub fn shut(&self) -> Vec<Job> {
        let mut state = guard(&self.state);
        state.shut = true;
        state.controls.clear();
        state.flushes.clear();
        state.jobs.drain(..).collect()
    }

    pub fn refuse_new(&self) {
        guard(&self.state).shut = true;
    }

    pub fn is_empty(&self) -> bool {
        let state = guard(&self.state);
        state.jobs.is_empty() && state.acks.is_empty() && state.offsets.is_empty()
    }

    /// Waits for work, at most `limit`. `settle`: also take acknowledgements.
    pub fn take(&self, limit: Duration, settle: bool) -> Taken {
        let mut state = guard(&self.state);
        let idle = |s: &State| {
            s.jobs.is_empty()
                && s.controls.is_empty()
                && !s.stop
                && (!settle || (s.acks.is_empty() && s.offsets.is_empty() && s.flushes.is_empty()))
        };
        if idle(&state) {
            (state, _) = self
                .wake
                .wait_timeout_while(state, limit, |s| {
                    s.asleep = idle(s);
                    s.asleep
                })
                .unwrap_or_else(PoisonError::into_inner);
            state.asleep = false;
        }
        let mut taken = Taken {
            stop: state.stop,
            controls: state.controls.drain(..).collect(),
            ..Taken::default()
        };
        let (mut rows, mut bytes) = (0, 0);
        while let Some(job) = state.jobs.front() {
            if rows > 0 && (rows + job.entries.len() > BATCH_ROWS || bytes + job.bytes > BATCH_BYTES) {
                break;
            }
            rows += job.entries.len();
            bytes += job.bytes;
            taken.jobs.extend(state.jobs.pop_front());
        }
        if settle {
            // As many deletions as insertions, or a queue that is consumed as fast as it is filled would grow.
            let most = if rows == 0 {
                BATCH_ROWS
            } else {
                BATCH_ACKS.max(rows)
            };
            let most = most.min(state.acks.len());
            taken.acks = state.acks.drain(..most).collect();
            taken.offsets = std::mem::take(&mut state.offsets);
        }
        taken
    }
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
