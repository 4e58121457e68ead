//! Rows that wait for their letter at the head of their lane: their SQL, and the seam [`HeldKeys`].

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, QueryBuilder};

use super::engine::{Connection, Database, Row, SNAPSHOT, answered, failed, same_lane};
use super::find::among;
use super::op::Op;
use super::row::column;
use super::text::{stored, text};
use super::{Error, Store, codec, int, retries, uint};
use crate::model::{DeadLetter, UnixMs};
use crate::store::{HeldFilter, HeldKey, HeldKeys, HeldPage, HeldRoute, Parked};

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
/// When a row that waits for its letter is due.
const NEVER: i64 = i64::MAX;

/// The row of a message that failed for good, behind whatever of its lane came before it.
pub(super) async fn hold(on: &mut Connection, row: &Parked, letter: &str, now: UnixMs) -> Result<(), Error> {
    retries::insert(on, row).await?;
    sqlx::query(
        "UPDATE parked SET held = $2, held_ms = $3, attempt = $4, due_ms = $5, ready_ms = $5, claims = 0, history = $6,
             host = NULL, ticket = NULL
         WHERE id = $1",
    )
    .bind(stored(&row.id))
    .bind(stored(letter))
    .bind(int(now))
    .bind(i64::from(row.attempt))
    .bind(NEVER)
    .bind(retries::history(row)?)
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(())
}

pub(super) async fn holds(on: &mut Connection, letter: &str) -> Result<bool, Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM parked WHERE held = $1)")
        .bind(stored(letter))
        .fetch_one(on)
        .await
        .map_err(failed)
}

/// Which of them do.
pub(super) async fn holding(on: &mut Connection, letters: &[&str]) -> Result<HashSet<String>, Error> {
    let mut query = QueryBuilder::<Database>::new("SELECT held FROM parked");
    let letters: Vec<String> = letters.iter().map(|letter| stored(letter).into_owned()).collect();
    among(&mut query, " WHERE held", &letters);
    let rows = query.build().fetch_all(on).await.map_err(failed)?;
    rows.iter().map(|row| text(row, "held")).collect()
}

/// It runs again in its place, or a changed copy of it does, which has an id of its own. Was there one?
pub(super) async fn resume(
    on: &mut Connection,
    letter: &str,
    row: &Parked,
    copy: bool,
) -> Result<bool, Error> {
    let resumed = sqlx::query(
        "UPDATE parked SET held = NULL, held_ms = NULL, attempt = $2, due_ms = $3, ready_ms = $3, claims = 0,
             history = $4, message = $5, first_failure_ms = $6, id = COALESCE($7, id)
         WHERE held = $1",
    )
    .bind(stored(letter))
    .bind(i64::from(row.attempt))
    .bind(int(row.due_ms))
    .bind(retries::history(row)?)
    .bind(codec::write(&row.raw))
    .bind(int(row.first_failure_ms))
    .bind(copy.then(|| stored(&row.id)))
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(resumed.rows_affected() > 0)
}

/// As [`resume()`], of each of these letters, and the messages as they are.
pub(super) async fn wake(on: &mut Connection, letters: &[&str], now: UnixMs) -> Result<(), Error> {
    let mut query = QueryBuilder::<Database>::new(
        "UPDATE parked SET held = NULL, held_ms = NULL, attempt = 1, claims = 0, history = '[]', due_ms = ",
    );
    query
        .push_bind(int(now))
        .push(", ready_ms = ")
        .push_bind(int(now));
    let letters: Vec<String> = letters.iter().map(|letter| stored(letter).into_owned()).collect();
    among(&mut query, " WHERE held", &letters);
    query.build().execute(on).await.map(drop).map_err(failed)
}

/// The next row of its lane becomes the head.
pub(super) async fn remove(on: &mut Connection, letter: &str) -> Result<(), Error> {
    let rows = sqlx::query("SELECT id FROM parked WHERE held = $1")
        .bind(stored(letter))
        .fetch_all(&mut *on)
        .await
        .map_err(failed)?;
    for row in &rows {
        retries::remove(on, &text(row, "id")?).await?;
    }
    Ok(())
}

fn keys() -> String {
    format!(
        "SELECT seq, route, lane, held, held_ms,
             (SELECT COUNT(*) FROM parked AS behind WHERE behind.route = parked.route AND {}) - 1 AS waiting
         FROM parked WHERE held IS NOT NULL",
        in_its_lane()
    )
}

/// Of another row, within a question about this one.
fn in_its_lane() -> String {
    same_lane("parked.lane")
}

fn key(row: &Row) -> Result<HeldKey, Error> {
    Ok(HeldKey {
        route: text(row, "route")?,
        lane: column::<Option<Vec<u8>>>(row, "lane")?.unwrap_or_default(),
        letter: text(row, "held")?,
        since_ms: uint(column::<Option<i64>>(row, "held_ms")?.unwrap_or_default()),
        waiting: uint(column(row, "waiting")?),
    })
}

fn matching(query: &mut QueryBuilder<Database>, filter: &HeldFilter) {
    if let Some(route) = &filter.route {
        query.push(" AND route = ").push_bind(stored(route).into_owned());
    }
    if let Some(until) = filter.until_ms {
        query.push(" AND held_ms <= ").push_bind(int(until));
    }
}

#[async_trait]
impl HeldKeys for Store {
    async fn hold(&self, row: Parked, letter: DeadLetter) -> Result<String, Error> {
        let own = letter.id.clone();
        let done = self.write(Op::Hold(Box::new(row), Box::new(letter))).await?;
        Ok(done.entered().pop().unwrap_or(own))
    }

    async fn room(&self, route: &str, lane: &[u8], limit: u64) -> Result<Option<u64>, Error> {
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM parked WHERE route = $1 AND {} AND held IS NOT NULL AND head = 1)",
            same_lane("$2")
        );
        let query = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(stored(route))
            .bind(lane);
        let held: bool = answered(query.fetch_one(self.readers())).await?;
        if !held {
            return Ok(None);
        }
        // Counting ends at the limit.
        let sql = format!(
            "SELECT COUNT(*) FROM (SELECT 1 FROM parked WHERE route = $1 AND {} LIMIT $3) AS counted",
            same_lane("$2")
        );
        let query = sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(stored(route))
            .bind(lane)
            .bind(int(limit));
        let rows: i64 = answered(query.fetch_one(self.readers())).await?;
        Ok(Some(limit.saturating_sub(uint(rows))))
    }

    async fn held_by(&self, letter: &str) -> Result<Option<HeldKey>, Error> {
        let mut query = QueryBuilder::<Database>::new(keys());
        query.push(" AND held = ").push_bind(stored(letter).into_owned());
        query.push(" ORDER BY seq LIMIT 1");
        let row = answered(query.build().fetch_optional(self.readers())).await?;
        row.as_ref().map(key).transpose()
    }

    async fn held(&self, filter: &HeldFilter) -> Result<HeldPage, Error> {
        let limit = match filter.limit {
            0 => DEFAULT_LIMIT,
            limit => limit.min(MAX_LIMIT),
        };
        let mut query = QueryBuilder::<Database>::new(keys());
        matching(&mut query, filter);
        if let Some(cursor) = &filter.cursor {
            let after: i64 = cursor
                .parse()
                .map_err(|_| Error::Invalid("the cursor is none that `next` gave".to_owned()))?;
            query.push(" AND seq > ").push_bind(after);
        }
        query.push(" ORDER BY seq LIMIT ");
        // One more than asked for tells whether there is a next page.
        query.push_bind(i64::try_from(limit + 1).unwrap_or(i64::MAX));
        let mut counting =
            QueryBuilder::<Database>::new("SELECT COUNT(*) FROM parked WHERE held IS NOT NULL");
        matching(&mut counting, filter);

        // One snapshot, so that count and keys belong together.
        let (count, rows) = answered(Box::pin(async {
            let mut snapshot = self.readers().begin_with(SNAPSHOT).await?;
            let count: i64 = counting.build_query_scalar().fetch_one(&mut *snapshot).await?;
            let rows = query.build().fetch_all(&mut *snapshot).await?;
            snapshot.rollback().await?;
            Ok((count, rows))
        }))
        .await?;

        let more = rows.len() > limit;
        let shown: Vec<&Row> = rows.iter().take(limit).collect();
        let last = shown.last().map(|row| column::<i64>(row, "seq")).transpose()?;
        Ok(HeldPage {
            count: uint(count),
            keys: shown.into_iter().map(key).collect::<Result<_, _>>()?,
            next: last.filter(|_| more).map(|seq| seq.to_string()),
        })
    }

    async fn held_routes(&self) -> Result<Vec<HeldRoute>, Error> {
        let query = sqlx::query(
            "SELECT route, COUNT(*) AS held_keys, MIN(held_ms) AS since
             FROM parked WHERE held IS NOT NULL GROUP BY route ORDER BY route",
        );
        answered(query.fetch_all(self.readers()))
            .await?
            .iter()
            .map(|row| {
                Ok(HeldRoute {
                    route: text(row, "route")?,
                    keys: uint(column(row, "held_keys")?),
                    since_ms: uint(column::<Option<i64>>(row, "since")?.unwrap_or_default()),
                })
            })
            .collect()
    }

    async fn waiting(&self) -> Result<Vec<(String, u64)>, Error> {
        let sql = format!(
            "SELECT route, CAST(SUM((SELECT COUNT(*) FROM parked AS behind
                 WHERE behind.route = parked.route AND {}) - 1) AS BIGINT) AS waiting
             FROM parked WHERE held IS NOT NULL GROUP BY route ORDER BY route",
            in_its_lane()
        );
        let query = sqlx::query(AssertSqlSafe(sql));
        answered(query.fetch_all(self.readers()))
            .await?
            .iter()
            .map(|row| Ok((text(row, "route")?, uint(column(row, "waiting")?))))
            .collect()
    }
}
