//! The seam to what was given up on: shown, filtered, changed.

use std::borrow::Cow;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Error, Parked};
use crate::model::{DeadLetter, FailureClass, LetterState, UnixMs};

/// Which letters are meant. All that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LetterFilter {
    pub route: Option<String>,
    pub message_type: Option<String>,
    pub class: Option<FailureClass>,
    pub state: Option<LetterState>,
    /// Only what nobody has dealt with yet: neither reprocessed nor discarded.
    pub open: bool,
    /// The queue or topic that it came from.
    pub destination: Option<String>,
    /// `sha256:…` of the plugin version that ran last.
    pub digest: Option<String>,
    /// The failure group.
    pub group: Option<String>,
    /// Failed last at that time or later.
    pub since_ms: Option<UnixMs>,
    /// Failed last before that time.
    pub until_ms: Option<UnixMs>,
    /// All its words are in reason, code, message id or destination; those of three letters and more may be beginnings.
    pub text: Option<String>,
}

/// Newest last failure first. `cursor` is opaque and stays right while letters come and go.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub limit: usize,
    pub offset: usize,
    pub cursor: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub struct LetterPage {
    /// All that match, not just this page.
    pub count: u64,
    /// There are more: they were not all looked at.
    pub at_least: bool,
    /// Fewer than the limit, also none, when what comes next was not looked at yet.
    pub letters: Vec<DeadLetter>,
    pub next: Option<String>,
}

/// Letters that failed alike: route, class, code, plugin version, and the message without what differs each time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub id: String,
    pub route: Option<String>,
    pub class: FailureClass,
    pub code: Option<String>,
    pub digest: Option<String>,
    /// What the messages have in common. None for letters from before there were groups: their messages were not compared.
    pub message: Option<String>,
    /// Of the letters that match.
    pub count: u64,
    /// There are more: they were not all looked at.
    pub at_least: bool,
    /// Of all that ever were in it.
    pub first_ms: UnixMs,
    pub last_ms: UnixMs,
    /// The newest that matches: its id and reason. None when it changed while this was read.
    pub sample: Option<(String, String)>,
    /// The version that had the same failure before this one.
    pub previous_digest: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Groups {
    /// All that have letters that match, not just those shown.
    pub count: u64,
    /// There may be more: letters were not all looked at.
    pub at_least: bool,
    pub groups: Vec<Group>,
}

/// Who does what to a letter, and why: a row of its trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub actor: String,
    /// `reprocess`, `discard`, …
    pub action: Cow<'static, str>,
    pub reason: Option<String>,
}

/// A change that somebody makes to a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// `dead → retrying`, for this holder alone and for so long.
    Claim { holder: String, lease: Duration },
    /// `retrying → reprocessed`, by its holder. What is due comes with it in the same transaction: its route gets the message
    /// if and only if the letter says so.
    Sent {
        holder: String,
        park: Option<Box<Parked>>,
    },
    /// `retrying → discarded`, by its holder: a changed copy was sent in its place. What is due comes with it, as in `Sent`.
    /// Where a key waits behind the letter, it is the copy that runs at the head of its lane; without one the key goes on.
    Edited {
        holder: String,
        park: Option<Box<Parked>>,
    },
    /// `retrying → dead`, by its holder.
    GiveBack { holder: String },
    /// `retrying → reprocessed`, by its holder, of a letter that holds a key: the row that waits at the head of its lane is
    /// this message from now on, and due. A conflict when the letter holds none.
    Resume { holder: String, row: Box<Parked> },
    /// It stays `dead`, and the key that waits behind it goes on without it. A conflict when none does.
    Release,
    /// `dead → discarded`. A key that waits behind it goes on.
    Discard,
}

impl Change {
    pub fn from(&self) -> LetterState {
        match self {
            Self::Claim { .. } | Self::Release | Self::Discard => LetterState::Dead,
            Self::Sent { .. } | Self::Edited { .. } | Self::Resume { .. } | Self::GiveBack { .. } => {
                LetterState::Retrying
            }
        }
    }

    pub fn to(&self) -> LetterState {
        match self {
            Self::Claim { .. } => LetterState::Retrying,
            Self::Sent { .. } | Self::Resume { .. } => LetterState::Reprocessed,
            Self::GiveBack { .. } | Self::Release => LetterState::Dead,
            Self::Discard | Self::Edited { .. } => LetterState::Discarded,
        }
    }

    /// Only this one may make it.
    pub fn holder(&self) -> Option<&str> {
        match self {
            Self::Sent { holder, .. }
            | Self::Edited { holder, .. }
            | Self::Resume { holder, .. }
            | Self::GiveBack { holder } => Some(holder),
            Self::Claim { .. } | Self::Release | Self::Discard => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// The letter as it is now.
    Done(Box<DeadLetter>),
    /// It is in another state, or somebody else holds it. Nothing was changed.
    Conflict(LetterState),
    /// There is no such letter.
    Unknown,
    /// The job that asks was cancelled, or another host has it now. Nothing was changed.
    Stopped,
    /// The letter has its result in the job that asks. Nothing was changed.
    Ended,
}

/// One change in the life of a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub at_ms: UnixMs,
    pub from: LetterState,
    pub to: LetterState,
    pub note: Note,
}

#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Durable when it returns; the ids of the rows, in the same order. The same id again updates attempts and last failure
    /// instead of adding a second letter, and so does a message that was sent again from a letter: attempts of earlier lives
    /// are kept. A change of state that comes with it is in the trail.
    async fn enter(&self, letters: Vec<DeadLetter>) -> Result<Vec<String>, Error>;
    async fn list(&self, filter: &LetterFilter, page: &Page) -> Result<LetterPage, Error>;
    /// Those with the most letters first, at most `limit`.
    async fn groups(&self, filter: &LetterFilter, limit: usize) -> Result<Groups, Error>;
    /// Groups that have dead letters.
    async fn dead_groups(&self) -> Result<u64, Error>;
    async fn get(&self, id: &str) -> Result<Option<DeadLetter>, Error>;
    /// Letters in state `dead`, by destination: the gauge of the contract.
    async fn depth(&self) -> Result<Vec<(String, u64)>, Error>;
    /// Compare and set, with its row in the trail, in one transaction. Of two at once one is done, the other a conflict.
    async fn change(&self, id: &str, change: Change, note: Note) -> Result<Changed, Error>;
    /// Letters whose lease ran out are `dead` again; how many. Whoever held them can no longer end them.
    async fn lapse(&self) -> Result<u64, Error>;
    /// The trail of a letter, oldest first; the newest thousand entries.
    async fn trail(&self, id: &str) -> Result<Vec<Entry>, Error>;
}
