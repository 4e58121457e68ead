//! Writes retries of one route to the store, in the order they were handed over, then lets go of the messages.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::context::Context;
use super::item::{Duty, Item};
use super::lanes::LaneKey;
use super::runner::Runner;
use super::settle::persist;
use crate::planted::{self, Bug};
use crate::store::Parked;

/// A message on its way to the store.
pub(super) struct Job {
    pub parked: Parked,
    pub lane: Option<LaneKey>,
    pub item: Box<Item>,
}

/// One transaction of the store takes at most this many; more wait for the next.
const BATCH: usize = 128;

/// Ends when the route's runner is gone and everything handed over is written.
pub(super) async fn run(
    context: Arc<Context>,
    runner: std::sync::Weak<Runner>,
    mut jobs: mpsc::UnboundedReceiver<Job>,
) -> Result<(), String> {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        let received = tokio::select! {
            n = jobs.recv_many(&mut batch, BATCH) => n,
            // Nothing is handed over any more once dispatch is idle.
            () = context.closing.cancelled() => 0,
        };
        if received == 0 {
            return Ok(());
        }
        if planted::is(Bug::RetryRowAfterAck) {
            for job in &batch {
                job.item.duty.ack_too_early(Bug::RetryRowAfterAck);
            }
            tokio::time::sleep(planted::PAUSE).await;
        }
        let rows: Vec<Parked> = batch.iter().map(|job| job.parked.clone()).collect();
        let written = persist(&context, "park a retry", || context.retries.park(rows.clone()))
            .await
            .is_some();
        for job in batch.drain(..) {
            if let Some(key) = &job.lane
                && let Some(runner) = runner.upgrade()
            {
                runner.stored(key);
            }
            // Durable first, then acknowledged. Given up at the drain limit: the dropped receipt brings the message back.
            let item = *job.item;
            match item.duty {
                Duty::Delivery(receipt) if written => receipt.ack(),
                Duty::Delivery(_) => {}
                // It has its row already, and waited in a lane that moved to the store: nobody runs it under this claim.
                Duty::Parked { id, .. } => {
                    if let Err(error) = context.retries.release(&id).await {
                        tracing::warn!(%id, %error, "cannot let go of a parked message; it is due again when its lease ends");
                    }
                }
            }
            context.busy.leave(1);
        }
        context.due_changed.notify_one();
    }
}
