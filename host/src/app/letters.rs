//! What sending dead letters again needs, put together: one by one, and as jobs.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;

use super::App;
use crate::broker::{Broker, Health};
use crate::dispatch::Dispatcher;
use crate::dlq::auto::Reach;
use crate::dlq::parked::Policy;
use crate::dlq::redrive::Routes;
use crate::dlq::{Auto, Keep, Redrive, Runner};
use crate::model::{Clock, UuidIds};
use crate::telemetry::metrics::DLQ;

pub(super) fn redrive(app: &App, clock: &Arc<dyn Clock>) -> Redrive {
    // There from the start, so that a rate over it is right at the first letter.
    app.metrics.dlq_reprocessed.with_label_values(&[DLQ]).reset();
    let publishers = app
        .brokers
        .iter()
        .map(|(name, broker)| (Arc::clone(name), broker.publisher()));
    Redrive {
        letters: Arc::clone(&app.store.letters),
        held: Arc::clone(&app.store.held),
        jobs: Arc::clone(&app.store.jobs),
        auto: Arc::clone(&app.store.auto),
        publishers: publishers.collect(),
        routes: routes(app),
        clock: Arc::clone(clock),
        ids: Arc::new(UuidIds),
        metrics: Arc::clone(&app.metrics),
    }
}

pub(super) fn runner(app: &App, redrive: &Arc<Redrive>, nudge: &Arc<Notify>) -> Runner {
    Runner {
        jobs: Arc::clone(&app.store.jobs),
        redrive: Arc::clone(redrive),
        clock: Arc::clone(&redrive.clock),
        ids: Arc::clone(&redrive.ids),
        metrics: Arc::clone(&app.metrics),
        nudge: Arc::clone(nudge),
        stop: app.stopping.clone(),
        idle: app.jobs_idle.clone(),
    }
}

pub(super) fn auto(app: &App, redrive: &Arc<Redrive>) -> Auto {
    for counter in [
        &app.metrics.dlq_auto_processed,
        &app.metrics.dlq_auto_retried,
        &app.metrics.dlq_auto_failed,
        &app.metrics.dlq_auto_archived,
        &app.metrics.dlq_auto_discarded,
    ] {
        counter.with_label_values(&[DLQ]).reset();
    }
    Auto {
        letters: Arc::clone(&app.store.auto),
        redrive: Arc::clone(redrive),
        reach: Arc::new(Brokers(app.brokers.clone())),
        settings: app.dlq_auto.subscribe(),
        stop: app.stopping.clone(),
        idle: app.auto_idle.clone(),
    }
}

pub(super) fn keep(app: &App, clock: &Arc<dyn Clock>) -> Keep {
    app.metrics.dlq_auto_expired.with_label_values(&[DLQ]).reset();
    Keep {
        letters: Arc::clone(&app.store.keep),
        clock: Arc::clone(clock),
        metrics: Arc::clone(&app.metrics),
        settings: app.dlq_keep.subscribe(),
    }
}

struct Brokers(HashMap<Arc<str>, Arc<dyn Broker>>);

impl Reach for Brokers {
    fn is_up(&self, broker: &str) -> bool {
        // Of one that is not configured sending says so.
        let health = self.0.get(broker).map(|broker| broker.health());
        !matches!(health, Some(Health::Down { .. }))
    }
}

pub(super) fn routes(app: &App) -> Arc<dyn Routes> {
    Arc::new(RoutesOf(Arc::clone(&app.dispatcher)))
}

struct RoutesOf(Arc<Dispatcher>);

impl Routes for RoutesOf {
    fn has(&self, route: &str) -> bool {
        self.0.has_route(route)
    }

    fn policy(&self, route: &str) -> Policy {
        match self.0.park_of(route) {
            None => Policy::Gone,
            Some(None) => Policy::Skip,
            Some(Some(park)) => Policy::Park { expiry: park.expiry },
        }
    }

    fn parked(&self) {
        self.0.parked();
    }
}
