//! What sending dead letters again needs, put together.

use std::sync::Arc;

use super::App;
use crate::dispatch::Dispatcher;
use crate::dlq::Redrive;
use crate::dlq::redrive::Routes;
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
        publishers: publishers.collect(),
        routes: Arc::new(RoutesOf(Arc::clone(&app.dispatcher))),
        clock: Arc::clone(clock),
        ids: Arc::new(UuidIds),
        metrics: Arc::clone(&app.metrics),
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
