//! The seam to control state: what waits for a retry, and what was given up on.
//!
//! Every method that changes something returns only after the change is on disk.

mod audit;
mod auto;
mod exports;
mod held;
mod jobs;
mod keep;
mod letters;
pub mod postgres;
mod replays;
mod retries;
pub mod sqlite;
mod words;

pub use audit::{Audit, AuditEntry, AuditPage};
pub use auto::{AutoLetters, Candidate, Decided, Mark, Progress, Settled, Step, Turn};
pub use exports::{Export, Exports};
pub use held::{HeldFilter, HeldKey, HeldKeys, HeldPage, HeldRoute};
pub use jobs::{Action, Ending, Job, JobResult, JobState, Jobs, Member, Members, NewJob, Standing};
pub use keep::KeepLetters;
pub use letters::{Change, Changed, DeadLetters, Entry, Group, Groups, LetterFilter, LetterPage, Note, Page};
pub use replays::{Hold, Replays, Submitted};
pub use retries::{Parked, Retries};
pub use words::{SOUGHT, Sought, words_of};

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("the store's disk is full: {0}")]
    Full(String),
    #[error("the store failed: {0}")]
    Storage(String),
    #[error("the store at {path} cannot be opened: {reason}")]
    Open { path: String, reason: String },
    #[error("the store at {path} does not answer: {reason}")]
    Away { path: String, reason: String },
    /// The caller's fault: a cursor that did not come from this store.
    #[error("the store cannot do that: {0}")]
    Invalid(String),
}
