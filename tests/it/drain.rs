//! SIGTERM: stop pulling, finish what runs, settle, leave. Nothing is lost and nothing runs twice.

use std::time::{Duration, Instant};

use helix_tests::{Setup, brokers, unique, until};
use serde_json::{Value, json};

use crate::load::Load;
use crate::seen;

/// Slow enough that some run whenever the signal comes.
fn message(n: u64) -> Value {
    let payload = json!({ "do": "sleep", "ms": 100, "report": "handled" });
    json!({ "type": "probe", "id": format!("m-{n}"), "payload": payload })
}

/// Stops a host under load, starts another in its folder, and looks at what became of every message. `path` takes the
/// messages in order, so that everything has begun when the last one is done.
async fn a_stop_and_a_start(setup: &Setup, path: &str) {
    let host = setup.start().await;
    host.ready().await;
    let load = Load::start(&host, path, 4, message);
    host.wait_metric(
        "messaging_outcomes_total",
        &[("route", "work"), ("outcome", "done")],
        20.0,
    )
    .await;
    let started = Instant::now();
    assert_eq!(host.unexpected_lines(&[]), Vec::<String>::new());
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{status}\n{log}");
    assert!(
        started.elapsed() < Duration::from_secs(16),
        "10 s of drain and 6 s to leave: {:?}",
        started.elapsed()
    );
    assert!(!log.contains("not everything finished in time"), "{log}");
    let (accepted, _) = load.end().await;
    assert!(accepted.len() > 20, "there was load: {}", accepted.len());

    let host = setup.start().await;
    host.ready().await;
    let last = json!({ "type": "last", "id": "last", "payload": { "report": "handled" } });
    let (status, answer) = host.post(path, &last).await;
    assert_eq!(status, 202, "{answer}");
    host.wait_metric(
        "messaging_outcomes_total",
        &[("route", "last"), ("outcome", "done")],
        1.0,
    )
    .await;
    // Begun is not ended: a quick machine has accepted more than one drain can finish.
    until(
        "everything that was pulled is settled",
        Duration::from_secs(120),
        || async { (host.metric("messaging_in_flight", &[]).await == 0.0).then_some(()) },
    )
    .await;
    assert_eq!(host.letter_count().await, 0);
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    let handled = seen::topic(setup, "handled").await;
    seen::assert_each_once(&handled, &accepted);
    // A redelivery that ran only once would still be an attempt too many for a side effect that came before the signal.
    assert!(handled.iter().all(|report| report.attempt() == 1));
}

fn config(source: &str, brokers: &str) -> String {
    format!(
        r#"
{brokers}
[[routes]]
name = "last"
{source}
type = "last"
plugin = "probe"
[[routes]]
name = "work"
{source}
type = "probe"
plugin = "probe"
concurrency = 8
[plugins.probe]
publish = ["handled"]
"#
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_loses_and_repeats_nothing_on_the_embedded_broker() {
    let topology = "[[queues]]\nname = \"work\"\n[[topics]]\nname = \"handled\"\n";
    let setup = Setup::new(&config("queue = \"work\"", ""), &["probe"]).topology(topology);
    a_stop_and_a_start(&setup, "/v1/messaging/tasks/work").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_loses_and_repeats_nothing_on_rabbitmq() {
    let queue = unique("drain");
    let topology = format!("[[queues]]\nname = \"{queue}\"\n[[topics]]\nname = \"handled\"\n");
    let brokers = format!(
        "[messaging]\ntasks = \"rabbitmq\"\nevents = \"embedded\"\n{}",
        brokers::rabbitmq_toml()
    );
    let setup =
        Setup::new(&config(&format!("queue = \"{queue}\""), &brokers), &["probe"]).topology(&topology);
    a_stop_and_a_start(&setup, &format!("/v1/messaging/tasks/{queue}")).await;
}

/// What is handled goes to a queue of the embedded broker there, since events are Kafka's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_loses_and_repeats_nothing_on_kafka() {
    let topic = unique("drain");
    let handled = unique("handled");
    let topology = format!("[[topics]]\nname = \"{topic}\"\n[[topics]]\nname = \"{handled}\"\n");
    let brokers = format!(
        "[messaging]\ntasks = \"embedded\"\nevents = \"kafka\"\n{}",
        brokers::kafka_toml(&unique("group"))
    );
    let config = config(&format!("topic = \"{topic}\""), &brokers);
    let setup = Setup::new(&config, &["probe"]).topology(&topology);
    let path = format!("/v1/messaging/events/{topic}");
    let host = setup.start().await;
    host.ready().await;
    let load = Load::start(
        &host,
        &path,
        4,
        |n| json!({ "type": "probe", "id": format!("m-{n}"), "payload": { "do": "sleep", "ms": 100 } }),
    );
    let done = [("route", "work"), ("outcome", "done")];
    host.wait_metric("messaging_outcomes_total", &done, 20.0).await;
    let started = Instant::now();
    // While it drains it still answers, so what it had done by the end can be counted.
    host.sigterm();
    let mut before = 0.0_f64;
    let url = host.url().to_owned();
    let watch = async {
        let http = helix_tests::Client::default();
        while let Ok(answer) = http.get(format!("{url}/metrics")).send().await {
            let text = answer.text();
            let line = text
                .lines()
                .find(|l| l.starts_with("messaging_outcomes_total") && l.contains("route=\"work\""));
            let now = line
                .and_then(|l| l.rsplit_once(' '))
                .and_then(|(_, n)| n.parse().ok())
                .unwrap_or(0.0);
            before = before.max(now);
        }
    };
    let ((), (status, log)) = tokio::join!(watch, host.ended());
    assert!(status.success(), "{status}\n{log}");
    assert!(
        started.elapsed() < Duration::from_secs(16),
        "{:?}",
        started.elapsed()
    );
    let (accepted, unanswered) = load.end().await;

    let host = setup.start().await;
    host.ready().await;
    let last = json!({ "type": "last", "id": "last", "payload": {} });
    assert_eq!(host.post(&path, &last).await.0, 202);
    host.wait_metric(
        "messaging_outcomes_total",
        &[("route", "last"), ("outcome", "done")],
        1.0,
    )
    .await;
    until(
        "what began before the last message is done",
        Duration::from_secs(120),
        || async {
            let after = host.metric("messaging_outcomes_total", &done).await;
            (before + after >= accepted.len() as f64).then_some(())
        },
    )
    .await;
    let total = before + host.metric("messaging_outcomes_total", &done).await;
    // A request that the stop cut off may have been stored or not; everything else is counted exactly.
    assert!(
        total <= (accepted.len() + unanswered.len()) as f64,
        "{total} outcomes for {} messages",
        accepted.len()
    );
    assert_eq!(host.letter_count().await, 0);
}

#[tokio::test]
async fn a_stop_while_a_key_waits_for_its_retry_repeats_nothing_on_the_embedded_broker() {
    a_stop_while_a_key_waits(false).await;
}

/// A route that is gone from the table still has what was pulled for it.
#[tokio::test]
async fn a_stop_while_a_key_of_a_removed_route_waits_repeats_nothing_on_the_embedded_broker() {
    a_stop_while_a_key_waits(true).await;
}

/// Of a topic only a position is remembered. A message that waits for its retry must not hold it back: what was finished
/// behind it would run again, and it would be the first attempt once more.
async fn a_stop_while_a_key_waits(removed: bool) {
    let config = r#"
[[routes]]
name = "events"
topic = "events"
plugin = "probe"
order = "key"
retry = { delay = "20s", max_delay = "20s", jitter = 0.0 }
[plugins.probe]
publish = ["handled"]
"#;
    let topology = "[[topics]]\nname = \"events\"\n[[topics]]\nname = \"handled\"\n";
    let setup = Setup::new(config, &["probe"]).topology(topology);
    let host = setup.start().await;
    host.ready().await;
    let mut accepted = Vec::new();
    let slow = (0..2).map(|n| (n, "slow"));
    for (n, key) in slow.chain((0..20).map(|n| (n, "other"))) {
        let payload = match (key, n) {
            ("slow", 0) => json!({ "do": "retry", "until": 2, "report": "handled" }),
            _ => json!({ "report": "handled" }),
        };
        let id = format!("{key}-{n}");
        let body = json!({ "type": "probe", "id": &id, "key": key, "payload": payload });
        let (status, answer) = host.post("/v1/messaging/events/events", &body).await;
        assert_eq!(status, 202, "{answer}");
        accepted.push(id);
    }
    for (outcome, n) in [("done", 20.0), ("retry", 1.0)] {
        let series = [("route", "events"), ("outcome", outcome)];
        host.wait_metric("messaging_outcomes_total", &series, n).await;
    }
    if removed {
        let before = host.metric("messaging_config_generation", &[]).await;
        setup.configure("");
        host.wait_metric("messaging_config_generation", &[], before + 1.0)
            .await;
    }
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");

    setup.configure(config);
    let host = setup.start().await;
    host.ready().await;
    until(
        "the key that waited is finished",
        Duration::from_secs(60),
        || async {
            let pending = host.get("/readyz").await.1["retries_pending"].as_u64();
            let in_flight = host.metric("messaging_in_flight", &[]).await;
            (pending == Some(0) && in_flight == 0.0).then_some(())
        },
    )
    .await;
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    assert!(!log.contains("did not end in good order"), "{log}");
    let handled = seen::topic(&setup, "handled").await;
    seen::assert_each_once(&handled, &accepted);
    let slow = handled.iter().filter(|report| report.of().starts_with("slow"));
    let attempts: Vec<(&str, u64)> = slow.map(|report| (report.of(), report.attempt())).collect();
    assert_eq!(attempts, [("slow-0", 2), ("slow-1", 1)]);
}

#[tokio::test]
async fn while_it_drains_a_host_is_not_ready_and_a_second_signal_ends_it_at_once() {
    let topology = "[[queues]]\nname = \"work\"\n";
    let setup = Setup::new(
        "[[routes]]\nqueue = \"work\"\nplugin = \"probe\"\ntimeout = \"60s\"\n",
        &["probe"],
    )
    .topology(topology);
    let host = setup.start().await;
    host.ready().await;
    host.send_task("work", "probe", json!({ "do": "sleep", "ms": 30_000 }))
        .await;
    until("the call runs", Duration::from_secs(5), || async {
        (host
            .metric("messaging_in_flight", &[("destination", "work")])
            .await
            >= 1.0)
            .then_some(())
    })
    .await;
    host.sigterm();
    let report = until("it says that it drains", Duration::from_secs(3), || async {
        let (status, report) = host.get("/readyz").await;
        (status == 503).then_some(report)
    })
    .await;
    assert!(report["reasons"].to_string().contains("draining"), "{report}");
    assert_eq!(host.get("/livez").await.0, 200, "a host that drains is alive");
    let second = Instant::now();
    host.sigterm();
    let (status, _) = host.ended().await;
    assert_eq!(status.code(), Some(1));
    assert!(
        second.elapsed() < Duration::from_secs(3),
        "it waited for the call: {:?}",
        second.elapsed()
    );
    // What was cut off comes again, and says so.
    let host = setup.start().await;
    host.wait_metric("messaging_redelivered_total", &[("destination", "work")], 1.0)
        .await;
}
