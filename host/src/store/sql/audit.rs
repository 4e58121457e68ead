//! The audit table: its SQL, and the seam [`Audit`].

use async_trait::async_trait;

use super::engine::{Connection, Row, failed};
use super::op::{Done, Op};
use super::row::column;
use super::{Error, Store, int, uint};
use crate::model::UnixMs;
use crate::store::{Audit, AuditEntry, AuditPage};

pub(super) async fn add(on: &mut Connection, entry: &AuditEntry) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO audit (at_ms, actor, role, action, target, status, count) VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(int(entry.at_ms))
    .bind(&entry.actor)
    .bind(&entry.role)
    .bind(&entry.action)
    .bind(&entry.target)
    .bind(i64::from(entry.status))
    .bind(int(entry.count))
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(())
}

pub(super) async fn forget(on: &mut Connection, before: UnixMs, limit: usize) -> Result<u64, Error> {
    let done = sqlx::query(
        "DELETE FROM audit WHERE seq IN (SELECT seq FROM audit WHERE at_ms < $1 ORDER BY at_ms LIMIT $2)",
    )
    .bind(int(before))
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(done.rows_affected())
}

fn entry(row: &Row) -> Result<AuditEntry, Error> {
    Ok(AuditEntry {
        at_ms: uint(column(row, "at_ms")?),
        actor: column(row, "actor")?,
        role: column(row, "role")?,
        action: column(row, "action")?,
        target: column(row, "target")?,
        status: u16::try_from(column::<i64>(row, "status")?).unwrap_or_default(),
        count: uint(column(row, "count")?),
    })
}

#[async_trait]
impl Audit for Store {
    async fn record(&self, entries: Vec<AuditEntry>) -> Result<(), Error> {
        self.write(Op::Audit(entries)).await.map(drop)
    }

    async fn audit(&self, before: Option<u64>, limit: usize) -> Result<AuditPage, Error> {
        let rows = sqlx::query("SELECT * FROM audit WHERE seq < $1 ORDER BY seq DESC LIMIT $2")
            .bind(before.map_or(i64::MAX, int))
            // One more than asked for tells whether there is a next page.
            .bind(i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX))
            .fetch_all(self.readers())
            .await
            .map_err(failed)?;
        let shown = rows.get(..limit).unwrap_or(&rows);
        let next = match shown.last() {
            Some(last) if rows.len() > limit => Some(uint(column(last, "seq")?)),
            _ => None,
        };
        Ok(AuditPage {
            entries: shown.iter().map(entry).collect::<Result<_, _>>()?,
            next,
        })
    }

    async fn forget(&self, before: UnixMs, limit: usize) -> Result<u64, Error> {
        self.write(Op::Forget { before, limit }).await.map(Done::count)
    }
}
