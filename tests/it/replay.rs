//! Replays as people ask for them, on the embedded broker and on Kafka.

mod asked;
mod cli;
mod killed;
mod route;
mod stage;
mod streams;

use std::time::Duration;

use helix_tests::{Host, until};
use serde_json::{Value, json};

/// For one replay; the machine of a pull request has two slow cores.
const LIMIT: Duration = Duration::from_secs(180);

async fn start(host: &Host, body: &Value) -> Value {
    let (status, view) = ask(host, body).await;
    assert_eq!(status, 201, "{body}: {view}");
    view
}

async fn ask(host: &Host, body: &Value) -> (u16, Value) {
    host.post("/v1/messaging/replay", body).await
}

async fn show(host: &Host, id: &str) -> Value {
    let (status, view) = host.get(&format!("/v1/messaging/replay/{id}")).await;
    assert_eq!(status, 200, "{id}: {view}");
    let count = |name: &str| view[name].as_u64().unwrap();
    assert!(count("done") <= count("total_messages"), "{view}");
    view
}

async fn cancel(host: &Host, id: &str) -> (u16, Value) {
    let request = helix_tests::Client::default().delete(format!("{}/v1/messaging/replay/{id}", host.url()));
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().unwrap_or_default())
}

fn id_of(view: &Value) -> String {
    view["request_id"].as_str().unwrap().to_owned()
}

/// Waits until it ends, and demands how.
async fn ended(host: &Host, id: &str, status: &str) -> Value {
    let view = until(&format!("{id} ends"), LIMIT, || async {
        let view = show(host, id).await;
        let over = ["completed", "failed", "cancelled"].contains(&view["status"].as_str().unwrap());
        over.then_some(view)
    })
    .await;
    assert_eq!(view["status"], status, "{view}");
    view
}

/// Waits until so many are done.
async fn reached(host: &Host, id: &str, goal: u64) -> Value {
    until(&format!("{goal} are done"), LIMIT, || async {
        let view = show(host, id).await;
        (view["done"].as_u64().unwrap() >= goal).then_some(view)
    })
    .await
}

/// The same, where more is to come.
async fn in_the_middle(host: &Host, id: &str, goal: u64) -> Value {
    let seen = reached(host, id, goal).await;
    assert_eq!(
        seen["status"], "running",
        "killed after the end of the work: {seen}"
    );
    seen
}

/// Everything that is there.
fn from_the_beginning(topic: &str) -> Value {
    json!({ "topic": topic, "from_time": "1970-01-01T00:00:00Z", "options": { "delay_between": 0 } })
}
