//! Kafka: the topic is filled up front; reports go to Kafka too.

use std::collections::BTreeSet;
use std::time::Instant;

use helix_tests::{Host, Setup, brokers, unique};
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::verdict::Report;
use super::{MESSAGES, Run, State, WINDOW, check, finish, flat, kill_hosts, order, route, seed};
use crate::kafka_client::{self, client};

const PARTITIONS: i32 = 4;
/// Offsets are committed every 200 ms or so many messages; what was finished since then is delivered again.
const COMMIT_AT: usize = 5_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_loses_none_of_20000_messages_when_the_host_is_killed() {
    let seed = seed();
    let (topic, report, group) = (unique("kill"), unique("kill-reports"), unique("kill"));
    kafka_client::create(&[&topic, &report], PARTITIONS).await;
    fill(&topic, &report).await;

    // A static member: a host that comes back within the session gets its partitions at once.
    let config = format!(
        "[messaging]\nevents = \"kafka\"\n{}instance_id = \"host-1\"\n{}",
        brokers::kafka_toml(&group),
        route(&format!("topic = \"{topic}\""), &report)
    );
    let topology: String = [&topic, &report]
        .map(|t| format!("[[topics]]\nname = \"{t}\"\npartitions = {PARTITIONS}\n"))
        .concat();
    let setup = Setup::new(&config, &["probe"]).topology(&topology);
    let started = Instant::now();
    let host = kill_hosts(&setup, seed, |_| {}).await;
    let observer: BaseConsumer = client(&group).create().unwrap();
    let waiting = async |_: Option<&Host>| {
        tokio::task::block_in_place(|| kafka_client::lag(&observer, &topic, PARTITIONS))
    };
    finish(&setup, host, seed, waiting).await;
    let took = started.elapsed();

    check(&Run {
        broker: "kafka",
        seed,
        reports: tokio::task::block_in_place(|| kafka_client::read(&report, PARTITIONS))
            .iter()
            .map(|body| Report::parse(body))
            .collect(),
        letters: State::open(&setup).await.letters().await,
        resent: BTreeSet::new(),
        repeats: WINDOW + COMMIT_AT,
        took,
    });
    kafka_client::delete(&[&topic, &report]).await;
}

async fn fill(topic: &str, report: &str) {
    let producer: FutureProducer = client("")
        .set("acks", "all")
        .set("linger.ms", "20")
        .set("compression.type", "zstd")
        .create()
        .unwrap();
    let sent: Vec<_> = (0..MESSAGES)
        .map(|n| {
            // Half of them flat JSON, half raw with their type in a header.
            let id = super::id(n);
            let (body, headers) = if n % 2 == 0 {
                (flat(n, "data", report), None)
            } else {
                let header = |key, value| Header {
                    key,
                    value: Some(value),
                };
                let headers = OwnedHeaders::new()
                    .insert(header("type", "probe"))
                    .insert(header("id", &id));
                (order(n, report).to_string(), Some(headers))
            };
            let mut record = FutureRecord::to(topic).key(&id).payload(&body);
            record.headers = headers;
            producer
                .send_result(record)
                .unwrap_or_else(|(error, _)| panic!("{error}"))
        })
        .collect();
    for delivery in sent {
        delivery.await.unwrap().unwrap();
    }
}
