//! The seam to what the host does with dead letters by itself: when each is due, how often it was tried, which are left alone.
//!
//! Whatever is decided about a letter names what was seen of it, and is done only if that is still so: of several hosts one
//! does it, and a letter that a person had in between is theirs.

use std::time::Duration;

use async_trait::async_trait;

use super::{Changed, Error, Note};
use crate::model::{FailureClass, UnixMs};

/// How far the host is with a letter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// How often it has tried, since a person had the letter last.
    pub attempts: u32,
    /// Not looked at before.
    pub due_ms: UnixMs,
}

/// A dead letter that is to be decided about, without its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: String,
    pub message_type: Option<String>,
    /// How often it was sent again, by anybody.
    pub reprocessed: u32,
    pub last_failure_ms: UnixMs,
    pub progress: Progress,
}

/// Why the host leaves a letter alone, or that it does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It is tried again.
    Open,
    /// Its attempts are used up: it waits for a person.
    Exhausted,
    /// No policy wants it.
    Left,
}

/// One try: who has the letter for so long, and how far the host is then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    pub seen: Progress,
    pub next: Progress,
}

/// What is decided about a letter that is not sent now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Later, or not counted after all.
    Set(Progress),
    /// No policy wants it; asked again when the policies are others than these.
    Leave { policies: String },
    /// It stays dead and is not looked at again until a person had it.
    Archive { why: String },
    /// `dead → discarded`. A key that waits behind it goes on.
    Discard { why: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub letter: String,
    pub seen: Progress,
    pub step: Step,
}

/// How many were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settled {
    pub archived: u64,
    pub discarded: u64,
}

#[async_trait]
pub trait AutoLetters: Send + Sync {
    /// Letters in state `dead` and of these classes that are due by `now` and that no job has before it, the longest due
    /// first.
    async fn candidates(
        &self,
        classes: &[FailureClass],
        now: UnixMs,
        limit: usize,
    ) -> Result<Vec<Candidate>, Error>;
    /// As [`super::Change::Claim`], if it is as it was seen; what comes next is written with it.
    async fn claim_turn(
        &self,
        letter: &str,
        turn: &Turn,
        holder: String,
        lease: Duration,
        note: Note,
    ) -> Result<Changed, Error>;
    /// Those that are no longer as they were seen are not changed, and not counted. In one transaction.
    async fn settle(&self, actor: &str, decided: Vec<Decided>) -> Result<Settled, Error>;
    /// Letters that were left alone under other policies than these are candidates again, at most `limit`; how many.
    async fn reconsider(&self, policies: &str, limit: usize) -> Result<u64, Error>;
    /// How far the host is with these letters, of those that it has begun with or left alone.
    async fn progress(&self, letters: &[String]) -> Result<Vec<(String, Progress, Mark)>, Error>;
}
