//! What a handler reaches for and must not get.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;

use helix_tests::{Host, until};
use serde_json::{Value, json};

use super::{CONFIG, letter_of, neighbours, start};

#[tokio::test]
async fn a_sandboxed_handler_sees_no_file_no_variable_and_no_address_it_was_not_granted() {
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let port = trap.local_addr().unwrap().port();
    // Granted by name, but the addresses are this machine's own.
    let config = format!("{CONFIG}fetch = [\"127.0.0.1\", \"localhost\", \"[::1]\", \"169.254.169.254\"]\n");
    let (_setup, host) = start(&config, &["probe", "batch-liar", "packed-liar"]).await;
    for order in [
        json!({ "do": "read-file", "path": "/etc/passwd" }),
        json!({ "do": "read-file", "path": "helix.toml" }),
        json!({ "do": "read-file", "path": "../../etc/hostname" }),
        json!({ "do": "env", "name": "PATH" }),
        json!({ "do": "env", "name": "HELIX_TEST_RABBITMQ_PASSWORD" }),
        json!({ "do": "publish-denied", "topic": "batch" }),
    ] {
        let mut reported = order.clone();
        reported["report"] = json!("reports");
        let id = host.send_task("work", "probe", reported).await;
        let report = report_of(&host, &id).await;
        let found = &report["found"];
        match order["do"].as_str().unwrap() {
            "read-file" => assert!(
                found["text"].is_null() && found["error"].is_string(),
                "{order}: {report}"
            ),
            "env" => assert!(found.is_null(), "{order}: {report}"),
            // A handler that goes on after a refusal is done, and knows why it was refused.
            _ => assert!(
                found
                    .as_str()
                    .is_some_and(|t| t.contains("publish = [\"batch\"]")),
                "{order}: {report}"
            ),
        }
    }
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://[::1]:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
    ] {
        let id = host
            .send_task("work", "probe", json!({ "do": "fetch", "url": url }))
            .await;
        let letter = letter_of(&host, &id).await;
        assert_eq!(
            (&letter["class"], &letter["code"]),
            (&json!("rejected"), &json!("fetch.denied")),
            "{url}: {letter}"
        );
        let reason = letter["reason"].as_str().unwrap();
        assert!(
            reason.contains("fetch_private = true") && reason.contains("under [plugins.probe]"),
            "{url}: {reason}"
        );
    }
    let touched = trap.accept();
    assert!(
        touched.is_err_and(|e| e.kind() == ErrorKind::WouldBlock),
        "nobody was connected to"
    );
    neighbours(&host).await;
}

/// What the probe reported about the message `id`: its event's body.
async fn report_of(host: &Host, id: &str) -> Value {
    until(
        &format!("the report of {id}"),
        Duration::from_secs(30),
        || async {
            let letters = host.letters().await;
            let reports = letters
                .iter()
                .filter(|l| l["class"] == "unrouted" && l["type"] == "handled");
            let mut bodies =
                reports.filter_map(|l| serde_json::from_str::<Value>(l["original"]["body"].as_str()?).ok());
            bodies.find_map(|body| {
                let data = if body["data"].is_object() {
                    body["data"].clone()
                } else if body["payload"].is_object() {
                    body["payload"].clone()
                } else {
                    body
                };
                (data["id"] == id).then_some(data)
            })
        },
    )
    .await
}
