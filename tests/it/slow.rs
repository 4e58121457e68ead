//! Clients that send slowly, or nothing: they are let go in time, and keep nobody from an answer.

use std::time::{Duration, Instant};

use helix_tests::{Host, Setup, until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const CONFIG: &str = r#"
[[routes]]
name = "work"
queue = "work"
plugin = "probe"
"#;

/// Of the host: the head of a request, and a small body, have to be there so soon.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than the host has under way at a time.
const CLIENTS: usize = 150;

const HEAD: &str = "POST /v1/messaging/tasks/work HTTP/1.1\r\nhost: x\r\n";
const BODY: &str = "POST /v1/messaging/tasks/work HTTP/1.1\r\nhost: x\r\ncontent-length: 400\r\n\r\n";

/// Sends the beginning and then a byte a second, as long as somebody listens: how long that was, and what was answered.
async fn slowly(host: &Host, beginning: &'static str) -> (Duration, String) {
    let address = host.url().trim_start_matches("http://").to_owned();
    let started = Instant::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(beginning.as_bytes()).await.unwrap();
    let (mut read, mut write) = stream.split();
    let drip = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await; // the pace of a slow client
            if write.write_all(b"x").await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let mut answer = Vec::new();
    tokio::select! {
        _ = read.read_to_end(&mut answer) => {}
        () = drip => {}
    }
    (started.elapsed(), String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_that_send_slowly_are_let_go_in_time_and_keep_nobody_from_an_answer() {
    let setup = Setup::new(CONFIG, &["probe"]).topology("[[queues]]\nname = \"work\"\n");
    let host = std::sync::Arc::new(setup.start().await);
    host.ready().await;
    let mut slow = JoinSet::new();
    // Half a head, a head and half a body, and nothing at all.
    for beginning in [HEAD, BODY, ""] {
        for _ in 0..CLIENTS {
            let host = std::sync::Arc::clone(&host);
            slow.spawn(async move { (beginning, slowly(&host, beginning).await) });
        }
    }
    // Meanwhile others are answered at once, and the data plane goes on.
    let (started, mut answered, mut slowest) = (Instant::now(), 0_u32, Duration::ZERO);
    while started.elapsed() < PATIENCE {
        let asked = Instant::now();
        host.send_task("work", "probe", json!({})).await;
        slowest = slowest.max(asked.elapsed());
        answered += 1;
        tokio::time::sleep(Duration::from_millis(20)).await; // the pace of a client
    }
    assert!(slowest < PATIENCE / 2, "one of {answered} took {slowest:?}");
    assert!(answered > 50, "{answered}");
    let done = [("route", "work"), ("outcome", "done")];
    host.wait_metric("messaging_outcomes_total", &done, f64::from(answered))
        .await;
    let limit = PATIENCE + Duration::from_secs(5);
    let mut ended = 0;
    until("all of them are let go", limit, || {
        while let Some(one) = slow.try_join_next() {
            let (beginning, (took, answer)) = one.unwrap();
            assert!(
                took >= PATIENCE - Duration::from_millis(500),
                "let go after {took:?}"
            );
            assert!(took < limit, "let go after {took:?}");
            // Who sent a head is told why.
            let told = answer.starts_with("HTTP/1.1 408 ") && answer.contains("HX0512");
            assert_eq!(told, beginning == BODY, "{beginning:?} got {answer:?}");
            ended += 1;
        }
        let all = ended == 3 * CLIENTS;
        async move { all.then_some(()) }
    })
    .await;
    assert_eq!(
        host.metric("messaging_outcomes_total", &[]).await,
        f64::from(answered),
        "nothing of theirs was published"
    );
}

/// More connections than the host takes: those that do nothing make room in time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_connections_than_there_is_room_for_delay_others_no_longer_than_that() {
    let setup = Setup::new(CONFIG, &["probe"]).topology("[[queues]]\nname = \"work\"\n");
    let host = setup.start().await;
    host.ready().await;
    let address = host.url().trim_start_matches("http://").to_owned();
    let mut idle = Vec::new();
    for _ in 0..600 {
        idle.push(TcpStream::connect(&address).await.unwrap());
    }
    let started = Instant::now();
    // A client of its own: the host's harness may have a connection already.
    let answer = helix_tests::Client::default()
        .get(format!("{}/livez", host.url()))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let took = started.elapsed();
    assert!(took < PATIENCE + Duration::from_secs(5), "{took:?}");
    assert!(
        took > Duration::from_secs(1),
        "600 connections were all taken: {took:?}"
    );
}
