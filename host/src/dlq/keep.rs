//! Lets dead letters expire that nobody dealt with for `dlq.retention`, and deletes closed ones after `dlq.keep_closed`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::valid;
use crate::model::clock::duration_ms;
use crate::model::{Clock, UnixMs};
use crate::store::{Error, KeepLetters};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::DLQ;

/// Letters in one transaction, so that it is over soon.
const AT_ONCE: usize = 500;
/// Between two of them others have the store for themselves.
const BREATH: Duration = Duration::from_millis(50);
/// How often it is looked: a fourth of what is waited for, within these.
const LOOK: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(60));

/// Letters of that time or before are meant. None: no clock is that old.
fn until(now: UnixMs, kept: Option<Duration>) -> Option<UnixMs> {
    now.checked_sub(duration_ms(kept?))
}

fn interval(keep: valid::Keep) -> Duration {
    let (least, most) = LOOK;
    let shortest = [keep.retention, keep.closed].into_iter().flatten().min();
    shortest.map_or(most, |kept| (kept / 4).clamp(least, most))
}

pub struct Keep {
    pub letters: Arc<dyn KeepLetters>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    pub settings: watch::Receiver<valid::Keep>,
}

impl Keep {
    /// Runs until `stop`.
    ///
    /// # Errors
    /// Never: a store that cannot be asked is asked again.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), String> {
        while !stop.is_cancelled() {
            let keep = *self.settings.borrow_and_update();
            if let Err(error) = self.once(keep, &stop).await {
                tracing::debug!(%error, "cannot look for dead letters that are too old");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(interval(keep)) => {}
                // An error: the host is gone, and stops this one.
                Ok(()) = self.settings.changed() => {}
            }
        }
        Ok(())
    }

    async fn once(&self, keep: valid::Keep, stop: &CancellationToken) -> Result<(), Error> {
        let now = self.clock.now_ms();
        if let Some(until) = until(now, keep.retention) {
            let reason = format!(
                "nobody dealt with it for as long as dlq.retention says ({} s)",
                keep.retention.unwrap_or_default().as_secs()
            );
            let mut all = 0;
            loop {
                let expired = self.letters.expire(until, &reason, AT_ONCE).await?;
                self.metrics
                    .dlq_auto_expired
                    .with_label_values(&[DLQ])
                    .inc_by(expired);
                all += expired;
                if expired < AT_ONCE as u64 || breath(stop).await {
                    break;
                }
            }
            if all > 0 {
                tracing::warn!(
                    letters = all,
                    "dead letters that nobody dealt with are expired (dlq.retention); `helix dlq ls --state expired` shows them until dlq.keep_closed is over"
                );
            }
        }
        if let Some(until) = until(now, keep.closed) {
            let mut all = 0;
            loop {
                let gone = self.letters.forget_closed(until, AT_ONCE).await?;
                all += gone;
                if gone < AT_ONCE as u64 || breath(stop).await {
                    break;
                }
            }
            if all > 0 {
                tracing::info!(letters = all, "closed dead letters are deleted (dlq.keep_closed)");
            }
        }
        Ok(())
    }
}

/// True: the host stops.
async fn breath(stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = tokio::time::sleep(BREATH) => false,
    }
}

#[cfg(test)]
mod tests;
