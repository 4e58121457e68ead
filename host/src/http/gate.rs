//! What the API lets in at a time, and what it writes down: an audit row for each change and each refusal, bounded.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::Response;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::auth::{Asked, Caller};
use super::body::{self, Most, Room, Taken};
use super::outage::Outage;
use super::{Api, Problem};
use crate::model::UnixMs;
use crate::store::AuditEntry;

/// Requests under way.
const AT_A_TIME: usize = 256;
/// Refusals that are answered in full, a second; a flood of bad tokens gets 429 and costs no more than its answer.
const REFUSALS: Quota = Quota::per_second(std::num::NonZeroU32::MIN.saturating_add(49));
/// Refusals that get a row of their own, a minute. The rest of the minute shares one.
const ROWS_A_MINUTE: u64 = 60;

pub struct Gate {
    permits: Arc<Semaphore>,
    room: Room,
    refusals: DefaultDirectRateLimiter,
    flood: Mutex<Flood>,
    outage: Mutex<Outage>,
}

impl Gate {
    /// Bodies together take no more than as many of the largest message as requests may be under way, and one component.
    pub fn new(body_limit: usize, wasm_limit: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(AT_A_TIME)),
            room: Room::new(body_limit.saturating_mul(AT_A_TIME).saturating_add(wasm_limit)),
            refusals: RateLimiter::direct(REFUSALS),
            flood: Mutex::new(Flood::default()),
            outage: Mutex::new(Outage::default()),
        }
    }

    /// None: full.
    pub(super) fn enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// The request with its whole body, and the room that it takes.
    pub(super) async fn read(&self, request: Request, most: Most) -> Result<(Request, Taken), Problem> {
        let (parts, body) = request.into_parts();
        let (bytes, taken) = body::read(body, most, &self.room).await?;
        Ok((Request::from_parts(parts, bytes.into()), taken))
    }

    /// Answers a request that is not let in, and writes that down.
    pub(super) async fn refuse(
        &self,
        api: &Api,
        asked: Asked,
        caller: Option<&Caller>,
        problem: Problem,
    ) -> Response {
        let answered = self.refusals.check().is_ok();
        let status = problem.status();
        let now = api.clock.now_ms();
        let rows = self
            .flood
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .refused(now, || row(now, &asked, caller, status));
        write(api, rows).await;
        if answered {
            problem.into()
        } else {
            Problem::too_many("too many requests were refused just now").into()
        }
    }

    /// Writes a change down before its answer goes out.
    pub(super) async fn done(&self, api: &Api, asked: Asked, caller: &Caller, status: StatusCode) {
        let row = row(api.clock.now_ms(), &asked, Some(caller), status.as_u16());
        write(api, vec![row]).await;
    }
}

fn row(at_ms: UnixMs, asked: &Asked, caller: Option<&Caller>, status: u16) -> AuditEntry {
    AuditEntry {
        at_ms,
        actor: caller.map_or_else(|| "?".to_owned(), |caller| caller.actor(None)),
        role: caller.map_or("none", |caller| caller.role.as_str()).to_owned(),
        action: asked.action(),
        target: asked.target().to_owned(),
        status,
        count: 1,
    }
}

/// The change has been made, and a letter's trail says so as well: the answer does not wait for a store that is away.
async fn write(api: &Api, rows: Vec<AuditEntry>) {
    if rows.is_empty() {
        return;
    }
    let requests = rows.iter().map(|row| row.count).sum();
    let recorded = api.audit.record(rows).await;
    let mut outage = api.gate.outage.lock().unwrap_or_else(PoisonError::into_inner);
    match recorded {
        Err(error) => {
            if outage.failed(requests) {
                tracing::error!(%error, "requests are missing in the audit table: the store does not take them; it is said how many when it does again");
            }
        }
        Ok(()) => {
            if let Some(missing) = outage.over() {
                tracing::warn!(
                    missing,
                    "the audit table is written again; so many requests are missing in it"
                );
            }
        }
    }
}

/// Refusals of the minute that runs.
#[derive(Default)]
struct Flood {
    minute: u64,
    rows: u64,
    /// Refused without a row of their own.
    unwritten: Option<AuditEntry>,
}

impl Flood {
    /// The rows to write now.
    fn refused(&mut self, now: UnixMs, row: impl FnOnce() -> AuditEntry) -> Vec<AuditEntry> {
        let mut out = Vec::new();
        let minute = now / 60_000;
        if minute != self.minute {
            out.extend(self.unwritten.take());
            *self = Self {
                minute,
                ..Self::default()
            };
        }
        if self.rows < ROWS_A_MINUTE {
            self.rows += 1;
            out.push(row());
            return out;
        }
        match &mut self.unwritten {
            Some(shared) => shared.count += 1,
            None => self.unwritten = Some(row()),
        }
        out
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    fn entry() -> AuditEntry {
        AuditEntry {
            at_ms: 0,
            actor: "?".into(),
            role: "none".into(),
            action: "GET /x".into(),
            target: "/x".into(),
            status: 401,
            count: 1,
        }
    }

    #[test]
    fn a_flood_of_refusals_shares_a_row() {
        let mut flood = Flood::default();
        let written: usize = (0..1_000_000).map(|n| flood.refused(n / 20, entry).len()).sum();
        assert_eq!(written as u64, ROWS_A_MINUTE);
        let next = flood.refused(60_000, entry);
        assert_eq!(next.len(), 2, "what the last minute had, and the new one");
        assert_eq!(next[0].count, 1_000_000 - ROWS_A_MINUTE);
        assert_eq!(next[1].count, 1);
    }
}
