//! Output without end.

use std::time::{Duration, Instant};

use helix_tests::until;
use serde_json::json;

use super::{CONFIG, RSS_KIB, neighbours, peak_kib, start};

#[tokio::test]
async fn a_flood_of_log_lines_is_bounded_and_says_how_much_was_left_out() {
    let (setup, host) = start(
        // A debug build takes 0.2 ms a line on a slow machine.
        &CONFIG.replace("timeout = \"1s\"", "timeout = \"100s\""),
        &["probe", "batch-liar", "packed-liar"],
    )
    .await;
    let size = || std::fs::metadata(setup.path().join("helix.log")).unwrap().len();
    let before = size();
    let done = [("route", "work"), ("outcome", "done")];
    let started = Instant::now();
    host.send_task("work", "probe", json!({ "do": "log-flood", "count": 50_000 }))
        .await;
    neighbours(&host).await;
    host.wait_metric("messaging_outcomes_total", &done, 2.0).await;
    // 20 lines a second and one burst of 20, each below 300 bytes with its frame, plus the lines about what was left out.
    let seconds = started.elapsed().as_secs() + 2;
    let allowed = 2 * 300 * 20 * seconds + 8192;
    let grown = size() - before;
    assert!(
        grown < allowed,
        "100,000 lines made the log {grown} bytes larger, allowed are {allowed}"
    );
    let lines = host.log_lines();
    let flood = lines
        .iter()
        .filter(|l| {
            l["fields"]["message"]
                .as_str()
                .is_some_and(|m| m.starts_with("flood "))
        })
        .count();
    assert!(flood >= 20, "what is allowed gets through: {flood}");
    // What was left out is told with the next line that passes.
    until(
        "the log says how much was left out",
        Duration::from_secs(10),
        || async {
            host.send_task("work", "probe", json!({ "do": "log-flood", "count": 1 }))
                .await;
            // Together: of a slow flood a line passes every twentieth of a second, and says what was left out since the last.
            let lines = host.log_lines();
            let dropped = lines.iter().filter_map(|l| l["fields"]["dropped"].as_u64());
            (dropped.sum::<u64>() > 90_000).then_some(())
        },
    )
    .await;
    assert!(peak_kib(&host) < RSS_KIB);
}
