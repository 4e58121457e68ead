//! Rows that wait for their letter at the head of their lane: their SQL, and the seam [`HeldKeys`].

use async_trait::async_trait;
use sqlx::QueryBuilder;

use super::engine::{Connection, Database, Row, failed};
use super::op::Op;
use super::row::column;
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
        "UPDATE parked SET held = $2, held_ms = $3, attempt = $4, due_ms = $5, ready_ms = $5, claims = 0, history = $6
         WHERE id = $1",
    )
    .bind(&row.id)
    .bind(letter)
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
        .bind(letter)
        .fetch_one(on)
        .await
        .map_err(failed)
}

/// It runs again in its place.
pub(super) async fn resume(on: &mut Connection, letter: &str, row: &Parked) -> Result<(), Error> {
    sqlx::query(
        "UPDATE parked SET held = NULL, held_ms = NULL, attempt = $2, due_ms = $3, ready_ms = $3, claims = 0,
             history = $4, message = $5
         WHERE held = $1",
    )
    .bind(letter)
    .bind(i64::from(row.attempt))
    .bind(int(row.due_ms))
    .bind(retries::history(row)?)
    .bind(codec::write(&row.raw))
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(())
}

/// As [`resume()`], the message as it is.
pub(super) async fn wake(on: &mut Connection, letter: &str, now: UnixMs) -> Result<(), Error> {
    sqlx::query(
        "UPDATE parked SET held = NULL, held_ms = NULL, attempt = 1, due_ms = $2, ready_ms = $2, claims = 0,
             history = '[]'
         WHERE held = $1",
    )
    .bind(letter)
    .bind(int(now))
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(())
}

/// The next row of its lane becomes the head.
pub(super) async fn remove(on: &mut Connection, letter: &str) -> Result<(), Error> {
    let rows: Vec<String> = sqlx::query_scalar("SELECT id FROM parked WHERE held = $1")
        .bind(letter)
        .fetch_all(&mut *on)
        .await
        .map_err(failed)?;
    for id in rows {
        retries::remove(on, &id).await?;
    }
    Ok(())
}

const KEYS: &str = "SELECT seq, route, lane, held, held_ms,
    (SELECT COUNT(*) FROM parked AS behind WHERE behind.route = parked.route AND behind.lane = parked.lane) - 1 AS waiting
    FROM parked WHERE held IS NOT NULL";

fn key(row: &Row) -> Result<HeldKey, Error> {
    Ok(HeldKey {
        route: column(row, "route")?,
        lane: column::<Option<Vec<u8>>>(row, "lane")?.unwrap_or_default(),
        letter: column(row, "held")?,
        since_ms: uint(column::<Option<i64>>(row, "held_ms")?.unwrap_or_default()),
        waiting: uint(column(row, "waiting")?),
    })
}

fn matching(query: &mut QueryBuilder<Database>, filter: &HeldFilter) {
    if let Some(route) = &filter.route {
        query.push(" AND route = ").push_bind(route.clone());
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
        let held: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM parked WHERE route = $1 AND lane = $2 AND held IS NOT NULL AND head = 1)",
        )
        .bind(route)
        .bind(lane)
        .fetch_one(self.readers())
        .await
        .map_err(failed)?;
        if !held {
            return Ok(None);
        }
        // Counting ends at the limit.
        let rows: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM (SELECT 1 FROM parked WHERE route = $1 AND lane = $2 LIMIT $3) AS counted",
        )
        .bind(route)
        .bind(lane)
        .bind(int(limit))
        .fetch_one(self.readers())
        .await
        .map_err(failed)?;
        Ok(Some(limit.saturating_sub(uint(rows))))
    }

    async fn held_by(&self, letter: &str) -> Result<Option<HeldKey>, Error> {
        let mut query = QueryBuilder::<Database>::new(KEYS);
        query.push(" AND held = ").push_bind(letter.to_owned());
        query.push(" ORDER BY seq LIMIT 1");
        let row = query
            .build()
            .fetch_optional(self.readers())
            .await
            .map_err(failed)?;
        row.as_ref().map(key).transpose()
    }

    async fn held(&self, filter: &HeldFilter) -> Result<HeldPage, Error> {
        let limit = match filter.limit {
            0 => DEFAULT_LIMIT,
            limit => limit.min(MAX_LIMIT),
        };
        let mut query = QueryBuilder::<Database>::new(KEYS);
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
        let mut snapshot = self.readers().begin().await.map_err(failed)?;
        let count: i64 = counting
            .build_query_scalar()
            .fetch_one(&mut *snapshot)
            .await
            .map_err(failed)?;
        let rows = query.build().fetch_all(&mut *snapshot).await.map_err(failed)?;
        snapshot.rollback().await.map_err(failed)?;

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
        let rows: Vec<(String, i64, Option<i64>)> = sqlx::query_as(
            "SELECT route, COUNT(*), MIN(held_ms) FROM parked WHERE held IS NOT NULL GROUP BY route ORDER BY route",
        )
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        let routes = rows.into_iter().map(|(route, keys, since)| HeldRoute {
            route,
            keys: uint(keys),
            since_ms: uint(since.unwrap_or_default()),
        });
        Ok(routes.collect())
    }

    async fn waiting(&self) -> Result<Vec<(String, u64)>, Error> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT head.route, COUNT(*) FROM parked AS head
             JOIN parked AS behind ON behind.route = head.route AND behind.lane = head.lane AND behind.held IS NULL
             WHERE head.held IS NOT NULL GROUP BY head.route ORDER BY head.route",
        )
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        Ok(rows
            .into_iter()
            .map(|(route, rows)| (route, uint(rows)))
            .collect())
    }
}
