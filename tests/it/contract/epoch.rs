//! What ends the life of a delivery before it is settled: a connection that is cut, a partition that moves on.

use std::collections::BTreeSet;
use std::sync::Arc;

use helix_host::broker::rabbitmq::RabbitMq;
use helix_host::broker::{Broker, Health};
use helix_host::config::valid;
use helix_tests::{unique, until, variable};
use reqwest::Method;
use serde_json::Value;

use super::brokers::{self, Place, as_it_is};
use super::stage::{Consumer, PATIENCE, Stage, acknowledge, create, id, ids, names, send};

/// The management API of RabbitMQ, and a virtual host that only this test uses.
struct Api {
    http: reqwest::Client,
    vhost: String,
}

impl Api {
    async fn new() -> Self {
        // Plain HTTP, but the client wants a TLS provider to exist.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let api = Self {
            http: reqwest::Client::new(),
            vhost: unique("cut"),
        };
        api.call(Method::PUT, &format!("vhosts/{}", api.vhost), "").await;
        let all = r#"{"configure":".*","write":".*","read":".*"}"#;
        let user = variable("HELIX_TEST_RABBITMQ_USER");
        api.call(Method::PUT, &format!("permissions/{}/{user}", api.vhost), all)
            .await;
        api
    }

    async fn call(&self, method: Method, path: &str, body: &str) -> Value {
        let url = format!(
            "http://{}:{}/api/{path}",
            variable("HELIX_TEST_RABBITMQ_HOST"),
            variable("HELIX_TEST_RABBITMQ_API_PORT")
        );
        let (user, password) = (
            variable("HELIX_TEST_RABBITMQ_USER"),
            variable("HELIX_TEST_RABBITMQ_PASSWORD"),
        );
        let request = self.http.request(method, url).basic_auth(user, Some(password));
        let answer = request
            .header("content-type", "application/json")
            .body(body.to_owned())
            .send()
            .await
            .unwrap();
        // 404: a connection that has gone by itself.
        assert!(
            answer.status().is_success() || answer.status() == 404,
            "{path}: {}",
            answer.status()
        );
        answer.json().await.unwrap_or(Value::Null)
    }

    async fn connections(&self) -> Vec<String> {
        let list = self
            .call(
                Method::GET,
                &format!("vhosts/{}/connections?columns=name", self.vhost),
                "",
            )
            .await;
        let list = list.as_array().cloned().unwrap_or_default();
        list.iter()
            .filter_map(|c| Some(c["name"].as_str()?.to_owned()))
            .collect()
    }

    /// Closes so many connections as the broker's administrator.
    async fn cut(&self, count: usize) {
        let names = until(
            "the management plugin lists the connections",
            PATIENCE,
            || async {
                let names = self.connections().await;
                (names.len() == count).then_some(names)
            },
        )
        .await;
        for name in names {
            let name = name.replace(' ', "%20").replace('>', "%3E");
            self.call(Method::DELETE, &format!("connections/{name}"), "")
                .await;
        }
    }

    async fn clean(self) {
        self.call(Method::DELETE, &format!("vhosts/{}", self.vhost), "")
            .await;
    }
}

/// Handles what comes until all of these were seen; the ids in the order in which they came.
async fn handle_until_seen(consumer: &mut Consumer, seen: &mut BTreeSet<String>, all: usize) -> Vec<String> {
    let mut came = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while seen.len() < all {
        let batch = tokio::time::timeout_at(deadline, consumer.recv(10)).await;
        let batch = batch.unwrap_or_else(|_| panic!("{} of {all} came: {seen:?}", seen.len()));
        assert!(!batch.is_empty(), "the source ended");
        for delivery in batch {
            if delivery.receipt.begin() {
                came.push(id(&delivery));
                seen.insert(id(&delivery));
                delivery.receipt.ack();
            }
        }
    }
    came
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_cut_in_the_middle_consumes_again_and_loses_nothing() {
    let api = Api::new().await;
    let options = valid::RabbitMq {
        vhost: api.vhost.clone(),
        ..brokers::rabbitmq()
    };
    let rabbitmq = Arc::new(RabbitMq::new("rabbitmq", &options, as_it_is()).unwrap());
    let broker: Arc<dyn Broker> = Arc::<RabbitMq>::clone(&rabbitmq);
    let stage = Stage::new(Place::RabbitMq, &[]);
    let name = create(&*broker, &stage.destination()).await;
    stage.send(&*broker, &name, 0..20).await;
    let mut consumer = stage.consumer(&*broker, &name, 10).await;
    let held = consumer.take(10).await;
    assert!(held[0].receipt.begin(), "ours while the connection lives");

    // A publisher that goes on through the cut, one message at a time.
    let (publisher, to) = (broker.publisher(), Arc::clone(&name));
    let mut batch: Vec<_> = (20..320).map(|n| stage.message(&to, &n.to_string())).collect();
    let publishing = tokio::spawn(async move {
        batch.reverse();
        while let Some(message) = batch.pop() {
            let result = publisher.publish(vec![message]).await;
            assert!(
                matches!(&result[..], [Ok(_)]),
                "sent again within its deadline: {result:?}"
            );
        }
    });
    api.cut(2).await;

    until(
        "the deliveries of the old connection are void",
        PATIENCE,
        || async {
            held.iter()
                .all(|delivery| !delivery.receipt.begin())
                .then_some(())
        },
    )
    .await;
    for delivery in held {
        delivery.receipt.ack();
    }
    assert_eq!(
        rabbitmq.stale_acks(),
        10,
        "a late acknowledgement settles nothing"
    );
    let mut seen = BTreeSet::new();
    let came = handle_until_seen(&mut consumer, &mut seen, 320).await;
    publishing.await.unwrap();
    assert_eq!(seen, names(0..320).into_iter().collect::<BTreeSet<_>>());
    // A publish without an answer is sent again: a double here and there, but bounded by what was under way.
    assert!(came.len() <= 320 + 2, "{} deliveries", came.len());

    // Alive: what is published now arrives, on the source that was there before.
    send(&*broker, vec![stage.message(&name, "after")]).await;
    let after = consumer.take(1).await;
    assert_eq!(ids(&after), ["after"]);
    acknowledge(after);
    until("up again", PATIENCE, || async {
        (broker.health() == Health::Up).then_some(())
    })
    .await;
    consumer.leave().await;
    assert_eq!(broker.topology().depth(stage.kind, &name).await.unwrap(), 0);
    broker.close().await;
    api.clean().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_partition_that_moves_on_is_begun_by_its_new_owner_only() {
    let stage = Stage::new(Place::Kafka, &[]);
    let broker = stage.open();
    let name = create(&*broker, &stage.wide(4)).await;
    let batch = (0..40).map(|n| {
        let mut message = stage.message(&name, &n.to_string());
        message.key = Some(n.to_string().into());
        message
    });
    send(&*broker, batch.collect()).await;
    let mut first = stage.consumer(&*broker, &name, 100).await;
    let mut held = first.take(40).await;
    let mut second = stage.consumer(&*broker, &name, 100).await;
    // Nothing has begun, so nothing holds up the revocation; the second consumer gets messages once it is over.
    let moved = second.take(1).await;
    held.retain(|delivery| delivery.receipt.begin());
    assert!(
        (1..40).contains(&held.len()),
        "{} of 40 stay with the first",
        held.len()
    );
    let mut begun = ids(&held);
    let rest = second.take(40 - begun.len() - 1).await;
    begun.extend(ids(&moved));
    begun.extend(ids(&rest));
    let different: BTreeSet<&String> = begun.iter().collect();
    assert_eq!(
        (begun.len(), different.len()),
        (40, 40),
        "each message begins once: {begun:?}"
    );
    held.into_iter().for_each(|delivery| delivery.receipt.ack());
    acknowledge(moved);
    acknowledge(rest);
    first.leave().await;
    second.leave().await;
    until("nothing waits any more", PATIENCE, || async {
        (broker.topology().depth(stage.kind, &name).await.unwrap() == 0).then_some(())
    })
    .await;
    broker.close().await;
}
