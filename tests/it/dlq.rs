//! Dead letters that are sent again or discarded, on the embedded broker.

mod auto;
mod jobs;
mod keep;
mod lives;

use std::process::Output;
use std::time::Duration;

use helix_tests::{Host, Setup, guests, until};
use serde_json::{Value, json};

use crate::seen;

const CONFIG: &str = r#"
[[routes]]
name = "work"
queue = "work"
plugin = "handler"
retry = { max_retries = 1, delay = "10ms" }
[[routes]]
name = "events"
topic = "events"
type = "probe"
plugin = "handler"
order = "key"
concurrency = 4
retry = { max_retries = 0 }
[plugins.handler]
publish = ["handled"]
"#;

const TOPOLOGY: &str = "[[queues]]\nname = \"work\"\nmax_priority = 10\n[[topics]]\nname = \"events\"\npartitions = 2\n[[topics]]\nname = \"handled\"\n";

/// The handler that is installed first knows none of these messages and rejects them all.
async fn broken() -> (Setup, Host) {
    let setup = Setup::new(CONFIG, &[]).topology(TOPOLOGY);
    install(&setup, "torture");
    let host = setup.start().await;
    host.ready().await;
    (setup, host)
}

fn install(setup: &Setup, guest: &str) {
    let bytes = std::fs::read(guests::path(guest)).unwrap();
    guests::install(&setup.plugins(), "handler", &bytes);
}

/// The repaired handler serves.
async fn repair(setup: &Setup, host: &Host) {
    let swaps = [("plugin", "handler")];
    let before = host.metric("messaging_plugin_reloads_total", &swaps).await;
    install(setup, "probe");
    host.wait_metric("messaging_plugin_reloads_total", &swaps, before + 1.0)
        .await;
}

async fn letter(host: &Host, id: &str) -> Value {
    let (status, letter) = host.get(&format!("/v1/messaging/dlq/{id}")).await;
    assert_eq!(status, 200, "{letter}");
    letter
}

async fn reprocess(host: &Host, id: &str) -> (u16, Value) {
    host.post(&format!("/v1/messaging/dlq/{id}/reprocess"), &json!({}))
        .await
}

async fn discard(host: &Host, path: &str, body: Option<Value>) -> (u16, Value) {
    let request = helix_tests::Client::default().delete(format!("{}/v1/messaging/dlq/{path}", host.url()));
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().unwrap_or_default())
}

fn id_of(letter: &Value) -> String {
    letter["id"].as_str().unwrap().to_owned()
}

/// `action from>to` of each entry.
fn trail(letter: &Value) -> Vec<String> {
    let steps = letter["trail"].as_array().cloned().unwrap_or_default();
    let text = |step: &Value, key: &str| step[key].as_str().unwrap_or_default().to_owned();
    steps
        .iter()
        .map(|s| format!("{} {}>{}", text(s, "action"), text(s, "from"), text(s, "to")))
        .collect()
}

async fn wait_done(host: &Host, n: f64) {
    host.wait_metric("messaging_outcomes_total", &[("outcome", "done")], n)
        .await;
}

async fn end(host: Host) {
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
}

fn command(setup: &Setup, host: &Host, arguments: &[&str]) -> Output {
    setup.helix(&[&["--url", host.url()], arguments].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_failed_is_sent_again_after_the_repair_and_handled_once() {
    let (setup, host) = broken().await;
    let echo = json!({ "do": "echo", "report": "handled" });
    let body =
        json!({ "type": "probe", "payload": echo, "priority": 7, "key": "k", "headers": { "x-mine": "1" } });
    let (status, accepted) = host.post("/v1/messaging/tasks/work", &body).await;
    assert_eq!(status, 202, "{accepted}");
    let dead = host.wait_letters(1).await.remove(0);
    let id = id_of(&dead);
    repair(&setup, &host).await;
    let (status, answer) = reprocess(&host, &id).await;
    assert_eq!((status, &answer["id"]), (202, &json!(id)), "{answer}");
    assert_eq!(answer["status"], "reprocessed");
    wait_done(&host, 1.0).await;
    let after = letter(&host, &id).await;
    assert_eq!(after["state"], "reprocessed");
    assert_eq!(
        after["original"], dead["original"],
        "the message as it first came"
    );
    assert_eq!(
        trail(&after),
        ["reprocess dead>retrying", "sent retrying>reprocessed"]
    );
    assert_eq!(after["trail"][0]["actor"], "http");
    let count = host
        .metric("messaging_dlq_reprocessed_total", &[("queue", "helixagent.dlq")])
        .await;
    assert_eq!(count, 1.0);
    // Out of the way, and still there.
    let listed = async |query: &str| host.get(&format!("/v1/messaging/dlq{query}")).await.1["count"].clone();
    assert_eq!(listed("").await, 0);
    assert_eq!(listed("?state=all").await, 1);
    assert_eq!(listed("?state=reprocessed").await, 1);
    assert_eq!(listed("?state=dead").await, 0);
    // A second time: there is nothing left to do.
    let (status, problem) = reprocess(&host, &id).await;
    assert_eq!(
        (status, &problem["code"], &problem["state"]),
        (409, &json!("HX0505"), &json!("reprocessed")),
        "{problem}"
    );
    assert_eq!(
        host.unexpected_lines(&["dead letter; look"]),
        Vec::<String>::new()
    );
    end(host).await;
    let seen = seen::topic(&setup, "handled").await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0].of(), accepted["id"].as_str().unwrap());
    let found = &seen[0].body["found"];
    assert_eq!(
        (&found["reprocessed"], seen[0].attempt(), &found["priority"]),
        (&json!(1), 1, &json!(7)),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_fails_again_is_the_same_letter_with_all_its_attempts() {
    let (_setup, host) = broken().await;
    host.send_task("work", "probe", json!({ "do": "reject" })).await;
    let id = id_of(&host.wait_letters(1).await[0]);
    for times in 1..=2_u64 {
        assert_eq!(reprocess(&host, &id).await.0, 202);
        until("it is dead again", Duration::from_secs(20), || async {
            let letter = letter(&host, &id).await;
            (letter["state"] == "dead" && letter["reprocessed"] == times).then_some(())
        })
        .await;
    }
    let last = letter(&host, &id).await;
    assert_eq!(last["history"].as_array().map(Vec::len), Some(3), "{last}");
    // A handler this quick may have failed before it is written down that it was sent.
    let failures = trail(&last)
        .iter()
        .filter(|step| step.starts_with("failed again "))
        .count();
    assert_eq!(failures, 2, "{last}");
    assert_eq!(
        host.get("/v1/messaging/dlq?state=all").await.1["count"],
        1,
        "one letter all along"
    );
    end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_goes_to_the_route_that_failed_and_not_into_its_topic() {
    let (setup, host) = broken().await;
    let order = json!({ "do": "echo", "report": "handled" });
    let sent = host.send_event("events", "probe", "k", order.clone()).await;
    let unrouted = host.send_event("events", "other.type", "k", order).await;
    let letters = host.wait_letters(2).await;
    let of = |message: &str| {
        let found = letters.iter().find(|l| l["message_id"] == message);
        id_of(found.unwrap())
    };
    repair(&setup, &host).await;
    let (status, problem) = reprocess(&host, &of(&unrouted)).await;
    assert_eq!((status, &problem["state"]), (409, &json!("dead")), "{problem}");
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|d| d.contains("helix send") && d.contains("discard")),
        "{problem}"
    );
    assert_eq!(letter(&host, &of(&unrouted)).await["trail"], Value::Null);

    let (status, answer) = reprocess(&host, &of(&sent)).await;
    assert_eq!(
        (status, &answer["status"]),
        (202, &json!("reprocessed")),
        "{answer}"
    );
    wait_done(&host, 1.0).await;
    until("nothing is parked", Duration::from_secs(20), || async {
        (host.get("/readyz").await.1["retries_pending"] == 0).then_some(())
    })
    .await;
    assert_eq!(letter(&host, &of(&sent)).await["state"], "reprocessed");
    end(host).await;
    let records = seen::topic(&setup, "events").await;
    let mut ids: Vec<&str> = records.iter().map(|r| r.id.as_str()).collect();
    ids.sort_unstable();
    let mut expected = [sent.as_str(), unrouted.as_str()];
    expected.sort_unstable();
    assert_eq!(ids, expected, "each record once");
    let handled = seen::topic(&setup, "handled").await;
    assert_eq!(handled.len(), 1);
    let found = &handled[0].body["found"];
    assert_eq!(
        (&found["reprocessed"], handled[0].attempt()),
        (&json!(1), 1),
        "{found}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_sent_again_takes_its_turn_among_those_of_its_key() {
    let (setup, host) = broken().await;
    let order = json!({ "do": "sleep", "ms": 300, "report": "handled" });
    host.send_event("events", "probe", "k", order.clone()).await;
    let id = id_of(&host.wait_letters(1).await[0]);
    repair(&setup, &host).await;
    for _ in 0..5 {
        host.send_event("events", "probe", "k", order.clone()).await;
    }
    // In the middle of the others.
    wait_done(&host, 1.0).await;
    assert_eq!(reprocess(&host, &id).await.0, 202);
    wait_done(&host, 6.0).await;
    end(host).await;
    let mut at: Vec<u64> = seen::topic(&setup, "handled")
        .await
        .iter()
        .map(seen::Seen::at_ms)
        .collect();
    at.sort_unstable();
    assert_eq!(at.len(), 6);
    let gaps: Vec<u64> = at.windows(2).map(|w| w[1] - w[0]).collect();
    assert!(
        gaps.iter().all(|gap| *gap >= 250),
        "two of one key ran at the same time: {gaps:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_discarded_is_out_of_the_way_with_its_reason_and_cannot_be_sent() {
    let (setup, host) = broken().await;
    for _ in 0..3 {
        host.send_task("work", "probe", json!({})).await;
    }
    let ids: Vec<String> = host.wait_letters(3).await.iter().map(id_of).collect();
    let because = json!({ "reason": "a test message", "actor": "ann" });
    let (status, answer) = discard(&host, &ids[0], Some(because)).await;
    assert_eq!(
        (status, &answer["status"]),
        (200, &json!("discarded")),
        "{answer}"
    );
    let (status, answer) = discard(&host, &format!("{}/discard?reason=old%20news", ids[1]), None).await;
    assert_eq!(status, 200, "{answer}");
    let first = letter(&host, &ids[0]).await;
    assert_eq!(first["state"], "discarded");
    assert_eq!(
        (&first["trail"][0]["reason"], &first["trail"][0]["actor"]),
        (&json!("a test message"), &json!("ann"))
    );
    assert_eq!(letter(&host, &ids[1]).await["trail"][0]["reason"], "old news");
    repair(&setup, &host).await;
    for (status, problem) in [
        reprocess(&host, &ids[0]).await,
        discard(&host, &ids[0], None).await,
    ] {
        assert_eq!(
            (status, &problem["code"], &problem["state"]),
            (409, &json!("HX0505"), &json!("discarded")),
            "{problem}"
        );
    }
    for (status, problem) in [
        reprocess(&host, "nobody").await,
        discard(&host, "nobody", None).await,
        discard(&host, "nobody/discard", None).await,
    ] {
        assert_eq!((status, &problem["code"]), (404, &json!("HX0502")), "{problem}");
    }
    let bad = discard(&host, &format!("{}?why=x", ids[2]), None).await;
    assert_eq!((bad.0, &bad.1["code"]), (400, &json!("HX0501")), "{bad:?}");
    let long = json!({ "reason": "x".repeat(5_000) });
    assert_eq!(discard(&host, &ids[2], Some(long)).await.0, 400);
    assert_eq!(letter(&host, &ids[2]).await["state"], "dead");
    // The gauge is read every five seconds.
    until("the gauge counts one", Duration::from_secs(20), || async {
        let gauge = host.metric("messaging_dlq_messages_total", &[]).await;
        (gauge == 1.0).then_some(())
    })
    .await;
    end(host).await;
    assert_eq!(seen::topic(&setup, "handled").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_requests_at_once_for_one_letter_one_sends_it() {
    let (setup, host) = broken().await;
    host.send_task("work", "probe", json!({ "report": "handled" }))
        .await;
    let id = id_of(&host.wait_letters(1).await[0]);
    repair(&setup, &host).await;
    let answers = futures::future::join_all((0..16).map(|_| reprocess(&host, &id))).await;
    let mut codes: Vec<u16> = answers.iter().map(|(status, _)| *status).collect();
    codes.sort_unstable();
    assert_eq!(codes[0], 202, "{answers:?}");
    assert!(codes[1..].iter().all(|code| *code == 409), "{codes:?}");
    wait_done(&host, 1.0).await;
    end(host).await;
    assert_eq!(seen::topic(&setup, "handled").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_killed_after_the_confirm_leaves_no_letter_stuck_and_none_lost() {
    let (setup, host) = broken().await;
    let sent = host
        .send_task("work", "probe", json!({ "report": "handled" }))
        .await;
    let id = id_of(&host.wait_letters(1).await[0]);
    repair(&setup, &host).await;
    // The store cannot write down that it was sent, so the host stands between the confirm and its last change for as long
    // as we need to kill it.
    let file = setup.path().join("state/store.db");
    let shell = |sql: &str| {
        let db = rusqlite::Connection::open(&file).unwrap();
        db.busy_timeout(Duration::from_secs(10)).unwrap();
        db.execute_batch(sql).unwrap();
    };
    shell(
        "CREATE TRIGGER stuck BEFORE UPDATE OF state ON dead_letters WHEN new.state = 'reprocessed'
         BEGIN SELECT RAISE(ABORT, 'stuck'); END",
    );
    let request = tokio::spawn({
        let url = format!("{}/v1/messaging/dlq/{id}/reprocess", host.url());
        async move { helix_tests::Client::default().post(url).send().await.is_ok() }
    });
    wait_done(&host, 1.0).await;
    assert_eq!(letter(&host, &id).await["state"], "retrying");
    let (status, problem) = discard(&host, &id, None).await;
    assert_eq!(
        (status, &problem["state"]),
        (409, &json!("retrying")),
        "{problem}"
    );
    host.kill();
    assert!(!request.await.unwrap(), "nobody was told that it was sent");
    shell("DROP TRIGGER stuck");

    let host = setup.start().await;
    host.ready().await;
    let back = letter(&host, &id).await;
    assert_eq!(back["state"], "dead", "{back}");
    assert_eq!(
        trail(&back),
        ["reprocess dead>retrying", "lease ran out retrying>dead"]
    );
    assert_eq!(reprocess(&host, &id).await.0, 202);
    until("it is handled again", Duration::from_secs(30), || async {
        (host
            .metric("messaging_outcomes_total", &[("outcome", "done")])
            .await
            >= 1.0)
            .then_some(())
    })
    .await;
    assert_eq!(letter(&host, &id).await["state"], "reprocessed");
    end(host).await;
    let handled = seen::topic(&setup, "handled").await;
    // Each time it was sent it was handled; the kill may have taken the acknowledgement of the first, which repeats that.
    assert!((2..=3).contains(&handled.len()), "{handled:?}");
    assert!(handled.iter().all(|report| report.of() == sent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_sends_and_discards_several_and_says_what_became_of_each() {
    let (setup, host) = broken().await;
    for _ in 0..4 {
        host.send_task("work", "probe", json!({ "report": "handled" }))
            .await;
    }
    let ids: Vec<String> = host.wait_letters(4).await.iter().map(id_of).collect();
    repair(&setup, &host).await;
    let sent = command(&setup, &host, &["dlq", "reprocess", &ids[0], &ids[1]]);
    assert_eq!(sent.status.code(), Some(0), "{}", text(&sent.stderr));
    assert_eq!(
        text(&sent.stdout),
        format!("{} reprocessed\n{} reprocessed\n", ids[0], ids[1])
    );
    // One that is refused does not stop the others, and decides the exit code.
    let mixed = command(
        &setup,
        &host,
        &["dlq", "reprocess", "-o", "json", &ids[0], "no body", &ids[2]],
    );
    assert_eq!(mixed.status.code(), Some(1), "{}", text(&mixed.stderr));
    let lines: Value = serde_json::from_slice(&mixed.stdout).unwrap();
    assert!(
        lines[0]["error"].as_str().is_some_and(|e| e.contains("HX0505")),
        "{lines}"
    );
    assert!(
        lines[1]["error"].as_str().is_some_and(|e| e.contains("HX0502")),
        "{lines}"
    );
    assert_eq!(lines[2], json!({ "id": ids[2], "status": "reprocessed" }));
    assert_eq!(
        command(&setup, &host, &["dlq", "discard", &ids[3]]).status.code(),
        Some(2),
        "why?"
    );
    let discarded = command(&setup, &host, &["dlq", "discard", &ids[3], "--reason", "a test"]);
    assert_eq!(
        (discarded.status.code(), text(&discarded.stdout)),
        (Some(0), format!("{} discarded\n", ids[3]))
    );
    let shown = text(&command(&setup, &host, &["dlq", "show", &ids[3]]).stdout);
    assert!(
        shown.contains("discard by ") && shown.contains("dead → discarded: a test"),
        "{shown}"
    );
    let open = text(&command(&setup, &host, &["dlq", "ls"]).stdout);
    assert!(open.contains("no dead letters"), "{open}");
    let all = text(&command(&setup, &host, &["dlq", "ls", "--state", "all"]).stdout);
    assert!(
        all.contains("4 of 4") && all.contains("discarded") && all.contains("reprocessed"),
        "{all}"
    );
    wait_done(&host, 3.0).await;
    end(host).await;
    let gone = setup.helix(&[
        "--url",
        "http://127.0.0.1:9",
        "dlq",
        "reprocess",
        &ids[0],
        &ids[1],
    ]);
    assert_eq!(gone.status.code(), Some(4));
    let said = text(&gone.stderr);
    assert!(
        said.contains("HX0601") && said.contains("1 more were not tried"),
        "{said}"
    );
}
