//! Two hosts on one Postgres and one queue with a single active consumer: the one that takes over knows what the other parked.

use std::time::Duration;

use helix_tests::{Host, Setup, brokers, unique, until, variable};
use serde_json::{Value, json};

use crate::seen::{self, Seen};

const LIMIT: Duration = Duration::from_secs(60);

struct Pair {
    queue: String,
    config: String,
    topology: String,
}

impl Pair {
    fn new() -> Self {
        let queue = unique("takeover");
        let config = format!(
            "[messaging]\ntasks = \"rabbitmq\"\n{}single_active_consumer = true\n\
             [store]\nurl = \"env:HELIX_STORE_URL\"\nschema = \"{}\"\n\
             [[routes]]\nname = \"work\"\nqueue = \"{queue}\"\nplugin = \"probe\"\norder = \"key\"\n\
             retry = {{ delay = \"4s\", jitter = 0.0 }}\n[plugins.probe]\npublish = [\"handled\"]\n",
            brokers::rabbitmq_toml(),
            unique("takeover").replace('-', "_"),
        );
        let topology = format!(
            "[[queues]]\nname = \"{queue}\"\narguments = {{ x-single-active-consumer = true }}\n[[topics]]\nname = \"handled\"\n"
        );
        Self {
            queue,
            config,
            topology,
        }
    }

    async fn host(&self) -> (Setup, Host) {
        let setup = Setup::new(&self.config, &["probe"])
            .topology(&self.topology)
            .env("HELIX_STORE_URL", &variable("HELIX_TEST_POSTGRES_URL"));
        let host = setup.start().await;
        host.ready().await;
        (setup, host)
    }

    async fn send(&self, host: &Host, id: &str, payload: Value) {
        let body = json!({ "type": "probe", "id": id, "key": "k", "payload": payload });
        let (status, answer) = host
            .post(&format!("/v1/messaging/tasks/{}", self.queue), &body)
            .await;
        assert_eq!(status, 202, "{answer}");
    }
}

async fn outcomes(host: &Host, outcome: &str, count: f64) {
    let labels = [("route", "work"), ("outcome", outcome)];
    host.wait_metric("messaging_outcomes_total", &labels, count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_that_becomes_active_keeps_a_key_behind_what_the_other_parked() {
    let pair = Pair::new();
    let (first_setup, first) = pair.host().await;
    // Its consumer is there before anything is parked, and waits.
    let (second_setup, second) = pair.host().await;
    pair.send(
        &first,
        "k-1",
        json!({ "do": "retry", "until": 2, "report": "handled" }),
    )
    .await;
    outcomes(&first, "retry", 1.0).await;
    until("it is parked", LIMIT, || async {
        let (_, health) = second.get("/v1/messaging/health").await;
        (health["retries_pending"] == 1).then_some(())
    })
    .await;
    let (status, log) = first.terminate().await;
    assert!(status.success(), "{log}");
    pair.send(&second, "k-2", json!({ "report": "handled" })).await;
    outcomes(&second, "done", 2.0).await;
    let (status, log) = second.terminate().await;
    assert!(status.success(), "{log}");
    assert!(seen::topic(&first_setup, "handled").await.is_empty());
    let order: Vec<String> = seen::topic(&second_setup, "handled")
        .await
        .iter()
        .map(|report: &Seen| report.of().to_owned())
        .collect();
    assert_eq!(
        order,
        ["k-1", "k-2"],
        "what came later overtook what waits for its retry"
    );
}
