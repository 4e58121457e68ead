//! What sending dead letters again needs, put together: one by one, and as jobs.

use std::sync::Arc;

use tokio::sync::Notify;

use super::App;
use crate::dispatch::Dispatcher;
use crate::dlq::redrive::Routes;
use crate::dlq::{Redrive, Runner};
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
        letters: Arc::new(app.store.clone()),
        jobs: Arc::new(app.store.clone()),
        publishers: publishers.collect(),
        routes: Arc::new(RoutesOf(Arc::clone(&app.dispatcher))),
        clock: Arc::clone(clock),
        ids: Arc::new(UuidIds),
        metrics: Arc::clone(&app.metrics),
    }
}

pub(super) fn runner(app: &App, redrive: &Arc<Redrive>, nudge: &Arc<Notify>) -> Runner {
    Runner {
        jobs: Arc::new(app.store.clone()),
        redrive: Arc::clone(redrive),
        clock: Arc::clone(&redrive.clock),
        ids: Arc::clone(&redrive.ids),
        metrics: Arc::clone(&app.metrics),
        nudge: Arc::clone(nudge),
        stop: app.stopping.clone(),
        idle: app.jobs_idle.clone(),
    }
}

struct RoutesOf(Arc<Dispatcher>);

impl Routes for RoutesOf {
    fn has(&self, route: &str) -> bool {
        self.0.has_route(route)
    }

    fn parked(&self) {
        self.0.parked();
    }
}
