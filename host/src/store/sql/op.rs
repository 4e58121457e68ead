//! The changes that the writer makes.

use super::engine::Connection;
use super::{Error, change, enter, held, retries};
use crate::model::{DeadLetter, UnixMs};
use crate::store::{Change, Changed, Note, Parked};

pub(super) enum Op {
    Park(Vec<Parked>),
    Claim {
        now: UnixMs,
        lease_until: UnixMs,
        limit: usize,
    },
    Complete(String),
    Reschedule(Box<Parked>),
    Bury(String, Box<DeadLetter>),
    Hold(Box<Parked>, Box<DeadLetter>),
    Release(String),
    Reclaim,
    Enter(Vec<DeadLetter>),
    Change(String, Change, Note),
    /// Letters whose lease ran out; all that have one when there is no time.
    Lapse(Option<UnixMs>),
}

#[derive(Debug)]
pub(super) enum Done {
    Nothing,
    Claimed(Vec<Parked>),
    Count(u64),
    Entered(Vec<String>),
    Changed(Changed),
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

impl Op {
    /// Inside a transaction that is made at `now`. May run again after that was rolled back, so it takes nothing out of itself.
    pub(super) async fn apply(&self, on: &mut Connection, now: UnixMs) -> Result<Done, Error> {
        match self {
            Self::Park(rows) => {
                for row in rows {
                    retries::insert(on, row).await?;
                }
            }
            Self::Claim {
                now,
                lease_until,
                limit,
            } => {
                return retries::claim(on, *now, *lease_until, *limit)
                    .await
                    .map(Done::Claimed);
            }
            Self::Complete(id) => retries::remove(on, id).await?,
            Self::Reschedule(row) => retries::update(on, row).await?,
            Self::Bury(id, letter) => {
                let entered = enter::enter(on, letter, now).await?;
                retries::remove(on, id).await?;
                return Ok(Done::Entered(vec![entered]));
            }
            Self::Hold(row, letter) => {
                let entered = enter::enter(on, letter, now).await?;
                held::hold(on, row, &entered, now).await?;
                return Ok(Done::Entered(vec![entered]));
            }
            Self::Release(id) => retries::release(on, id).await?,
            Self::Reclaim => return retries::release_all(on).await.map(Done::Count),
            Self::Enter(letters) => {
                let mut ids = Vec::with_capacity(letters.len());
                for letter in letters {
                    ids.push(enter::enter(on, letter, now).await?);
                }
                return Ok(Done::Entered(ids));
            }
            Self::Change(id, change, note) => {
                return change::change(on, id, change, note, now).await.map(Done::Changed);
            }
            Self::Lapse(until) => return change::lapse(on, *until, now).await.map(Done::Count),
        }
        Ok(Done::Nothing)
    }
}
