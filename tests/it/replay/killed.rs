//! Hosts that are killed, and one that is stopped, in the middle of a replay: the next one carries on from the checkpoint.
//!
//! `HELIX_TEST_REPLAY_EVENTS` and `HELIX_TEST_REPLAY_KILLS` make it larger.

use std::collections::BTreeMap;
use std::time::Instant;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;

use super::stage::{PARTITIONS, Stage, original_of, place_of};
use super::{LIMIT, ended, from_the_beginning, id_of, in_the_middle, reached, show, start};
use crate::contract::brokers::Place;
use crate::kafka_client;

const BATCH: usize = 200;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_gets_every_event_again_when_hosts_are_killed() {
    killed(Place::Kafka).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_gets_every_event_again_when_hosts_are_killed() {
    killed(Place::EmbeddedTopics).await;
}

async fn killed(place: Place) {
    let events = number("HELIX_TEST_REPLAY_EVENTS", 20_000);
    let kills = number("HELIX_TEST_REPLAY_KILLS", 5);
    let stage = Stage::alone(place);
    stage.fill(0, events).await;
    let group = Group::new(&stage);
    let began = Instant::now();
    let mut host = stage.host().await;
    let mut body = from_the_beginning(&stage.topic);
    // Slow enough to be met in the middle, however fast the machine is.
    body["options"] = json!({ "batch_size": BATCH, "delay_between": "2ms" });
    let id = id_of(&start(&host, &body).await);
    for kill in 1..=kills {
        let goal = (events * kill / (kills + 1)) as u64;
        let seen = in_the_middle(&host, &id, goal).await;
        host.kill();
        host = stage.host().await;
        assert!(
            show(&host, &id).await["done"].as_u64() >= seen["done"].as_u64(),
            "what was recorded stays"
        );
    }
    let view = ended(&host, &id, "completed").await;
    let took = began.elapsed();
    for name in ["total_messages", "replayed_count", "done"] {
        assert_eq!(view[name], events, "{name}: {view}");
    }
    host.terminate().await;
    group.stands();

    let copies = copies(&stage).await;
    let (mut originals, mut missing) = (0, 0);
    stage
        .each(&stage.topic, |raw| {
            originals += 1;
            missing += usize::from(!copies.contains_key(&position(&place_of(&raw))));
        })
        .await;
    assert_eq!(originals, events);
    assert_eq!(
        missing, 0,
        "of {events} events {missing} were not replayed after {kills} kills"
    );
    assert_eq!(copies.len(), events);
    let extra = copies.values().sum::<usize>() - events;
    eprintln!(
        "{place:?}: {events} events, {kills} kills, 0 missing, {extra} copies too many (at most {}), {took:?}",
        kills * BATCH
    );
    assert!(
        extra <= kills * BATCH,
        "{extra} copies too many after {kills} kills"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_stopped_hands_its_replay_over_and_nothing_is_sent_twice() {
    let stage = Stage::alone(Place::EmbeddedTopics);
    stage.fill(0, 4_000).await;
    let host = stage.host().await;
    let mut body = from_the_beginning(&stage.topic);
    body["options"] = json!({ "batch_size": 50, "delay_between": "150ms" });
    let id = id_of(&start(&host, &body).await);
    reached(&host, &id, 500).await;
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    let host = stage.host().await;
    assert!(
        show(&host, &id).await["done"].as_u64() < Some(4_000),
        "it goes on"
    );
    ended(&host, &id, "completed").await;
    let lines = host.unexpected_lines(&[]);
    assert!(lines.is_empty(), "{lines:#?}");
    host.terminate().await;
    let copies = copies(&stage).await;
    assert_eq!(copies.len(), 4_000);
    assert!(copies.values().all(|&times| times == 1));
}

/// How often each original is in the target.
async fn copies(stage: &Stage) -> BTreeMap<(u32, u64), usize> {
    let mut copies = BTreeMap::new();
    stage
        .each(&stage.target(), |raw| {
            *copies.entry(position(&original_of(&raw))).or_default() += 1;
        })
        .await;
    copies
}

/// Partition and offset of `topic[1]@23`: of a million events that is less to keep.
fn position(origin: &str) -> (u32, u64) {
    let place = origin
        .rsplit_once('[')
        .and_then(|(_, place)| place.split_once("]@"));
    let (partition, offset) = place.unwrap_or_else(|| panic!("no place: {origin}"));
    (partition.parse().unwrap(), offset.parse().unwrap())
}

/// A consumer group of the source, somewhere in the middle of it.
struct Group(Option<(BaseConsumer, TopicPartitionList)>);

impl Group {
    fn new(stage: &Stage) -> Self {
        if stage.place != Place::Kafka {
            return Self(None);
        }
        let group: BaseConsumer = kafka_client::client(&stage.group).create().unwrap();
        let mut at = TopicPartitionList::new();
        for partition in 0..i32::try_from(PARTITIONS).unwrap() {
            at.add_partition_offset(&stage.topic, partition, Offset::Offset(7))
                .unwrap();
        }
        tokio::task::block_in_place(|| group.commit(&at, CommitMode::Sync)).unwrap();
        Self(Some((group, at)))
    }

    fn stands(self) {
        let Some((group, at)) = self.0 else { return };
        let now = tokio::task::block_in_place(|| group.committed_offsets(at.clone(), LIMIT))
            .expect("Kafka answers");
        assert_eq!(now.elements().len(), at.elements().len());
        for found in now.elements() {
            assert_eq!(
                found.offset(),
                Offset::Offset(7),
                "partition {}",
                found.partition()
            );
        }
    }
}
