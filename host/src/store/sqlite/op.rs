//! The changes that the writer makes.

use sqlx::sqlite::SqliteConnection;

use super::{Error, letters, retries};
use crate::model::{DeadLetter, UnixMs};
use crate::store::Parked;

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
    Release(String),
    Reclaim,
    Enter(Vec<DeadLetter>),
}

#[derive(Debug)]
pub(super) enum Done {
    Nothing,
    Claimed(Vec<Parked>),
    Count(u64),
}

impl Op {
    /// Inside a transaction. May run again after that was rolled back, so it takes nothing out of itself.
    pub(super) async fn apply(&self, on: &mut SqliteConnection) -> Result<Done, Error> {
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
                letters::upsert(on, letter).await?;
                retries::remove(on, id).await?;
            }
            Self::Release(id) => retries::release(on, id).await?,
            Self::Reclaim => return retries::release_all(on).await.map(Done::Count),
            Self::Enter(letters) => {
                for letter in letters {
                    letters::upsert(on, letter).await?;
                }
            }
        }
        Ok(Done::Nothing)
    }
}
