//! Letters that are still to be exported: their SQL, and the seam [`Exports`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, QueryBuilder};

use super::engine::{Connection, Database, SKIP_LOCKED, answered, failed};
use super::op::{self, Done};
use super::row::column;
use super::text::{stored, text};
use super::{Error, Store, int, uint};
use crate::model::clock::duration_ms;
use crate::model::{MessageKind, UnixMs};
use crate::store::{Export, Exports};

/// Rows in one statement.
const TOGETHER: usize = 500;

/// Of which kinds new letters are exported.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    tasks: AtomicBool,
    events: AtomicBool,
}

impl Wanted {
    pub(super) fn has(&self, kind: MessageKind) -> bool {
        match kind {
            MessageKind::Task => self.tasks.load(Ordering::Relaxed),
            MessageKind::Event => self.events.load(Ordering::Relaxed),
        }
    }
}

pub(super) enum Op {
    Claim {
        kind: MessageKind,
        limit: usize,
        lease: Duration,
        host: Arc<str>,
    },
    Done(Vec<Export>),
    GiveBack(Vec<Export>),
}

impl Op {
    pub(super) async fn apply(&self, on: &mut Connection, now: UnixMs) -> Result<Done, Error> {
        match self {
            Self::Claim {
                kind,
                limit,
                lease,
                host,
            } => claim(on, *kind, *limit, now, *lease, host)
                .await
                .map(Done::Exports),
            Self::Done(exports) => {
                each(on, exports, "DELETE FROM letter_exports").await?;
                Ok(Done::Nothing)
            }
            Self::GiveBack(exports) => {
                each(
                    on,
                    exports,
                    "UPDATE letter_exports SET lease_until_ms = 0, host = NULL",
                )
                .await?;
                Ok(Done::Nothing)
            }
        }
    }
}

/// Letters that are new. Their rows come with them.
pub(super) async fn add(on: &mut Connection, letters: &[(String, MessageKind)]) -> Result<(), Error> {
    for some in letters.chunks(TOGETHER) {
        let mut query: QueryBuilder<Database> =
            QueryBuilder::new("INSERT INTO letter_exports (letter, kind) ");
        query.push_values(some, |mut row, (letter, kind)| {
            row.push_bind(stored(letter).into_owned())
                .push_bind(kind.as_str());
        });
        query.build().execute(&mut *on).await.map_err(failed)?;
    }
    Ok(())
}

async fn claim(
    on: &mut Connection,
    kind: MessageKind,
    limit: usize,
    now: UnixMs,
    lease: Duration,
    host: &str,
) -> Result<Vec<Export>, Error> {
    let sql = format!(
        "WITH next AS (SELECT seq FROM letter_exports WHERE kind = $1 AND lease_until_ms <= $2 ORDER BY seq LIMIT $3{SKIP_LOCKED})
         UPDATE letter_exports SET lease_until_ms = $4, host = $5 WHERE seq IN (SELECT seq FROM next)
         RETURNING seq, letter"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(kind.as_str())
        .bind(int(now))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .bind(int(now.saturating_add(duration_ms(lease))))
        .bind(host)
        .fetch_all(on)
        .await
        .map_err(failed)?;
    let mut claimed = Vec::with_capacity(rows.len());
    for row in &rows {
        claimed.push(Export {
            place: column(row, "seq")?,
            letter: text(row, "letter")?,
        });
    }
    // RETURNING promises no order.
    claimed.sort_by_key(|export| export.place);
    Ok(claimed)
}

/// By place and letter: a place may be given anew once its row is gone.
async fn each(on: &mut Connection, exports: &[Export], change: &'static str) -> Result<(), Error> {
    let sql = format!("{change} WHERE seq = $1 AND letter = $2");
    for export in exports {
        sqlx::query(AssertSqlSafe(sql.clone()))
            .bind(export.place)
            .bind(stored(&export.letter))
            .execute(&mut *on)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

/// What an earlier run of this host had claimed.
pub(super) async fn let_all_go(on: &mut Connection, host: &str) -> Result<u64, Error> {
    let done = sqlx::query("UPDATE letter_exports SET lease_until_ms = 0, host = NULL WHERE host = $1")
        .bind(host)
        .execute(on)
        .await
        .map_err(failed)?;
    Ok(done.rows_affected())
}

#[async_trait]
impl Exports for Store {
    fn export(&self, tasks: bool, events: bool) {
        self.inner.exports.tasks.store(tasks, Ordering::Relaxed);
        self.inner.exports.events.store(events, Ordering::Relaxed);
    }

    async fn pending_exports(&self) -> Result<u64, Error> {
        let count = sqlx::query_scalar("SELECT COUNT(*) FROM letter_exports");
        answered(count.fetch_one(self.readers())).await.map(uint)
    }

    async fn claim_exports(
        &self,
        kind: MessageKind,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<Export>, Error> {
        // Asked often, and mostly for nothing: only what is there costs a transaction.
        let any = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM letter_exports WHERE kind = $1 AND lease_until_ms <= $2)",
        )
        .bind(kind.as_str())
        .bind(int(self.inner.clock.now_ms()));
        if !answered(any.fetch_one(self.readers())).await? {
            return Ok(Vec::new());
        }
        let claim = Op::Claim {
            kind,
            limit,
            lease,
            host: self.host(),
        };
        match self.write(op::Op::Export(claim)).await? {
            Done::Exports(claimed) => Ok(claimed),
            _ => Ok(Vec::new()),
        }
    }

    async fn exported(&self, done: Vec<Export>) -> Result<(), Error> {
        if done.is_empty() {
            return Ok(());
        }
        self.write(op::Op::Export(Op::Done(done))).await.map(drop)
    }

    async fn give_back_exports(&self, claimed: Vec<Export>) -> Result<(), Error> {
        if claimed.is_empty() {
            return Ok(());
        }
        self.write(op::Op::Export(Op::GiveBack(claimed))).await.map(drop)
    }
}
