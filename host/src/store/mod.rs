//! The seam to control state: what waits for a retry, and what was given up on.
//!
//! Every method that changes something returns only after the change is on disk.

mod held;
pub mod sqlite;

use std::borrow::Cow;
use std::time::Duration;

use async_trait::async_trait;

use crate::model::{Attempt, DeadLetter, FailureClass, LetterState, RawMessage, UnixMs};

pub use held::{HeldFilter, HeldKey, HeldKeys, HeldPage, HeldRoute};

/// A message parked until it is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// The dead-letter id it would get; also makes parking the same delivery twice one row.
    pub id: String,
    pub route: String,
    pub raw: RawMessage,
    /// The number of the attempt that is due: 2 after the first failure; 1 for a follower that has not run yet.
    pub attempt: u32,
    pub due_ms: UnixMs,
    /// What must run one after another. Rows of one lane are handed out in the order they were parked, one at a time.
    pub lane: Option<Vec<u8>>,
    pub history: Vec<Attempt>,
    pub first_failure_ms: UnixMs,
}

#[async_trait]
pub trait Retries: Send + Sync {
    /// Durable when it returns. Parking an id that is parked already changes nothing (the crash between writing and
    /// acknowledging delivers it again).
    async fn park(&self, parked: Vec<Parked>) -> Result<(), Error>;
    /// Takes up to `limit` due rows under a lease; rows whose lease ran out are due again. Of each lane only the head.
    async fn claim_due(&self, now: UnixMs, lease: Duration, limit: usize) -> Result<Vec<Parked>, Error>;
    /// The parked message was handled.
    async fn complete(&self, id: &str) -> Result<(), Error>;
    /// It failed again: same row, same place in its lane, later.
    async fn reschedule(&self, parked: Parked) -> Result<(), Error>;
    /// It failed for good: the row becomes a dead letter in one transaction; the id of that.
    async fn bury(&self, parked_id: &str, letter: DeadLetter) -> Result<String, Error>;
    /// Lets go of a lease (shutdown), so that it is due again at once.
    async fn release(&self, id: &str) -> Result<(), Error>;
    /// Lanes that have parked rows, by route: whatever arrives for them has to queue up behind.
    async fn lanes(&self) -> Result<Vec<(String, Vec<u8>)>, Error>;
    /// Is anything left in that lane?
    async fn lane_is_empty(&self, route: &str, lane: &[u8]) -> Result<bool, Error>;
    async fn count(&self) -> Result<u64, Error>;
    /// When the next row is due, for the scheduler's sleep.
    async fn next_due(&self) -> Result<Option<UnixMs>, Error>;
}

/// What `dlq ls` filters by. All that are given must hold.
#[derive(Debug, Clone, Default)]
pub struct LetterFilter {
    pub route: Option<String>,
    pub message_type: Option<String>,
    pub class: Option<FailureClass>,
    pub state: Option<LetterState>,
    /// Only what nobody has dealt with yet: neither reprocessed nor discarded.
    pub open: bool,
    /// Found in reason, code, message id or destination.
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
    pub letters: Vec<DeadLetter>,
    pub next: Option<String>,
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
            Self::Sent { .. } | Self::Resume { .. } | Self::GiveBack { .. } => LetterState::Retrying,
        }
    }

    pub fn to(&self) -> LetterState {
        match self {
            Self::Claim { .. } => LetterState::Retrying,
            Self::Sent { .. } | Self::Resume { .. } => LetterState::Reprocessed,
            Self::GiveBack { .. } | Self::Release => LetterState::Dead,
            Self::Discard => LetterState::Discarded,
        }
    }

    /// Only this one may make it.
    pub fn holder(&self) -> Option<&str> {
        match self {
            Self::Sent { holder, .. } | Self::Resume { holder, .. } | Self::GiveBack { holder } => {
                Some(holder)
            }
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

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("the store's disk is full: {0}")]
    Full(String),
    #[error("the store failed: {0}")]
    Storage(String),
    #[error("the store at {path} cannot be opened: {reason}")]
    Open { path: String, reason: String },
    /// The caller's fault: a cursor that did not come from this store.
    #[error("the store cannot do that: {0}")]
    Invalid(String),
}
