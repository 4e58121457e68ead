//! Kafka as an observer sees it: topics are made, read to their end, and removed again.

use std::time::Duration;

use helix_tests::variable;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

const ANSWER: Duration = Duration::from_secs(10);

/// Without encryption; `group` may be empty.
pub fn client(group: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", variable("HELIX_TEST_KAFKA_BOOTSTRAP"));
    if !group.is_empty() {
        config.set("group.id", group);
    }
    config
}

fn admin() -> AdminClient<DefaultClientContext> {
    client("").create().expect("a Kafka client")
}

pub async fn create(topics: &[&str], partitions: i32) {
    let topics: Vec<_> = topics
        .iter()
        .map(|t| NewTopic::new(t, partitions, TopicReplication::Fixed(1)))
        .collect();
    for created in admin()
        .create_topics(&topics, &AdminOptions::new())
        .await
        .expect("Kafka answers")
    {
        created.expect("the topic is made");
    }
}

pub async fn delete(topics: &[&str]) {
    admin()
        .delete_topics(topics, &AdminOptions::new())
        .await
        .expect("Kafka answers");
}

/// Bodies of all messages, partition by partition.
pub fn read(topic: &str, partitions: i32) -> Vec<Vec<u8>> {
    let reader: BaseConsumer = client("observer")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a Kafka client");
    let mut all = TopicPartitionList::new();
    let mut missing = 0;
    for partition in 0..partitions {
        missing += length(&reader, topic, partition);
        all.add_partition_offset(topic, partition, Offset::Beginning)
            .expect("a partition");
    }
    reader.assign(&all).expect("the topic is there");
    let mut bodies = Vec::new();
    while bodies.len() < missing {
        let message = reader
            .poll(ANSWER)
            .expect("the topic goes on")
            .expect("a message");
        bodies.push(message.payload().unwrap_or_default().to_vec());
    }
    bodies
}

fn length(reader: &BaseConsumer, topic: &str, partition: i32) -> usize {
    let (low, high) = reader
        .fetch_watermarks(topic, partition, ANSWER)
        .expect("Kafka answers");
    usize::try_from(high - low).expect("the end is not before the start")
}

/// What a group has not committed yet.
pub fn lag(observer: &BaseConsumer, topic: &str, partitions: i32) -> u64 {
    let mut all = TopicPartitionList::new();
    all.add_partition_range(topic, 0, partitions - 1);
    let committed = observer.committed_offsets(all, ANSWER).expect("Kafka answers");
    let mut behind = 0;
    for at in committed.elements() {
        let (low, high) = observer
            .fetch_watermarks(topic, at.partition(), ANSWER)
            .expect("Kafka answers");
        let from = if let Offset::Offset(offset) = at.offset() {
            offset
        } else {
            low
        };
        behind += u64::try_from(high - from).expect("nothing beyond the end is committed");
    }
    behind
}
