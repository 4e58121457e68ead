//! Handlers that do what they must not: each gets a typed outcome that says so, at the cost of its own message only. The
//! host lives, its memory stays bounded, and neighbours on the same plugin and on another one are handled meanwhile.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use base64::Engine;
use helix_tests::{Host, Setup, guests, until};
use serde_json::{Value, json};

/// Enough for an honest call on a busy machine.
const TIMEOUT_MS: u64 = 1000;
/// A debug build on shared cores is slow; the point is that a loop ends.
const SLACK_MS: u64 = 4000;

const TOPOLOGY: &str = "
[[queues]]
name = \"work\"
[[queues]]
name = \"beside\"
[[queues]]
name = \"secret\"
[[topics]]
name = \"reports\"
[[topics]]
name = \"batch\"
[[topics]]
name = \"packed\"
";

/// `reports` takes only what nobody sends, so what the probe reports there stays visible as an unrouted letter.
const CONFIG: &str = r#"
[[routes]]
name = "work"
queue = "work"
plugin = "probe"
concurrency = 3
timeout = "1s"
retry = { max_retries = 0 }

[[routes]]
name = "beside"
queue = "beside"
plugin = "neighbour"
retry = { max_retries = 0 }

[[routes]]
name = "reports"
topic = "reports"
type = "nobody.sends.this"
plugin = "neighbour"

[[routes]]
name = "batch"
topic = "batch"
plugin = "batch-liar"
retry = { max_retries = 0 }

[[routes]]
name = "packed"
topic = "packed"
plugin = "packed-liar"
retry = { max_retries = 0 }

[plugins.probe]
publish = ["reports"]
memory = "16MiB"
outputs = 10
output_size = "64KiB"
log_lines = 20
"#;

/// A debug build with the compiler in it; what counts is that no attack adds to it. Measured: under 350 MiB.
const RSS_KIB: u64 = 700 << 10;

async fn start(config: &str, plugins: &[&str]) -> (Setup, Host) {
    let setup = Setup::new(config, plugins).topology(TOPOLOGY);
    // The same code under another name is another plugin.
    guests::install(
        &setup.plugins(),
        "neighbour",
        &std::fs::read(guests::path("probe")).unwrap(),
    );
    let host = setup.start().await;
    host.ready().await;
    (setup, host)
}

async fn letter_of(host: &Host, id: &str) -> Value {
    until(
        &format!("a letter of message {id}"),
        Duration::from_secs(30),
        || async {
            let listing = host
                .get(&format!("/v1/messaging/dlq?limit=1000&text={id}"))
                .await
                .1;
            let letter = listing["messages"]
                .as_array()?
                .iter()
                .find(|l| l["message_id"] == id)?["id"]
                .as_str()?
                .to_owned();
            Some(host.get(&format!("/v1/messaging/dlq/{letter}")).await.1)
        },
    )
    .await
}

/// One message for the attacked plugin, one for another: both must be done while the attack goes on or after it.
async fn neighbours(host: &Host) {
    let done = |route: &'static str| [("route", route), ("outcome", "done")];
    let before = [
        host.metric("messaging_outcomes_total", &done("work")).await,
        host.metric("messaging_outcomes_total", &done("beside")).await,
    ];
    host.send_task("work", "probe", json!({})).await;
    host.send_task("beside", "probe", json!({})).await;
    host.wait_metric("messaging_outcomes_total", &done("work"), before[0] + 1.0)
        .await;
    host.wait_metric("messaging_outcomes_total", &done("beside"), before[1] + 1.0)
        .await;
}

/// Peak memory of the process so far.
fn peak_kib(host: &Host) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

struct Attack {
    order: Value,
    class: &'static str,
    /// Of the last attempt.
    outcome: &'static str,
    code: &'static str,
    reason: &'static [&'static str],
}

fn attacks() -> Vec<Attack> {
    let attack = |order, class, outcome, code, reason| Attack {
        order,
        class,
        outcome,
        code,
        reason,
    };
    vec![
        attack(
            json!({ "do": "panic", "reason": "the cake is a lie" }),
            "exhausted",
            "trap",
            "trap.unreachable",
            &["the cake is a lie", "panicked at"],
        ),
        attack(
            json!({ "do": "panic", "reason": "red \u{1b}[31m bell \u{7}" }),
            "exhausted",
            "trap",
            "trap.unreachable",
            &["red \\u{1b}[31m bell \\u{7}"],
        ),
        attack(
            json!({ "do": "alloc" }),
            "exhausted",
            "trap",
            "trap.memory",
            &["memory limit"],
        ),
        // Rust guests keep arrays on a stack in their own memory, below which nothing lies.
        attack(
            json!({ "do": "recurse" }),
            "exhausted",
            "trap",
            "trap.bounds",
            &["recurse"],
        ),
        attack(
            json!({ "do": "huge-reason", "bytes": 1_000_000 }),
            "exhausted",
            "retry",
            "",
            &["xxxx"],
        ),
        attack(
            json!({ "do": "publish", "queue": "secret" }),
            "rejected",
            "reject",
            "publish.denied",
            &[
                "may not publish to queue `secret`",
                "publish = [\"secret\"]",
                "under [plugins.probe]",
                "helix.toml:",
            ],
        ),
        attack(
            json!({ "do": "publish-many", "topic": "reports", "count": 11 }),
            "rejected",
            "reject",
            "publish.too-many",
            &["10"],
        ),
        attack(
            json!({ "do": "huge-publish", "topic": "reports", "bytes": 65_537 }),
            "rejected",
            "reject",
            "publish.too-large",
            &["65536"],
        ),
        attack(
            json!({ "do": "huge-publish", "topic": "reports", "bytes": 4_000_000 }),
            "rejected",
            "reject",
            "publish.too-large",
            &[],
        ),
        attack(
            json!({ "do": "publish-retry", "topic": "reports", "reason": "second thoughts" }),
            "exhausted",
            "retry",
            "",
            &["second thoughts"],
        ),
        attack(
            json!({ "do": "fetch", "url": "http://example.com/x" }),
            "rejected",
            "reject",
            "fetch.denied",
            &[
                "example.com:80",
                "fetch = [\"example.com:80\"]",
                "under [plugins.probe]",
                "helix.toml:",
            ],
        ),
    ]
}

#[tokio::test]
async fn each_attack_gets_its_typed_outcome_and_costs_its_own_message_only() {
    let (_setup, host) = start(CONFIG, &["probe", "batch-liar", "packed-liar"]).await;
    let attacks = attacks();
    for attack in &attacks {
        let id = host.send_task("work", "probe", attack.order.clone()).await;
        neighbours(&host).await;
        let letter = letter_of(&host, &id).await;
        let order = &attack.order;
        assert_eq!(letter["class"], attack.class, "{order}: {letter}");
        let attempt = &letter["history"][0];
        assert_eq!(attempt["outcome"], attack.outcome, "{order}: {letter}");
        if !attack.code.is_empty() {
            assert_eq!(letter["code"], attack.code, "{order}: {letter}");
        }
        let reason = letter["reason"].as_str().unwrap();
        assert!(
            reason.len() <= 4096,
            "{order}: a reason of {} bytes",
            reason.len()
        );
        for part in attack.reason {
            assert!(reason.contains(part), "{order}: {part} is not in {reason}");
        }
        assert!(
            attempt["digest"]
                .as_str()
                .is_some_and(|d| d.starts_with("sha256:")),
            "{letter}"
        );
        if order["reason"] == "the cake is a lie" {
            assert!(
                attempt["log"].to_string().contains("the cake is a lie"),
                "its last words are in the attempt's log: {attempt}"
            );
        }
    }
    assert_eq!(
        host.letter_count().await,
        attacks.len() as u64,
        "nothing was published, and no neighbour died"
    );
    let peak = peak_kib(&host);
    assert!(peak < RSS_KIB, "{peak} KiB");
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    assert!(
        !log.contains('\u{1b}') && !log.contains('\u{7}'),
        "control characters of a guest reach no terminal"
    );
}

#[tokio::test]
async fn a_loop_and_a_sleep_in_the_host_end_at_the_timeout_while_neighbours_go_on() {
    let (_setup, host) = start(CONFIG, &["probe", "batch-liar", "packed-liar"]).await;
    for order in [json!({ "do": "loop" }), json!({ "do": "sleep", "ms": 60_000 })] {
        let before = host.letter_count().await;
        let sent = Instant::now();
        let id = host.send_task("work", "probe", order.clone()).await;
        neighbours(&host).await;
        if sent.elapsed() < Duration::from_millis(TIMEOUT_MS) {
            assert_eq!(host.letter_count().await, before, "{order}: it still runs");
        }
        let letter = letter_of(&host, &id).await;
        let attempt = &letter["history"][0];
        assert_eq!(
            (&letter["class"], &attempt["outcome"], &letter["code"]),
            (&json!("exhausted"), &json!("timeout"), &json!("timeout")),
            "{letter}"
        );
        let took = attempt["duration_us"].as_u64().unwrap() / 1000;
        assert!(
            (TIMEOUT_MS..TIMEOUT_MS + SLACK_MS).contains(&took),
            "{order}: {took} ms"
        );
        assert!(
            letter["reason"]
                .as_str()
                .is_some_and(|r| r.contains("did not end within 1s")),
            "{letter}"
        );
    }
    // As many loops as the route has places: they hold up their own route for one timeout, and no other.
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(host.send_task("work", "probe", json!({ "do": "loop" })).await);
    }
    let done = [("route", "beside"), ("outcome", "done")];
    let before = host.metric("messaging_outcomes_total", &done).await;
    for _ in 0..20 {
        host.send_task("beside", "probe", json!({})).await;
    }
    host.wait_metric("messaging_outcomes_total", &done, before + 20.0)
        .await;
    for id in &ids {
        assert_eq!(letter_of(&host, id).await["code"], "timeout");
    }
    neighbours(&host).await;
    assert_eq!(host.letter_count().await, 5);
}

#[tokio::test]
async fn a_wrong_number_of_results_is_a_trap_and_an_honest_event_beside_it_is_done() {
    let (_setup, host) = start(CONFIG, &["probe", "batch-liar", "packed-liar"]).await;
    let mut liars = 0;
    for _ in 0..2 {
        let id = host.send_event("batch", "e", "k", json!({ "n": 1 })).await;
        results_are_wrong(&host, &id, "results for").await;
        liars += 1;
    }
    // The first byte of the data is the order; without a content type it is passed on as it is.
    let send = async |order: &str| {
        let payload = base64::engine::general_purpose::STANDARD.encode(order);
        let body = json!({ "type": "e", "key": "k", "payload_base64": payload });
        let (status, answer) = host.post("/v1/messaging/events/packed", &body).await;
        assert_eq!(status, 202, "{answer}");
        answer["id"].as_str().unwrap_or_default().to_owned()
    };
    let mut honest = 0.0;
    for (order, part) in [
        ("n", "2 outcomes for 1"),
        ("s", ""),
        ("l", ""),
        ("v", "version"),
        ("u", "UTF-8"),
        ("t", "outcome"),
        ("h", ""),
    ] {
        let id = send(order).await;
        // Often in one batch with it, whose trap must not be theirs.
        send("-").await;
        send("-").await;
        results_are_wrong(&host, &id, part).await;
        liars += 1;
        honest += 2.0;
        // A batch that begins with an honest one would hide the next liar.
        host.wait_metric(
            "messaging_outcomes_total",
            &[("route", "packed"), ("outcome", "done")],
            honest,
        )
        .await;
    }
    neighbours(&host).await;
    assert_eq!(host.letter_count().await, liars, "no honest message was blamed");
}

async fn results_are_wrong(host: &Host, id: &str, part: &str) {
    let letter = letter_of(host, id).await;
    assert_eq!(
        (&letter["class"], &letter["code"]),
        (&json!("exhausted"), &json!("trap.results")),
        "{letter}"
    );
    assert_eq!(letter["history"][0]["outcome"], "trap", "{letter}");
    let reason = letter["reason"].as_str().unwrap_or_default();
    assert!(
        !reason.is_empty() && reason.contains(part),
        "{part} is not in {letter}"
    );
}

#[tokio::test]
async fn a_flood_of_log_lines_is_bounded_and_says_how_much_was_left_out() {
    let (setup, host) = start(
        &CONFIG.replace("timeout = \"1s\"", "timeout = \"20s\""),
        &["probe", "batch-liar", "packed-liar"],
    )
    .await;
    let size = || std::fs::metadata(setup.path().join("helix.log")).unwrap().len();
    let before = size();
    let done = [("route", "work"), ("outcome", "done")];
    let started = Instant::now();
    host.send_task("work", "probe", json!({ "do": "log-flood", "count": 50_000 }))
        .await;
    neighbours(&host).await;
    host.wait_metric("messaging_outcomes_total", &done, 2.0).await;
    // 20 lines a second and one burst of 20, each below 300 bytes with its frame, plus the lines about what was left out.
    let seconds = started.elapsed().as_secs() + 2;
    let allowed = 2 * 300 * 20 * seconds + 8192;
    let grown = size() - before;
    assert!(
        grown < allowed,
        "100,000 lines made the log {grown} bytes larger, allowed are {allowed}"
    );
    let lines = host.log_lines();
    let flood = lines
        .iter()
        .filter(|l| {
            l["fields"]["message"]
                .as_str()
                .is_some_and(|m| m.starts_with("flood "))
        })
        .count();
    assert!(flood >= 20, "what is allowed gets through: {flood}");
    // What was left out is told with the next line that passes.
    until(
        "the log says how much was left out",
        Duration::from_secs(10),
        || async {
            host.send_task("work", "probe", json!({ "do": "log-flood", "count": 1 }))
                .await;
            host.log_lines()
                .iter()
                .any(|l| l["fields"]["dropped"].as_u64().is_some_and(|n| n > 1000))
                .then_some(())
        },
    )
    .await;
    assert!(peak_kib(&host) < RSS_KIB);
}

#[tokio::test]
async fn a_sandboxed_handler_sees_no_file_no_variable_and_no_address_it_was_not_granted() {
    let trap = TcpListener::bind("127.0.0.1:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let port = trap.local_addr().unwrap().port();
    // Granted by name, but the addresses are this machine's own.
    let config = format!("{CONFIG}fetch = [\"127.0.0.1\", \"localhost\", \"[::1]\", \"169.254.169.254\"]\n");
    let (_setup, host) = start(&config, &["probe", "batch-liar", "packed-liar"]).await;
    for order in [
        json!({ "do": "read-file", "path": "/etc/passwd" }),
        json!({ "do": "read-file", "path": "helix.toml" }),
        json!({ "do": "read-file", "path": "../../etc/hostname" }),
        json!({ "do": "env", "name": "PATH" }),
        json!({ "do": "env", "name": "HELIX_TEST_RABBITMQ_PASSWORD" }),
        json!({ "do": "publish-denied", "topic": "batch" }),
    ] {
        let mut reported = order.clone();
        reported["report"] = json!("reports");
        let id = host.send_task("work", "probe", reported).await;
        let report = report_of(&host, &id).await;
        let found = &report["found"];
        match order["do"].as_str().unwrap() {
            "read-file" => assert!(
                found["text"].is_null() && found["error"].is_string(),
                "{order}: {report}"
            ),
            "env" => assert!(found.is_null(), "{order}: {report}"),
            // A handler that goes on after a refusal is done, and knows why it was refused.
            _ => assert!(
                found
                    .as_str()
                    .is_some_and(|t| t.contains("publish = [\"batch\"]")),
                "{order}: {report}"
            ),
        }
    }
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://[::1]:{port}/"),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
    ] {
        let id = host
            .send_task("work", "probe", json!({ "do": "fetch", "url": url }))
            .await;
        let letter = letter_of(&host, &id).await;
        assert_eq!(
            (&letter["class"], &letter["code"]),
            (&json!("rejected"), &json!("fetch.denied")),
            "{url}: {letter}"
        );
        let reason = letter["reason"].as_str().unwrap();
        assert!(
            reason.contains("fetch_private = true") && reason.contains("under [plugins.probe]"),
            "{url}: {reason}"
        );
    }
    let touched = trap.accept();
    assert!(
        touched.is_err_and(|e| e.kind() == ErrorKind::WouldBlock),
        "nobody was connected to"
    );
    neighbours(&host).await;
}

/// What the probe reported about the message `id`: its event's body.
async fn report_of(host: &Host, id: &str) -> Value {
    until(
        &format!("the report of {id}"),
        Duration::from_secs(30),
        || async {
            let letters = host.letters().await;
            let reports = letters
                .iter()
                .filter(|l| l["class"] == "unrouted" && l["type"] == "handled");
            let mut bodies =
                reports.filter_map(|l| serde_json::from_str::<Value>(l["original"]["body"].as_str()?).ok());
            bodies.find_map(|body| {
                let data = if body["data"].is_object() {
                    body["data"].clone()
                } else if body["payload"].is_object() {
                    body["payload"].clone()
                } else {
                    body
                };
                (data["id"] == id).then_some(data)
            })
        },
    )
    .await
}
