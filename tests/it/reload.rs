//! Configuration changes while messages flow, and what the settings of a route do.

use std::time::{Duration, Instant};

use helix_tests::{Host, Setup, brokers, guests, unique, until};
use serde_json::{Value, json};

use crate::load::Load;
use crate::seen;

const TOPOLOGY: &str = r#"
[[queues]]
name = "work"
max_priority = 10
[[queues]]
name = "other"
[[topics]]
name = "handled"
[[topics]]
name = "secret"
"#;

const WORK: &str = "[[routes]]\nname = \"work\"\nqueue = \"work\"\nplugin = \"probe\"\n";
const OTHER: &str = "[[routes]]\nname = \"other\"\nqueue = \"other\"\nplugin = \"second\"\nconcurrency = 1\n";
const GRANTS: &str = "[plugins.probe]\npublish = [\"handled\"]\n";
const OTHER_GRANTS: &str = "[plugins.second]\npublish = [\"handled\"]\n";

/// Writes the configuration and waits until it serves.
async fn configure(setup: &Setup, host: &Host, toml: &str) {
    let before = host.metric("messaging_config_generation", &[]).await;
    setup.configure(toml);
    until(
        "the new configuration serves",
        Duration::from_secs(10),
        || async {
            let refused = host.metric("messaging_config_reload_failures", &[]).await;
            assert_eq!(refused, 0.0, "{}", host.log_text());
            (host.metric("messaging_config_generation", &[]).await > before).then_some(())
        },
    )
    .await;
}

async fn started(config: &str) -> (Setup, Host) {
    let setup = Setup::new(config, &["probe"]).topology(TOPOLOGY);
    guests::install(&setup.plugins(), "second", &guests::version("probe", 2));
    let host = setup.start().await;
    host.ready().await;
    (setup, host)
}

async fn wait_done(host: &Host, route: &str, n: f64) {
    host.wait_metric(
        "messaging_outcomes_total",
        &[("route", route), ("outcome", "done")],
        n,
    )
    .await;
}

async fn end(setup: &Setup, host: Host, expected: &[&str]) -> Vec<seen::Seen> {
    assert_eq!(host.unexpected_lines(expected), Vec::<String>::new());
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    seen::topic(setup, "handled").await
}

fn report(n: u64) -> Value {
    json!({ "type": "probe", "id": format!("m-{n}"), "payload": { "report": "handled" } })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_that_come_change_and_go_under_load_lose_and_fail_nothing() {
    let (setup, host) = started(&format!("{WORK}{GRANTS}")).await;
    let load = Load::start(&host, "/v1/messaging/tasks/work", 3, report);
    let mut accepted = Vec::new();
    for round in 0..3 {
        // More workers and another policy; a second route; then both gone again, the second with messages in hand.
        let changed =
            format!("{WORK}concurrency = 9\nretry = {{ max_retries = 7 }}\n{OTHER}{GRANTS}{OTHER_GRANTS}");
        configure(&setup, &host, &changed).await;
        for n in 0..20 {
            let body = json!({
                "type": "probe", "id": format!("other-{round}-{n}"),
                "payload": { "do": "sleep", "ms": 40, "report": "handled" },
            });
            assert_eq!(host.post("/v1/messaging/tasks/other", &body).await.0, 202);
            accepted.push(format!("other-{round}-{n}"));
        }
        wait_done(&host, "other", f64::from(round * 20 + 3)).await;
        configure(&setup, &host, &format!("{WORK}concurrency = 1\n{GRANTS}")).await;
    }
    configure(&setup, &host, &format!("{WORK}{OTHER}{GRANTS}{OTHER_GRANTS}")).await;
    wait_done(&host, "other", 60.0).await;
    accepted.extend(load.stop().await);
    wait_done(&host, "work", (accepted.len() - 60) as f64).await;
    assert_eq!(
        host.metric("messaging_outcomes_total", &[]).await,
        accepted.len() as f64,
        "every outcome is done, once"
    );
    assert_eq!(host.letter_count().await, 0);
    let handled = end(&setup, host, &[]).await;
    seen::assert_each_once(&handled, &accepted);
}

/// A route that moves to another name and plugin takes over what the old one no longer gets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_replaced_under_load_leaves_no_message_without_a_route() {
    let renamed =
        |n: u32| format!("[[routes]]\nname = \"work-{n}\"\nqueue = \"work\"\nplugin = \"probe\"\n{GRANTS}");
    let (setup, host) = started(&renamed(0)).await;
    let load = Load::start(&host, "/v1/messaging/tasks/work", 3, report);
    for n in 1..=8 {
        configure(&setup, &host, &renamed(n)).await;
    }
    let accepted = load.stop().await;
    host.wait_metric(
        "messaging_outcomes_total",
        &[("outcome", "done")],
        accepted.len() as f64,
    )
    .await;
    assert_eq!(host.letter_count().await, 0);
    let handled = end(&setup, host, &[]).await;
    seen::assert_each_once(&handled, &accepted);
}

#[tokio::test]
async fn a_bad_file_leaves_the_last_good_one_serving_and_says_so() {
    let (setup, host) = started(&format!("{WORK}{GRANTS}")).await;
    setup.configure(&format!("{WORK}concurency = 3\n{GRANTS}"));
    host.wait_metric("messaging_config_reload_failures", &[], 1.0)
        .await;
    let (status, report) = host.get("/readyz").await;
    assert_eq!(
        (status, report["status"].as_str()),
        (200, Some("degraded")),
        "{report}"
    );
    assert!(report["reasons"].to_string().contains("concurency"), "{report}");
    host.send_task("work", "probe", json!({})).await;
    wait_done(&host, "work", 1.0).await;
    let lines = host.unexpected_lines(&["the configuration on disk was refused"]);
    assert_eq!(lines, Vec::<String>::new());
    setup.configure(&format!("{WORK}{GRANTS}"));
    until("the repaired file serves", Duration::from_secs(10), || async {
        (host.get("/readyz").await.1["status"] == "ready").then_some(())
    })
    .await;
}

#[tokio::test]
async fn grants_and_the_verdict_for_unrouted_types_change_with_the_file() {
    let (setup, host) = started(&format!("{WORK}type = \"probe\"\n{GRANTS}")).await;
    let ask = json!({ "do": "publish-denied", "topic": "secret", "report": "handled" });
    host.send_task("work", "probe", ask.clone()).await;
    wait_done(&host, "work", 1.0).await;
    host.send_task("work", "stranger", json!({})).await;
    let letters = host.wait_letters(1).await;
    assert_eq!(
        (&letters[0]["class"], &letters[0]["code"]),
        (&json!("unrouted"), &json!("unrouted")),
        "{letters:?}"
    );
    let granted = format!(
        "[messaging]\nunrouted = \"ignore\"\n{WORK}type = \"probe\"\n[plugins.probe]\npublish = [\"handled\", \"secret\"]\n"
    );
    configure(&setup, &host, &granted).await;
    host.send_task("work", "probe", ask).await;
    host.send_task("work", "stranger", json!({})).await;
    host.wait_metric("messaging_outcomes_total", &[("outcome", "ignored")], 1.0)
        .await;
    wait_done(&host, "work", 2.0).await;
    assert_eq!(host.letter_count().await, 1, "an ignored message is no letter");
    let handled = end(&setup, host, &["dead letter"]).await;
    let found: Vec<bool> = handled
        .iter()
        .map(|report| report.body["found"].is_string())
        .collect();
    assert_eq!(
        found,
        [true, false],
        "refused before the grant, allowed after it: {handled:?}"
    );
    assert_eq!(seen::topic(&setup, "secret").await.len(), 1);
}

/// It must not wait for the end of its lease, which is ten minutes.
#[tokio::test]
async fn a_parked_retry_without_a_route_comes_back_with_the_route() {
    let both = format!("{WORK}retry = {{ max_retries = 1, delay = \"10s\", jitter = 0.0 }}\n{GRANTS}");
    let (setup, host) = started(&both).await;
    host.send_task("work", "probe", json!({ "do": "retry", "until": 2 }))
        .await;
    host.wait_metric("messaging_outcomes_total", &[("outcome", "retry")], 1.0)
        .await;
    configure(&setup, &host, "").await;
    until("the schedule finds no route", Duration::from_secs(20), || async {
        host.log_text().contains("has no route any more").then_some(())
    })
    .await;
    configure(&setup, &host, &both).await;
    wait_done(&host, "work", 1.0).await;
    assert_eq!(host.letter_count().await, 0);
}

#[tokio::test]
async fn a_rate_spreads_messages_over_time() {
    let (_setup, host) = started(&format!("{WORK}rate = 20\n{GRANTS}")).await;
    let sent = Instant::now();
    for _ in 0..60 {
        host.send_task("work", "probe", json!({})).await;
    }
    wait_done(&host, "work", 60.0).await;
    // A second's worth may go at once; the other 40 take two seconds.
    assert!(
        sent.elapsed() >= Duration::from_millis(1900),
        "too fast: {:?}",
        sent.elapsed()
    );
}

#[tokio::test]
async fn instances_stay_warm_unless_each_message_gets_its_own() {
    let routes = format!("{WORK}concurrency = 1\n{OTHER}instance = \"per-message\"\n{GRANTS}{OTHER_GRANTS}");
    let (setup, host) = started(&routes).await;
    for _ in 0..3 {
        host.send_task("work", "probe", json!({ "do": "state", "report": "handled" }))
            .await;
        host.send_task("other", "fresh", json!({ "do": "state", "report": "handled" }))
            .await;
    }
    wait_done(&host, "work", 3.0).await;
    wait_done(&host, "other", 3.0).await;
    let handled = end(&setup, host, &[]).await;
    let of = |kind: &str| -> Vec<u64> {
        let of_kind = handled.iter().filter(|r| r.body["type"] == kind);
        let mut found: Vec<u64> = of_kind.filter_map(|r| r.body["found"].as_u64()).collect();
        // What handlers publish is not sent in their order.
        found.sort_unstable();
        found
    };
    assert_eq!(of("fresh"), [1, 1, 1]);
    assert_eq!(of("probe"), [1, 2, 3]);
}

#[tokio::test]
async fn delays_priorities_and_retry_after_decide_when_a_task_runs() {
    let config = format!(
        "[limits]\nin_flight = 1\n{WORK}concurrency = 1\nretry = {{ delay = \"10m\", max_delay = \"10m\", jitter = 0.0 }}\n{GRANTS}"
    );
    let (setup, host) = started(&config).await;
    let send = async |id: &str, priority: u8, delay_ms: u64, payload: Value| {
        let body = json!({ "type": "probe", "id": id, "priority": priority, "delay_ms": delay_ms, "payload": payload });
        assert_eq!(host.post("/v1/messaging/tasks/work", &body).await.0, 202);
    };
    let plain = json!({ "report": "handled" });
    let sent_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis();
    send("delayed", 10, 2000, plain.clone()).await;
    // Ten minutes by the route's policy, a moment by the handler's word.
    send(
        "again",
        5,
        0,
        json!({ "do": "retry-after", "ms": 100, "until": 2, "report": "handled" }),
    )
    .await;
    wait_done(&host, "work", 1.0).await;
    send(
        "first",
        0,
        0,
        json!({ "do": "sleep", "ms": 700, "report": "handled" }),
    )
    .await;
    for n in 0..3 {
        send(&format!("low-{n}"), 1, 0, plain.clone()).await;
    }
    for n in 0..3 {
        send(&format!("high-{n}"), 9, 0, plain.clone()).await;
    }
    wait_done(&host, "work", 9.0).await;
    let handled = end(&setup, host, &[]).await;
    let order: Vec<&str> = handled
        .iter()
        .map(seen::Seen::of)
        .filter(|id| *id != "delayed")
        .collect();
    assert_eq!(
        order,
        [
            "again", "first", "high-0", "high-1", "high-2", "low-0", "low-1", "low-2"
        ]
    );
    assert_eq!(handled[0].attempt(), 2);
    let delayed = handled.iter().find(|r| r.of() == "delayed").unwrap();
    assert!(
        u128::from(delayed.at_ms()) >= sent_ms + 2000,
        "too early: {}",
        u128::from(delayed.at_ms()) - sent_ms
    );
}

#[tokio::test]
async fn only_the_attempt_that_is_done_publishes_with_ids_and_trace_of_its_input() {
    let config = format!(
        "{WORK}retry = {{ delay = \"10ms\" }}\n[plugins.probe]\npublish = [\"handled\", \"secret\"]\n"
    );
    let (setup, host) = started(&config).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let payload = json!({ "do": "publish-retry", "topic": "secret", "until": 3, "report": "handled" });
    let body = json!({ "type": "probe", "id": "input", "traceparent": trace, "payload": payload });
    assert_eq!(host.post("/v1/messaging/tasks/work", &body).await.0, 202);
    wait_done(&host, "work", 1.0).await;
    assert_eq!(
        host.metric("messaging_outcomes_total", &[("outcome", "retry")])
            .await,
        2.0
    );
    let handled = end(&setup, host, &[]).await;
    let published = seen::topic(&setup, "secret").await;
    let ids = |seen: &[seen::Seen]| seen.iter().map(|s| s.id.clone()).collect::<Vec<_>>();
    assert_eq!(
        (ids(&published), ids(&handled)),
        (vec!["input/0".to_owned()], vec!["input/1".to_owned()])
    );
    assert_eq!(handled[0].attempt(), 3);
    for event in published.iter().chain(&handled) {
        let carried = event.raw.headers.text("traceparent").unwrap_or_default();
        assert_eq!(carried.get(3..35), trace.get(3..35), "{:?}", event.raw.headers);
    }
}

#[tokio::test]
async fn what_ran_when_the_host_was_killed_says_that_it_comes_again() {
    let (setup, host) = started(&format!("{WORK}timeout = \"60s\"\n{GRANTS}")).await;
    host.send_task(
        "work",
        "probe",
        json!({ "do": "sleep", "ms": 1500, "report": "handled" }),
    )
    .await;
    until("it runs", Duration::from_secs(5), || async {
        (host
            .metric("messaging_in_flight", &[("destination", "work")])
            .await
            >= 1.0)
            .then_some(())
    })
    .await;
    assert_eq!(host.metric("messaging_redelivered_total", &[]).await, 0.0);
    host.kill();
    let host = setup.start().await;
    wait_done(&host, "work", 1.0).await;
    assert_eq!(
        host.metric("messaging_redelivered_total", &[("destination", "work")])
            .await,
        1.0
    );
}

/// Takes the only route of a destination away while most of its messages wait in the client, and gives it back.
async fn a_destination_that_is_left_and_taken_again(path: &str, source: &str, brokers: &str, topology: &str) {
    const MESSAGES: u32 = 120;
    let route = format!("[[routes]]\nname = \"far\"\n{source}\nplugin = \"probe\"\nconcurrency = 2\n");
    let limits = "[limits]\nin_flight = 20\n";
    let setup = Setup::new(&format!("{limits}{brokers}{route}"), &["probe"]).topology(topology);
    let host = setup.start().await;
    host.ready().await;
    // Together: they have to be there before many of them are handled.
    let sends = (0..MESSAGES).map(async |n| {
        let body = json!({ "type": "probe", "key": format!("k{n}"), "payload": { "do": "sleep", "ms": 80 } });
        assert_eq!(host.post(path, &body).await.0, 202);
    });
    futures::future::join_all(sends).await;
    wait_done(&host, "far", 3.0).await;
    configure(&setup, &host, &format!("{limits}{brokers}")).await;
    let by_now = host.metric("messaging_outcomes_total", &[]).await;
    assert!(
        by_now + 20.0 < f64::from(MESSAGES),
        "too late to strand anything: {by_now}"
    );
    configure(&setup, &host, &format!("{limits}{brokers}{route}")).await;
    wait_done(&host, "far", f64::from(MESSAGES)).await;
    assert_eq!(
        host.metric("messaging_outcomes_total", &[]).await,
        f64::from(MESSAGES),
        "some ran twice"
    );
    assert_eq!(host.letter_count().await, 0);
}

#[tokio::test]
async fn a_queue_of_rabbitmq_that_is_left_and_taken_again_gives_every_message_once() {
    let queue = unique("left");
    let brokers = format!("[messaging]\ntasks = \"rabbitmq\"\n{}", brokers::rabbitmq_toml());
    let topology = format!("[[queues]]\nname = \"{queue}\"\n");
    let path = format!("/v1/messaging/tasks/{queue}");
    a_destination_that_is_left_and_taken_again(&path, &format!("queue = \"{queue}\""), &brokers, &topology)
        .await;
}

#[tokio::test]
async fn a_topic_of_kafka_that_is_left_and_taken_again_gives_every_message_once() {
    let topic = unique("left");
    let brokers = format!(
        "[messaging]\nevents = \"kafka\"\n{}",
        brokers::kafka_toml(&unique("group"))
    );
    let topology = format!("[[topics]]\nname = \"{topic}\"\npartitions = 3\n");
    let path = format!("/v1/messaging/events/{topic}");
    a_destination_that_is_left_and_taken_again(&path, &format!("topic = \"{topic}\""), &brokers, &topology)
        .await;
}
