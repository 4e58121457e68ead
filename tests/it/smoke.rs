//! One message through everything, on the embedded broker.

use helix_tests::Setup;
use serde_json::json;

const CONFIG: &str = r#"
[[routes]]
queue = "work"
plugin = "probe"
retry = { max_retries = 1, delay = "10ms" }
"#;

const TOPOLOGY: &str = "[[queues]]\nname = \"work\"\n";

#[tokio::test]
async fn a_task_is_handled_and_another_is_dead_after_its_retry() {
    let setup = Setup::new(CONFIG, &["probe"]).topology(TOPOLOGY);
    let host = setup.start().await;
    host.ready().await;
    host.send_task("work", "probe", json!({})).await;
    host.send_task("work", "probe", json!({ "do": "retry" })).await;
    host.wait_metric("messaging_outcomes_total", &[("outcome", "done")], 1.0).await;
    let letters = host.wait_letters(1).await;
    assert_eq!(letters[0]["class"], "exhausted", "{letters:?}");
    assert_eq!(letters[0]["history"].as_array().map(Vec::len), Some(2));
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
}
