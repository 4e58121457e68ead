//! Kafka: the topic is filled up front; reports go to Kafka too.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use helix_tests::{Host, Setup, brokers, unique, variable};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

use super::verdict::Report;
use super::{MESSAGES, Run, State, check, finish, flat, kill_hosts, order, route, seed};

const PARTITIONS: i32 = 4;
const ANSWER: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_loses_none_of_20000_messages_when_the_host_is_killed() {
    let seed = seed();
    let (topic, report, group) = (unique("kill"), unique("kill-reports"), unique("kill"));
    let admin: AdminClient<DefaultClientContext> = client("").create().unwrap();
    let topics =
        [topic.as_str(), report.as_str()].map(|t| NewTopic::new(t, PARTITIONS, TopicReplication::Fixed(1)));
    for created in admin.create_topics(&topics, &AdminOptions::new()).await.unwrap() {
        created.unwrap();
    }
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
    let waiting = async |_: Option<&Host>| tokio::task::block_in_place(|| lag(&observer, &topic));
    finish(&setup, host, seed, waiting).await;
    let took = started.elapsed();

    check(&Run {
        broker: "kafka",
        seed,
        reports: tokio::task::block_in_place(|| read(&report)),
        letters: State::open(&setup).await.letters().await,
        resent: BTreeSet::new(),
        took,
    });
    admin
        .delete_topics(&[&topic, &report], &AdminOptions::new())
        .await
        .unwrap();
}

fn client(group: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", variable("HELIX_TEST_KAFKA_BOOTSTRAP"));
    if !group.is_empty() {
        config.set("group.id", group);
    }
    config
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
                let header = |key, value| rdkafka::message::Header {
                    key,
                    value: Some(value),
                };
                let headers = rdkafka::message::OwnedHeaders::new()
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

/// What the group has not committed yet.
fn lag(observer: &BaseConsumer, topic: &str) -> u64 {
    let mut all = TopicPartitionList::new();
    all.add_partition_range(topic, 0, PARTITIONS - 1);
    let committed = observer.committed_offsets(all, ANSWER).unwrap();
    committed
        .elements()
        .iter()
        .map(|at| {
            let (low, high) = observer.fetch_watermarks(topic, at.partition(), ANSWER).unwrap();
            let from = match at.offset() {
                Offset::Offset(offset) => offset,
                _ => low,
            };
            u64::try_from(high - from).unwrap()
        })
        .sum()
}

fn read(topic: &str) -> Vec<Report> {
    let reader: BaseConsumer = client("observer")
        .set("enable.auto.commit", "false")
        .create()
        .unwrap();
    let mut all = TopicPartitionList::new();
    let mut missing = 0;
    for partition in 0..PARTITIONS {
        let (low, high) = reader.fetch_watermarks(topic, partition, ANSWER).unwrap();
        missing += usize::try_from(high - low).unwrap();
        all.add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
    }
    reader.assign(&all).unwrap();
    let mut reports = Vec::with_capacity(missing);
    while reports.len() < missing {
        let message = reader.poll(ANSWER).expect("the report topic goes on").unwrap();
        reports.push(Report::parse(message.payload().unwrap_or_default()));
    }
    reports
}
