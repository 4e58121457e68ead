//! The embedded broker: one process owns it, so messages come in over HTTP, also while hosts die.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use helix_tests::{Host, Setup};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{MESSAGES, Run, State, WINDOW, check, finish, id, kill_hosts, order, route, seed};

const QUEUE: &str = "work";
const REPORT: &str = "reports";
/// Requests at a time.
const CLIENTS: usize = 32;

#[tokio::test]
async fn the_embedded_broker_loses_none_of_20000_accepted_messages_when_the_host_is_killed() {
    let seed = seed();
    let topology =
        format!("[[queues]]\nname = \"{QUEUE}\"\n[[topics]]\nname = \"{REPORT}\"\npartitions = 3\n");
    let setup = Setup::new(&route(&format!("queue = \"{QUEUE}\""), REPORT), &["probe"]).topology(&topology);
    let started = Instant::now();
    let (url, at) = watch::channel(String::new());
    let publishing = tokio::spawn(publish_all(at));
    let host = kill_hosts(&setup, seed, |host| drop(url.send_replace(host.url().to_owned()))).await;
    let resent = publishing.await.unwrap();
    let waiting = async |host: Option<&Host>| match host {
        // Not read yet: something may wait.
        Some(host) => host
            .series("messaging_queue_depth", &[("destination", QUEUE)])
            .await
            .map_or(1, |n| n as u64),
        None => State::depth(&setup, QUEUE).await,
    };
    finish(&setup, host, seed, waiting).await;
    let took = started.elapsed();

    let state = State::open(&setup).await;
    check(&Run {
        broker: "embedded",
        seed,
        reports: state.reports(REPORT).await,
        letters: state.letters().await,
        resent,
        repeats: WINDOW,
        took,
    });
}

/// Publishes each message until it is answered with 202, as a client does that wants it to arrive: with the same id, as
/// often as it takes. Returns the ids that were sent more than once.
async fn publish_all(url: watch::Receiver<String>) -> BTreeSet<String> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (next, mut url, http) = (Arc::clone(&next), url.clone(), helix_tests::Client::default());
        clients.spawn(async move {
            let mut resent = BTreeSet::new();
            url.wait_for(|url| !url.is_empty())
                .await
                .expect("a host is started");
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= MESSAGES {
                    return resent;
                }
                let body = json!({ "id": id(n), "type": "probe", "payload": order(n, REPORT) });
                loop {
                    let at = url.borrow_and_update().clone();
                    let sent = http
                        .post(format!("{at}/v1/messaging/tasks/{QUEUE}"))
                        .json(&body)
                        .send()
                        .await;
                    if sent.is_ok_and(|answer| answer.status() == 202) {
                        break;
                    }
                    resent.insert(id(n));
                    // Until another host is there; one that said no is asked again.
                    let _ = tokio::time::timeout(Duration::from_millis(100), url.changed()).await;
                }
            }
        });
    }
    clients.join_all().await.into_iter().flatten().collect()
}
