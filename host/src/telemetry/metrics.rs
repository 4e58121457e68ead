//! Every metric of the host: names, labels, buckets. No other file makes one.
//!
//! The first seven names are the manual's contract. Labels are broker, destination, route, plugin, outcome; never ids.

use prometheus::{
    Encoder, GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Buckets of the OpenTelemetry messaging conventions, with two more for the sub-millisecond path.
const SECONDS: &[f64] = &[
    0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// The one value of the label `queue`: what the manual's dashboards and alerts ask for.
pub const DLQ: &str = "helixagent.dlq";

/// One row per metric: field, kind, name, meaning, labels. The struct, its constructor and docs/metrics.md come from it.
macro_rules! metrics {
    ($($field:ident: $make:ident -> $type:ty, $name:literal, $help:literal, [$($label:literal),*];)*) => {
        pub struct Metrics {
            registry: Registry,
            $(#[doc = $help] pub $field: $type,)*
        }

        impl Metrics {
            /// # Errors
            /// Only when two metrics share a name, which a test excludes.
            pub fn new() -> Result<Self, prometheus::Error> {
                let registry = Registry::new();
                Ok(Self {
                    $($field: $make(&registry, $name, $help, &[$($label),*])?,)*
                    registry,
                })
            }

            /// (name, kind, labels, meaning) of every metric.
            pub const ROWS: &[(&str, &str, &[&str], &str)] =
                &[$(($name, stringify!($make), &[$($label),*], $help)),*];
        }
    };
}

metrics! {
    published: counter -> IntCounterVec, "messaging_messages_published_total",
        "Messages confirmed by a broker", ["broker", "destination"];
    consumed: counter -> IntCounterVec, "messaging_messages_consumed_total",
        "Messages taken from a broker", ["broker", "destination"];
    queue_depth: gauge -> IntGaugeVec, "messaging_queue_depth",
        "Messages waiting in a queue, or in a topic for our group", ["broker", "destination"];
    delivery_latency: histogram -> HistogramVec, "messaging_delivery_latency_seconds",
        "From the message's own time to its settlement, seconds", ["route"];
    dlq_messages_total: gauge -> IntGaugeVec, "messaging_dlq_messages_total",
        "Dead letters now; a gauge in spite of its name, which is contract", ["queue"];
    dlq_reprocessed: counter -> IntCounterVec, "messaging_dlq_reprocessed_total",
        "Dead letters sent again", ["queue"];
    replay_active: single -> IntGauge, "messaging_replay_active",
        "Replay jobs running", [];
    replay_messages: counter -> IntCounterVec, "messaging_replay_messages_total",
        "Messages of replays by what became of them: sent, skipped, failed", ["result"];
    dlq_messages: gauge -> IntGaugeVec, "messaging_dlq_messages",
        "Dead letters now, by where they came from", ["destination"];
    dlq_groups: single -> IntGauge, "messaging_dlq_groups",
        "Groups of dead letters that failed alike, now", [];
    dlq_jobs_active: single -> IntGauge, "messaging_dlq_jobs_active",
        "Jobs over dead letters that this host runs", [];
    dlq_job_letters: counter -> IntCounterVec, "messaging_dlq_job_letters_total",
        "Letters of jobs that got their result", ["action", "result"];
    dlq_adopted: counter -> IntCounterVec, "messaging_dlq_adopted_total",
        "Dead letters of others taken in, by what happened to them: expired, rejected, maxlen, delivery-limit, other; foreign: put there by a program", ["reason"];
    dlq_exported: counter -> IntCounterVec, "messaging_dlq_exported_total",
        "Copies of dead letters by what became of them: sent, or refused by the broker for good", ["destination", "result"];
    dlq_export_pending: single -> IntGauge, "messaging_dlq_export_pending",
        "Dead letters whose copies are not confirmed yet", [];
    dlq_auto_processed: counter -> IntCounterVec, "messaging_dlq_auto_processed_total",
        "Dead letters that the host sent again by itself", ["queue"];
    dlq_auto_retried: counter -> IntCounterVec, "messaging_dlq_auto_retried_total",
        "Those of them that it had tried before", ["queue"];
    dlq_auto_failed: counter -> IntCounterVec, "messaging_dlq_auto_failed_total",
        "Dead letters that the host could not send by itself, each time", ["queue"];
    dlq_auto_archived: counter -> IntCounterVec, "messaging_dlq_auto_archived_total",
        "Dead letters whose attempts were used up and that wait for a person", ["queue"];
    dlq_auto_discarded: counter -> IntCounterVec, "messaging_dlq_auto_discarded_total",
        "Dead letters whose attempts were used up and that were discarded", ["queue"];
    dlq_auto_expired: counter -> IntCounterVec, "messaging_dlq_auto_expired_total",
        "Dead letters that nobody dealt with for dlq.retention", ["queue"];
    consumer_lag: gauge -> IntGaugeVec, "messaging_consumer_lag",
        "Messages of a topic not yet committed by our group", ["broker", "destination"];
    handler_duration: histogram -> HistogramVec, "messaging_handler_duration_seconds",
        "Time in the handler per call, seconds", ["route"];
    outcomes: counter -> IntCounterVec, "messaging_outcomes_total",
        "What handlers said or what happened to them", ["route", "outcome"];
    dead_lettered: counter -> IntCounterVec, "messaging_dead_lettered_total",
        "Messages given up on", ["destination", "class"];
    retries_pending: single -> IntGauge, "messaging_retries_pending",
        "Messages in the store: until they are due, or behind a dead letter of their key", [];
    parked_keys: gauge -> IntGaugeVec, "messaging_parked_keys",
        "Keys that wait behind a dead letter", ["route"];
    parked_messages: gauge -> IntGaugeVec, "messaging_parked_messages",
        "Messages in the store that wait behind a dead letter of their key", ["route"];
    parked_full: gauge -> IntGaugeVec, "messaging_parked_full",
        "Keys that have park.limit messages; further ones stay with their broker", ["route"];
    retries: counter -> IntCounterVec, "messaging_retries_total",
        "Attempts after the first", ["route"];
    redelivered: counter -> IntCounterVec, "messaging_redelivered_total",
        "Deliveries of which an earlier one may have run", ["broker", "destination"];
    in_flight: gauge -> IntGaugeVec, "messaging_in_flight",
        "Deliveries taken and not yet settled", ["broker", "destination"];
    broker_up: gauge -> IntGaugeVec, "messaging_broker_up",
        "1 = connected and consuming", ["broker"];
    plugin_info: info -> GaugeVec, "messaging_plugin_info",
        "1 for the version that serves", ["plugin", "digest"];
    plugin_reloads: counter -> IntCounterVec, "messaging_plugin_reloads_total",
        "Plugin versions swapped in", ["plugin"];
    plugin_reload_failures: counter -> IntCounterVec, "messaging_plugin_reload_failures_total",
        "Plugin files refused; the last good version serves", ["plugin"];
    config_generation: single -> IntGauge, "messaging_config_generation",
        "Counts accepted configurations since start", [];
    config_reload_failures: single -> IntGauge, "messaging_config_reload_failures",
        "Configurations refused since start; the last good one serves", [];
}

impl Metrics {
    /// Prometheus text format 0.0.4.
    pub fn encode(&self) -> String {
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            tracing::error!(%error, "cannot encode metrics; restart the host if this repeats");
        }
        String::from_utf8(out).unwrap_or_default()
    }

    /// docs/metrics.md, generated.
    pub fn reference() -> String {
        let mut out = String::from(
            "# Metrics\n\nGenerated by `cargo xtask docs` from `host/src/telemetry/metrics.rs`; do not edit.\n\n\
             Served at `/metrics` and `/v1/messaging/metrics` in the Prometheus text format. Times are in seconds.\n\n\
             | name | type | labels | meaning |\n|---|---|---|---|\n",
        );
        for (name, kind, labels, help) in Self::ROWS {
            let kind = if matches!(*kind, "single" | "info") {
                "gauge"
            } else {
                kind
            };
            out.push_str(&format!(
                "| `{name}` | {kind} | {} | {help} |\n",
                labels.join(", ")
            ));
        }
        out
    }
}

fn counter(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn gauge(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
    let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn info(r: &Registry, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
    let metric = GaugeVec::new(Opts::new(name, help), labels)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn single(r: &Registry, name: &str, help: &str, _: &[&str]) -> Result<IntGauge, prometheus::Error> {
    let metric = IntGauge::new(name, help)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn histogram(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<HistogramVec, prometheus::Error> {
    let metric = HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels)?;
    r.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_valid() {
        Metrics::new().unwrap();
    }

    #[test]
    fn the_contract_names_are_served() {
        let metrics = Metrics::new().unwrap();
        metrics.published.with_label_values(&["b", "d"]).inc();
        metrics
            .dlq_messages_total
            .with_label_values(&["helixagent.dlq"])
            .set(3);
        let text = metrics.encode();
        assert!(
            text.contains("messaging_messages_published_total{broker=\"b\",destination=\"d\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("# TYPE messaging_dlq_messages_total gauge"),
            "{text}"
        );
        assert!(
            text.contains("messaging_dlq_messages_total{queue=\"helixagent.dlq\"} 3"),
            "{text}"
        );
    }
}
