//! Configuration that is wrong, brokers that are away, addresses that are too open: said clearly, in one place, with the
//! next step; a running host keeps what it had.

use std::net::TcpListener;
use std::process::Output;
use std::time::{Duration, Instant};

use helix_tests::{Host, Setup, until};
use serde_json::{Value, json};

const TOPOLOGY: &str =
    "[[queues]]\nname = \"work\"\n[[queues]]\nname = \"more\"\n[[topics]]\nname = \"log\"\n";
const ROUTE: &str =
    "[[routes]]\nname = \"work\"\nqueue = \"work\"\nplugin = \"probe\"\nretry = { max_retries = 0 }\n";
const HOST: &str =
    "[host]\nlisten = \"127.0.0.1:0\"\nstate_dir = \"state\"\nplugins_dir = \"plugins\"\ndrain = \"10s\"\n";

/// Its exit code and stderr, the drawing of boxes and the wrapping of lines taken out.
fn said(output: &Output) -> (Option<i32>, String) {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let words = text.split_whitespace().filter(|word| *word != "│");
    (output.status.code(), words.collect::<Vec<_>>().join(" "))
}

/// `helix run` and `helix check` on the same file: both refuse it, in the same words.
fn refused(toml: &str, parts: &[&str]) -> String {
    let setup = Setup::new(toml, &["probe"])
        .topology(TOPOLOGY)
        .env("HELIX_TEST_SECRET", "not-to-be-printed");
    let mut text = String::new();
    for command in ["run", "check"] {
        let output = setup.helix(&[command]);
        let (code, stderr) = said(&output);
        assert_eq!(code, Some(3), "{command}: {stderr}");
        assert!(output.stdout.is_empty(), "{command}: faults belong on stderr");
        for part in parts {
            assert!(stderr.contains(part), "{command}: {part} is not in {stderr}");
        }
        assert!(!stderr.contains("not-to-be-printed"), "{command}: {stderr}");
        text = stderr;
    }
    text
}

#[test]
fn a_typo_ends_with_3_and_names_line_column_and_what_was_meant() {
    let toml = "[host]\nlisten = \"127.0.0.1:0\"\ndrian = \"10s\"\n";
    let text = refused(
        toml,
        &[
            "HX0102",
            "helix.toml:3:1",
            "unknown key `drian` in `host`",
            "did you mean `drain`?",
        ],
    );
    // The line itself is shown.
    assert!(text.contains("drian = \"10s\""), "{text}");
}

#[test]
fn what_is_no_toml_ends_with_3_and_names_line_and_column() {
    refused(
        "[host]\nlisten = \"127.0.0.1:0\"\n[[routes]\nqueue = \"work\"\n",
        &["HX0101", "helix.toml:3:10"],
    );
}

#[test]
fn all_faults_are_reported_at_once() {
    let toml = "[host]\nlisten = \"127.0.0.1:0\"\n\n[[routes]]\nqueue = \"wrok\"\nplugin = \"probe\"\nconcurrency = \"four\"\ntimeout = \"30\"\n";
    let parts = [
        "HX0104",
        "helix.toml:5:9",
        "did you mean `work`?",
        "HX0103",
        "helix.toml:7:15",
        "must be a whole number",
        "helix.toml:8:11",
        "a unit is missing",
        "3 faults",
    ];
    refused(toml, &parts);
}

#[test]
fn a_promise_that_the_broker_cannot_keep_is_refused_at_start() {
    let toml = format!(
        "{HOST}[messaging]\ntasks = \"rabbitmq\"\n[brokers.rabbitmq]\nkind = \"rabbitmq\"\nport = 1\npassword = \"env:HELIX_TEST_SECRET\"\n{ROUTE}order = \"key\"\n"
    )
    .replace("retry = { max_retries = 0 }\norder", "order");
    refused(
        &toml,
        &[
            "HX0105",
            "helix.toml:12:1",
            "route `work`",
            "order = \"key\"",
            "single_active_consumer = true",
        ],
    );
    // A queue on a broker that has none.
    let toml = format!(
        "{HOST}[brokers.kafka]\nkind = \"kafka\"\nservers = [\"127.0.0.1:1\"]\n{ROUTE}broker = \"kafka\"\n"
    );
    refused(&toml, &["HX0105", "has no queues"]);
}

#[tokio::test]
async fn a_bad_reload_changes_nothing_and_is_told_until_a_good_file_comes() {
    let setup = Setup::new(&format!("{HOST}{ROUTE}"), &["probe"]).topology(TOPOLOGY);
    let host = setup.start().await;
    host.ready().await;
    let more = ROUTE.replace("\"work\"", "\"more\"");
    let bad: &[(&str, String, &[&str])] = &[
        (
            "a typo",
            format!("{HOST}{more}plguin = \"x\"\n"),
            &["HX0102", "helix.toml:11", "plguin"],
        ),
        ("no TOML", format!("{HOST}{more}[["), &["HX0101"]),
        (
            "a broken promise",
            format!("{HOST}{more}broker = \"kafka\"\n"),
            &["HX0104", "kafka"],
        ),
        (
            "an empty value",
            format!("{HOST}{more}timeout = \"\"\n"),
            &["HX0103"],
        ),
    ];
    let mut failures = 0.0;
    for (what, toml, parts) in bad {
        setup.configure(toml);
        failures += 1.0;
        host.wait_metric("messaging_config_reload_failures", &[], failures)
            .await;
        stale(&host, what, parts).await;
    }
    // Gone altogether, as between the two steps of some editors: an empty table would drop every route.
    std::fs::remove_file(setup.path().join("helix.toml")).unwrap();
    failures += 1.0;
    host.wait_metric("messaging_config_reload_failures", &[], failures)
        .await;
    stale(&host, "no file", &["HX0106", "helix.toml"]).await;

    let generation = host.metric("messaging_config_generation", &[]).await;
    setup.configure(&format!("{HOST}{ROUTE}{more}"));
    host.wait_metric("messaging_config_generation", &[], generation + 1.0)
        .await;
    host.send_task("more", "probe", json!({})).await;
    host.wait_metric(
        "messaging_outcomes_total",
        &[("route", "more"), ("outcome", "done")],
        1.0,
    )
    .await;
    until(
        "readiness has nothing to say any more",
        Duration::from_secs(10),
        || async {
            let (code, report) = host.get("/readyz").await;
            (code == 200 && report["status"] == "ready").then_some(())
        },
    )
    .await;
    assert_eq!(host.letter_count().await, 0);
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
}

/// The last good configuration serves, and `/readyz` and the log say why the new one does not.
async fn stale(host: &Host, what: &str, parts: &[&str]) {
    let said = format!("{what}: /readyz says so");
    let (code, report, reasons) = until(&said, Duration::from_secs(20), || async {
        let (code, report) = host.get("/readyz").await;
        let reasons = report["reasons"].to_string();
        let all = parts.iter().all(|part| reasons.contains(part));
        all.then_some((code, report, reasons))
    })
    .await;
    assert_eq!(
        (code, &report["status"]),
        (200, &json!("degraded")),
        "{what}: {report}"
    );
    assert!(reasons.contains("the last good one serves"), "{what}: {report}");
    let lines = host.log_lines();
    let last = lines
        .iter()
        .rfind(|l| l["level"] == "ERROR")
        .unwrap_or_else(|| panic!("{what}: nothing in the log"));
    let text = last["fields"]["message"].as_str().unwrap_or_default();
    assert!(
        text.contains("was refused, the last good one serves") && text.contains(parts[0]),
        "{what}: {text}"
    );
    let done = [("route", "work"), ("outcome", "done")];
    let before = host.metric("messaging_outcomes_total", &done).await;
    host.send_task("work", "probe", json!({})).await;
    host.wait_metric("messaging_outcomes_total", &done, before + 1.0)
        .await;
}

/// A port where nobody listens, until we do.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// Long enough for librdkafka to complain several times; a test of silence has to listen for a while.
const WINDOW: Duration = Duration::from_secs(5);

/// What holds for both brokers: not ready, one line that helps, goes on trying, ends in good order.
async fn away(setup: &Setup, port: u16, broker: &str, parts: &[&str]) {
    let host = setup.start().await;
    let (code, report) = until("the outage is in /readyz", Duration::from_secs(20), || async {
        let (code, report) = host.get("/readyz").await;
        report["reasons"]
            .to_string()
            .contains("onnection refused")
            .then_some((code, report))
    })
    .await;
    assert_eq!(code, 503, "{report}");
    let down = report["brokers"][broker].to_string();
    let started = Instant::now();
    while started.elapsed() < WINDOW {
        assert_eq!(host.get("/livez").await.0, 200);
        tokio::time::sleep(Duration::from_millis(200)).await; // the pace of looking
    }
    let text = host.log_text();
    assert_eq!(
        text.lines().count(),
        host.log_lines().len(),
        "a library writes past the log: {text}"
    );
    let lines = host.unexpected_lines(&[]);
    assert_eq!(lines.len(), 1, "one line: {lines:#?}");
    for part in parts {
        assert!(lines[0].contains(part), "{part} is not in {}", lines[0]);
        assert!(*part == broker || down.contains(part), "{part} is not in {down}");
    }
    assert!(
        !text.contains("not-to-be-printed"),
        "the password is in the log: {text}"
    );
    assert_eq!(host.get("/health").await.0, 200, "it lives");

    // Still trying: as soon as somebody listens there, it knocks.
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    tokio::time::timeout(Duration::from_secs(20), listener.accept())
        .await
        .expect("it tries again")
        .unwrap();
    drop(listener);
    let stopping = Instant::now();
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    assert!(
        !log.contains("did not stop in time"),
        "a broker that is away holds up the end: {log}"
    );
    assert!(
        stopping.elapsed() < Duration::from_secs(5),
        "{:?}",
        stopping.elapsed()
    );
}

#[tokio::test]
async fn without_rabbitmq_one_line_says_where_who_and_what_next_and_the_host_keeps_trying() {
    let port = closed_port();
    let toml = format!(
        "[messaging]\ntasks = \"rabbitmq\"\n[brokers.rabbitmq]\nkind = \"rabbitmq\"\nhost = \"127.0.0.1\"\nport = {port}\nuser = \"ada\"\npassword = \"env:HELIX_TEST_SECRET\"\n{ROUTE}"
    );
    let setup = Setup::new(&toml, &["probe"])
        .topology(TOPOLOGY)
        .env("HELIX_TEST_SECRET", "not-to-be-printed");
    let place = format!("127.0.0.1:{port}");
    let parts = [
        "rabbitmq",
        "HX0201",
        &place,
        "user `ada`",
        "TLS off",
        "connection refused",
        "Check that the broker runs",
    ];
    away(&setup, port, "rabbitmq", &parts).await;
}

#[tokio::test]
async fn without_kafka_one_line_says_where_who_and_what_next_and_the_host_keeps_trying() {
    let port = closed_port();
    let toml = format!(
        "[messaging]\nevents = \"kafka\"\n[brokers.kafka]\nkind = \"kafka\"\nservers = [\"127.0.0.1:{port}\"]\nsasl = {{ mechanism = \"SCRAM-SHA-512\", user = \"ada\", password = \"env:HELIX_TEST_SECRET\" }}\n[[routes]]\nname = \"log\"\ntopic = \"log\"\nplugin = \"probe\"\n"
    );
    let setup = Setup::new(&toml, &["probe"])
        .topology(TOPOLOGY)
        .env("HELIX_TEST_SECRET", "not-to-be-printed");
    let place = format!("127.0.0.1:{port}");
    let parts = [
        "kafka",
        "HX0201",
        &place,
        "ada",
        "SASL_PLAINTEXT",
        "Connection refused",
        "Check that Kafka runs",
    ];
    away(&setup, port, "kafka", &parts).await;
}

#[tokio::test]
async fn an_address_beyond_loopback_needs_a_token_and_then_every_request_does() {
    let open = HOST.replace("127.0.0.1:0", "0.0.0.0:0");
    let setup = Setup::new(&format!("{open}{ROUTE}"), &["probe"])
        .topology(TOPOLOGY)
        .env("HELIX_TEST_TOKEN", "s3cret-token");
    let (code, stderr) = said(&setup.helix(&["run"]));
    assert_ne!(code, Some(0), "{stderr}");
    for part in ["HX0506", "0.0.0.0:0", "[host] token", "127.0.0.1"] {
        assert!(stderr.contains(part), "{part} is not in {stderr}");
    }

    setup.configure(&format!(
        "{}{ROUTE}",
        open.replace("[host]\n", "[host]\ntoken = \"env:HELIX_TEST_TOKEN\"\n")
    ));
    let host = setup.start().await;
    host.ready().await;
    assert_eq!(host.get("/livez").await.0, 200, "probes carry no token");
    let http = helix_tests::Client::default();
    let ask = async |method: reqwest::Method, path: &str, header: Option<&str>| {
        let mut request = http.request(method, format!("{}{path}", host.url()));
        request = request.json(&json!({ "type": "probe", "payload": {} }));
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        let answer = request.send().await.unwrap();
        (
            answer.status().as_u16(),
            answer.json::<Value>().unwrap_or_default(),
        )
    };
    let (get, post) = (reqwest::Method::GET, reqwest::Method::POST);
    let private = [
        (&get, "/v1/messaging/dlq", 200),
        (&get, "/v1/messaging/plugins", 200),
        (&get, "/v1/messaging/dlq/no-such", 404),
        (&post, "/v1/messaging/tasks/work", 202),
        (&post, "/v1/messaging/events/log", 202),
    ];
    for (method, path, status) in private {
        for wrong in [
            None,
            Some("Bearer "),
            Some("Bearer s3cret-toke"),
            Some("Bearer s3cret-token2"),
            Some("Basic s3cret-token"),
        ] {
            let (code, problem) = ask(method.clone(), path, wrong).await;
            assert_eq!(
                (code, problem["code"].as_str()),
                (401, Some("HX0507")),
                "{path} with {wrong:?}: {problem}"
            );
        }
        let (code, answer) = ask(method.clone(), path, Some("Bearer s3cret-token")).await;
        assert_eq!(code, status, "{path}: {answer}");
    }
    // Exactly the one that was accepted.
    host.wait_metric(
        "messaging_outcomes_total",
        &[("route", "work"), ("outcome", "done")],
        1.0,
    )
    .await;
    assert!(
        (host
            .metric("messaging_messages_published_total", &[("destination", "work")])
            .await
            - 1.0)
            .abs()
            < f64::EPSILON
    );
    let url = host.url().replace("0.0.0.0", "127.0.0.1");
    let (code, stderr) = said(&setup.helix(&["plugin", "ls", "--url", &url]));
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("HX0507"), "{stderr}");
    let output = setup.helix(&["plugin", "ls", "--url", &url, "--token", "s3cret-token"]);
    assert!(
        output.status.success() && String::from_utf8_lossy(&output.stdout).contains("probe"),
        "{output:?}"
    );
    assert!(!host.log_text().contains("s3cret"), "the token is in the log");
}
