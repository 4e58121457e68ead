//! The seam to jobs that send many dead letters again, or discard them.
//!
//! Which letters belong to a job is fixed when it is made: those that are there then. They are written down some thousand at a
//! time, so that making a job holds up nobody. One host at a time runs it, under a lease; each of its letters gets one result,
//! in the transaction that changes the letter.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Change, Changed, Error, LetterFilter, Note};
use crate::model::{DeadLetter, UnixMs};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "JobAction")]
pub enum Action {
    Reprocess,
    Discard,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reprocess => "reprocess",
            Self::Discard => "discard",
        }
    }
}

/// `preparing → pending → running → completed`, `cancelled` from any of the first three, `failed` when the host cannot run it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// Its letters are being written down; none of them is begun.
    Preparing,
    Pending,
    Running,
    Completed,
    Cancelled,
    Failed,
}

impl JobState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preparing => "preparing",
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    pub fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Failed)
    }
}

/// What became of one letter of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "JobResultKind")]
pub enum Ending {
    Sent,
    Discarded,
    /// There was nothing to do, or it was not to be done.
    Skipped,
    /// It cannot be sent as it is.
    Failed,
}

impl Ending {
    pub const ALL: [Self; 4] = [Self::Sent, Self::Discarded, Self::Skipped, Self::Failed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Discarded => "discarded",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
        }
    }
}

/// Which letters a job is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// Those that are dead and match now. Its `state` and `open` are not looked at. One that is not dead any more when it would be
    /// written down is left out.
    Matching(LetterFilter),
    /// These, whatever state they are in.
    Ids(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    pub id: String,
    pub action: Action,
    pub members: Members,
    /// The filter as somebody wrote it, as JSON, to be shown.
    pub filter: Option<String>,
    /// Letters a second; none is as fast as it goes.
    pub rate: Option<u32>,
    /// Letters that were sent again very often as well.
    pub force: bool,
    pub reason: Option<String>,
    pub actor: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its number in the store.
    pub number: u64,
    pub id: String,
    pub action: Action,
    pub filter: Option<String>,
    pub rate: Option<u32>,
    pub force: bool,
    pub reason: Option<String>,
    pub actor: String,
    pub state: JobState,
    /// While it is being prepared: so far.
    pub total: u64,
    /// Sent or discarded.
    pub done: u64,
    pub failed: u64,
    pub skipped: u64,
    pub created_ms: UnixMs,
    pub started_ms: Option<UnixMs>,
    pub ended_ms: Option<UnixMs>,
    /// The actor of its cancel.
    pub cancelled_by: Option<String>,
    /// Why it does not go on now, or why it failed.
    pub trouble: Option<String>,
}

/// A letter of a job that a host runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// [`Job::number`].
    pub job: u64,
    pub place: u64,
    /// The host that has the job.
    pub holder: String,
}

/// A letter of a job that has no result yet, as it is now.
#[derive(Debug, Clone)]
pub struct Standing {
    pub place: u64,
    pub id: String,
    /// None: its row is gone, or cannot be read.
    pub letter: Option<DeadLetter>,
    /// A key waits behind it.
    pub holds: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobResult {
    pub place: u64,
    pub letter: String,
    /// None: not yet, or never when the job was cancelled.
    pub ending: Option<Ending>,
    pub why: Option<String>,
    pub at_ms: Option<UnixMs>,
}

#[async_trait]
pub trait Jobs: Send + Sync {
    /// Durable when it returns, with its letters in the order of their first failure when they are few, else in
    /// [`JobState::Preparing`].
    ///
    /// # Errors
    /// [`Error::Invalid`] when it would have too many letters, or an id names none.
    async fn create(&self, job: NewJob) -> Result<Job, Error>;
    /// Writes the next letters of a job down that is being prepared: the job as it is then. Any host may, at any time; of two at
    /// once one does.
    async fn prepare(&self, job: u64) -> Result<Option<Job>, Error>;
    async fn job(&self, id: &str) -> Result<Option<Job>, Error>;
    /// Newest first, from behind that [number](Job::number) on.
    async fn jobs(&self, before: Option<u64>, limit: usize) -> Result<Vec<Job>, Error>;
    /// In the order of the job, from behind that place on; only with that ending when one is given.
    async fn results(
        &self,
        job: u64,
        after: Option<u64>,
        ending: Option<Ending>,
        limit: usize,
    ) -> Result<Vec<JobResult>, Error>;
    /// The oldest job that no host runs or prepares: now this one does, for so long.
    async fn take(&self, holder: &str, lease: Duration) -> Result<Option<Job>, Error>;
    /// False: it was cancelled, or another host has it. Also writes down what it waits for.
    async fn renew(
        &self,
        job: u64,
        holder: &str,
        lease: Duration,
        trouble: Option<String>,
    ) -> Result<bool, Error>;
    /// Any host may go on with it.
    async fn let_go(&self, job: u64, holder: &str) -> Result<(), Error>;
    /// It is completed, or failed for that reason. False: it was cancelled, or another host has it.
    async fn end(&self, job: u64, holder: &str, failure: Option<String>) -> Result<bool, Error>;
    /// No letter is claimed for it any more once this returns. The job as it is then, also when it had ended before.
    async fn cancel(&self, id: &str, actor: &str) -> Result<Option<Job>, Error>;
    /// Letters without a result, in order, from behind that place on.
    async fn standing(&self, job: u64, after: Option<u64>, limit: usize) -> Result<Vec<Standing>, Error>;
    /// As [`DeadLetters::change`](super::DeadLetters::change), for a job. What begins something is done only while the job
    /// runs on this host; what ends it writes the result in the same transaction.
    async fn change_member(
        &self,
        member: &Member,
        letter: &str,
        change: Change,
        note: Note,
    ) -> Result<Changed, Error>;
    /// The result of a letter that was not changed. One that has a result keeps it; false.
    async fn record(&self, member: &Member, ending: Ending, why: Option<String>) -> Result<bool, Error>;
}
