//! What has to run one after another does, through retries, pressure and restarts; and nothing else waits for it.

use std::time::{Duration, Instant};

use helix_tests::{Host, Setup, until};
use serde_json::{Value, json};

use crate::seen::{self, Seen};

const TOPOLOGY: &str = r#"
[[queues]]
name = "work"
[[topics]]
name = "events"
partitions = 3
[[topics]]
name = "single"
[[topics]]
name = "handled"
"#;

fn config(order: &str, in_flight: u32, delay: &str) -> String {
    format!(
        r#"
[limits]
in_flight = {in_flight}
[[routes]]
name = "events"
topic = "events"
plugin = "probe"
order = "{order}"
concurrency = 4
retry = {{ delay = "{delay}", jitter = 0.0 }}
[[routes]]
name = "single"
topic = "single"
plugin = "probe"
order = "{order}"
concurrency = 4
retry = {{ delay = "{delay}", jitter = 0.0 }}
[[routes]]
name = "work"
queue = "work"
plugin = "probe"
order = "{order}"
concurrency = 4
retry = {{ delay = "{delay}", jitter = 0.0 }}
[plugins.probe]
publish = ["handled"]
"#
    )
}

async fn started(config: &str) -> (Setup, Host) {
    let setup = Setup::new(config, &["probe"]).topology(TOPOLOGY);
    let host = setup.start().await;
    host.ready().await;
    (setup, host)
}

/// The n-th message of a key; `fails` says that its first attempt asks for a retry.
async fn send(host: &Host, path: &str, key: &str, n: u32, fails: bool) -> Value {
    let payload = match fails {
        true => json!({ "do": "retry", "until": 2, "report": "handled" }),
        false => json!({ "report": "handled" }),
    };
    let body = json!({ "type": "probe", "id": format!("{key}-{n}"), "key": key, "payload": payload });
    let (status, answer) = host.post(&format!("/v1/messaging/{path}"), &body).await;
    assert_eq!(status, 202, "{answer}");
    answer
}

/// The numbers of one key, in the order its messages were handled.
fn numbers(seen: &[Seen], key: &str) -> Vec<u32> {
    let mine = seen
        .iter()
        .filter_map(|s| s.of().strip_prefix(key)?.strip_prefix('-')?.parse().ok());
    mine.collect()
}

async fn done(host: &Host, route: &str) -> f64 {
    host.metric(
        "messaging_outcomes_total",
        &[("route", route), ("outcome", "done")],
    )
    .await
}

async fn wait_done(host: &Host, route: &str, n: u32) {
    host.wait_metric(
        "messaging_outcomes_total",
        &[("route", route), ("outcome", "done")],
        n.into(),
    )
    .await;
}

async fn pending(host: &Host) -> u64 {
    host.get("/readyz").await.1["retries_pending"]
        .as_u64()
        .unwrap_or(0)
}

async fn end(setup: &Setup, host: Host) -> Vec<Seen> {
    assert_eq!(host.unexpected_lines(&[]), Vec::<String>::new());
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    seen::topic(setup, "handled").await
}

/// A key of its own for each way a message can come, so that one host shows both.
#[tokio::test]
async fn a_retrying_key_keeps_its_order_and_holds_up_nobody() {
    const DELAY: Duration = Duration::from_secs(3);
    let (setup, host) = started(&config("key", 1000, "3s")).await;
    for (path, route) in [("events/events", "events"), ("tasks/work", "work")] {
        let sent = Instant::now();
        for n in 0..5 {
            send(&host, path, &format!("{route}:slow"), n, n == 0).await;
        }
        for n in 0..5 {
            for other in ["b", "c", "d", "e"] {
                send(&host, path, &format!("{route}:{other}"), n, false).await;
            }
        }
        wait_done(&host, route, 20).await;
        assert!(
            sent.elapsed() < DELAY,
            "the others waited for the retry: {:?}",
            sent.elapsed()
        );
        assert_eq!(
            done(&host, route).await,
            20.0,
            "a follower overtook its retrying head"
        );
    }
    wait_done(&host, "events", 25).await;
    wait_done(&host, "work", 25).await;
    let seen = end(&setup, host).await;
    for key in ["slow", "b", "c", "d", "e"] {
        for route in ["events", "work"] {
            assert_eq!(
                numbers(&seen, &format!("{route}:{key}")),
                [0, 1, 2, 3, 4],
                "{route}:{key}"
            );
        }
    }
    let retried = seen.iter().find(|s| s.of() == "events:slow-0").unwrap();
    assert_eq!(retried.attempt(), 2);
}

#[tokio::test]
async fn under_pressure_a_waiting_key_moves_to_the_store_and_keeps_order_and_delay() {
    // Longer than the gauge takes to be read again (5 s).
    const DELAY_MS: u64 = 6000;
    let (setup, host) = started(&config("key", 20, "6s")).await;
    let sent_ms = now_ms();
    for n in 0..60 {
        send(&host, "events/single", "slow", n, n == 0).await;
    }
    for n in 0..20 {
        send(&host, "events/single", "other", n, false).await;
    }
    // 60 of one key in a window of 20: the others can only have been read because these were moved out of it.
    wait_done(&host, "single", 20).await;
    assert_eq!(done(&host, "single").await, 20.0);
    assert!(
        pending(&host).await >= 60,
        "the waiting key is in the store: {}",
        pending(&host).await
    );
    assert!(now_ms() < sent_ms + DELAY_MS, "the others waited for the retry");
    host.wait_metric("messaging_retries_pending", &[], 1.0).await;
    wait_done(&host, "single", 80).await;
    until("nothing is pending any more", Duration::from_secs(15), || async {
        let gauge = host.metric("messaging_retries_pending", &[]).await;
        (pending(&host).await == 0 && gauge == 0.0).then_some(())
    })
    .await;
    // The lane lives in memory again.
    send(&host, "events/single", "slow", 60, false).await;
    wait_done(&host, "single", 81).await;
    assert_eq!(pending(&host).await, 0);
    let seen = end(&setup, host).await;
    assert_eq!(numbers(&seen, "slow"), (0..61).collect::<Vec<_>>());
    assert_eq!(numbers(&seen, "other"), (0..20).collect::<Vec<_>>());
    let head = seen.iter().find(|s| s.of() == "slow-0").unwrap();
    assert!(
        head.at_ms() >= sent_ms + DELAY_MS,
        "moving the key to the store cost it its delay"
    );
}

#[tokio::test]
async fn a_key_that_waits_in_the_store_keeps_its_order_through_a_crash() {
    let (setup, host) = started(&config("key", 20, "4s")).await;
    for n in 0..50 {
        send(&host, "events/single", "slow", n, n == 0).await;
    }
    until(
        "a part of the key is in the store",
        Duration::from_secs(4),
        || async { (pending(&host).await >= 30).then_some(()) },
    )
    .await;
    assert_eq!(done(&host, "single").await, 0.0);
    host.kill();
    let host = setup.start().await;
    // Before it is ready: nothing that arrives now may overtake what waits.
    send(&host, "events/single", "slow", 50, false).await;
    host.ready().await;
    for n in 51..60 {
        send(&host, "events/single", "slow", n, false).await;
    }
    wait_done(&host, "single", 60).await;
    let seen = end(&setup, host).await;
    assert_eq!(numbers(&seen, "slow"), (0..60).collect::<Vec<_>>());
}

#[tokio::test]
async fn order_partition_holds_a_whole_partition_and_no_other() {
    let (setup, host) = started(&config("partition", 1000, "3s")).await;
    let mut sent: Vec<(u64, String)> = Vec::new();
    // The first message fails once, and with it waits everything of its partition, whatever the key.
    for n in 0..30 {
        let answer = send(&host, "events/events", &format!("k{n}"), n, n == 0).await;
        sent.push((answer["partition"].as_u64().unwrap(), format!("k{n}-{n}")));
    }
    let held = sent[0].0;
    let others = sent.iter().filter(|(p, _)| *p != held).count();
    assert!(others > 0 && others < 29, "keys spread over partitions");
    wait_done(&host, "events", u32::try_from(others).unwrap()).await;
    assert_eq!(
        done(&host, "events").await as usize,
        others,
        "a message overtook the one before it"
    );
    wait_done(&host, "events", 30).await;
    let seen = end(&setup, host).await;
    for partition in 0..3 {
        let of = |id: &str| sent.iter().any(|(p, sent)| *p == partition && sent == id);
        let handled: Vec<&str> = seen.iter().map(Seen::of).filter(|id| of(id)).collect();
        let expected: Vec<&String> = sent
            .iter()
            .filter(|(p, _)| *p == partition)
            .map(|(_, id)| id)
            .collect();
        assert_eq!(handled, expected, "partition {partition}");
    }
}

#[tokio::test]
async fn without_order_calls_run_beside_each_other() {
    let (_setup, host) = started(&config("none", 1000, "1s")).await;
    let started = Instant::now();
    for _ in 0..8 {
        host.send_task("work", "probe", json!({ "do": "sleep", "ms": 1000 }))
            .await;
    }
    wait_done(&host, "work", 8).await;
    let took = started.elapsed();
    // Four at a time: two turns of a second, not eight, and not one.
    assert!(
        took >= Duration::from_secs(2),
        "more ran at a time than `concurrency` allows: {took:?}"
    );
    assert!(
        took < Duration::from_secs(6),
        "calls ran one after another: {took:?}"
    );
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    u64::try_from(since.as_millis()).unwrap()
}
