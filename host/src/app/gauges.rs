//! Reads depths and counts for metrics, every few seconds, one destination after another.

use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;

use super::App;
use crate::broker::Health;
use crate::model::MessageKind;
use crate::telemetry::metrics::DLQ;

const INTERVAL: Duration = Duration::from_secs(5);
/// A broker that is away must not hold up the gauges of the others.
const ASK_LIMIT: Duration = Duration::from_secs(2);

pub(super) async fn run(app: Arc<App>) -> Result<(), String> {
    loop {
        read(&app).await;
        tokio::select! {
            () = app.stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

async fn read(app: &App) {
    let metrics = &app.metrics;
    for (name, broker) in &app.brokers {
        let up = i64::from(!matches!(broker.health(), Health::Down { .. }));
        metrics.broker_up.with_label_values(&[&**name]).set(up);
    }
    for (broker_name, kind, destination) in app.dispatcher.subscriptions() {
        let Some(broker) = app.brokers.get(&broker_name) else {
            continue;
        };
        let topology = broker.topology();
        let asked = tokio::time::timeout(ASK_LIMIT, topology.depth(kind, &destination)).await;
        if let Ok(Ok(depth)) = asked {
            let depth = i64::try_from(depth).unwrap_or(i64::MAX);
            metrics
                .queue_depth
                .with_label_values(&[&*broker_name, &*destination])
                .set(depth);
            if kind == MessageKind::Event {
                metrics
                    .consumer_lag
                    .with_label_values(&[&*broker_name, &*destination])
                    .set(depth);
            }
        }
    }
    of_store(app).await;
}

/// What is kept in the store.
pub(super) async fn of_store(app: &App) {
    let metrics = &app.metrics;
    if let Ok(count) = app.store.retries.count().await {
        metrics
            .retries_pending
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    if let Ok(groups) = app.store.letters.dead_groups().await {
        metrics.dlq_groups.set(i64::try_from(groups).unwrap_or(i64::MAX));
    }
    if let Ok(depths) = app.store.letters.depth().await {
        let total: u64 = depths.iter().map(|(_, n)| n).sum();
        metrics
            .dlq_messages_total
            .with_label_values(&[DLQ])
            .set(i64::try_from(total).unwrap_or(i64::MAX));
        metrics.dlq_messages.reset();
        for (destination, n) in depths {
            metrics
                .dlq_messages
                .with_label_values(&[destination.as_str()])
                .set(i64::try_from(n).unwrap_or(i64::MAX));
        }
    }
    if let Ok(pending) = app.store.exports.pending_exports().await {
        metrics
            .dlq_export_pending
            .set(i64::try_from(pending).unwrap_or(i64::MAX));
    }
    if let (Ok(keys), Ok(waiting)) = (app.store.held.held_routes().await, app.store.held.waiting().await) {
        let keys: Vec<(String, u64)> = keys.into_iter().map(|held| (held.route, held.keys)).collect();
        by_route(&metrics.parked_keys, &keys);
        by_route(&metrics.parked_messages, &waiting);
    }
}

/// Routes of which nothing is left disappear; no reader sees one missing that is there.
fn by_route(gauge: &prometheus::IntGaugeVec, values: &[(String, u64)]) {
    for (route, n) in values {
        gauge
            .with_label_values(&[route.as_str()])
            .set(i64::try_from(*n).unwrap_or(i64::MAX));
    }
    for family in gauge.collect() {
        let labels = family
            .get_metric()
            .iter()
            .flat_map(prometheus::proto::Metric::get_label);
        for label in labels.filter(|label| values.iter().all(|(route, _)| route != label.value())) {
            // Gone already is gone.
            let _ = gauge.remove_label_values(&[label.value()]);
        }
    }
}
