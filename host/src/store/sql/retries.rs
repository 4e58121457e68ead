//! Parked messages: their SQL, and the seam [`Retries`].

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, QueryBuilder};

use super::engine::{self, Connection, Database, Row, SKIP_LOCKED, answered, failed, same_lane};
use super::op::{Done, Op};
use super::row::{column, corrupt, pieces};
use super::text::{stored, text};
use super::{Error, Store, codec, int, small, uint};
use crate::model::clock::duration_ms;
use crate::model::{DeadLetter, UnixMs};
use crate::store::{Parked, Retries};

/// Its lane is locked: see [`Op::lanes`].
pub(super) async fn insert(on: &mut Connection, row: &Parked) -> Result<(), Error> {
    let sql = format!(
        "INSERT INTO parked (id, route, lane, head, attempt, due_ms, ready_ms, history, first_failure_ms, message)
         VALUES ($1, $2, $3,
                 CASE WHEN $3 IS NULL OR NOT EXISTS (SELECT 1 FROM parked WHERE route = $2 AND {})
                      THEN 1 ELSE 0 END,
                 $4, $5, $5, $6, $7, $8)
         ON CONFLICT (id) DO NOTHING",
        same_lane("$3")
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(stored(&row.id))
        .bind(stored(&row.route))
        .bind(&row.lane)
        .bind(i64::from(row.attempt))
        .bind(int(row.due_ms))
        .bind(history(row)?)
        .bind(int(row.first_failure_ms))
        .bind(codec::write(&row.raw))
        .execute(on)
        .await
        .map_err(failed)?;
    Ok(())
}

/// As [`insert()`], of rows that wait behind nothing.
pub(super) async fn insert_free(on: &mut Connection, rows: &[&Parked]) -> Result<(), Error> {
    for some in pieces(rows) {
        let mut values = Vec::with_capacity(some.len());
        for row in some {
            values.push((row, history(row)?));
        }
        let mut query = QueryBuilder::<Database>::new(
            "INSERT INTO parked (id, route, head, attempt, due_ms, ready_ms, history, first_failure_ms, message) ",
        );
        query.push_values(values, |mut into, (row, history)| {
            into.push_bind(stored(&row.id).into_owned())
                .push_bind(stored(&row.route).into_owned())
                .push_bind(1_i64)
                .push_bind(i64::from(row.attempt))
                .push_bind(int(row.due_ms))
                .push_bind(int(row.due_ms))
                .push_bind(history)
                .push_bind(int(row.first_failure_ms))
                .push_bind(codec::write(&row.raw));
        });
        query.push(" ON CONFLICT (id) DO NOTHING");
        query.build().execute(&mut *on).await.map_err(failed)?;
    }
    Ok(())
}

pub(super) fn history(row: &Parked) -> Result<String, Error> {
    serde_json::to_string(&row.history).map_err(|e| Error::Storage(e.to_string()))
}

/// A claim of due rows.
pub(super) struct Claim {
    pub now: UnixMs,
    pub lease_until: UnixMs,
    pub limit: usize,
    pub host: Arc<str>,
    /// Tells this claim from the others of the host.
    pub ticket: i64,
}

pub(super) async fn claim(on: &mut Connection, claim: &Claim) -> Result<Vec<Parked>, Error> {
    // What another host is just claiming is passed over, and taken out of the subquery once: a plan may not run it again.
    let sql = format!(
        "WITH due AS (SELECT seq FROM parked WHERE head = 1 AND ready_ms <= $2 ORDER BY ready_ms, seq LIMIT $3{SKIP_LOCKED})
         UPDATE parked SET ready_ms = $1, claims = claims + 1, host = $4, ticket = $5
         WHERE seq IN (SELECT seq FROM due)
         RETURNING seq, id, route, lane, attempt, due_ms, claims, history, first_failure_ms, message"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(int(claim.lease_until))
        .bind(int(claim.now))
        .bind(i64::try_from(claim.limit).unwrap_or(i64::MAX))
        .bind(&*claim.host)
        .bind(claim.ticket)
        .fetch_all(on)
        .await
        .map_err(failed)?;
    let mut claimed = Vec::with_capacity(rows.len());
    for row in &rows {
        match parked(row) {
            Ok(parked) => claimed.push((column::<i64>(row, "seq")?, parked)),
            // It must not stop the others. It stays in the file, leased, and says so again each time that runs out.
            Err(error) => tracing::error!(%error, "a parked message cannot be read and is left where it is"),
        }
    }
    // RETURNING promises no order.
    claimed.sort_by_key(|(seq, row)| (row.due_ms, *seq));
    Ok(claimed.into_iter().map(|(_, row)| row).collect())
}

fn parked(row: &Row) -> Result<Parked, Error> {
    let id = text(row, "id")?;
    let mut raw = codec::read(column(row, "message")?).ok_or_else(|| corrupt("the message", &id))?;
    // A lease that was taken and never answered: the handler may have run.
    raw.redelivered |= column::<i64>(row, "claims")? > 1;
    Ok(Parked {
        route: text(row, "route")?,
        raw,
        attempt: small(column(row, "attempt")?),
        due_ms: uint(column(row, "due_ms")?),
        lane: column(row, "lane")?,
        history: serde_json::from_str(column(row, "history")?).map_err(|_| corrupt("the history", &id))?,
        first_failure_ms: uint(column(row, "first_failure_ms")?),
        id,
    })
}

/// The next row of its lane becomes the head: see [`Op::lanes`] for who else may want to make one. A row that is gone already is none of our business.
pub(super) async fn remove(on: &mut Connection, id: &str) -> Result<(), Error> {
    let gone = sqlx::query("DELETE FROM parked WHERE id = $1 RETURNING route, lane")
        .bind(stored(id))
        .fetch_optional(&mut *on)
        .await
        .map_err(failed)?;
    let Some(gone) = gone else { return Ok(()) };
    let Some(lane) = column::<Option<Vec<u8>>>(&gone, "lane")? else {
        return Ok(());
    };
    let route: String = column(&gone, "route")?;
    // Held already, unless it was parked by another host between our looking up its lane and here.
    engine::lock_lanes(on, &[(&route, &lane)], &[], &[]).await?;
    let sql = format!(
        "UPDATE parked SET head = 1 WHERE seq = (SELECT MIN(seq) FROM parked WHERE route = $1 AND {})",
        same_lane("$2")
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(route)
        .bind(lane)
        .execute(on)
        .await
        .map_err(failed)?;
    Ok(())
}

/// The message itself stays as it was parked. Not a row that waits for its letter: whose lease ran out comes too late.
pub(super) async fn update(on: &mut Connection, row: &Parked) -> Result<(), Error> {
    sqlx::query(
        "UPDATE parked SET attempt = $2, due_ms = $3, ready_ms = $3, claims = 0, history = $4, host = NULL, ticket = NULL
         WHERE id = $1 AND held IS NULL",
    )
    .bind(stored(&row.id))
    .bind(i64::from(row.attempt))
    .bind(int(row.due_ms))
    .bind(history(row)?)
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Not the lease of another host, to which the row went when ours had run out.
pub(super) async fn release(on: &mut Connection, id: &str, host: &str) -> Result<(), Error> {
    sqlx::query(
        "UPDATE parked SET ready_ms = due_ms, host = NULL, ticket = NULL WHERE id = $1 AND (host = $2 OR host IS NULL)",
    )
    .bind(stored(id))
    .bind(host)
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(())
}

/// The rows of one claim.
pub(super) async fn unclaim(on: &mut Connection, host: &str, ticket: i64) -> Result<u64, Error> {
    let done = sqlx::query(
        "UPDATE parked SET ready_ms = due_ms, host = NULL, ticket = NULL WHERE host = $1 AND ticket = $2",
    )
    .bind(host)
    .bind(ticket)
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(done.rows_affected())
}

/// All leases of the host. One that says no host was taken before hosts were written down, in a file that had one only.
pub(super) async fn release_all(on: &mut Connection, host: &str) -> Result<u64, Error> {
    let done = sqlx::query(
        "UPDATE parked SET ready_ms = due_ms, host = NULL, ticket = NULL
         WHERE ready_ms <> due_ms AND (host = $1 OR host IS NULL)",
    )
    .bind(host)
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(done.rows_affected())
}

/// `redelivered` of a claimed row tells that an earlier lease ended without an outcome (it ran out, or was released), so
/// the handler may have run. What is done to a row that is gone already changes nothing.
#[async_trait]
impl Retries for Store {
    async fn park(&self, parked: Vec<Parked>) -> Result<(), Error> {
        self.write(Op::Park(parked)).await.map(drop)
    }

    async fn claim_due(&self, now: UnixMs, lease: Duration, limit: usize) -> Result<Vec<Parked>, Error> {
        let lease_until = self.inner.clock.now_ms().saturating_add(duration_ms(lease));
        let claim = Claim {
            now,
            lease_until,
            limit,
            host: self.host(),
            ticket: self.ticket(),
        };
        match self.write(Op::Claim(claim)).await? {
            Done::Claimed(rows) => Ok(rows),
            _ => Ok(Vec::new()),
        }
    }

    async fn complete(&self, id: &str) -> Result<(), Error> {
        self.write(Op::Complete(id.to_owned())).await.map(drop)
    }

    async fn reschedule(&self, parked: Parked) -> Result<(), Error> {
        self.write(Op::Reschedule(Box::new(parked))).await.map(drop)
    }

    async fn bury(&self, parked_id: &str, letter: DeadLetter) -> Result<String, Error> {
        let own = letter.id.clone();
        let done = self
            .write(Op::Bury(parked_id.to_owned(), Box::new(letter)))
            .await?;
        Ok(done.entered().pop().unwrap_or(own))
    }

    async fn release(&self, id: &str) -> Result<(), Error> {
        self.write(Op::Release(id.to_owned(), self.host()))
            .await
            .map(drop)
    }

    async fn lanes(&self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        // Each lane that has rows has exactly one head.
        let query = sqlx::query(
            "SELECT route, lane FROM parked WHERE head = 1 AND lane IS NOT NULL ORDER BY route, lane",
        );
        answered(query.fetch_all(self.readers()))
            .await?
            .iter()
            .map(|row| Ok((text(row, "route")?, column(row, "lane")?)))
            .collect()
    }

    async fn lane_is_empty(&self, route: &str, lane: &[u8]) -> Result<bool, Error> {
        let sql = format!(
            "SELECT NOT EXISTS (SELECT 1 FROM parked WHERE route = $1 AND {})",
            same_lane("$2")
        );
        let query = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(stored(route))
            .bind(lane);
        answered(query.fetch_one(self.readers())).await
    }

    async fn count(&self) -> Result<u64, Error> {
        let query = sqlx::query_scalar("SELECT COUNT(*) FROM parked");
        answered(query.fetch_one(self.readers())).await.map(uint)
    }

    async fn next_due(&self) -> Result<Option<UnixMs>, Error> {
        let query = sqlx::query_scalar("SELECT MIN(ready_ms) FROM parked WHERE head = 1");
        let next: Option<i64> = answered(query.fetch_one(self.readers())).await?;
        Ok(next.map(uint))
    }
}
