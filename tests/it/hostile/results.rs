//! Answers that do not fit what was asked.

use base64::Engine;
use helix_tests::Host;
use serde_json::json;

use super::{CONFIG, letter_of, neighbours, start};

#[tokio::test]
async fn a_wrong_number_of_results_is_a_trap_and_an_honest_event_beside_it_is_done() {
    let (_setup, host) = start(CONFIG, &["probe", "batch-liar", "packed-liar"]).await;
    let mut liars = 0;
    for _ in 0..2 {
        let id = host.send_event("batch", "e", "k", json!({ "n": 1 })).await;
        results_are_wrong(&host, &id, "results for").await;
        liars += 1;
    }
    // The first byte of the data is the order; without a content type it is passed on as it is.
    let send = async |order: &str| {
        let payload = base64::engine::general_purpose::STANDARD.encode(order);
        let body = json!({ "type": "e", "key": "k", "payload_base64": payload });
        let (status, answer) = host.post("/v1/messaging/events/packed", &body).await;
        assert_eq!(status, 202, "{answer}");
        answer["id"].as_str().unwrap_or_default().to_owned()
    };
    let mut honest = 0.0;
    for (order, part) in [
        ("n", "2 outcomes for 1"),
        ("s", ""),
        ("l", ""),
        ("v", "version"),
        ("u", "UTF-8"),
        ("t", "outcome"),
        ("h", ""),
    ] {
        let id = send(order).await;
        // Often in one batch with it, whose trap must not be theirs.
        send("-").await;
        send("-").await;
        results_are_wrong(&host, &id, part).await;
        liars += 1;
        honest += 2.0;
        // A batch that begins with an honest one would hide the next liar.
        host.wait_metric(
            "messaging_outcomes_total",
            &[("route", "packed"), ("outcome", "done")],
            honest,
        )
        .await;
    }
    neighbours(&host).await;
    assert_eq!(host.letter_count().await, liars, "no honest message was blamed");
}

async fn results_are_wrong(host: &Host, id: &str, part: &str) {
    let letter = letter_of(host, id).await;
    assert_eq!(
        (&letter["class"], &letter["code"]),
        (&json!("exhausted"), &json!("trap.results")),
        "{letter}"
    );
    assert_eq!(letter["history"][0]["outcome"], "trap", "{letter}");
    let reason = letter["reason"].as_str().unwrap_or_default();
    assert!(
        !reason.is_empty() && reason.contains(part),
        "{part} is not in {letter}"
    );
}
