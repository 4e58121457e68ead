//! The one task that takes replays from the store and runs some of them at a time.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Desk;
use super::run::{LEASE, run_one};
use crate::model::ReplayStatus;

/// Replays that a host runs at a time; the others are pending.
const AT_ONCE: usize = 5;
/// How often a host looks for replays of hosts that are gone.
const LOOK: Duration = Duration::from_secs(1);

/// Runs until `stop`, then lets go of what it runs, so that another host, or this one when it is back, carries on at once.
///
/// # Errors
/// Never: a store that cannot be asked is asked again.
pub async fn run(desk: Arc<Desk>, stop: CancellationToken) -> Result<(), String> {
    // There from the start, so that a rate over them is right at the first message.
    for result in ["sent", "skipped", "failed"] {
        desk.metrics.replay_messages.with_label_values(&[result]).reset();
    }
    let mut running: JoinSet<()> = JoinSet::new();
    while !stop.is_cancelled() {
        while running.len() < AT_ONCE && take(&desk, &stop, &mut running).await {}
        tokio::select! {
            () = stop.cancelled() => {}
            () = desk.wake.notified() => {}
            Some(ended) = running.join_next() => said(ended),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    while let Some(ended) = running.join_next().await {
        said(ended);
    }
    Ok(())
}

/// True: there was one, there may be more.
async fn take(desk: &Arc<Desk>, stop: &CancellationToken, running: &mut JoinSet<()>) -> bool {
    // Each time another name: a replay that this host lost and took again is not held by both.
    let holder = desk.ids.next();
    match desk.store.take(&holder, LEASE).await {
        Ok(Some(replay)) => {
            debug_assert_eq!(replay.status, ReplayStatus::Running);
            running.spawn(run_one(Arc::clone(desk), replay, holder, stop.clone()));
            true
        }
        Ok(None) => false,
        Err(error) => {
            tracing::debug!(%error, "cannot look for replays");
            false
        }
    }
}

fn said(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a replay broke off; it goes on from its checkpoint when its lease has run out");
    }
}
