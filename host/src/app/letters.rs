//! What sending dead letters again needs, put together.

use std::sync::Arc;

use super::App;
use crate::dispatch::Dispatcher;
use crate::dlq::Redrive;
use crate::dlq::parked::Policy;
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
        letters: Arc::new(app.store.clone()),
        held: Arc::new(app.store.clone()),
        publishers: publishers.collect(),
        routes: routes(app),
        clock: Arc::clone(clock),
        ids: Arc::new(UuidIds),
        metrics: Arc::clone(&app.metrics),
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
