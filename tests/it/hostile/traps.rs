//! Failing again and again: what one failure leaves behind is multiplied.

use std::time::{Duration, Instant};

use helix_tests::{Host, until};
use serde_json::json;

use super::{CONFIG, neighbours, start};

/// Enough that a leaked instance (128 KiB at least) or file of each would be seen, few enough for a debug build.
const TRAPS: u32 = 1000;

fn resident_kib(host: &Host) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn files(host: &Host) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", host.pid()))
        .unwrap()
        .count()
}

async fn panics(host: &Host, times: u32) {
    let trapped = [("route", "work"), ("outcome", "trap")];
    let before = host.metric("messaging_outcomes_total", &trapped).await;
    for _ in 0..times {
        host.send_task("work", "probe", json!({ "do": "panic", "reason": "again" }))
            .await;
    }
    let all = before + f64::from(times);
    until("all have trapped", Duration::from_secs(120), || async {
        (host.metric("messaging_outcomes_total", &trapped).await >= all).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_thousand_panics_cost_the_host_no_memory_and_no_file() {
    let (_setup, host) = start(CONFIG, &["probe", "batch-liar", "packed-liar"]).await;
    panics(&host, 100).await;
    let (memory, open) = (resident_kib(&host), files(&host));
    let started = Instant::now();
    panics(&host, TRAPS).await;
    let (memory_after, open_after) = (resident_kib(&host), files(&host));
    eprintln!(
        "{TRAPS} panics in {:?}: RSS {memory} -> {memory_after} KiB, {open} -> {open_after} files",
        started.elapsed()
    );
    // One instance kept of each would be 1 GiB and more.
    assert!(
        memory_after < memory + (96 << 10),
        "{memory} -> {memory_after} KiB"
    );
    assert!(open_after < open + 50, "{open} -> {open_after} files");
    until("each is kept as a letter", Duration::from_secs(60), || async {
        (host.letter_count().await == u64::from(TRAPS) + 100).then_some(())
    })
    .await;
    neighbours(&host).await;
}
