//! Replays: their SQL, and the seam [`Replays`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::engine::{Connection, Row, answered, failed};
use super::letters::word;
use super::op::{Done, Op};
use super::row::{column, corrupt};
use super::text::{stored, text};
use super::{Error, Store, int, uint};
use crate::model::clock::duration_ms;
use crate::model::replay::Progress;
use crate::model::{Replay, ReplayStatus, UnixMs};
use crate::planted::{self, Bug};
use crate::store::{Hold, Replays, Submitted};

/// How long one that ended is kept.
const KEPT_MS: u64 = 30 * 24 * 3_600_000;
/// So many may be pending or running.
const MOST_OPEN: u64 = 100;

/// What [`replay()`] reads.
macro_rules! columns {
    () => {
        "id, status, plan, progress, created_ms, started_ms, ended_ms"
    };
}

/// The changes.
pub(super) enum Change {
    Submit(Box<Replay>),
    Take {
        holder: String,
        host: Arc<str>,
        lease: Duration,
    },
    Record {
        id: String,
        holder: String,
        lease: Duration,
        progress: Box<Progress>,
    },
    Finish {
        id: String,
        holder: String,
        status: ReplayStatus,
        progress: Box<Progress>,
    },
    GiveBack {
        id: String,
        holder: String,
    },
    Cancel(String),
}

#[derive(Debug)]
pub(super) enum Changed {
    Nothing,
    Submitted(Submitted),
    Replay(Box<Replay>),
    Hold(Hold),
}

impl Change {
    pub(super) async fn apply(&self, on: &mut Connection, now: UnixMs) -> Result<Changed, Error> {
        match self {
            Self::Submit(replay) => submit(on, replay, now).await.map(Changed::Submitted),
            Self::Take { holder, host, lease } => Ok(take(on, (holder, host), end_of(now, *lease), now)
                .await?
                .map_or(Changed::Nothing, |replay| Changed::Replay(Box::new(replay)))),
            Self::Record {
                id,
                holder,
                lease,
                progress,
            } => record(on, id, holder, end_of(now, *lease), progress)
                .await
                .map(Changed::Hold),
            Self::Finish {
                id,
                holder,
                status,
                progress,
            } => finish(on, id, holder, *status, progress, now)
                .await
                .map(Changed::Hold),
            Self::GiveBack { id, holder } => {
                give_back(on, id, holder).await?;
                Ok(Changed::Nothing)
            }
            Self::Cancel(id) => {
                cancel(on, id, now).await?;
                Ok(Changed::Nothing)
            }
        }
    }
}

fn end_of(now: UnixMs, lease: Duration) -> i64 {
    int(now.saturating_add(duration_ms(lease)))
}

fn json(value: &impl Serialize) -> Result<String, Error> {
    serde_json::to_string(value).map_err(|e| Error::Storage(e.to_string()))
}

fn parsed<T: DeserializeOwned>(row: &Row, name: &str, id: &str) -> Result<T, Error> {
    serde_json::from_str(column(row, name)?).map_err(|_| corrupt(name, id))
}

fn replay(row: &Row) -> Result<Replay, Error> {
    let id = text(row, "id")?;
    Ok(Replay {
        plan: parsed(row, "plan", &id)?,
        status: status(row, &id)?,
        progress: parsed(row, "progress", &id)?,
        created_ms: uint(column(row, "created_ms")?),
        started_ms: column::<Option<i64>>(row, "started_ms")?.map(uint),
        ended_ms: column::<Option<i64>>(row, "ended_ms")?.map(uint),
        id,
    })
}

fn status(row: &Row, id: &str) -> Result<ReplayStatus, Error> {
    word(column(row, "status")?).ok_or_else(|| corrupt("the status", id))
}

async fn submit(on: &mut Connection, replay: &Replay, now: UnixMs) -> Result<Submitted, Error> {
    sqlx::query("DELETE FROM replays WHERE ended_ms < $1")
        .bind(int(now.saturating_sub(KEPT_MS)))
        .execute(&mut *on)
        .await
        .map_err(failed)?;
    let open: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM replays WHERE status IN ('pending', 'running')")
        .fetch_one(&mut *on)
        .await
        .map_err(failed)?;
    if uint(open) >= MOST_OPEN {
        return Ok(Submitted::Full(MOST_OPEN));
    }
    let made = sqlx::query(
        "INSERT INTO replays (id, status, plan, progress, created_ms, started_ms, ended_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING",
    )
    .bind(stored(&replay.id))
    .bind(replay.status.as_str())
    .bind(json(&replay.plan)?)
    .bind(json(&replay.progress)?)
    .bind(int(replay.created_ms))
    .bind(replay.started_ms.map(int))
    .bind(replay.ended_ms.map(int))
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(if made.rows_affected() == 0 {
        Submitted::Taken
    } else {
        Submitted::Done
    })
}

async fn take(
    on: &mut Connection,
    (holder, host): (&str, &str),
    lease_until: i64,
    now: UnixMs,
) -> Result<Option<Replay>, Error> {
    // The condition stands outside as well: of two hosts that chose the same row, the second looks at it as the first left it.
    let row = sqlx::query(concat!(
        "UPDATE replays SET status = 'running', holder = $1, host = $4, lease_until_ms = $2, started_ms = COALESCE(started_ms, $3)
         WHERE id = (SELECT id FROM replays
                     WHERE status = 'pending' OR (status = 'running' AND lease_until_ms <= $3)
                     ORDER BY created_ms, id LIMIT 1)
           AND (status = 'pending' OR (status = 'running' AND lease_until_ms <= $3))
         RETURNING ",
        columns!()
    ))
    .bind(stored(holder))
    .bind(lease_until)
    .bind(int(now))
    .bind(host)
    .fetch_optional(&mut *on)
    .await
    .map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    match replay(&row) {
        Ok(replay) => Ok(Some(replay)),
        Err(error) => {
            // It must not stand in front of the others for ever.
            let id = text(&row, "id")?;
            tracing::error!(replay = %id, %error, "a replay cannot be read; it has failed");
            sqlx::query("UPDATE replays SET status = 'failed', ended_ms = $2, holder = NULL, lease_until_ms = NULL WHERE id = $1")
                .bind(stored(&id))
                .bind(int(now))
                .execute(on)
                .await
                .map_err(failed)?;
            Ok(None)
        }
    }
}

async fn record(
    on: &mut Connection,
    id: &str,
    holder: &str,
    lease_until: i64,
    progress: &Progress,
) -> Result<Hold, Error> {
    // One that was cancelled keeps its holder: the batch that was under way is counted.
    let row = sqlx::query(
        "UPDATE replays SET progress = $3, lease_until_ms = $4
         WHERE id = $1 AND holder = $2 AND status IN ('running', 'cancelled') RETURNING status",
    )
    .bind(stored(id))
    .bind(stored(holder))
    .bind(json(progress)?)
    .bind(lease_until)
    .fetch_optional(on)
    .await
    .map_err(failed)?;
    hold(row.as_ref(), id)
}

fn hold(row: Option<&Row>, id: &str) -> Result<Hold, Error> {
    let Some(row) = row else { return Ok(Hold::Lost) };
    Ok(match status(row, id)? {
        ReplayStatus::Running => Hold::Ours,
        ReplayStatus::Cancelled if planted::is(Bug::CancelOnlyFlipsAFlag) => Hold::Ours,
        ReplayStatus::Cancelled => Hold::Cancelled,
        ReplayStatus::Pending | ReplayStatus::Completed | ReplayStatus::Failed => Hold::Lost,
    })
}

async fn finish(
    on: &mut Connection,
    id: &str,
    holder: &str,
    status: ReplayStatus,
    progress: &Progress,
    now: UnixMs,
) -> Result<Hold, Error> {
    let done = sqlx::query(
        "UPDATE replays SET status = $3, progress = $4, ended_ms = $5, holder = NULL, lease_until_ms = NULL
         WHERE id = $1 AND holder = $2 AND status = 'running'",
    )
    .bind(stored(id))
    .bind(stored(holder))
    .bind(status.as_str())
    .bind(json(progress)?)
    .bind(int(now))
    .execute(&mut *on)
    .await
    .map_err(failed)?;
    if done.rows_affected() == 1 {
        return Ok(Hold::Ours);
    }
    record(on, id, holder, int(now), progress).await
}

async fn give_back(on: &mut Connection, id: &str, holder: &str) -> Result<(), Error> {
    sqlx::query(
        "UPDATE replays SET status = 'pending', holder = NULL, lease_until_ms = NULL
         WHERE id = $1 AND holder = $2 AND status = 'running'",
    )
    .bind(stored(id))
    .bind(stored(holder))
    .execute(on)
    .await
    .map(drop)
    .map_err(failed)
}

async fn cancel(on: &mut Connection, id: &str, now: UnixMs) -> Result<(), Error> {
    sqlx::query(
        "UPDATE replays SET status = 'cancelled', ended_ms = $2 WHERE id = $1 AND status IN ('pending', 'running')",
    )
    .bind(stored(id))
    .bind(int(now))
    .execute(on)
    .await
    .map(drop)
    .map_err(failed)
}

/// What an earlier run of this host had goes on at once.
pub(super) async fn let_all_go(on: &mut Connection, host: &str) -> Result<u64, Error> {
    let done = sqlx::query(
        "UPDATE replays SET status = 'pending', holder = NULL, host = NULL, lease_until_ms = NULL
         WHERE status = 'running' AND host = $1",
    )
    .bind(host)
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(done.rows_affected())
}

impl Store {
    async fn change_replay(&self, change: Change) -> Result<Changed, Error> {
        match self.write(Op::Replay(change)).await? {
            Done::Replay(changed) => Ok(changed),
            _ => Ok(Changed::Nothing),
        }
    }
}

#[async_trait]
impl Replays for Store {
    async fn submit(&self, replay: &Replay) -> Result<Submitted, Error> {
        match self
            .change_replay(Change::Submit(Box::new(replay.clone())))
            .await?
        {
            Changed::Submitted(submitted) => Ok(submitted),
            _ => Ok(Submitted::Taken),
        }
    }

    async fn find(&self, id: &str) -> Result<Option<Replay>, Error> {
        let query = sqlx::query(concat!("SELECT ", columns!(), " FROM replays WHERE id = $1"));
        answered(query.bind(stored(id)).fetch_optional(self.readers()))
            .await?
            .as_ref()
            .map(replay)
            .transpose()
    }

    async fn newest(&self, limit: usize) -> Result<Vec<Replay>, Error> {
        let query = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM replays ORDER BY created_ms DESC, id DESC LIMIT $1"
        ));
        let query = query.bind(i64::try_from(limit).unwrap_or(i64::MAX));
        answered(query.fetch_all(self.readers()))
            .await?
            .iter()
            .map(replay)
            .collect()
    }

    async fn take(&self, holder: &str, lease: Duration) -> Result<Option<Replay>, Error> {
        // Asked often, and nearly always for nothing: only what is there costs a transaction.
        let any = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM replays
                            WHERE status = 'pending' OR (status = 'running' AND lease_until_ms <= $1))",
        )
        .bind(int(self.inner.clock.now_ms()));
        if !answered(any.fetch_one(self.readers())).await? {
            return Ok(None);
        }
        let (holder, host) = (holder.to_owned(), self.host());
        match self.change_replay(Change::Take { holder, host, lease }).await? {
            Changed::Replay(replay) => Ok(Some(*replay)),
            _ => Ok(None),
        }
    }

    async fn record(
        &self,
        id: &str,
        holder: &str,
        lease: Duration,
        progress: &Progress,
    ) -> Result<Hold, Error> {
        let change = Change::Record {
            id: id.to_owned(),
            holder: holder.to_owned(),
            lease,
            progress: Box::new(progress.clone()),
        };
        match self.change_replay(change).await? {
            Changed::Hold(hold) => Ok(hold),
            _ => Ok(Hold::Lost),
        }
    }

    async fn holds(&self, id: &str, holder: &str) -> Result<Hold, Error> {
        let query = sqlx::query("SELECT status FROM replays WHERE id = $1 AND holder = $2");
        let row = answered(
            query
                .bind(stored(id))
                .bind(stored(holder))
                .fetch_optional(self.readers()),
        )
        .await?;
        hold(row.as_ref(), id)
    }

    async fn finish(
        &self,
        id: &str,
        holder: &str,
        status: ReplayStatus,
        progress: &Progress,
    ) -> Result<Hold, Error> {
        let change = Change::Finish {
            id: id.to_owned(),
            holder: holder.to_owned(),
            status,
            progress: Box::new(progress.clone()),
        };
        match self.change_replay(change).await? {
            Changed::Hold(hold) => Ok(hold),
            _ => Ok(Hold::Lost),
        }
    }

    async fn give_back(&self, id: &str, holder: &str) -> Result<(), Error> {
        let (id, holder) = (id.to_owned(), holder.to_owned());
        self.change_replay(Change::GiveBack { id, holder })
            .await
            .map(drop)
    }

    async fn cancel(&self, id: &str) -> Result<Option<Replay>, Error> {
        self.change_replay(Change::Cancel(id.to_owned())).await?;
        self.find(id).await
    }
}
