//! Plugins are swapped while messages flow.

use std::time::Duration;

use helix_tests::{Setup, guests, until};
use serde_json::{Value, json};

use crate::load::Load;
use crate::seen;

const TOPOLOGY: &str = "[[queues]]\nname = \"work\"\n[[topics]]\nname = \"handled\"\n";

fn message(n: u64) -> Value {
    json!({ "type": "probe", "id": format!("m-{n}"), "payload": { "report": "handled" } })
}

const SWAPS: u32 = 100;
/// Each is compiled once and comes again from the cache: 100 compilations on two cores would test the compiler's speed.
const VERSIONS: u32 = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_swaps_under_load_lose_fail_and_repeat_nothing() {
    let config =
        "[[routes]]\nqueue = \"work\"\nplugin = \"probe\"\n[plugins.probe]\npublish = [\"handled\"]\n";
    let setup = Setup::new(config, &["probe"]).topology(TOPOLOGY);
    let host = setup.start().await;
    host.ready().await;
    let reloads = [("plugin", "probe")];
    let first = host.metric("messaging_plugin_reloads_total", &reloads).await;
    let load = Load::start(&host, "/v1/messaging/tasks/work", 4, message);
    let mut before = load.sent();
    for n in 1..=SWAPS {
        guests::install(&setup.plugins(), "probe", &guests::version("probe", n % VERSIONS));
        host.wait_metric("messaging_plugin_reloads_total", &reloads, first + f64::from(n))
            .await;
        until("messages flow on", Duration::from_secs(10), || async {
            (load.sent() > before).then_some(())
        })
        .await;
        before = load.sent();
    }
    let accepted = load.stop().await;
    let expected = accepted.len() as f64;
    host.wait_metric("messaging_outcomes_total", &[("outcome", "done")], expected)
        .await;
    assert_eq!(
        host.metric("messaging_plugin_reloads_total", &reloads).await,
        first + f64::from(SWAPS)
    );
    assert_eq!(
        host.metric("messaging_plugin_reload_failures_total", &[]).await,
        0.0
    );
    assert_eq!(
        host.metric("messaging_outcomes_total", &[]).await,
        expected,
        "every outcome is done"
    );
    assert_eq!(host.letter_count().await, 0);
    assert_eq!(host.unexpected_lines(&[]), Vec::<String>::new());
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    let handled = seen::topic(&setup, "handled").await;
    assert_eq!(handled.len(), accepted.len());
    seen::assert_each_once(&handled, &accepted);
}

#[tokio::test]
async fn a_call_under_way_ends_on_the_version_it_started_on() {
    let config = r#"
[[routes]]
queue = "work"
plugin = "probe"
timeout = "6s"
retry = { max_retries = 0 }
[plugins.probe]
publish = ["handled"]
"#;
    let setup = Setup::new(config, &["probe"]).topology(TOPOLOGY);
    let host = setup.start().await;
    host.ready().await;
    let digest = |plugins: Value| plugins[0]["digest"].as_str().unwrap_or_default().to_owned();
    let swap = async |n: u32| {
        let before = digest(host.get("/v1/messaging/plugins").await.1);
        guests::install(&setup.plugins(), "probe", &guests::version("probe", n));
        until("the new version serves", Duration::from_secs(120), || async {
            Some(digest(host.get("/v1/messaging/plugins").await.1)).filter(|now| *now != before)
        })
        .await
    };
    // Compiled once before it matters, so that the swap below is quick however busy the machine is.
    swap(1).await;
    let old = swap(2).await;
    // One ends by itself after the swap; the other is cut off after it, and its letter names the version that ran it.
    host.send_task(
        "work",
        "probe",
        json!({ "do": "sleep", "ms": 5000, "report": "handled" }),
    )
    .await;
    host.send_task("work", "probe", json!({ "do": "sleep", "ms": 60_000 }))
        .await;
    until("both calls run", Duration::from_secs(5), || async {
        (host
            .metric("messaging_in_flight", &[("destination", "work")])
            .await
            >= 2.0)
            .then_some(())
    })
    .await;
    let new = swap(1).await;
    assert_ne!(new, old);
    assert_eq!(
        host.metric("messaging_outcomes_total", &[]).await,
        0.0,
        "the swap waited for a call"
    );
    host.wait_metric("messaging_outcomes_total", &[("outcome", "done")], 1.0)
        .await;
    let letters = host.wait_letters(1).await;
    assert_eq!(letters[0]["code"], "timeout", "{letters:?}");
    assert_eq!(letters[0]["digest"].as_str(), Some(old.as_str()));
    // The next message gets the new one.
    host.send_task("work", "probe", json!({ "do": "reject" })).await;
    let letters = host.wait_letters(2).await;
    let rejected = letters.iter().find(|l| l["class"] == "rejected").unwrap();
    assert_eq!(rejected["digest"].as_str(), Some(new.as_str()));
}
