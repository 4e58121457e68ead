//! Replays into a route of the host: what its handler sees, what is withheld, what waits, and what live messages notice of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::time::Duration;

use helix_tests::{Host, Setup, until};
use serde_json::{Value, json};

use super::stage::Stage;
use super::{LIMIT, ask, cancel, ended, from_the_beginning, id_of, in_the_middle, show, start};
use crate::contract::brokers::Place;
use crate::seen::{self, Seen};

const TOPOLOGY: &str = r#"
[[queues]]
name = "tasks"
[[topics]]
name = "past"
partitions = 2
[[topics]]
name = "events"
[[topics]]
name = "handled"
"#;

/// The route that replays go to, and one of tasks.
fn config(more: &str) -> String {
    format!(
        r#"
[[routes]]
name = "work"
topic = "events"
plugin = "probe"
order = "key"
concurrency = 4
retry = {{ max_retries = 1, delay = "200ms", jitter = 0.0 }}
{more}
[[routes]]
name = "tasks"
queue = "tasks"
plugin = "probe"
{GRANTS}"#
    )
}

const GRANTS: &str = "[plugins.probe]\npublish = [\"handled\"]\n";

async fn host_of(more: &str) -> (Setup, Host) {
    let setup = Setup::new(&config(more), &["probe"]).topology(TOPOLOGY);
    let host = setup.start().await;
    host.ready().await;
    (setup, host)
}

/// The n-th event: one in three is rejected, one in three done at its second attempt.
fn order(n: usize) -> Value {
    match n % 3 {
        0 => json!({ "do": "reject", "reason": format!("never {n}") }),
        1 => json!({ "do": "retry", "until": 2, "report": "handled" }),
        _ => json!({ "do": "echo", "report": "handled" }),
    }
}

async fn send(host: &Host, topic: &str, id: &str, key: &str, payload: Value) {
    let body = json!({ "type": "probe", "id": id, "key": key, "payload": payload });
    let (status, answer) = host.post(&format!("/v1/messaging/events/{topic}"), &body).await;
    assert_eq!(status, 202, "{answer}");
}

async fn fill(host: &Host, events: usize, payload: impl Fn(usize) -> Value) {
    for n in 0..events {
        send(
            host,
            "past",
            &format!("e-{n:04}"),
            &format!("k{}", n % 4),
            payload(n),
        )
        .await;
    }
}

fn into_route(route: &str, options: Value) -> Value {
    let mut body = from_the_beginning("past");
    body["target_route"] = json!(route);
    let Value::Object(options) = options else {
        panic!("options are an object: {options}");
    };
    for (name, value) in options {
        body["options"][name] = value;
    }
    body
}

async fn replayed(host: &Host, body: &Value) -> Value {
    let view = start(host, body).await;
    ended(host, &id_of(&view), "completed").await
}

/// How many events a topic holds.
async fn count(host: &Host, topic: &str) -> u64 {
    let mut body = from_the_beginning(topic);
    body["options"]["dry_run"] = json!(true);
    start(host, &body).await["total_messages"].as_u64().unwrap()
}

async fn end(setup: &Setup, host: Host) -> Vec<Seen> {
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    seen::topic(setup, "handled").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_handler_runs_without_effects_unless_they_are_asked_for() {
    const EVENTS: usize = 30;
    let (setup, host) = host_of("").await;
    fill(&host, EVENTS, order).await;

    let view = replayed(&host, &into_route("work", json!({ "batch_size": 7 }))).await;
    for (name, wanted) in [
        ("total_messages", json!(30)),
        ("replayed_count", json!(20)),
        ("failed_count", json!(10)),
        ("skipped_count", json!(0)),
        ("target_route", json!("work")),
        ("side_effects", json!(false)),
        ("target_topic", Value::Null),
    ] {
        assert_eq!(view[name], wanted, "{name}: {view}");
    }
    assert_eq!(count(&host, "handled").await, 0, "what it published went nowhere");
    let failures = view["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 10, "{view}");
    let letters = host.wait_letters(10).await;
    let known: BTreeSet<&str> = letters
        .iter()
        .map(|letter| letter["id"].as_str().unwrap())
        .collect();
    for failed in failures {
        assert_eq!(failed["class"], "rejected", "{failed}");
        assert!(
            failed["reason"].as_str().unwrap().starts_with("never "),
            "{failed}"
        );
        assert!(known.contains(failed["letter"].as_str().unwrap()), "{failed}");
    }
    for letter in &letters {
        assert_eq!(letter["route"], "work", "{letter}");
        let id = letter["id"].as_str().unwrap();
        let (_, whole) = host.get(&format!("/v1/messaging/dlq/{id}")).await;
        assert!(
            whole.to_string().contains(&id_of(&view)),
            "it says which replay: {whole}"
        );
        let (status, problem) = host
            .post(&format!("/v1/messaging/dlq/{id}/reprocess"), &json!({}))
            .await;
        assert_eq!(status, 409, "sending it again would have effects: {problem}");
        assert!(
            problem["detail"].as_str().unwrap().contains("side_effects"),
            "{problem}"
        );
    }
    assert_eq!(
        host.metric("messaging_outcomes_total", &[("route", "work")])
            .await,
        0.0,
        "nothing of it looks like traffic"
    );

    let with = replayed(
        &host,
        &into_route("work", json!({ "batch_size": 7, "side_effects": true })),
    )
    .await;
    assert_eq!(
        (
            &with["replayed_count"],
            &with["failed_count"],
            &with["side_effects"]
        ),
        (&json!(20), &json!(10), &json!(true)),
        "{with}"
    );
    host.wait_letters(20).await;
    let handled = end(&setup, host).await;
    let wanted: Vec<String> = (0..EVENTS)
        .filter(|n| n % 3 != 0)
        .map(|n| format!("e-{n:04}"))
        .collect();
    seen::assert_each_once(&handled, &wanted);
    let mut by_key: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
    for report in &handled {
        let key = String::from_utf8_lossy(report.raw.key.as_deref().unwrap()).into_owned();
        by_key
            .entry(key)
            .or_default()
            .push((report.raw.origin.offset.unwrap(), report.of().to_owned()));
        match report.attempt() {
            1 => assert_eq!(report.body["found"]["replay"], id_of(&with), "{:?}", report.body),
            attempt => assert_eq!(attempt, 2, "retried as its route says: {:?}", report.body),
        }
    }
    for (key, mut all) in by_key {
        all.sort();
        assert!(
            all.is_sorted_by_key(|(_, id)| id.clone()),
            "{key}: a follower overtook a retry: {all:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_it_would_fetch_is_not_fetched_and_costs_no_letter() {
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let port = trap.local_addr().unwrap().port();
    let toml = config("").replace(
        GRANTS,
        &format!("{GRANTS}fetch = [\"127.0.0.1\"]\nfetch_private = true\n"),
    );
    let setup = Setup::new(&toml, &["probe"]).topology(TOPOLOGY);
    let host = setup.start().await;
    host.ready().await;
    let url = format!("http://127.0.0.1:{port}/");
    send(&host, "past", "asks", "k", json!({ "do": "fetch", "url": url })).await;
    send(&host, "past", "fine", "k", json!({ "do": "ok" })).await;
    let view = replayed(&host, &into_route("work", json!({}))).await;
    assert_eq!(
        (&view["replayed_count"], &view["failed_count"]),
        (&json!(1), &json!(1)),
        "{view}"
    );
    let failed = &view["failures"][0];
    assert_eq!(
        (&failed["id"], &failed["class"], &failed["letter"]),
        (&json!("asks"), &json!("withheld"), &Value::Null),
        "{view}"
    );
    assert!(
        failed["reason"]
            .as_str()
            .unwrap()
            .contains(&format!("127.0.0.1:{port}")),
        "{view}"
    );
    assert_eq!(host.letter_count().await, 0);
    assert!(trap.accept().is_err(), "nobody was connected to");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_is_not_there_or_of_another_kind_is_refused_with_the_field() {
    let (setup, host) = host_of("").await;
    fill(&host, 3, |_| json!({})).await;
    for (body, field) in [
        (into_route("nowhere", json!({})), "target_route"),
        (into_route("tasks", json!({})), "target_route"),
        (
            json!({ "topic": "past", "from_time": "1970-01-01T00:00:00Z", "options": { "side_effects": true } }),
            "options.side_effects",
        ),
    ] {
        let (status, problem) = ask(&host, &body).await;
        assert_eq!(
            (status, &problem["code"], &problem["field"]),
            (422, &json!("HX0701"), &json!(field)),
            "{problem}"
        );
    }
    // From the command line.
    let out = setup.helix(&[
        "--url",
        host.url(),
        "replay",
        "start",
        "past",
        "--from",
        "1h",
        "--route",
        "work",
    ]);
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        out.status.success() && said.contains("route work"),
        "{said} {}",
        String::from_utf8_lossy(&out.stderr)
    );
    let out = setup.helix(&[
        "--url",
        host.url(),
        "replay",
        "start",
        "past",
        "--from",
        "1h",
        "--side-effects",
    ]);
    assert!(!out.status.success(), "effects of what?");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_route_or_plugin_it_waits_and_goes_on_when_they_are_back() {
    let (setup, host) = host_of("").await;
    fill(&host, 40, |_| json!({ "report": "handled" })).await;
    let body = into_route(
        "work",
        json!({ "batch_size": 1, "delay_between": "150ms", "side_effects": true }),
    );
    let id = id_of(&start(&host, &body).await);
    let some = || async { (show(&host, &id).await["replayed_count"].as_u64() >= Some(5)).then_some(()) };
    until("some are handled", LIMIT, some).await;
    let away = config("").replace("name = \"work\"", "name = \"other\"");
    setup.configure(&away);
    let says = async |words: &str| {
        until(&format!("it says: {words}"), LIMIT, || async {
            let view = show(&host, &id).await;
            assert!(
                ["running", "pending"].contains(&view["status"].as_str().unwrap()),
                "{view}"
            );
            view["error_message"]
                .as_str()
                .is_some_and(|text| text.contains(words))
                .then_some(())
        })
        .await;
    };
    says("no route `work`").await;
    // Another plugin now, whose file is not there.
    setup.configure(&config("").replacen("plugin = \"probe\"", "plugin = \"absent\"", 1));
    says("absent").await;
    setup.configure(&config(""));
    let view = ended(&host, &id, "completed").await;
    assert_eq!(
        (&view["replayed_count"], &view["failed_count"]),
        (&json!(40), &json!(0)),
        "{view}"
    );
    assert_eq!(view["error_message"], Value::Null, "{view}");
    let handled = end(&setup, host).await;
    let wanted: Vec<String> = (0..40).map(|n| format!("e-{n:04}")).collect();
    seen::assert_each_once(&handled, &wanted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn live_messages_go_on_beside_it() {
    let (setup, host) = host_of("").await;
    fill(&host, 60, |_| json!({ "do": "sleep", "ms": 200 })).await;
    let view = start(&host, &into_route("work", json!({}))).await;
    let id = id_of(&view);
    until("it runs", LIMIT, || async {
        (host.series("messaging_replay_active", &[]).await == Some(1.0)).then_some(())
    })
    .await;
    for n in 0..8 {
        send(
            &host,
            "events",
            &format!("live-{n}"),
            &format!("k{}", n % 4),
            json!({ "report": "handled" }),
        )
        .await;
    }
    let done = [("route", "work"), ("outcome", "done")];
    host.wait_metric("messaging_outcomes_total", &done, 8.0).await;
    // 60 messages of 200 ms, two at a time: six seconds.
    let view = show(&host, &id).await;
    assert_eq!(
        (&view["status"], &view["done"]),
        (&json!("running"), &json!(0)),
        "the first batch is under way: {view}"
    );
    assert_eq!(cancel(&host, &id).await.0, 200);
    until(
        "it ends within its handlers' calls",
        Duration::from_secs(5),
        || async { (host.series("messaging_replay_active", &[]).await == Some(0.0)).then_some(()) },
    )
    .await;
    let view = show(&host, &id).await;
    assert!(
        view["done"].as_u64() < Some(60),
        "the rest of the batch was not begun: {view}"
    );
    assert_eq!(end(&setup, host).await.len(), 8);
}

/// With effects, a key's messages run one at a time, whether they are read again or live.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_key_one_message_runs_at_a_time_live_or_read_again() {
    const MS: u64 = 120;
    let slow = json!({ "do": "sleep", "ms": MS, "report": "handled" });
    let (setup, host) = host_of("").await;
    let done = [("route", "work"), ("outcome", "done")];
    for n in 0..10 {
        send(&host, "events", &format!("old-{n}"), "k", slow.clone()).await;
    }
    host.wait_metric("messaging_outcomes_total", &done, 10.0).await;
    // The topic that the route consumes itself: a lane is a key of a topic.
    let mut body = into_route("work", json!({ "side_effects": true }));
    body["topic"] = json!("events");
    let view = start(&host, &body).await;
    for n in 0..10 {
        send(&host, "events", &format!("live-{n}"), "k", slow.clone()).await;
    }
    let view = ended(&host, &id_of(&view), "completed").await;
    assert_eq!(view["replayed_count"], 10, "{view}");
    host.wait_metric("messaging_outcomes_total", &done, 20.0).await;
    let mut ends: Vec<u64> = end(&setup, host).await.iter().map(Seen::at_ms).collect();
    ends.sort_unstable();
    assert_eq!(ends.len(), 30);
    for pair in ends.windows(2) {
        // Each slept for itself between two reports; a report may be late, so that the next looks early.
        assert!(
            pair[1] - pair[0] > MS / 4,
            "two of a key ran beside each other: {ends:?}"
        );
    }
    assert!(ends[29] - ends[0] >= 29 * MS * 9 / 10, "{ends:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_killed_costs_a_batch_and_loses_nothing() {
    const EVENTS: usize = 600;
    const BATCH: usize = 20;
    const KILLS: usize = 3;
    let (setup, mut host) = host_of("").await;
    fill(&host, EVENTS, |_| json!({ "report": "handled" })).await;
    let body = into_route(
        "work",
        json!({ "batch_size": BATCH, "delay_between": "5ms", "side_effects": true }),
    );
    let id = id_of(&start(&host, &body).await);
    for kill in 1..=KILLS {
        let goal = (EVENTS * kill / (KILLS + 1)) as u64;
        in_the_middle(&host, &id, goal).await;
        host.kill();
        host = setup.start().await;
        host.ready().await;
    }
    let view = ended(&host, &id, "completed").await;
    assert_eq!(view["replayed_count"], EVENTS, "{view}");
    let handled = end(&setup, host).await;
    let times = seen::times(&handled);
    assert_eq!(times.len(), EVENTS, "none is lost");
    let extra = handled.len() - EVENTS;
    assert!(
        extra <= KILLS * BATCH,
        "{extra} too many after {KILLS} kills of {BATCH} at most"
    );
}

/// A replay into the route that consumes the topic itself: its group stays where it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kafka_hands_a_topic_to_the_route_that_consumes_it_and_its_group_stays_where_it_is() {
    let stage = Stage::consumed(Place::Kafka);
    stage.fill(0, 60).await;
    let host = stage.host().await;
    let done = [("outcome", "done")];
    host.wait_metric("messaging_outcomes_total", &done, 60.0).await;
    let all = || async {
        let at = tokio::task::block_in_place(|| super::asked::committed(&stage));
        let sum: i64 = at.values().filter_map(|o| o.to_raw()).filter(|&o| o > 0).sum();
        (sum == 60).then_some(at)
    };
    let before = until("the live group has committed everything", LIMIT, all).await;
    let mut body = from_the_beginning(&stage.topic);
    body["target_route"] = json!("live");
    body["filter"] = json!({ "message_types": ["rare"] });
    let view = start(&host, &body).await;
    let view = ended(&host, &id_of(&view), "completed").await;
    assert_eq!(
        (
            &view["replayed_count"],
            &view["failed_count"],
            &view["skipped_count"]
        ),
        (&json!(12), &json!(0), &json!(48)),
        "{view}"
    );
    assert_eq!(host.metric("messaging_outcomes_total", &done).await, 60.0);
    assert_eq!(
        tokio::task::block_in_place(|| super::asked::committed(&stage)),
        before
    );
    host.terminate().await;
}
