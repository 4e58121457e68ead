//! Handlers that do not come to an end.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{CONFIG, letter_of, neighbours, start};

/// Enough for an honest call on a busy machine.
const TIMEOUT_MS: u64 = 1000;
/// A debug build on shared cores is slow; the point is that a loop ends.
const SLACK_MS: u64 = 4000;

#[tokio::test]
async fn a_loop_and_a_sleep_in_the_host_end_at_the_timeout_while_neighbours_go_on() {
    let (_setup, host) = start(CONFIG, &["probe", "batch-liar", "packed-liar"]).await;
    for order in [json!({ "do": "loop" }), json!({ "do": "sleep", "ms": 60_000 })] {
        let before = host.letter_count().await;
        let sent = Instant::now();
        let id = host.send_task("work", "probe", order.clone()).await;
        neighbours(&host).await;
        if sent.elapsed() < Duration::from_millis(TIMEOUT_MS) {
            assert_eq!(host.letter_count().await, before, "{order}: it still runs");
        }
        let letter = letter_of(&host, &id).await;
        let attempt = &letter["history"][0];
        assert_eq!(
            (&letter["class"], &attempt["outcome"], &letter["code"]),
            (&json!("exhausted"), &json!("timeout"), &json!("timeout")),
            "{letter}"
        );
        let took = attempt["duration_us"].as_u64().unwrap() / 1000;
        assert!(
            (TIMEOUT_MS..TIMEOUT_MS + SLACK_MS).contains(&took),
            "{order}: {took} ms"
        );
        assert!(
            letter["reason"]
                .as_str()
                .is_some_and(|r| r.contains("did not end within 1s")),
            "{letter}"
        );
    }
    // As many loops as the route has places: they hold up their own route for one timeout, and no other.
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(host.send_task("work", "probe", json!({ "do": "loop" })).await);
    }
    let done = [("route", "beside"), ("outcome", "done")];
    let before = host.metric("messaging_outcomes_total", &done).await;
    for _ in 0..20 {
        host.send_task("beside", "probe", json!({})).await;
    }
    host.wait_metric("messaging_outcomes_total", &done, before + 20.0)
        .await;
    for id in &ids {
        assert_eq!(letter_of(&host, id).await["code"], "timeout");
    }
    neighbours(&host).await;
    assert_eq!(host.letter_count().await, 5);
}
