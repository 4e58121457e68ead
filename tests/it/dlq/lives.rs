//! A message and the message that was sent again from its letter, both on their way.

use std::time::Duration;

use helix_tests::{Setup, brokers, unique, until};
use serde_json::json;

use crate::adopt::queues::Queues;

const LIMIT: Duration = Duration::from_secs(120);

/// A queue of RabbitMQ has no positions. The retry of the first life and that of the second were one row once, and when the
/// first ended as a letter the second was gone, though the letter said that it was sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_delivery_takes_no_retry_from_what_was_sent_again() {
    let queue = unique("lives");
    let toml = format!(
        "[messaging]\ntasks = \"rabbitmq\"\n{}\n[[routes]]\nname = \"work\"\nqueue = \"{queue}\"\nplugin = \"probe\"\nretry = {{ max_retries = 1, delay = \"10s\", jitter = 0.0 }}\n",
        brokers::rabbitmq_toml()
    );
    let setup = Setup::new(&toml, &["probe"]).topology(&format!("[[queues]]\nname = \"{queue}\"\n"));
    let host = setup.start().await;
    host.ready().await;
    let queues = Queues::new().await;
    let order = json!({ "id": "m", "type": "probe", "payload": { "do": "retry", "until": 99 } });
    let send = async || queues.send(&queue, order.to_string().as_bytes()).await;
    let pending = async |n: u64| {
        until(&format!("{n} retries wait"), LIMIT, || async {
            let health = host.get("/v1/messaging/health").await.1;
            (health["retries_pending"] == n).then_some(())
        })
        .await;
    };
    send().await;
    let letters = host.wait_letters(1).await;
    let id = letters[0]["id"].as_str().unwrap().to_owned();

    // As when its acknowledgement was lost.
    send().await;
    pending(1).await;
    let (status, answer) = super::reprocess(&host, &id).await;
    assert_eq!(status, 202, "{answer}");
    pending(2).await;

    let letter = until("both lives have ended", LIMIT, || async {
        let letter = super::letter(&host, &id).await;
        (letter["reprocessed"] == 1 && letter["state"] == "dead").then_some(letter)
    })
    .await;
    assert_eq!(letter["history"].as_array().map(Vec::len), Some(4), "{letter}");
    pending(0).await;
    let ran = host
        .metric("messaging_outcomes_total", &[("outcome", "retry")])
        .await;
    assert_eq!(ran, 6.0, "three deliveries, two attempts each");
    assert_eq!(host.letter_count().await, 1);
}
