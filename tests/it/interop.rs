//! Messages of clients that are not ours, in every wire shape, whole and broken, plain and encrypted: `kcat` and Python's
//! `confluent-kafka` on Kafka, Python's `pika` on RabbitMQ. `tests/interop/shapes.py` writes the messages.

mod client;
mod expected;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use helix_tests::{Host, Setup, brokers, unique};
use serde_json::Value;

use crate::kafka_client;
use client::{Client, Kafka};
use expected::{Fate, fate};

/// Which way the clients and the host take.
struct Way {
    rabbitmq: String,
    kafka: fn(&str) -> String,
    pika_tls: bool,
    confluent: Kafka,
    kcat: Kafka,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wire_shape_of_pika_confluent_kafka_and_kcat_without_encryption() {
    all_shapes(Way {
        rabbitmq: brokers::rabbitmq_toml(),
        kafka: brokers::kafka_toml,
        pika_tls: false,
        confluent: Kafka::Plain,
        kcat: Kafka::Plain,
    })
    .await;
}

/// `kcat` of Debian cannot do SCRAM with Kafka 4, so it comes over TLS alone; the host logs in with SCRAM.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wire_shape_over_tls_with_scram_on_kafka() {
    all_shapes(Way {
        rabbitmq: brokers::rabbitmq_tls_toml(),
        kafka: brokers::kafka_scram_toml,
        pika_tls: true,
        confluent: Kafka::Scram,
        kcat: Kafka::Tls,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wire_shape_over_tls_without_a_login_on_kafka() {
    all_shapes(Way {
        rabbitmq: brokers::rabbitmq_tls_toml(),
        kafka: brokers::kafka_tls_toml,
        pika_tls: true,
        confluent: Kafka::Tls,
        kcat: Kafka::Tls,
    })
    .await;
}

async fn all_shapes(way: Way) {
    let (queue, topic, report) = (unique("interop"), unique("interop"), unique("interop-reports"));
    kafka_client::create(&[&topic, &report], 1).await;
    let route = |from: &str| {
        format!(
            "[[routes]]\n{from}\ntype = \"probe.*\"\nplugin = \"probe\"\nheaders = [\"interop-id\", \"trace-id\", \"trace_id\"]\n"
        )
    };
    let config = format!(
        "[messaging]\ntasks = \"rabbitmq\"\nevents = \"kafka\"\n{}{}{}{}[plugins.probe]\npublish = [\"{report}\"]\n",
        way.rabbitmq,
        (way.kafka)(&unique("interop")),
        route(&format!("queue = \"{queue}\"")),
        route(&format!("topic = \"{topic}\"")),
    );
    let topology = format!(
        "[[queues]]\nname = \"{queue}\"\n[[topics]]\nname = \"{topic}\"\n[[topics]]\nname = \"{report}\"\n"
    );
    let host_setup = Setup::new(&config, &["probe"]).topology(&topology);
    let host = host_setup.start().await;
    // The host makes the queue; the clients do not.
    host.ready().await;

    let clients = [
        (Client::Pika { tls: way.pika_tls }, queue.as_str()),
        (Client::Confluent(way.confluent), topic.as_str()),
        (Client::Kcat(way.kcat), topic.as_str()),
    ];
    let publishing = clients.map(|(client, to)| {
        let (to, report) = (to.to_owned(), report.clone());
        tokio::task::spawn_blocking(move || client.publish(&to, &report))
    });
    let mut sent = Vec::new();
    for published in publishing {
        sent.extend(published.await.expect("the client publishes"));
    }
    let dead = sent
        .iter()
        .filter(|m| matches!(fate(&m.shape), Fate::Dead(..)))
        .count();

    let reports = all_reports(&report, sent.len() - dead).await;
    let letters = by_interop_id(all_letters(&host, dead).await);
    let mut wrong = Vec::new();
    for message in &sent {
        let found = match fate(&message.shape) {
            Fate::Handled => expected::handled(message, reports.get(&message.id)),
            Fate::Dead(class, code) => expected::dead(message, letters.get(&message.id), class, code),
        };
        wrong.extend(found.err());
    }
    assert!(
        wrong.is_empty(),
        "{} of {} messages: {wrong:#?}",
        wrong.len(),
        sent.len()
    );
    assert_eq!(
        (letters.len(), reports.len()),
        (dead, sent.len() - dead),
        "each message once, and nothing else"
    );
    let lines = host.unexpected_lines(&["dead letter; look at it"]);
    assert!(lines.is_empty(), "{lines:#?}");
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    client::delete_queue(&queue);
    kafka_client::delete(&[&topic, &report]).await;
}

/// Each message carries its id in a header too, so that it is recognised when nobody could read it.
fn by_interop_id(letters: Vec<Value>) -> BTreeMap<String, Value> {
    let id = |letter: &Value| {
        let headers = letter["original"]["headers"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let found = headers
            .iter()
            .find(|header| header[0] == "interop-id")
            .map(|header| header[1].clone());
        found
            .and_then(|id| id.as_str().map(str::to_owned))
            .unwrap_or_else(|| panic!("whose letter is this? {letter}"))
    };
    let count = letters.len();
    let letters: BTreeMap<_, _> = letters.into_iter().map(|letter| (id(&letter), letter)).collect();
    assert_eq!(letters.len(), count, "one letter for each message");
    letters
}

/// Waits for so many; what is there when the time is up says more than that it is.
async fn gather<T, F: Future<Output = Vec<T>>>(count: usize, look: impl Fn() -> F) -> Vec<T> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let found = look().await;
        if found.len() >= count || Instant::now() > deadline {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await; // the pace of polling
    }
}

async fn all_letters(host: &Host, count: usize) -> Vec<Value> {
    // Counting is cheap, reading all of them is not.
    gather(count, || async {
        vec![(); usize::try_from(host.letter_count().await).unwrap_or(0)]
    })
    .await;
    host.letters().await
}

/// What the handler saw, by message id.
async fn all_reports(topic: &str, count: usize) -> BTreeMap<String, Value> {
    let bodies = gather(count, || async {
        tokio::task::block_in_place(|| kafka_client::read(topic, 1))
    })
    .await;
    let event = |body: &Vec<u8>| -> Value { serde_json::from_slice(body).expect("a report is JSON") };
    let id = |event: &Value| {
        event["data"]["id"]
            .as_str()
            .expect("the id of a message")
            .to_owned()
    };
    let read = bodies.len();
    let reports: BTreeMap<_, _> = bodies
        .iter()
        .map(event)
        .map(|event| (id(&event), event))
        .collect();
    assert_eq!(reports.len(), read, "one report for each message");
    reports
}
