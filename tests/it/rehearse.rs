//! Rehearsals say exactly what sending the letters again then does, and do nothing themselves; editing and exporting letters.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use helix_tests::{Host, Setup, guests, until};
use serde_json::{Value, json};

use crate::seen;

const TOPOLOGY: &str = "[[queues]]\nname = \"work\"\n[[topics]]\nname = \"events\"\npartitions = 2\n[[topics]]\nname = \"handled\"\n";

fn config(more: &str) -> String {
    format!(
        r#"
[[routes]]
name = "work"
queue = "work"
type = "probe"
plugin = "handler"
timeout = "5s"
retry = {{ max_retries = 1, delay = "10ms" }}
[[routes]]
name = "events"
topic = "events"
type = "probe"
plugin = "handler"
order = "key"
concurrency = 4
timeout = "5s"
retry = {{ max_retries = 0 }}
[plugins.handler]
publish = ["handled"]
fetch = ["127.0.0.1"]
fetch_private = true
{more}
"#
    )
}

/// The handler that is installed knows none of the messages and rejects them all.
async fn broken(more: &str) -> (Setup, Host) {
    let setup = Setup::new(&config(more), &[]).topology(TOPOLOGY);
    let bytes = std::fs::read(guests::path("torture")).unwrap();
    guests::install(&setup.plugins(), "handler", &bytes);
    let host = setup.start().await;
    host.ready().await;
    (setup, host)
}

/// Answers nothing, and counts who comes.
struct Canary {
    url: String,
    hits: Arc<AtomicUsize>,
}

impl Canary {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let hits = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&hits);
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi");
            }
        });
        Self { url, hits }
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

/// What the repaired handler does with them: half of them pass.
fn orders(canary: &str) -> Vec<Value> {
    vec![
        json!({ "do": "echo", "report": "handled" }),
        json!({ "do": "reject", "reason": "out of stock", "code": "stock", "report": "handled" }),
        json!({ "do": "publish-many", "count": 3, "topic": "handled", "report": "handled" }),
        json!({ "do": "panic", "reason": "index out of bounds" }),
        // A task has two attempts, an event one.
        json!({ "do": "retry", "reason": "busy", "until": 2, "report": "handled" }),
        json!({ "do": "publish", "topic": "secret" }),
        json!({ "do": "ok", "report": "handled" }),
        json!({ "do": "retry", "reason": "busy", "code": "busy" }),
        json!({ "do": "publish-denied", "topic": "secret", "report": "handled" }),
        json!({ "do": "fetch", "url": canary, "report": "handled" }),
        json!({ "do": "ok" }),
        json!({ "do": "dance" }),
        json!({ "do": "publish-retry", "topic": "handled" }),
        json!({ "do": "state" }),
    ]
}

/// So many letters, tasks and events, every order in turn.
async fn letters(host: &Host, count: usize, canary: &str) -> Vec<Value> {
    let orders = orders(canary);
    for n in 0..count {
        let order = orders[n % orders.len()].clone();
        if (n / orders.len()).is_multiple_of(2) {
            host.send_task("work", "probe", order).await;
        } else {
            host.send_event("events", "probe", &format!("k{n}"), order).await;
        }
    }
    until("all are dead letters", Duration::from_secs(120), || async {
        (host.letter_count().await >= count as u64).then_some(())
    })
    .await;
    listed(host, "?state=dead").await
}

async fn listed(host: &Host, query: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let (_, page) = host
            .get(&format!("/v1/messaging/dlq{query}&limit=1000{cursor}"))
            .await;
        all.extend(page["messages"].as_array().cloned().unwrap_or_default());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

async fn rehearse(host: &Host, query: &str, component: Vec<u8>) -> (u16, Value) {
    let answer = helix_tests::Client::default()
        .post(format!("{}/v1/messaging/dlq/rehearse{query}", host.url()))
        .header("content-type", "application/wasm")
        .body(component)
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.json().unwrap_or_default())
}

fn candidate() -> Vec<u8> {
    std::fs::read(guests::path("probe")).unwrap()
}

/// Every row of the store's tables, as text; without the audit table, where each request that is not GET has its row.
fn store(setup: &Setup) -> BTreeMap<String, Vec<String>> {
    let db = rusqlite::Connection::open(setup.path().join("state/store.db")).unwrap();
    db.busy_timeout(Duration::from_secs(10)).unwrap();
    let mut tables = db
        .prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'audit'")
        .unwrap();
    let names: Vec<String> = tables
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut all = BTreeMap::new();
    for name in names {
        let mut rows = db.prepare(&format!("SELECT * FROM \"{name}\"")).unwrap();
        let columns = rows.column_count();
        let texts = rows
            .query_map([], |row| {
                let cells: Vec<String> = (0..columns)
                    .map(|at| format!("{:?}", row.get_ref(at).unwrap()))
                    .collect();
                Ok(cells.join("|"))
            })
            .unwrap();
        all.insert(name, texts.map(Result::unwrap).collect());
    }
    assert!(all.contains_key("dead_letters") && all.contains_key("letter_trail"));
    all
}

fn command(setup: &Setup, host: &Host, arguments: &[&str]) -> Output {
    setup.helix(&[&["--url", host.url()], arguments].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn field<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

async fn end(host: Host) {
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
}

/// HELIX_TEST_LETTERS=1000 is the figure of the guarantee; fewer say the same sooner.
fn how_many() -> usize {
    std::env::var("HELIX_TEST_LETTERS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(224)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rehearsal_says_exactly_what_sending_again_then_does_and_does_nothing() {
    let canary = Canary::new();
    let (setup, host) = broken("").await;
    let count = how_many();
    letters(&host, count, &canary.url).await;
    let before = (store(&setup), outcomes(&host).await, published(&host).await);

    let mut lines: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    let digest = loop {
        let (status, report) =
            rehearse(&host, &format!("?plugin=handler&limit=150{cursor}"), candidate()).await;
        assert_eq!(status, 200, "{report}");
        assert_eq!(report["matched"], count);
        let page = report["letters"].as_array().unwrap();
        assert!(page.len() <= 150);
        lines.extend(page.iter().cloned());
        match report["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break field(&report, "digest").to_owned(),
        }
    };
    assert_eq!(lines.len(), count);
    assert_eq!(
        before,
        (store(&setup), outcomes(&host).await, published(&host).await),
        "nothing was written, counted or published"
    );
    assert_eq!(canary.hits(), 0, "nobody was asked over the network");
    let of = |prediction: &str| -> Vec<&Value> {
        lines
            .iter()
            .filter(|line| line["prediction"] == prediction)
            .collect()
    };
    let (passes, uncertain) = (of("pass"), of("uncertain"));
    assert!(passes.len() * 3 > count, "{}", passes.len());
    assert_eq!(of("not-sendable").len() + of("other-plugin").len(), 0);
    for line in &uncertain {
        assert!(
            field(line, "reason").contains("needs fetch host 127.0.0.1:"),
            "{line}"
        );
    }
    assert_eq!(uncertain.len(), count / 14);

    // In earnest.
    guests::install(&setup.plugins(), "handler", &candidate());
    until("the candidate serves", Duration::from_secs(60), || async {
        let (_, plugins) = host.get("/v1/messaging/plugins").await;
        (plugins[0]["digest"] == digest.as_str()).then_some(())
    })
    .await;
    let told: Vec<&Value> = lines
        .iter()
        .filter(|line| line["prediction"] != "uncertain")
        .collect();
    for line in &told {
        let path = format!("/v1/messaging/dlq/{}/reprocess", field(line, "id"));
        let (status, answer) = host.post(&path, &json!({})).await;
        assert_eq!(status, 202, "{answer}");
    }
    let fails = told.len() - passes.len();
    host.wait_metric(
        "messaging_outcomes_total",
        &[("outcome", "done")],
        passes.len() as f64,
    )
    .await;
    until(
        "those that fail are dead again",
        Duration::from_secs(120),
        || async {
            let again = listed(&host, "?state=dead").await;
            let again = again.iter().filter(|l| l["reprocessed"] == 1).count();
            (again == fails).then_some(())
        },
    )
    .await;
    let after: BTreeMap<String, Value> = listed(&host, "?state=all")
        .await
        .into_iter()
        .map(|letter| (field(&letter, "id").to_owned(), letter))
        .collect();
    assert_eq!(after.len(), count, "no letter came to these");
    for line in &told {
        let letter = &after[field(line, "id")];
        if line["prediction"] == "pass" {
            assert_eq!(letter["state"], "reprocessed", "{line}\n{letter}");
            continue;
        }
        assert_eq!(
            (
                field(letter, "class"),
                field(letter, "code"),
                field(letter, "reason")
            ),
            (
                field(line, "new_class"),
                field(line, "new_code"),
                field(line, "reason")
            ),
            "{line}\n{letter}"
        );
        let (was, now) = (field(line, "code"), field(letter, "code"));
        assert_eq!(
            line["prediction"] == "same-failure",
            was == now && line["class"] == letter["class"],
            "{line}"
        );
    }
    // Attempts of this life: those before were one each.
    for line in &told {
        if line["prediction"] != "pass" {
            let letter = &after[field(line, "id")];
            assert_eq!(
                letter["attempts"].as_u64().unwrap() - 1,
                line["attempts"],
                "{line}\n{letter}"
            );
        }
    }
    assert_eq!(canary.hits(), 0);
    let promised: u64 = passes
        .iter()
        .filter_map(|line| line["publishes"]["handled"].as_u64())
        .sum();
    end(host).await;
    assert_eq!(seen::topic(&setup, "handled").await.len() as u64, promised);
}

async fn outcomes(host: &Host) -> f64 {
    host.metric("messaging_outcomes_total", &[]).await
}

async fn published(host: &Host) -> f64 {
    host.metric("messaging_published_total", &[]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_component_or_no_question_is_answered_with_the_reason() {
    let (setup, host) = broken("").await;
    host.send_task("work", "probe", json!({})).await;
    host.wait_letters(1).await;
    let cut = candidate()[..5_000].to_vec();
    let wrong_world = std::fs::read(guests::path("wrong-world")).unwrap();
    for (query, component, status, code) in [
        ("?plugin=handler", cut.clone(), 422, "HX0301"),
        ("?plugin=handler", b"hello".to_vec(), 422, "HX0301"),
        ("?plugin=handler", wrong_world, 422, "HX0302"),
        ("?plugin=nobody", candidate(), 422, "HX0308"),
        ("", candidate(), 400, "HX0501"),
        ("?plugin=handler&clas=x", candidate(), 400, "HX0501"),
        ("?plugin=handler&class=x", candidate(), 400, "HX0501"),
        ("?plugin=handler&since=yesterday", candidate(), 400, "HX0501"),
        ("?plugin=handler&cursor=x", candidate(), 400, "HX0501"),
    ] {
        let (got, problem) = rehearse(&host, query, component).await;
        assert_eq!(
            (got, field(&problem, "code")),
            (status, code),
            "{query}: {problem}"
        );
    }
    let file = setup.path().join("cut.wasm");
    std::fs::write(&file, cut).unwrap();
    let inspected = setup.helix(&["plugin", "inspect", "cut.wasm"]);
    let refused = command(
        &setup,
        &host,
        &["dlq", "rehearse", "--plugin", "handler", "--with", "cut.wasm"],
    );
    assert_eq!(
        (inspected.status.code(), refused.status.code()),
        (Some(3), Some(3))
    );
    // The same sentence, after the code.
    let sentence = text(&inspected.stderr);
    let sentence = sentence.trim().split_once("HX0301 ").unwrap().1;
    assert!(
        text(&refused.stderr).contains(sentence),
        "{}",
        text(&refused.stderr)
    );

    // With the version that serves, by JSON.
    let ask = json!({ "plugin": "handler", "filter": { "route": "work" } });
    let (status, report) = host.post("/v1/messaging/dlq/rehearse", &ask).await;
    assert_eq!((status, &report["same_failure"]), (200, &json!(1)), "{report}");
    let ask = json!({ "plugin": "handler", "filter": { "rote": "work" } });
    assert_eq!(host.post("/v1/messaging/dlq/rehearse", &ask).await.0, 400);
    end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_over_the_limit_is_not_read() {
    let (_setup, host) = broken("[limits]\nwasm_size = \"1MiB\"").await;
    let (status, problem) = rehearse(&host, "?plugin=handler", vec![0; (1 << 20) + 1]).await;
    assert_eq!((status, field(&problem, "code")), (413, "HX0503"), "{problem}");
    end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promoting_puts_it_in_place_and_sends_those_again_that_pass() {
    let (setup, host) = broken("").await;
    for n in 0..6 {
        host.send_task(
            "work",
            "probe",
            json!({ "do": "ok", "report": "handled", "n": n }),
        )
        .await;
    }
    host.send_task("work", "probe", json!({ "do": "reject", "code": "new" }))
        .await;
    host.wait_letters(7).await;
    std::fs::write(setup.path().join("handler.wasm"), candidate()).unwrap();
    let with = ["dlq", "rehearse", "--with", "handler.wasm", "--route", "work"];

    let shown = command(&setup, &host, &with);
    let said = text(&shown.stdout);
    assert!(shown.status.success(), "{said}{}", text(&shown.stderr));
    assert!(
        said.contains("7 of 7 letters rehearsed") && said.contains("6 would pass"),
        "{said}"
    );
    assert!(said.contains("new-failure: ordered"), "{said}");
    assert!(said.contains("--promote --force"), "{said}");
    assert_eq!(host.letter_count().await, 7);

    // Not while there is a new failure.
    let refused = command(&setup, &host, &[&with[..], &["--promote"]].concat());
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        text(&refused.stderr).contains("--force"),
        "{}",
        text(&refused.stderr)
    );
    assert_eq!(host.letter_count().await, 7);

    let promoted = command(
        &setup,
        &host,
        &[&with[..], &["--promote", "--force", "-o", "json"]].concat(),
    );
    assert!(promoted.status.success(), "{}", text(&promoted.stderr));
    let report: Value = serde_json::from_slice(&promoted.stdout).unwrap();
    assert_eq!(
        report["redriven"]["sent"].as_array().map(Vec::len),
        Some(6),
        "{report}"
    );
    assert_eq!(report["redriven"]["refused"], json!([]));
    host.wait_metric("messaging_outcomes_total", &[("outcome", "done")], 6.0)
        .await;
    let (_, plugins) = host.get("/v1/messaging/plugins").await;
    assert_eq!(plugins[0]["digest"], report["digest"]);
    let left = listed(&host, "?state=dead").await;
    assert_eq!(
        (left.len(), &left[0]["reprocessed"]),
        (1, &json!(0)),
        "the other one is left alone"
    );
    let drafts: Vec<_> = std::fs::read_dir(setup.plugins())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(drafts, ["handler.wasm"]);

    // Nothing passes any more, so there is nothing to promote.
    let nothing = command(&setup, &host, &[&with[..], &["--promote"]].concat());
    assert_eq!(nothing.status.code(), Some(1));
    end(host).await;
    assert_eq!(seen::topic(&setup, "handled").await.len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_is_edited_only_where_it_is_switched_on() {
    let (setup, host) = broken("").await;
    host.send_task("work", "probe", json!({ "do": "ok" })).await;
    let id = field(&host.wait_letters(1).await[0], "id").to_owned();
    let path = format!("/v1/messaging/dlq/{id}/edit");
    let request = json!({ "body": "{}", "reason": "a typo" });
    let (status, problem) = host.post(&path, &request).await;
    assert_eq!((status, field(&problem, "code")), (403, "HX0511"), "{problem}");
    assert!(
        field(&problem, "detail").contains("[dlq] edit = true"),
        "{problem}"
    );
    assert_eq!(
        host.get(&format!("/v1/messaging/dlq/{id}")).await.1["trail"],
        Value::Null
    );

    // Switched on while it runs.
    setup.configure(&config("[dlq]\nedit = true"));
    until("it may be edited", Duration::from_secs(30), || async {
        let (status, _) = host.post(&path, &json!({ "body": "x" })).await;
        (status != 403).then_some(())
    })
    .await;
    for (request, status) in [
        (json!({ "body": "x" }), 400),
        (json!({ "body": "x", "reason": " " }), 400),
        (json!({ "body": "x", "body_base64": "eA==", "reason": "r" }), 400),
        (json!({ "body_base64": "%", "reason": "r" }), 400),
        (json!({ "bodi": "x", "reason": "r" }), 400),
        (json!({ "reason": "r" }), 422),
        (json!({ "headers": { "helix-letter": "x" }, "reason": "r" }), 422),
        (json!({ "body": "x".repeat((1 << 20) + 1), "reason": "r" }), 413),
    ] {
        let (got, problem) = host.post(&path, &request).await;
        assert_eq!(got, status, "{problem}");
    }
    assert_eq!(
        host.get(&format!("/v1/messaging/dlq/{id}")).await.1["trail"],
        Value::Null
    );
    let (status, _) = host
        .post(
            "/v1/messaging/dlq/nobody/edit",
            &json!({ "body": "x", "reason": "r" }),
        )
        .await;
    assert_eq!(status, 404);
    end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_copy_is_handled_and_the_letter_says_what_was_sent() {
    let (setup, host) = broken("[dlq]\nedit = true").await;
    // The handler of before rejects it, and so does the repaired one: the message itself is wrong.
    let wrong = json!({ "do": "dance" });
    host.send_task("work", "probe", wrong.clone()).await;
    host.send_event("events", "probe", "k", wrong).await;
    let dead = host.wait_letters(2).await;
    let swaps = [("plugin", "handler")];
    let reloads = host.metric("messaging_plugin_reloads_total", &swaps).await;
    guests::install(&setup.plugins(), "handler", &candidate());
    host.wait_metric("messaging_plugin_reloads_total", &swaps, reloads + 1.0)
        .await;
    let mut sent = Vec::new();
    for letter in &dead {
        let id = field(letter, "id");
        let body = field(&letter["original"], "body")
            .replace(r#""do":"dance""#, r#""do":"echo","report":"handled""#);
        std::fs::write(setup.path().join("body.json"), &body).unwrap();
        let arguments = [
            "dlq",
            "edit",
            id,
            "--body",
            "body.json",
            "--reason",
            "dance is echo",
            "-o",
            "json",
        ];
        let edited = command(&setup, &host, &arguments);
        assert!(edited.status.success(), "{body}\n{}", text(&edited.stderr));
        let answer: Value = serde_json::from_slice(&edited.stdout).unwrap();
        assert_eq!(answer["status"], "discarded");
        sent.push((id.to_owned(), field(&answer, "message_id").to_owned()));
        // A second time: there is nothing left to edit.
        let again = command(&setup, &host, &arguments);
        assert_eq!(again.status.code(), Some(1), "{}", text(&again.stderr));
    }
    host.wait_metric("messaging_outcomes_total", &[("outcome", "done")], 2.0)
        .await;
    for (id, message) in &sent {
        let (_, letter) = host.get(&format!("/v1/messaging/dlq/{id}")).await;
        assert_eq!(letter["state"], "discarded");
        assert!(field(&letter["original"], "body").contains("dance"), "{letter}");
        let trail: Vec<String> = letter["trail"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| format!("{}: {}", field(step, "action"), field(step, "reason")))
            .collect();
        assert_eq!(
            trail,
            [
                "edit: dance is echo".to_owned(),
                format!("edited: edited, sent as {message}: dance is echo")
            ]
        );
    }
    // No terminal, and no body given.
    let (id, _) = &sent[0];
    let lost = command(&setup, &host, &["dlq", "edit", id, "--reason", "r"]);
    assert_eq!(lost.status.code(), Some(2), "{}", text(&lost.stderr));
    end(host).await;
    let mut handled: Vec<String> = seen::topic(&setup, "handled")
        .await
        .iter()
        .map(|seen| seen.of().to_owned())
        .collect();
    let mut expected: Vec<String> = sent.into_iter().map(|(_, message)| message).collect();
    handled.sort();
    expected.sort();
    assert_eq!(handled, expected, "each copy once, under its new id");
    assert_eq!(
        seen::topic(&setup, "events").await.len(),
        1,
        "the topic saw it once"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_has_whole_letters_and_writes_over_nothing() {
    let (setup, host) = broken("").await;
    for n in 0..3 {
        host.send_task("work", "probe", json!({ "n": n })).await;
    }
    host.send_event("events", "probe", "k", json!({ "n": 3 })).await;
    let letters = host.wait_letters(4).await;
    let done = command(&setup, &host, &["dlq", "export", "--out", "letters.jsonl"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let file = std::fs::read_to_string(setup.path().join("letters.jsonl")).unwrap();
    let lines: Vec<Value> = file
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines, letters);
    let again = command(&setup, &host, &["dlq", "export", "--out", "letters.jsonl"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("already"), "{}", text(&again.stderr));
    assert_eq!(
        std::fs::read_to_string(setup.path().join("letters.jsonl")).unwrap(),
        file
    );

    let stdout = setup
        .command(&["--url", host.url(), "dlq", "export", "--route", "events"])
        .stderr(Stdio::null())
        .output()
        .unwrap();
    let lines = text(&stdout.stdout);
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!(lines.contains(r#""destination":"events""#));
    // What does not work leaves no half of a file behind.
    let wrong = command(
        &setup,
        &host,
        &["dlq", "export", "--class", "x", "--out", "none.jsonl"],
    );
    assert_eq!(wrong.status.code(), Some(3), "{}", text(&wrong.stderr));
    assert!(!setup.path().join("none.jsonl").exists());
    end(host).await;
}
