//! Through the API of a host: 202 or another try with the same id.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::Desk;
use crate::message::Id;

const ANSWER: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// One task for each key, or each worker of a stream without keys. `url` is that of the host's API.
pub fn start(desk: &Arc<Desk>, url: &str, workers: u32, tasks: &mut JoinSet<()>) {
    // A host that is killed takes its connections along; a pool would only hide that.
    let http = reqwest::Client::builder()
        .timeout(ANSWER)
        .build()
        .unwrap_or_default();
    for worker in 0..workers {
        let (desk, http) = (Arc::clone(desk), http.clone());
        let path = if desk.stream.is_keyed() { "events" } else { "tasks" };
        let url = format!("{url}/v1/messaging/{path}/{}", desk.destination);
        tasks.spawn(async move {
            let mut sequence = 0;
            loop {
                let next = if desk.stream.is_keyed() {
                    let id = Id {
                        stream: desk.stream,
                        key: worker,
                        sequence,
                    };
                    sequence += 1;
                    desk.enter(id).await
                } else {
                    desk.next_unkeyed().await
                };
                let Some(id) = next else { return };
                publish(&desk, &http, &url, id).await;
            }
        });
    }
}

/// Until it is accepted: the next of the key comes after it.
async fn publish(desk: &Desk, http: &reqwest::Client, url: &str, id: Id) {
    let mut body = json!({
        "id": id.to_string(), "type": "torture", "payload": desk.orders.payload(&id, &desk.out)
    });
    if desk.stream.is_keyed()
        && let Some(body) = body.as_object_mut()
    {
        body.insert("key".to_owned(), id.key_text().into());
    }
    let mut again = false;
    loop {
        desk.sent(&id, again);
        match http.post(url).json(&body).send().await {
            Ok(answer) if answer.status() == 202 => {
                let answer: Value = answer.json().await.unwrap_or(Value::Null);
                let number = |name: &str| answer.get(name).and_then(Value::as_i64);
                return desk.confirmed(&id, number("partition"), number("offset"));
            }
            // The disk is full, the broker is away, the host starts or stops: "not now".
            Ok(answer) if matches!(answer.status().as_u16(), 429 | 503 | 504 | 507) => {}
            Ok(answer) => desk
                .history
                .wrong(format!("{id}: publishing was answered {}", answer.status())),
            Err(_) => {}
        }
        again = true;
        tokio::time::sleep(PAUSE).await;
    }
}
