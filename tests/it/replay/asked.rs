//! What is asked for is what is done: stretches, filters, dry runs, refusals, cancelling.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use helix_host::model::{Clock, RawMessage, SystemClock, UnixMs};
use helix_host::replay::view::rfc3339;
use helix_tests::{Host, until};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use super::stage::{PARTITIONS, Stage, header, id, kind, original_of, place_of};
use super::{LIMIT, ask, cancel, ended, from_the_beginning, id_of, show, start};
use crate::contract::brokers::Place;
use crate::kafka_client;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_copies_a_stretch_by_time_byte_for_byte_beside_its_live_group() {
    a_stretch(Place::Kafka).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_copies_a_stretch_by_time_byte_for_byte_beside_its_live_group() {
    a_stretch(Place::EmbeddedTopics).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_filters_and_a_dry_run_sends_nothing() {
    a_filter(Place::Kafka).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_filters_and_a_dry_run_sends_nothing() {
    a_filter(Place::EmbeddedTopics).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_refuses_what_cannot_be_done_and_says_why() {
    refusals(Place::Kafka).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_refuses_what_cannot_be_done_and_says_why() {
    refusals(Place::EmbeddedTopics).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_stops_within_a_batch_when_cancelled() {
    a_cancel(Place::Kafka).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_stops_within_a_batch_when_cancelled() {
    a_cancel(Place::EmbeddedTopics).await;
}

/// A time after everything that was published so far and before everything that comes.
async fn moment() -> UnixMs {
    let before = SystemClock.now_ms();
    let later = || async {
        let now = SystemClock.now_ms();
        (now > before + 5).then_some(now)
    };
    let moment = until("the clock goes on", LIMIT, later).await;
    let past = || async { (SystemClock.now_ms() > moment + 5).then_some(()) };
    until("the clock goes on", LIMIT, past).await;
    moment
}

fn ids(all: &[RawMessage]) -> BTreeSet<String> {
    all.iter().map(|raw| header(raw, "id")).collect()
}

fn names(numbers: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
    numbers.into_iter().map(id).collect()
}

/// What the group of the live route has committed, by partition.
pub fn committed(stage: &Stage) -> BTreeMap<i32, Offset> {
    let observer: BaseConsumer = kafka_client::client(&stage.group).create().unwrap();
    let mut all = TopicPartitionList::new();
    all.add_partition_range(&stage.topic, 0, i32::try_from(PARTITIONS).unwrap() - 1);
    let found = observer.committed_offsets(all, Duration::from_secs(10)).unwrap();
    found
        .elements()
        .iter()
        .map(|e| (e.partition(), e.offset()))
        .collect()
}

async fn a_stretch(place: Place) {
    let stage = Stage::consumed(place);
    stage.fill(0, 40).await;
    let first = moment().await;
    stage.fill(40, 100).await;
    let second = moment().await;
    stage.fill(100, 120).await;
    let host = stage.host().await;
    let done = [("outcome", "done")];
    host.wait_metric("messaging_outcomes_total", &done, 120.0).await;
    let mut before = None;
    if place == Place::Kafka {
        let all = || async {
            let at = tokio::task::block_in_place(|| committed(&stage));
            let sum: i64 = at.values().filter_map(|o| o.to_raw()).filter(|&o| o > 0).sum();
            (sum == 120).then_some(at)
        };
        before = Some(until("the live group has committed everything", LIMIT, all).await);
    }

    let body = json!({
        "topic": stage.topic, "from_time": rfc3339(first), "to_time": rfc3339(second),
        "options": { "batch_size": 7, "delay_between": "1ms" },
    });
    let view = start(&host, &body).await;
    assert_eq!(
        (&view["total_messages"], &view["target_topic"]),
        (&json!(60), &json!(stage.target()))
    );
    let view = ended(&host, &id_of(&view), "completed").await;
    for (name, count) in [
        ("replayed_count", 60),
        ("skipped_count", 0),
        ("failed_count", 0),
        ("done", 60),
    ] {
        assert_eq!(view[name], count, "{name}: {view}");
    }
    assert!(
        view["start_time"].is_string() && view["end_time"].is_string(),
        "{view}"
    );
    assert!(
        view["last_processed_id"].as_str().unwrap().starts_with("event-"),
        "{view}"
    );
    let sent = host
        .metric("messaging_replay_messages_total", &[("result", "sent")])
        .await;
    assert_eq!(sent, 60.0);
    until("none is active any more", LIMIT, || async {
        (host.series("messaging_replay_active", &[]).await == Some(0.0)).then_some(())
    })
    .await;
    // The live group saw none of it.
    assert_eq!(host.metric("messaging_outcomes_total", &done).await, 120.0);
    if let Some(before) = before {
        assert_eq!(tokio::task::block_in_place(|| committed(&stage)), before);
    }
    let lines = host.unexpected_lines(&[]);
    assert!(lines.is_empty(), "{lines:#?}");
    host.terminate().await;

    let originals: BTreeMap<String, RawMessage> = stage
        .read(&stage.topic)
        .await
        .into_iter()
        .map(|raw| (header(&raw, "id"), raw))
        .collect();
    let copies = stage.read(&stage.target()).await;
    assert_eq!(copies.len(), 60);
    assert_eq!(ids(&copies), names(40..100));
    let mut last: BTreeMap<u32, u64> = BTreeMap::new();
    for copy in &copies {
        let original = &originals[&header(copy, "id")];
        assert_eq!((&copy.body, &copy.key), (&original.body, &original.key));
        assert_eq!(copy.props, original.props);
        let (partition, offset) = (
            original.origin.partition.unwrap(),
            original.origin.offset.unwrap(),
        );
        assert_eq!(copy.origin.partition, Some(partition));
        assert!(
            last.insert(partition, offset).is_none_or(|last| last < offset),
            "in order"
        );
        assert_eq!(header(copy, "helix-replay"), id_of(&view));
        assert_eq!(original_of(copy), place_of(original));
        let time = original.timestamp_ms.unwrap().to_string();
        assert_eq!(header(copy, "helix-replay-time"), time);
        let others: Vec<_> = copy
            .headers
            .iter()
            .filter(|(name, _)| !name.starts_with("helix-replay"))
            .collect();
        assert_eq!(others, original.headers.iter().collect::<Vec<_>>());
    }
}

async fn a_filter(place: Place) {
    let stage = Stage::alone(place);
    stage.fill(0, 100).await;
    // The same ids again.
    stage.fill(0, 10).await;
    let host = stage.host().await;
    let mut body = from_the_beginning(&stage.topic);
    body["filter"] = json!({ "message_types": ["rare", "unknown"], "headers": { "X-Team": "red" } });
    body["options"]["dry_run"] = json!(true);
    let dry = start(&host, &body).await;
    let dry = ended(&host, &id_of(&dry), "completed").await;
    // 0, 10, …, 90 and 0 again.
    assert_eq!(
        (
            &dry["total_messages"],
            &dry["matching_count"],
            &dry["skipped_count"],
            &dry["replayed_count"]
        ),
        (&json!(110), &json!(11), &json!(99), &json!(0)),
        "{dry}"
    );
    let samples = dry["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 10);
    assert!(
        samples
            .iter()
            .all(|s| s["type"] == "rare" && s["time"].is_string())
    );

    body["options"]["dry_run"] = json!(false);
    body["options"]["skip_duplicates"] = json!(true);
    let view = start(&host, &body).await;
    let view = ended(&host, &id_of(&view), "completed").await;
    assert_eq!(
        (&view["replayed_count"], &view["skipped_count"]),
        (&json!(10), &json!(100)),
        "{view}"
    );
    // By offsets: of one partition the first three.
    let body = json!({
        "id": "by offsets/1", "topic": stage.topic, "target_topic": format!("{}.some", stage.topic),
        "from_offsets": { "1": 0 }, "to_offsets": { "1": 3 },
    });
    start(&host, &body).await;
    let some = ended(&host, "by%20offsets%2F1", "completed").await;
    assert_eq!(some["replayed_count"], 3, "{some}");
    // Nothing lies there.
    let body = json!({ "topic": stage.topic, "from_time": rfc3339(SystemClock.now_ms() + 3_600_000) });
    let (status, none) = ask(&host, &body).await;
    assert_eq!(
        (status, &none["status"], &none["total_messages"]),
        (201, &json!("completed"), &json!(0))
    );
    assert!(
        none["message"].as_str().unwrap().contains("no messages"),
        "{none}"
    );
    host.terminate().await;

    let copies = stage.read(&stage.target()).await;
    assert_eq!(copies.len(), 10, "nothing of the dry run");
    assert_eq!(ids(&copies), names((0..100).step_by(10)));
    assert!(copies.iter().all(|raw| header(raw, "type") == kind(0)));
    let some = stage.read(&format!("{}.some", stage.topic)).await;
    let places: Vec<_> = some
        .iter()
        .map(|raw| (raw.origin.partition.unwrap(), original_of(raw)))
        .collect();
    let wanted: Vec<_> = (0..3)
        .map(|offset| (1, format!("{}[1]@{offset}", stage.topic)))
        .collect();
    assert_eq!(places, wanted);
}

async fn refusals(place: Place) {
    let stage = Stage::alone(place);
    stage.fill(0, 50).await;
    let host = stage.host().await;
    let with = |changes: Value| {
        let mut body = from_the_beginning(&stage.topic);
        for (name, value) in changes.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    let refused = async |body: Value, wanted: (u16, &str, &str)| {
        let (status, problem) = ask(&host, &body).await;
        let field = problem["field"].as_str().unwrap_or_default();
        let code = problem["code"].as_str().unwrap_or_default();
        assert_eq!((status, code, field), wanted, "{body}: {problem}");
        problem["detail"].as_str().unwrap().to_owned()
    };
    let own = with(json!({ "target_topic": stage.topic }));
    refused(own, (422, "HX0701", "target_topic")).await;
    refused(
        with(json!({ "target_route": "nowhere" })),
        (422, "HX0701", "target_route"),
    )
    .await;
    refused(
        with(json!({ "to_time": "1970-01-01T00:00:00Z" })),
        (422, "HX0701", "to_time"),
    )
    .await;
    refused(with(json!({ "from_time": null })), (422, "HX0701", "from_time")).await;
    let beyond = json!({ "from_time": null, "from_offsets": { "0": 9_999 } });
    refused(with(beyond), (422, "HX0701", "from_offsets")).await;
    let nowhere = json!({ "from_time": null, "from_offsets": { "77": 0 } });
    refused(with(nowhere), (422, "HX0701", "from_offsets")).await;
    refused(with(json!({ "topic": "no-such-topic" })), (404, "HX0502", "")).await;
    refused(with(json!({ "speed": 1 })), (400, "HX0501", "")).await;
    refused(
        with(json!({ "options": { "delay_between": "soon" } })),
        (400, "HX0501", ""),
    )
    .await;

    start(&host, &with(json!({ "id": "once" }))).await;
    refused(with(json!({ "id": "once" })), (409, "HX0505", "")).await;
    ended(&host, "once", "completed").await;
    refused(with(json!({ "id": "once" })), (409, "HX0505", "")).await;
    let (status, problem) = cancel(&host, "once").await;
    assert_eq!(
        (status, &problem["state"]),
        (409, &json!("completed")),
        "{problem}"
    );
    assert_eq!(cancel(&host, "never").await.0, 404);
    assert_eq!(host.get("/v1/messaging/replay/never").await.0, 404);
    let (_, listing) = host.get("/v1/messaging/replay").await;
    assert_eq!(
        (&listing["count"], &listing["replays"][0]["request_id"]),
        (&json!(1), &json!("once"))
    );
    if place == Place::Kafka {
        gone(&stage, &host).await;
    }
}

/// The broker deletes the beginning, as its retention would.
async fn gone(stage: &Stage, host: &Host) {
    let admin: AdminClient<DefaultClientContext> = kafka_client::client("").create().unwrap();
    let mut until_there = TopicPartitionList::new();
    until_there
        .add_partition_offset(&stage.topic, 0, Offset::Offset(2))
        .unwrap();
    admin
        .delete_records(&until_there, &AdminOptions::new())
        .await
        .unwrap();
    for from in [
        json!({ "from_time": "2020-01-01T00:00:00Z" }),
        json!({ "from_offsets": { "0": 1 } }),
    ] {
        let mut body = from;
        body["topic"] = json!(stage.topic);
        let (status, problem) = ask(host, &body).await;
        assert_eq!((status, &problem["code"]), (422, &json!("HX0702")), "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("partition 0") && detail.contains("offset 2, of 20"),
            "{detail}"
        );
        body["options"] = json!({ "allow_truncated": true });
        let view = start(host, &body).await;
        let view = ended(host, &id_of(&view), "completed").await;
        let first = view["partitions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|p| p["partition"] == 0)
            .unwrap();
        assert_eq!(first["from_offset"], 2, "{view}");
    }
}

async fn a_cancel(place: Place) {
    const BATCH: u64 = 20;
    let stage = Stage::alone(place);
    stage.fill(0, 3_000).await;
    let host = stage.host().await;
    let mut body = from_the_beginning(&stage.topic);
    body["options"] = json!({ "batch_size": BATCH, "delay_between": "25ms" });
    let id = id_of(&start(&host, &body).await);
    until("some are sent", LIMIT, || async {
        (show(&host, &id).await["replayed_count"].as_u64().unwrap() >= 3 * BATCH).then_some(())
    })
    .await;
    let (status, view) = cancel(&host, &id).await;
    assert_eq!((status, &view["status"]), (200, &json!("cancelled")), "{view}");
    let then = view["replayed_count"].as_u64().unwrap();
    until("nothing runs", LIMIT, || async {
        (host.series("messaging_replay_active", &[]).await == Some(0.0)).then_some(())
    })
    .await;
    let view = show(&host, &id).await;
    let sent = view["replayed_count"].as_u64().unwrap();
    assert!(sent <= then + BATCH, "{then} when cancelled, {sent} in the end");
    assert_eq!(
        (&view["status"], cancel(&host, &id).await.0),
        (&json!("cancelled"), 200)
    );
    // For good, also for the next host.
    host.terminate().await;
    let host = stage.host().await;
    assert_eq!(show(&host, &id).await["status"], "cancelled");
    assert_eq!(show(&host, &id).await["replayed_count"], sent);
    host.terminate().await;
    assert_eq!(
        stage.read(&stage.target()).await.len() as u64,
        sent,
        "what was sent is what is told"
    );
}
