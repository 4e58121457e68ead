//! Letters that nobody deals with expire, and what is closed is deleted.

use std::time::Duration;

use helix_tests::{Setup, until};
use serde_json::json;

use super::{CONFIG, TOPOLOGY, end, id_of, install, letter};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_deals_with_expires_is_visible_and_is_deleted_at_last() {
    let kept = format!("{CONFIG}[dlq]\nretention = \"2s\"\nkeep_closed = \"0s\"\n");
    let setup = Setup::new(&kept, &[]).topology(TOPOLOGY);
    install(&setup, "torture");
    let host = setup.start().await;
    host.ready().await;
    host.send_task("work", "probe", json!({})).await;
    let id = id_of(&host.wait_letters(1).await[0]);
    let expired = until("it is expired", Duration::from_secs(30), || async {
        let letter = letter(&host, &id).await;
        (letter["state"] == "expired").then_some(letter)
    })
    .await;
    let entry = &expired["trail"][0];
    assert_eq!(
        (&entry["actor"], &entry["to"]),
        (&json!("host"), &json!("expired"))
    );
    assert!(
        entry["reason"]
            .as_str()
            .is_some_and(|why| why.contains("dlq.retention says (2 s)")),
        "{entry}"
    );
    let time = |text: &serde_json::Value| text.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let age = time(&entry["time"]).duration_since(time(&expired["last_failure"]));
    assert!(age.as_millis() >= 2_000, "{age:?}");
    let counter = [("queue", "helixagent.dlq")];
    host.wait_metric("messaging_dlq_auto_expired_total", &counter, 1.0)
        .await;
    let (status, problem) = super::reprocess(&host, &id).await;
    assert_eq!((status, &problem["state"]), (409, &json!("expired")), "{problem}");
    assert_eq!(
        host.get("/v1/messaging/dlq").await.1["count"],
        1,
        "visible without being asked for"
    );

    // Without a restart.
    setup.configure(&kept.replace("\"0s\"", "\"1s\""));
    until("it is deleted", Duration::from_secs(30), || async {
        (host.get(&format!("/v1/messaging/dlq/{id}")).await.0 == 404).then_some(())
    })
    .await;
    assert_eq!(host.get("/v1/messaging/dlq?state=all").await.1["count"], 0);
    until("the gauge says so", Duration::from_secs(20), || async {
        (host.metric("messaging_dlq_messages_total", &[]).await == 0.0).then_some(())
    })
    .await;
    assert_eq!(
        host.unexpected_lines(&["dead letter; look", "that nobody dealt with are expired"]),
        Vec::<String>::new()
    );
    end(host).await;
}
