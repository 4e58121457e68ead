//! A batch at a route: watched over until each of its messages has ended, while the lease is kept and a cancel is looked for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::super::job::{Batch, Handed};
use super::super::routes::{Order, Waits};
use super::{End, LIE, RENEW, Run};
use crate::broker::Replica;
use crate::model::replay::{Fate, RouteTarget};
use crate::store::Hold;
use crate::telemetry::logs::printable;

/// How often to look whether somebody cancelled it.
const LOOK: Duration = Duration::from_millis(500);

/// What became of the batch, and why not of all of it.
pub(super) struct Back {
    fates: Vec<Option<Fate>>,
    /// It goes no further here.
    end: Option<End>,
}

impl Run {
    /// Handlers take their time, and their retries more: longer than a lease.
    pub(super) async fn hand_over(&mut self, target: RouteTarget, batch: &[Replica]) -> Result<Back, End> {
        let messages = batch.iter().map(|replica| replica.raw.clone()).collect();
        let order = Order {
            replay: self.id.as_str().into(),
            target,
            stop: self.stop.child_token(),
            notice: watch::Sender::new(None),
        };
        let mut notice = order.notice.subscribe();
        let (stop, routes) = (order.stop.clone(), Arc::clone(&self.desk.routes));
        // By itself, so that a store which does not answer holds no handler up in the middle.
        let mut at_work =
            AbortOnDropHandle::new(tokio::spawn(
                async move { routes.hand_over(&order, messages).await },
            ));
        let mut end = None;
        loop {
            let ended = tokio::select! {
                ended = &mut at_work => ended,
                () = tokio::time::sleep(LOOK), if end.is_none() => {
                    if let Err(why) = self.watch_over(&mut notice).await {
                        stop.cancel();
                        end = Some(why);
                    }
                    continue;
                }
            };
            return match ended {
                Ok(Ok(fates)) => Ok(Back { fates, end }),
                Ok(Err(Waits(reason))) => Err(end.unwrap_or(End::Waits(reason))),
                Err(_) => Err(End::Failed(
                    "handing messages to the route broke off; this is a fault of the host, please report it"
                        .to_owned(),
                )),
            };
        }
    }

    /// Keeps the lease, tells what messages wait for.
    async fn watch_over(&mut self, notice: &mut watch::Receiver<Option<Arc<str>>>) -> Result<(), End> {
        let news = notice.has_changed().unwrap_or(false);
        if news && let Some(text) = &*notice.borrow_and_update() {
            tracing::warn!(replay = %printable(&self.id), reason = %printable(text), "the replay waits; it goes on by itself");
            self.job.progress_mut().error = Some(text.to_string());
        }
        let now = self.desk.clock.instant();
        if news || now.saturating_duration_since(self.recorded) >= RENEW {
            return self.record().await;
        }
        match self.desk.store.holds(&self.id, &self.holder).await {
            Ok(Hold::Ours) | Err(_) => Ok(()),
            Ok(Hold::Cancelled) => Err(End::Cancelled),
            Ok(Hold::Lost) => Err(End::Lost),
        }
    }

    pub(super) async fn handed(&mut self, batch: Batch, back: Back) -> Result<(), End> {
        let Back { fates, end } = back;
        if matches!(end, Some(End::Lost)) {
            return Err(End::Lost);
        }
        let sent = fates.iter().filter(|fate| fate.is_some()).count();
        let last = matches!(end, Some(End::Cancelled));
        let handed = self.job.handed(batch, fates, last);
        let Handed {
            done,
            failed,
            skipped,
            ..
        } = handed;
        self.count(done, failed, skipped);
        self.went_on(sent).await?;
        match end {
            Some(end) => Err(end),
            None if handed.ended => Ok(()),
            None => Err(End::Stopped),
        }
    }

    /// Lets go of a replay that cannot go on here now, for a little while.
    pub(super) async fn lie(&mut self, reason: &str) {
        if self.job.progress().error.as_deref() != Some(reason) {
            tracing::warn!(replay = %printable(&self.id), %reason, "the replay waits; it goes on by itself");
        }
        self.job.progress_mut().error = Some(reason.to_owned());
        let (store, progress) = (&self.desk.store, self.job.progress());
        if let Err(error) = store.record(&self.id, &self.holder, LIE, progress).await {
            tracing::debug!(replay = %printable(&self.id), %error, "the state of a replay cannot be written");
        }
    }
}
