//! Brings parked messages back when they are due: they re-enter at *route*, as the attempt that was parked.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::Shared;
use super::item::{Duty, Item, fallback_id};
use super::lanes::LaneKey;
use super::runner::{Back, Runner};
use crate::decode;
use crate::model::clock::duration_ms;
use crate::store::Parked;

/// Due rows that may be under way at a time.
const WINDOW: usize = 256;
/// A host that died lets its rows go after this; longer than any handler should wait and run.
const LEASE: Duration = Duration::from_secs(600);
/// How long to sleep when nothing says when the next row is due.
const IDLE: Duration = Duration::from_secs(1);

pub(super) async fn run(shared: Arc<Shared>) -> Result<(), String> {
    let context = &shared.context;
    let permits = Arc::new(Semaphore::new(WINDOW));
    let mut said = false;
    // Rows whose route is gone: they wait for the next table and not for the end of their lease.
    let mut stranded: Vec<String> = Vec::new();
    let mut generation = shared.routes.generation();
    while !context.pulling.is_cancelled() {
        if generation != shared.routes.generation() {
            generation = shared.routes.generation();
            for id in stranded.drain(..) {
                if let Err(error) = context.retries.release(&id).await {
                    tracing::warn!(%id, %error, "cannot let go of a parked message; it is due again when its lease ends");
                }
            }
        }
        let free = permits.available_permits();
        let now = context.clock.now_ms();
        let wait = match context.retries.claim_due(now, LEASE, free).await {
            Ok(due) => {
                said = false;
                let more = due.len() == free && free > 0;
                for parked in due {
                    let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                        break;
                    };
                    match place(&shared, parked, permit) {
                        Placed::Taken => {}
                        Placed::Stranded(id) => stranded.push(id),
                        Placed::Behind(row, runner, lane) => later(&runner, *row, &lane).await,
                    }
                }
                if more {
                    Duration::ZERO
                } else {
                    until_next(&shared, now).await
                }
            }
            Err(error) => {
                if !said {
                    said = true;
                    tracing::error!(%error, "cannot read due retries; they wait. Repair the store (HX0401)");
                }
                IDLE
            }
        };
        tokio::select! {
            () = context.pulling.cancelled() => {}
            () = context.due_changed.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
    Ok(())
}

async fn until_next(shared: &Shared, now: u64) -> Duration {
    match shared.context.retries.next_due().await {
        // At least 5 ms, so that rows that are due but held back by their lane's head do not make this spin.
        Ok(Some(due)) => Duration::from_millis(due.saturating_sub(now)).clamp(Duration::from_millis(5), IDLE),
        _ => IDLE,
    }
}

/// What became of a row that is due.
enum Placed {
    /// It runs, or stays where it is.
    Taken,
    /// No route takes it; its id.
    Stranded(String),
    /// Its lane is held up just now.
    Behind(Box<Parked>, Arc<Runner>, LaneKey),
}

/// How long a row waits whose lane is held up.
const BEHIND: Duration = Duration::from_secs(1);

/// Not a failure: the same attempt, a little later.
async fn later(runner: &Runner, row: Parked, lane: &LaneKey) {
    let id = row.id.clone();
    if let Err(error) = runner.context.retries.reschedule(row).await {
        tracing::warn!(%id, %error, "cannot put a parked message off; it is due again when its lease ends");
    }
    runner.unpark_if_empty(lane).await;
}

fn place(shared: &Shared, parked: Parked, permit: tokio::sync::OwnedSemaphorePermit) -> Placed {
    let context = &shared.context;
    let Parked {
        id,
        raw,
        attempt,
        lane,
        history,
        first_failure_ms,
        route,
        ..
    } = parked;
    let envelope = match decode::decode_or(&raw, || fallback_id(&raw), context.clock.now_ms()) {
        Ok(envelope) => envelope,
        Err(error) => {
            tracing::error!(%id, %error, "a parked message cannot be decoded any more; it stays parked. Report this as a bug");
            return Placed::Taken;
        }
    };
    let mut item = Box::new(Item {
        envelope,
        raw,
        duty: Duty::Parked {
            id: id.clone(),
            lane: lane.map(Into::into),
        },
        attempt,
        history,
        first_failure_ms: Some(first_failure_ms),
        permit,
    });
    loop {
        // The route it was parked under; when a reload took that away, the one that takes it now.
        let runners = shared.runners.load();
        let runner = runners.get(route.as_str()).cloned().or_else(|| {
            let routes = shared.routes.current();
            let now = routes.lookup(&item.envelope.origin, &item.envelope.message_type)?;
            runners.get(&now.name).cloned()
        });
        let Some(runner) = runner else {
            tracing::warn!(%id, %route, "a parked message has no route any more; it waits. Add the route again or discard it");
            return Placed::Stranded(id);
        };
        match runner.push_parked(item) {
            Ok(()) => return Placed::Taken,
            Err(Back::Retired(back)) => item = back,
            Err(Back::Behind(back, lane)) => {
                let due = context.clock.now_ms().saturating_add(duration_ms(BEHIND));
                let row = back.to_parked(&runner.route.load(), None, back.attempt, due);
                return Placed::Behind(Box::new(row), runner, lane);
            }
        }
    }
}
