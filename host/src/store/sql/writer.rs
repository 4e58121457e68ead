//! The one task that changes the file: everything that waits goes into one transaction, one fsync.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::Connection as _;
use tokio::sync::{mpsc, oneshot};

use super::engine::{BEGIN, Connection, failed};
use super::op::{Done, Op};
use super::tally::Tally;
use crate::model::{Clock, UnixMs};
use crate::store::Error;

/// Changes in one transaction, so that the first of them does not wait for ever for its commit.
const BATCH: usize = 256;

pub(super) type Reply = oneshot::Sender<Result<Done, Error>>;

pub(super) enum Request {
    Change(Op, Reply),
    Close(oneshot::Sender<()>),
}

/// Ends when asked to, or when the last clone of the store is dropped; what waits is committed first.
pub(super) async fn run(
    mut connection: Connection,
    mut requests: mpsc::Receiver<Request>,
    commits: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
) {
    let mut waiting = Vec::with_capacity(BATCH);
    let mut closers = Vec::new();
    while requests.recv_many(&mut waiting, BATCH).await > 0 {
        let mut batch = Vec::with_capacity(waiting.len());
        for request in waiting.drain(..) {
            match request {
                Request::Change(op, reply) => batch.push((op, reply)),
                Request::Close(closed) => {
                    requests.close();
                    closers.push(closed);
                }
            }
        }
        commit(&mut connection, batch, &commits, clock.now_ms()).await;
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "closing the store failed; nothing is lost, the next start recovers its log");
    }
    for closed in closers {
        // Whoever asked may have gone.
        let _ = closed.send(());
    }
}

async fn commit(connection: &mut Connection, batch: Vec<(Op, Reply)>, commits: &AtomicU64, now: UnixMs) {
    if batch.is_empty() {
        return;
    }
    let (ops, replies): (Vec<Op>, Vec<Reply>) = batch.into_iter().unzip();
    let results = match together(connection, &ops, now).await {
        Ok(done) => {
            commits.fetch_add(1, Ordering::Relaxed);
            done.into_iter().map(Ok).collect()
        }
        // One of them failed and took the others along (SQLite may roll back everything by itself, for example when the
        // disk is full), so each gets a transaction of its own. Rare enough to pay an fsync each.
        Err(_) if ops.len() > 1 => {
            let mut results = Vec::with_capacity(ops.len());
            for op in &ops {
                let result = together(connection, std::slice::from_ref(op), now).await;
                commits.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
                results.push(result.map(|done| done.into_iter().next().unwrap_or(Done::Nothing)));
            }
            results
        }
        Err(error) => vec![Err(error)],
    };
    for (reply, result) in replies.into_iter().zip(results) {
        if let Err(Ok(Done::Claimed(rows))) = reply.send(result) {
            unclaim(
                connection,
                rows.into_iter().map(|row| Op::Release(row.id)).collect(),
                now,
            )
            .await;
        }
    }
}

/// The caller went away before it got its rows: nobody will run them under this lease.
async fn unclaim(connection: &mut Connection, releases: Vec<Op>, now: UnixMs) {
    if let Err(error) = together(connection, &releases, now).await {
        tracing::warn!(%error, rows = releases.len(), "claimed retries nobody waits for stay leased until that runs out");
    }
}

/// All or nothing. BEGIN and COMMIT are statements of our own: SQLite may roll back by itself (disk full, I/O error), after
/// which sqlx's count of open transactions never gets right again.
async fn together(connection: &mut Connection, ops: &[Op], now: UnixMs) -> Result<Vec<Done>, Error> {
    begin(connection).await?;
    let result = match apply(connection, ops, now).await {
        Ok(done) => execute(connection, "COMMIT").await.map(|()| done),
        Err(error) => Err(error),
    };
    if result.is_err() {
        // Fails when SQLite has rolled back already, and then there is nothing left to undo.
        let _ = execute(connection, "ROLLBACK").await;
    }
    result
}

async fn begin(connection: &mut Connection) -> Result<(), Error> {
    if execute(connection, BEGIN).await.is_ok() {
        return Ok(());
    }
    // Left open by a rollback that failed.
    let _ = execute(connection, "ROLLBACK").await;
    execute(connection, BEGIN).await
}

async fn apply(connection: &mut Connection, ops: &[Op], now: UnixMs) -> Result<Vec<Done>, Error> {
    let mut done = Vec::with_capacity(ops.len());
    let mut tally = Tally::default();
    for op in ops {
        done.push(op.apply(connection, now, &mut tally).await?);
    }
    tally.write(connection).await?;
    Ok(done)
}

async fn execute(connection: &mut Connection, sql: &'static str) -> Result<(), Error> {
    sqlx::query(sql)
        .execute(connection)
        .await
        .map(drop)
        .map_err(failed)
}
