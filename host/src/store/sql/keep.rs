//! The end of dead letters: their SQL, and the seam [`KeepLetters`].

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, QueryBuilder};

use super::engine::{Connection, Database, SKIP_LOCKED, answered, failed};
use super::op::{Done, Op as WriterOp};
use super::row::{column, corrupt};
use super::tally::Tally;
use super::text::{stored, text};
use super::{Error, Store, int, letters, trail, words};
use crate::model::{LetterState, UnixMs};
use crate::store::KeepLetters;

/// Letters in one transaction, whatever is asked for: everybody else waits for it.
const AT_ONCE: usize = 1000;

/// What has no key behind it and is in no job that is still to come to it.
const FREE: &str = "NOT EXISTS (SELECT 1 FROM parked p WHERE p.held = dead_letters.id)
     AND NOT EXISTS (SELECT 1 FROM redrive_members m JOIN redrive_jobs j ON j.seq = m.job
                     WHERE m.letter = dead_letters.id AND m.outcome IS NULL AND j.state IN ('preparing', 'pending', 'running'))";
/// What others shall have a copy of stays until they have it.
const COPIED: &str = "NOT EXISTS (SELECT 1 FROM letter_exports e WHERE e.letter = dead_letters.id)";

pub(super) enum Op {
    Expire {
        until: UnixMs,
        reason: String,
        limit: usize,
    },
    Forget {
        until: UnixMs,
        limit: usize,
    },
}

impl Op {
    pub(super) async fn apply(
        &self,
        on: &mut Connection,
        now: UnixMs,
        tally: &mut Tally,
    ) -> Result<u64, Error> {
        match self {
            Self::Expire { until, reason, limit } => expire(on, *until, reason, *limit, now, tally).await,
            Self::Forget { until, limit } => forget(on, *until, *limit, tally).await,
        }
    }
}

fn bounded(limit: usize) -> i64 {
    i64::try_from(limit.min(AT_ONCE)).unwrap_or(i64::MAX)
}

async fn expire(
    on: &mut Connection,
    until: UnixMs,
    reason: &str,
    limit: usize,
    now: UnixMs,
    tally: &mut Tally,
) -> Result<u64, Error> {
    // What somebody else is just changing is passed over, and looked at again as it is then. Looked for once and by itself: as
    // part of the update the server may look anew for each row, and pass over those it has locked meanwhile.
    let sql = format!(
        "WITH old AS (SELECT id FROM dead_letters WHERE state = 'dead' AND last_failure_ms <= $2 AND {FREE}
                      ORDER BY last_failure_ms, id LIMIT $3{SKIP_LOCKED})
         UPDATE dead_letters SET state = 'expired', closed_ms = $1
         WHERE id IN (SELECT id FROM old) AND state = 'dead' AND last_failure_ms <= $2
         RETURNING id, grp, destination, message_type"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(int(now))
        .bind(int(until))
        .bind(bounded(limit))
        .fetch_all(&mut *on)
        .await
        .map_err(failed)?;
    if rows.is_empty() {
        return Ok(0);
    }
    let (from, to) = (LetterState::Dead, LetterState::Expired);
    let mut ids = Vec::with_capacity(rows.len());
    for row in &rows {
        tally.moved(&letters::kind(row)?, from, to);
        ids.push(text(row, "id")?);
    }
    // RETURNING promises no order.
    ids.sort_unstable();
    let mut query: QueryBuilder<Database> = QueryBuilder::new(
        "INSERT INTO letter_trail (letter, at_ms, actor, action, from_state, to_state, reason) ",
    );
    query.push_values(&ids, |mut row, id| {
        row.push_bind(stored(id).into_owned())
            .push_bind(int(now))
            .push_bind(trail::HOST)
            .push_bind("expire")
            .push_bind(from.as_str())
            .push_bind(to.as_str())
            .push_bind(stored(reason).into_owned());
    });
    query.build().execute(on).await.map_err(failed)?;
    Ok(ids.len() as u64)
}

async fn forget(on: &mut Connection, until: UnixMs, limit: usize, tally: &mut Tally) -> Result<u64, Error> {
    let sql = format!(
        "WITH old AS (SELECT id FROM dead_letters WHERE closed_ms IS NOT NULL AND closed_ms <= $1 AND {FREE} AND {COPIED}
                      ORDER BY closed_ms, id LIMIT $2{SKIP_LOCKED})
         DELETE FROM dead_letters WHERE id IN (SELECT id FROM old) AND closed_ms <= $1
         RETURNING id, grp, destination, message_type, state, number"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(int(until))
        .bind(bounded(limit))
        .fetch_all(&mut *on)
        .await
        .map_err(failed)?;
    if rows.is_empty() {
        return Ok(0);
    }
    let mut ids = Vec::with_capacity(rows.len());
    let mut numbers = Vec::with_capacity(rows.len());
    for row in &rows {
        numbers.extend(column::<Option<i64>>(row, "number")?);
        let id = text(row, "id")?;
        let state = letters::word(column(row, "state")?).ok_or_else(|| corrupt("the state", &id))?;
        tally.count(letters::kind(row)?, state, -1);
        ids.push(id);
    }
    let mut query = QueryBuilder::<Database>::new("DELETE FROM letter_trail WHERE letter IN (");
    let mut gone = query.separated(", ");
    for id in &ids {
        gone.push_bind(stored(id).into_owned());
    }
    query.push(")");
    query.build().execute(&mut *on).await.map_err(failed)?;
    words::forget(on, &numbers).await?;
    Ok(ids.len() as u64)
}

#[async_trait]
impl KeepLetters for Store {
    async fn expire(&self, until: UnixMs, reason: &str, limit: usize) -> Result<u64, Error> {
        // Asked often, and nearly always for nothing: only what is there costs a transaction.
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM dead_letters WHERE state = 'dead' AND last_failure_ms <= $1 AND {FREE})"
        );
        let any = sqlx::query_scalar(AssertSqlSafe(sql)).bind(int(until));
        if !answered(any.fetch_one(self.readers())).await? {
            return Ok(0);
        }
        let reason = reason.to_owned();
        let expire = Op::Expire { until, reason, limit };
        self.write(WriterOp::Keep(expire)).await.map(Done::count)
    }

    async fn forget_closed(&self, until: UnixMs, limit: usize) -> Result<u64, Error> {
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM dead_letters WHERE closed_ms IS NOT NULL AND closed_ms <= $1 AND {FREE} AND {COPIED})"
        );
        let any = sqlx::query_scalar(AssertSqlSafe(sql)).bind(int(until));
        if !answered(any.fetch_one(self.readers())).await? {
            return Ok(0);
        }
        self.write(WriterOp::Keep(Op::Forget { until, limit }))
            .await
            .map(Done::count)
    }
}
