//! Replays of RabbitMQ streams, on the broker of tasks beside an embedded broker of events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use helix_host::broker::{Broker, Destination};
use helix_host::model::{Clock, MessageKind, RawMessage, SystemClock, UnixMs};
use helix_host::replay::view::rfc3339;
use helix_tests::{Host, Setup, brokers, unique, until};
use serde_json::{Value, json};

use super::stage::{self, after_the_broker, header, id, original_of, outgoing, payload};
use super::{LIMIT, ask, cancel, ended, from_the_beginning, id_of, in_the_middle, show, start};
use crate::contract::brokers::Place;
use crate::seen;

struct Streams {
    setup: Setup,
    stream: String,
    broker: Arc<dyn Broker>,
}

impl Streams {
    async fn new(arguments: &[(&str, &str)]) -> Self {
        let stream = unique("stream");
        let config = format!(
            "[messaging]\ntasks = \"rabbitmq\"\n{}\
             [[routes]]\nname = \"work\"\nqueue = \"{stream}-work\"\nplugin = \"probe\"\n\
             [[routes]]\nname = \"facts\"\ntopic = \"facts\"\nplugin = \"probe\"\n\
             [plugins.probe]\npublish = [\"handled\"]\n",
            brokers::rabbitmq_toml(),
        );
        let topology = format!(
            "[[queues]]\nname = \"{stream}-work\"\n[[topics]]\nname = \"facts\"\n[[topics]]\nname = \"handled\"\n"
        );
        let setup = Setup::new(&config, &["probe"]).topology(&topology);
        let broker = Place::RabbitMq.open("observer", setup.path()).unwrap();
        let streams = Self {
            setup,
            stream,
            broker,
        };
        let mut all = BTreeMap::from([("x-queue-type".to_owned(), "stream".to_owned())]);
        all.extend(
            arguments
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        streams.create(&streams.stream, all).await;
        streams
    }

    async fn create(&self, name: &str, arguments: BTreeMap<String, String>) {
        let want = Destination {
            kind: MessageKind::Task,
            name: name.into(),
            max_priority: 0,
            ttl: None,
            partitions: 0,
            arguments,
        };
        self.broker.topology().create(&want).await.unwrap();
    }

    async fn fill(&self, numbers: std::ops::Range<usize>) {
        self.put(&self.stream, numbers, payload).await;
    }

    async fn put(&self, to: &str, numbers: std::ops::Range<usize>, payload: impl Fn(usize) -> String) {
        let all: Vec<usize> = numbers.collect();
        for some in all.chunks(1000) {
            let batch = some
                .iter()
                .map(|&n| outgoing(MessageKind::Task, to, n, payload(n)))
                .collect();
            for confirmed in self.broker.publisher().publish(batch).await {
                confirmed.unwrap();
            }
        }
    }

    fn target(&self) -> String {
        format!("{}.replay", self.stream)
    }

    async fn host(&self) -> Host {
        let host = self.setup.start().await;
        host.ready().await;
        host
    }

    async fn read(&self, stream: &str) -> Vec<RawMessage> {
        stage::read_all(&*self.broker.scan().unwrap(), stream).await
    }

    async fn end(self, host: Host) {
        let (status, log) = host.terminate().await;
        assert!(status.success(), "{log}");
        self.broker.close().await;
    }
}

/// The beginning of a second, after all that was published and before all that comes.
async fn second() -> UnixMs {
    let second = (SystemClock.now_ms() / 1000 + 1) * 1000;
    until("the next second begins", LIMIT, || async {
        (SystemClock.now_ms() > second + 5).then_some(())
    })
    .await;
    second
}

fn ids(all: &[RawMessage]) -> BTreeSet<String> {
    all.iter()
        .map(|raw| raw.props.message_id.clone().unwrap_or_default())
        .collect()
}

fn names(numbers: impl IntoIterator<Item = usize>) -> BTreeSet<String> {
    numbers.into_iter().map(id).collect()
}

fn place_of(raw: &RawMessage) -> String {
    after_the_broker(&raw.origin.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stretch_by_time_or_offsets_is_copied_byte_for_byte_into_a_stream() {
    let streams = Streams::new(&[]).await;
    streams.fill(0..40).await;
    let first = second().await;
    streams.fill(40..100).await;
    let last = second().await;
    streams.fill(100..120).await;
    let host = streams.host().await;
    let body = json!({
        "topic": streams.stream, "from_time": rfc3339(first), "to_time": rfc3339(last),
        "options": { "batch_size": 7, "delay_between": "1ms" },
    });
    let view = start(&host, &body).await;
    assert_eq!(
        (&view["total_messages"], &view["target_topic"], &view["broker"]),
        (&json!(60), &json!(streams.target()), &json!("rabbitmq")),
        "{view}"
    );
    let view = ended(&host, &id_of(&view), "completed").await;
    assert_eq!(
        (&view["replayed_count"], &view["missing_count"]),
        (&json!(60), &json!(0)),
        "{view}"
    );

    let originals: BTreeMap<String, RawMessage> = streams
        .read(&streams.stream)
        .await
        .into_iter()
        .map(|raw| (place_of(&raw), raw))
        .collect();
    assert_eq!(originals.len(), 120);
    let copies = streams.read(&streams.target()).await;
    assert_eq!(ids(&copies), names(40..100));
    assert_eq!(copies.len(), 60);
    let order: Vec<String> = copies.iter().map(original_of).collect();
    let wanted: Vec<String> = (40..100).map(|n| format!("{}[0]@{n}", streams.stream)).collect();
    assert_eq!(order, wanted, "in order");
    for copy in &copies {
        let original = &originals[&original_of(copy)];
        assert_eq!(
            (&copy.body, &copy.key, &copy.props),
            (&original.body, &original.key, &original.props)
        );
        assert_eq!(copy.timestamp_ms, original.timestamp_ms);
        assert_eq!(header(copy, "helix-replay"), id_of(&view));
        let ours = |name: &str| name.starts_with("helix-replay");
        let others: BTreeMap<_, _> = copy.headers.iter().filter(|(name, _)| !ours(name)).collect();
        assert_eq!(others, original.headers.iter().collect::<BTreeMap<_, _>>());
    }

    // Offsets, a filter, and a dry run.
    let some = json!({
        "topic": streams.stream, "broker": "rabbitmq", "target_topic": format!("{}.some", streams.stream),
        "from_offsets": { "0": 3 }, "to_offsets": { "0": 8 },
    });
    let view = start(&host, &some).await;
    assert_eq!(
        ended(&host, &id_of(&view), "completed").await["replayed_count"],
        5
    );
    assert_eq!(
        ids(&streams.read(&format!("{}.some", streams.stream)).await),
        names(3..8)
    );
    let mut dry = from_the_beginning(&streams.stream);
    dry["filter"] = json!({ "message_types": ["rare"], "headers": { "X-Team": "red" } });
    dry["options"]["dry_run"] = json!(true);
    let view = start(&host, &dry).await;
    let view = ended(&host, &id_of(&view), "completed").await;
    assert_eq!(
        (&view["matching_count"], &view["skipped_count"]),
        (&json!(12), &json!(108)),
        "{view}"
    );
    assert_eq!(view["samples"][0]["id"], json!(id(0)), "{view}");
    assert_eq!(
        streams.read(&streams.target()).await.len(),
        60,
        "a dry run sends nothing"
    );
    let lines = host.unexpected_lines(&[]);
    assert!(lines.is_empty(), "{lines:#?}");
    streams.end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_is_sent_again_when_hosts_are_killed() {
    const MESSAGES: usize = 6_000;
    const BATCH: usize = 100;
    const KILLS: usize = 3;
    let streams = Streams::new(&[]).await;
    streams.fill(0..MESSAGES).await;
    let mut host = streams.host().await;
    let mut body = from_the_beginning(&streams.stream);
    body["options"] = json!({ "batch_size": BATCH, "delay_between": "5ms" });
    let replay = id_of(&start(&host, &body).await);
    for kill in 1..=KILLS {
        let goal = (MESSAGES * kill / (KILLS + 1)) as u64;
        in_the_middle(&host, &replay, goal).await;
        host.kill();
        host = streams.host().await;
    }
    let view = ended(&host, &replay, "completed").await;
    assert_eq!(
        (&view["replayed_count"], &view["done"]),
        (&json!(MESSAGES), &json!(MESSAGES)),
        "{view}"
    );
    let copies = streams.read(&streams.target()).await;
    let different: BTreeSet<String> = copies.iter().map(original_of).collect();
    assert_eq!(different.len(), MESSAGES, "none is missing");
    let extra = copies.len() - MESSAGES;
    assert!(
        extra <= KILLS * BATCH,
        "{extra} copies too many after {KILLS} kills"
    );
    streams.end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stops_within_a_batch_when_cancelled() {
    const BATCH: u64 = 20;
    let streams = Streams::new(&[]).await;
    streams.fill(0..3_000).await;
    let host = streams.host().await;
    let mut body = from_the_beginning(&streams.stream);
    body["options"] = json!({ "batch_size": BATCH, "delay_between": "25ms" });
    let replay = id_of(&start(&host, &body).await);
    until("some are sent", LIMIT, || async {
        (show(&host, &replay).await["replayed_count"].as_u64() >= Some(3 * BATCH)).then_some(())
    })
    .await;
    let (status, view) = cancel(&host, &replay).await;
    assert_eq!((status, &view["status"]), (200, &json!("cancelled")), "{view}");
    let then = view["replayed_count"].as_u64().unwrap();
    until("nothing runs", LIMIT, || async {
        (host.series("messaging_replay_active", &[]).await == Some(0.0)).then_some(())
    })
    .await;
    let sent = show(&host, &replay).await["replayed_count"].as_u64().unwrap();
    assert!(sent <= then + BATCH, "{then} when cancelled, {sent} in the end");
    assert_eq!(streams.read(&streams.target()).await.len() as u64, sent);
    streams.end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retention_has_deleted_is_told_and_what_is_no_stream_is_named() {
    // A chunk holds what was sent between two confirms, at most a hundred messages here: with a limit below its size nothing
    // at all would stay.
    let small = [
        ("x-max-length-bytes", "2000000"),
        ("x-stream-max-segment-size-bytes", "500000"),
    ];
    let streams = Streams::new(&small).await;
    let scan = streams.broker.scan().unwrap();
    let mut from = 0;
    let large = |n: usize| json!({ "n": n, "filling": "x".repeat(4_000) }).to_string();
    let bounds = || async { scan.bounds(&streams.stream).await.unwrap()[0] };
    let deleted_once = loop {
        streams.put(&streams.stream, from..from + 100, large).await;
        from += 100;
        let bounds = bounds().await;
        // A confirm that comes late makes a second one.
        assert!(bounds.end >= from as u64, "{bounds:?}");
        if bounds.first > 0 {
            break bounds.first;
        }
        assert!(from < 5_000, "retention deletes nothing");
    };
    let host = streams.host().await;
    for from in [
        json!({ "from_time": "2020-01-01T00:00:00Z" }),
        json!({ "from_offsets": { "0": 1 } }),
    ] {
        let mut body = from;
        body["topic"] = json!(streams.stream);
        let (status, problem) = ask(&host, &body).await;
        assert_eq!((status, &problem["code"]), (422, &json!("HX0702")), "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        let (_, offset) = detail.split_once("offset ").unwrap();
        let digits: String = offset.chars().take_while(char::is_ascii_digit).collect();
        // The broker may go on deleting meanwhile.
        let told: u64 = digits.parse().unwrap();
        assert!(told >= deleted_once && told <= bounds().await.first, "{problem}");
        body["options"] = json!({ "allow_truncated": true, "dry_run": true });
        let view = start(&host, &body).await;
        let view = ended(&host, &id_of(&view), "completed").await;
        let begun = view["partitions"][0]["from_offset"].as_u64().unwrap();
        assert!(begun >= told && begun <= bounds().await.first, "{view}");
        // Some offsets are the broker's own notes.
        let found = view["matching_count"].as_u64().unwrap();
        assert!(found > 0, "{view}");
        assert_eq!(
            found + view["missing_count"].as_u64().unwrap(),
            from_total(&view),
            "{view}"
        );
    }

    let classic = format!("{}-classic", streams.stream);
    let quorum = format!("{}-quorum", streams.stream);
    streams.create(&classic, BTreeMap::new()).await;
    let arguments = BTreeMap::from([("x-queue-type".to_owned(), "quorum".to_owned())]);
    streams.create(&quorum, arguments).await;
    for (queue, word) in [(&classic, "classic"), (&quorum, "quorum")] {
        streams.put(queue, 0..5, payload).await;
        let (status, problem) = ask(&host, &from_the_beginning(queue)).await;
        assert_eq!(
            (status, &problem["code"], &problem["field"]),
            (422, &json!("HX0701"), &json!("topic")),
            "{problem}"
        );
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains(&format!("a {word} queue")),
            "{problem}"
        );
        let topology = streams.broker.topology();
        let depth = || topology.depth(MessageKind::Task, queue);
        until("all are still there", LIMIT, || async {
            (depth().await.unwrap() == 5).then_some(())
        })
        .await;
    }
    let (status, _) = ask(&host, &from_the_beginning("no-such-stream")).await;
    assert_eq!(status, 404);
    let mut elsewhere = from_the_beginning(&streams.stream);
    elsewhere["broker"] = json!("nowhere");
    let (status, problem) = ask(&host, &elsewhere).await;
    assert_eq!((status, &problem["field"]), (422, &json!("broker")), "{problem}");
    streams.end(host).await;
}

fn from_total(view: &Value) -> u64 {
    view["total_messages"].as_u64().unwrap()
}

/// Routes of tasks and of events both can have it; the stream gets nothing back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_handed_to_a_route_and_letters_do_not_go_back_into_it() {
    let streams = Streams::new(&[]).await;
    let order = |n: usize| match n {
        0 => json!({ "do": "retry", "until": 9, "reason": "broken" }).to_string(),
        _ => json!({ "do": "echo", "report": "handled" }).to_string(),
    };
    streams.put(&streams.stream, 0..10, order).await;
    let host = streams.host().await;
    for (route, options) in [("work", json!({ "side_effects": true })), ("facts", json!({}))] {
        let mut body = from_the_beginning(&streams.stream);
        body["target_route"] = json!(route);
        body["options"] = options;
        body["filter"] = json!({});
        let view = start(&host, &body).await;
        let view = ended(&host, &id_of(&view), "completed").await;
        assert_eq!(
            (&view["replayed_count"], &view["failed_count"]),
            (&json!(9), &json!(1)),
            "{view}"
        );
    }
    let letters = host.wait_letters(2).await;
    let work = letters.iter().find(|letter| letter["route"] == "work").unwrap();
    let id = work["id"].as_str().unwrap();
    let (status, answer) = host
        .post(&format!("/v1/messaging/dlq/{id}/reprocess"), &json!({}))
        .await;
    assert_eq!(status, 202, "{answer}");
    until("it has failed again", LIMIT, || async {
        let (_, letter) = host.get(&format!("/v1/messaging/dlq/{id}")).await;
        (letter["state"] == "dead" && letter["reprocessed"] == 1).then_some(())
    })
    .await;
    assert_eq!(
        streams.read(&streams.stream).await.len(),
        10,
        "the stream is as it was"
    );
    let (setup, broker) = (&streams.setup, &streams.broker);
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    let handled = seen::topic(setup, "handled").await;
    let wanted: Vec<String> = (1..10).map(stage::id).collect();
    seen::assert_each_once(&handled, &wanted);
    broker.close().await;
}
