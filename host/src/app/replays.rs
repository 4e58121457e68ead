//! What replays need, put together: they read and write topics of the broker of events.

use std::sync::Arc;

use super::App;
use crate::model::{Clock, UuidIds};
use crate::replay::Desk;

pub(super) fn desk(app: &App, clock: &Arc<dyn Clock>) -> Desk {
    let settings = app.settings.load();
    let broker = app.brokers.get(settings.events_broker.as_str());
    Desk {
        store: Arc::clone(&app.store.replays),
        scan: broker.and_then(|broker| broker.scan()),
        publisher: Arc::clone(&app.context.targets.events.1),
        topology: broker.map(|broker| broker.topology()),
        clock: Arc::clone(clock),
        ids: Arc::new(UuidIds),
        metrics: Arc::clone(&app.metrics),
        wake: tokio::sync::Notify::new(),
    }
}
