//! SIGKILL of the host in the middle of 20,000 messages, on each broker: started again on the same state, it loses none.
//!
//! The handler answers each message with a report event, so what was handled is read from the report topic and what was
//! given up on from the store, both after the host has left. 1 % of the messages are rejected, 1 % go through a retry.

mod embedded;
mod kafka;
mod rabbitmq;
mod state;
mod verdict;

use std::time::{Duration, Instant};

use helix_tests::{Host, Setup, until};
use serde_json::{Value, json};

use state::State;
use verdict::{Run, check};

const MESSAGES: usize = 20_000;
const KILLS: usize = 3;
/// Unsettled deliveries per source.
const WINDOW: usize = 1000;
/// For everything; the machine of a pull request has two slow cores.
const LIMIT: Duration = Duration::from_secs(180);
/// What a host that is killed and fed with bad messages may say aloud.
const EXPECTED_LINES: &[&str] = &[
    "dead letter; look at it",
    // By chance one task is under way at each of the kills, and the embedded broker says so from the third on.
    "this task may have been running each time the host died",
];

/// What a message will come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Handled,
    HandledAfterRetry,
    Dead,
}

fn fate(n: usize) -> Fate {
    match n % 100 {
        7 => Fate::Dead,
        13 => Fate::HandledAfterRetry,
        _ => Fate::Handled,
    }
}

fn id(n: usize) -> String {
    format!("kill-{n:05}")
}

fn order(n: usize, report: &str) -> Value {
    match fate(n) {
        Fate::Handled => json!({ "report": report }),
        Fate::HandledAfterRetry => json!({ "do": "retry", "until": 2, "report": report }),
        Fate::Dead => json!({ "do": "reject", "report": report }),
    }
}

/// The manual's flat JSON.
fn flat(n: usize, body: &'static str, report: &str) -> String {
    json!({ "id": id(n), "type": "probe", body: order(n, report) }).to_string()
}

/// The route under test; `from` is `queue = "…"` or `topic = "…"`.
fn route(from: &str, report: &str) -> String {
    format!(
        "[[routes]]\nname = \"work\"\n{from}\nplugin = \"probe\"\nretry = {{ max_retries = 3, delay = \"50ms\" }}\n\
         [plugins.probe]\npublish = [\"{report}\"]\n[limits]\nin_flight = {WINDOW}\n"
    )
}

/// How many messages each host handles before it is killed: together well below all of them.
fn progress(seed: u64) -> [f64; KILLS] {
    // Knuth's MMIX generator; only its upper bits are any good.
    let mut state = seed;
    [(); KILLS].map(|()| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let share = u32::try_from(state >> 33).unwrap_or(0) % 4000;
        f64::from(500 + share)
    })
}

/// Another one in each run, unless HELIX_TEST_SEED says which.
fn seed() -> u64 {
    match std::env::var("HELIX_TEST_SEED") {
        Ok(seed) => seed.parse().expect("HELIX_TEST_SEED is a number"),
        Err(_) => uuid::Uuid::now_v7().as_u64_pair().1,
    }
}

/// Kills hosts until it is enough; the last one stays.
async fn kill_hosts(setup: &Setup, seed: u64, mut started: impl FnMut(&Host)) -> Host {
    for goal in progress(seed) {
        let host = setup.start().await;
        started(&host);
        until(&format!("{goal} messages are handled"), LIMIT, || async {
            (done(&host).await >= goal).then_some(())
        })
        .await;
        let lines = host.unexpected_lines(EXPECTED_LINES);
        host.kill();
        assert!(lines.is_empty(), "seed {seed}: {lines:#?}");
    }
    let host = setup.start().await;
    started(&host);
    host
}

async fn done(host: &Host) -> f64 {
    host.metric("messaging_outcomes_total", &[("outcome", "done")])
        .await
}

/// Lets the host finish what `waiting` still counts at the broker (asked while the host runs, and without it), then stops
/// it; a host that leaves something behind is started again.
async fn finish(setup: &Setup, mut host: Host, seed: u64, waiting: impl AsyncFn(Option<&Host>) -> u64) {
    let deadline = Instant::now() + LIMIT;
    let mut last = true;
    loop {
        until(
            "the broker has nothing left, and nothing waits for a retry",
            LIMIT,
            || async {
                let retries = host.get("/v1/messaging/health").await.1["retries_pending"].as_u64();
                (waiting(Some(&host)).await == 0 && retries == Some(0)).then_some(())
            },
        )
        .await;
        assert!(
            !last || done(&host).await > 0.0,
            "seed {seed}: every kill came after the end of the work"
        );
        last = false;
        let lines = host.unexpected_lines(EXPECTED_LINES);
        assert!(lines.is_empty(), "seed {seed}: {lines:#?}");
        let (status, log) = host.terminate().await;
        assert!(status.success(), "seed {seed}: {log}");
        let state = State::open(setup).await;
        let retries = state.retries().await;
        state.close().await;
        if waiting(None).await == 0 && retries == 0 {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "seed {seed}: something is left whenever the host has stopped"
        );
        host = setup.start().await;
    }
}

/// Ten minutes is how long a lease lasts: what a new host claims before it has routes would wait that long.
#[tokio::test]
async fn retries_that_became_due_while_no_host_ran_run_right_after_the_start() {
    const DELAY: Duration = Duration::from_millis(300);
    const SOON: Duration = Duration::from_secs(20);
    let toml = "[[routes]]\nqueue = \"work\"\nplugin = \"probe\"\nretry = { max_retries = 60, delay = \"300ms\", multiplier = 1.0, jitter = 0.0 }\n";
    let setup = Setup::new(toml, &["probe"]).topology("[[queues]]\nname = \"work\"\n");
    let mut host = setup.start().await;
    host.ready().await;
    for _ in 0..3 {
        host.send_task("work", "probe", json!({ "do": "retry", "until": 12 }))
            .await;
    }
    for _ in 0..4 {
        until("all three have failed, and wait in the store", SOON, || async {
            let failed = host
                .metric("messaging_outcomes_total", &[("outcome", "retry")])
                .await;
            let stored = &host.get("/v1/messaging/health").await.1["retries_pending"];
            (failed >= 3.0 && *stored == 3).then_some(())
        })
        .await;
        let lines = host.unexpected_lines(&[]);
        assert!(lines.is_empty(), "{lines:#?}");
        host.kill();
        // Not for luck: they are due then.
        tokio::time::sleep(DELAY).await;
        host = setup.start().await;
    }
    until("the retries are handled", SOON, || async {
        (done(&host).await >= 3.0).then_some(())
    })
    .await;
}
