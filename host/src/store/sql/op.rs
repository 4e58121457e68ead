//! The changes that the writer makes.

use std::sync::Arc;

use super::change::{self, By, Over};
use super::engine::Connection;
use super::retries::{self, Claim};
use super::tally::Tally;
use super::{Error, audit, auto, enter, exports, held, jobs, keep, replays};
use crate::model::{DeadLetter, UnixMs};
use crate::store::{AuditEntry, Change, Changed, Export, Job, Note, Parked, Settled};

pub(super) enum Op {
    Park(Vec<Parked>),
    Claim(Claim),
    Complete(String),
    Reschedule(Box<Parked>),
    Bury(String, Box<DeadLetter>),
    Hold(Box<Parked>, Box<DeadLetter>),
    /// The lease of a row, when this host has it.
    Release(String, Arc<str>),
    /// The rows of the host's claim with this ticket.
    Unclaim(Arc<str>, i64),
    /// All leases of this host.
    Reclaim(Arc<str>),
    Enter(Vec<DeadLetter>),
    Change(String, Change, Note, Arc<str>),
    Lapse(Over),
    Replay(replays::Change),
    Audit(Vec<AuditEntry>),
    Forget {
        before: UnixMs,
        limit: usize,
    },
    Job(jobs::Op, Arc<str>),
    Export(exports::Op),
    Auto(auto::Op, Arc<str>),
    Keep(keep::Op),
}

#[derive(Debug)]
pub(super) enum Done {
    Nothing,
    Claimed(Vec<Parked>),
    Count(u64),
    Entered(Vec<String>),
    Changed(Changed),
    Exports(Vec<Export>),
    Replay(replays::Changed),
    Job(Option<Box<Job>>),
    /// Was it done?
    Flag(bool),
    Settled(Settled),
}

impl Done {
    pub(super) fn count(self) -> u64 {
        match self {
            Self::Count(rows) => rows,
            _ => 0,
        }
    }

    pub(super) fn entered(self) -> Vec<String> {
        match self {
            Self::Entered(ids) => ids,
            _ => Vec::new(),
        }
    }
}

/// Lanes that get another head: of these rows, those in which these ids are, and those that wait behind these letters.
#[derive(Default)]
pub(super) struct Lanes<'a> {
    pub rows: Vec<&'a Parked>,
    pub ids: Vec<&'a str>,
    pub letters: Vec<&'a str>,
}

impl<'a> Lanes<'a> {
    fn change(&mut self, letter: &'a str, change: &'a Change) {
        match change {
            Change::Sent { park, .. } => self.rows.extend(park.as_deref()),
            Change::Edited { park, .. } => {
                self.rows.extend(park.as_deref());
                self.letters.push(letter);
            }
            Change::Release | Change::Discard => self.letters.push(letter),
            // The row stays where it is.
            Change::Resume { .. } | Change::Claim { .. } | Change::GiveBack { .. } => {}
        }
    }
}

impl Op {
    /// Lanes that it puts a row into or takes one out of. Each has exactly one head. Where several hosts write at once, who
    /// asks "is it empty?" and "who is next?" has to be alone with its lane until what it did is committed: of two that park
    /// into an empty lane both would make a head, and a row parked behind a head that is just being taken out would never
    /// become one.
    pub(super) fn lanes<'a>(&'a self, into: &mut Lanes<'a>) {
        match self {
            Self::Park(rows) => into.rows.extend(rows),
            Self::Hold(row, _) => into.rows.push(row),
            Self::Change(letter, change, ..) => into.change(letter, change),
            Self::Job(jobs::Op::Change(wanted), _) => into.change(&wanted.letter, &wanted.change),
            Self::Complete(id) | Self::Bury(id, _) => into.ids.push(id),
            Self::Auto(op, _) => into.letters.extend(op.discards()),
            Self::Claim(_)
            | Self::Reschedule(_)
            | Self::Release(..)
            | Self::Unclaim(..)
            | Self::Reclaim(_)
            | Self::Enter(_)
            | Self::Lapse(_)
            | Self::Replay(_)
            | Self::Audit(_)
            | Self::Forget { .. }
            | Self::Export(_)
            | Self::Keep(_)
            | Self::Job(..) => {}
        }
    }

    /// Inside a transaction that is made at `now`. May run again after that was rolled back, or after nobody knows whether it
    /// was committed, so it takes nothing out of itself, and a second time changes nothing that the first has changed.
    pub(super) async fn apply(
        &self,
        on: &mut Connection,
        now: UnixMs,
        tally: &mut Tally,
    ) -> Result<Done, Error> {
        match self {
            Self::Park(rows) => {
                for row in rows {
                    retries::insert(on, row).await?;
                }
            }
            Self::Claim(claim) => return retries::claim(on, claim).await.map(Done::Claimed),
            Self::Complete(id) => retries::remove(on, id).await?,
            Self::Reschedule(row) => retries::update(on, row).await?,
            Self::Bury(id, letter) => {
                let entered = enter::enter_all(on, &[letter], now, tally).await?;
                retries::remove(on, id).await?;
                return Ok(Done::Entered(entered));
            }
            Self::Hold(row, letter) => {
                let entered = enter::enter_all(on, &[letter], now, tally).await?;
                if let Some(letter) = entered.first() {
                    held::hold(on, row, letter, now).await?;
                }
                return Ok(Done::Entered(entered));
            }
            Self::Release(id, host) => retries::release(on, id, host).await?,
            Self::Unclaim(host, ticket) => {
                return retries::unclaim(on, host, *ticket).await.map(Done::Count);
            }
            Self::Reclaim(host) => {
                jobs::let_all_go(on, host).await?;
                let replays = replays::let_all_go(on, host).await?;
                exports::let_all_go(on, host).await?;
                let rows = retries::release_all(on, host).await?;
                return Ok(Done::Count(replays + rows));
            }
            Self::Job(op, host) => return op.apply(on, now, host, tally).await,
            Self::Export(op) => return op.apply(on, now).await,
            Self::Auto(op, host) => return op.apply(on, now, host, tally).await,
            Self::Keep(op) => return op.apply(on, now, tally).await.map(Done::Count),
            Self::Enter(letters) => {
                let letters: Vec<_> = letters.iter().collect();
                return enter::enter_all(on, &letters, now, tally)
                    .await
                    .map(Done::Entered);
            }
            Self::Change(id, change, note, host) => {
                return change::change(on, id, change, By::Person, note, host, now, tally)
                    .await
                    .map(Done::Changed);
            }
            Self::Replay(change) => return change.apply(on, now).await.map(Done::Replay),
            Self::Audit(entries) => {
                for entry in entries {
                    audit::add(on, entry).await?;
                }
            }
            Self::Forget { before, limit } => {
                return audit::forget(on, *before, *limit).await.map(Done::Count);
            }
            Self::Lapse(over) => return change::lapse(on, over, now, tally).await.map(Done::Count),
        }
        Ok(Done::Nothing)
    }
}
