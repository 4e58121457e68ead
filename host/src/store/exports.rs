//! The seam to letters of which others shall have a copy, until their broker has confirmed it.

use std::time::Duration;

use async_trait::async_trait;

use super::Error;
use crate::model::MessageKind;

/// A letter whose copy is still to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// In the order in which letters were entered.
    pub place: i64,
    /// The letter's id.
    pub letter: String,
}

#[async_trait]
pub trait Exports: Send + Sync {
    /// From now on each letter of a task, or of an event, that is new is pending, from the transaction that writes it. Neither
    /// at first.
    fn export(&self, tasks: bool, events: bool);
    async fn pending_exports(&self) -> Result<u64, Error>;
    /// The oldest that nobody has, at most `limit`: this host's for so long.
    async fn claim_exports(
        &self,
        kind: MessageKind,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<Export>, Error>;
    /// They are pending no more.
    async fn exported(&self, done: Vec<Export>) -> Result<(), Error>;
    /// Whoever asks next gets them.
    async fn give_back_exports(&self, claimed: Vec<Export>) -> Result<(), Error>;
}
