//! The HTTP surface, as clients of the manual use it.

use helix_tests::{Host, Setup};
use serde_json::{Value, json};

const CONFIG: &str = r#"
[limits]
message_size = "4KiB"
[[routes]]
name = "work"
queue = "work"
plugin = "probe"
retry = { max_retries = 1, delay = "10ms" }
[[routes]]
topic = "events"
plugin = "probe"
"#;

const TOPOLOGY: &str = "[[queues]]\nname = \"work\"\n[[topics]]\nname = \"events\"\n";

async fn started() -> (Setup, Host) {
    let setup = Setup::new(CONFIG, &["probe"]).topology(TOPOLOGY);
    let host = setup.start().await;
    host.ready().await;
    (setup, host)
}

/// Status, content type and body of a request with any body.
async fn raw(host: &Host, path: &str, body: impl Into<reqwest::Body>) -> (u16, String, Value) {
    let answer = helix_tests::Client::default()
        .post(format!("{}{path}", host.url()))
        .body(body)
        .send()
        .await
        .unwrap();
    let kind = answer
        .headers()
        .get("content-type")
        .map_or("", |v| v.to_str().unwrap())
        .to_owned();
    (answer.status().as_u16(), kind, answer.json().unwrap_or_default())
}

#[tokio::test]
async fn a_bad_request_gets_a_problem_with_a_code_and_nothing_is_published() {
    let (_setup, host) = started().await;
    let huge = "x".repeat(200 * 1024);
    let cases: Vec<(u16, &str, &str, String)> = vec![
        (
            404,
            "HX0502",
            "/v1/messaging/tasks/nowhere",
            r#"{"type":"a","payload":1}"#.into(),
        ),
        (
            404,
            "HX0502",
            "/v1/messaging/events/nowhere",
            r#"{"type":"a","payload":1}"#.into(),
        ),
        (400, "HX0501", "/v1/messaging/tasks/work", String::new()),
        (400, "HX0501", "/v1/messaging/tasks/work", "{".into()),
        (400, "HX0501", "/v1/messaging/tasks/work", "[]".into()),
        (
            400,
            "HX0501",
            "/v1/messaging/tasks/work",
            r#"{"payload":1}"#.into(),
        ),
        (
            400,
            "HX0501",
            "/v1/messaging/tasks/work",
            r#"{"type":"","payload":1}"#.into(),
        ),
        (
            400,
            "HX0501",
            "/v1/messaging/tasks/work",
            r#"{"type":"a"}"#.into(),
        ),
        (
            400,
            "HX0501",
            "/v1/messaging/tasks/work",
            r#"{"type":"a","payload":1,"payload_base64":"eA=="}"#.into(),
        ),
        (
            400,
            "HX0501",
            "/v1/messaging/tasks/work",
            r#"{"type":"a","payload_base64":"%"}"#.into(),
        ),
        (
            400,
            "HX0501",
            "/v1/messaging/tasks/work",
            r#"{"type":"a","payload":1,"priority":11}"#.into(),
        ),
        (
            400,
            "HX0501",
            "/v1/messaging/tasks/work",
            r#"{"type":"a","payload":1,"priorty":1}"#.into(),
        ),
        (
            400,
            "HX0501",
            "/v1/messaging/tasks/work",
            r#"{"type":7,"payload":1}"#.into(),
        ),
        (
            413,
            "HX0503",
            "/v1/messaging/tasks/work",
            format!(r#"{{"type":"a","payload":"{huge}"}}"#),
        ),
    ];
    for (status, code, path, body) in cases {
        let shown = body.chars().take(80).collect::<String>();
        let (got, kind, problem) = raw(&host, path, body).await;
        assert_eq!(
            (got, problem["code"].as_str()),
            (status, Some(code)),
            "{path} {shown}: {problem}"
        );
        assert_eq!(kind, "application/problem+json", "{shown}");
        assert_eq!(problem["status"], status);
        for field in ["type", "title", "detail"] {
            assert!(
                problem[field].as_str().is_some_and(|text| !text.is_empty()),
                "{shown}: {problem}"
            );
        }
    }
    let unknown = [
        ("/v1/messaging/dlq/none", 404),
        ("/v1/messaging/dlq?limit=x", 400),
        ("/v1/messaging/dlq?colour=red", 400),
        ("/nowhere", 404),
    ];
    for (path, status) in unknown {
        let (got, problem) = host.get(path).await;
        assert_eq!(got, status, "{path}: {problem}");
        assert!(
            problem["code"]
                .as_str()
                .is_some_and(|code| code.starts_with("HX05")),
            "{path}: {problem}"
        );
    }
    assert_eq!(host.metric("messaging_messages_published_total", &[]).await, 0.0);
    assert_eq!(host.metric("messaging_messages_consumed_total", &[]).await, 0.0);
}

#[tokio::test]
async fn what_was_accepted_is_there_after_a_kill() {
    let setup = Setup::new(CONFIG, &[]).topology(TOPOLOGY);
    // Without a plugin nothing can handle it before the kill.
    let host = setup.start().await;
    let task = host.send_task("work", "probe", json!({ "do": "reject" })).await;
    let event = host
        .send_event("events", "probe", "k", json!({ "do": "reject" }))
        .await;
    host.kill();
    let bytes = std::fs::read(helix_tests::guests::path("probe")).unwrap();
    helix_tests::guests::install(&setup.plugins(), "probe", &bytes);
    let host = setup.start().await;
    let letters = host.wait_letters(2).await;
    let mut ids: Vec<&str> = letters.iter().filter_map(|l| l["message_id"].as_str()).collect();
    ids.sort_unstable();
    let mut expected = vec![task.as_str(), event.as_str()];
    expected.sort_unstable();
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn health_metrics_and_plugins_answer_with_the_names_of_the_contract() {
    let (setup, host) = started().await;
    for path in ["/health", "/livez"] {
        let (status, body) = host.get(path).await;
        assert_eq!(
            (status, body["status"].as_str()),
            (200, Some("healthy")),
            "{path}"
        );
    }
    let (status, report) = host.get("/readyz").await;
    assert_eq!(
        (status, report["status"].as_str()),
        (200, Some("ready")),
        "{report}"
    );
    assert_eq!(report["brokers"]["embedded"]["state"], "up", "{report}");
    assert_eq!(host.get("/v1/messaging/health").await.1["status"], "ready");
    host.send_task("work", "probe", json!({})).await;
    host.send_task("work", "probe", json!({ "do": "reject" })).await;
    host.send_event("events", "probe", "k", json!({})).await;
    host.wait_letters(1).await;
    let done = [("outcome", "done")];
    host.wait_metric("messaging_outcomes_total", &done, 2.0).await;
    // The gauges are read every five seconds.
    host.wait_metric(
        "messaging_dlq_messages_total",
        &[("queue", "helixagent.dlq")],
        1.0,
    )
    .await;
    assert_eq!(
        host.metric("messaging_dlq_messages", &[("destination", "work")])
            .await,
        1.0
    );
    let work = [("broker", "embedded"), ("destination", "work")];
    assert_eq!(
        host.metric("messaging_messages_published_total", &work).await,
        2.0
    );
    assert_eq!(host.metric("messaging_messages_consumed_total", &work).await, 2.0);
    assert_eq!(
        host.metric("messaging_delivery_latency_seconds_count", &[("route", "work")])
            .await,
        1.0
    );
    assert_eq!(
        host.metric("messaging_handler_duration_seconds_count", &[("route", "work")])
            .await,
        2.0
    );
    assert_eq!(
        host.metric("messaging_plugin_info", &[("plugin", "probe")]).await,
        1.0
    );
    let text = |path: &str| {
        helix_tests::Client::default()
            .get(format!("{}{path}", host.url()))
            .send()
    };
    let metrics = text("/metrics").await.unwrap().text();
    assert_eq!(text("/v1/messaging/metrics").await.unwrap().status(), 200);
    for (name, kind) in [
        ("messaging_messages_published_total", "counter"),
        ("messaging_messages_consumed_total", "counter"),
        ("messaging_queue_depth", "gauge"),
        ("messaging_delivery_latency_seconds", "histogram"),
        ("messaging_dlq_messages_total", "gauge"),
        ("messaging_dlq_messages", "gauge"),
        ("messaging_replay_active", "gauge"),
        ("messaging_consumer_lag", "gauge"),
        ("messaging_handler_duration_seconds", "histogram"),
        ("messaging_outcomes_total", "counter"),
        ("messaging_retries_pending", "gauge"),
        ("messaging_plugin_info", "gauge"),
    ] {
        assert!(
            metrics.contains(&format!("# TYPE {name} {kind}\n")),
            "{name}: {metrics}"
        );
    }
    let (status, plugins) = host.get("/v1/messaging/plugins").await;
    assert_eq!(status, 200);
    assert_eq!(
        (&plugins[0]["name"], &plugins[0]["exports"]["task"]),
        (&json!("probe"), &json!(true)),
        "{plugins}"
    );
    // A plugin that went bad is degraded, not unready: the last good version serves.
    helix_tests::guests::install(&setup.plugins(), "probe", b"no component");
    host.wait_metric(
        "messaging_plugin_reload_failures_total",
        &[("plugin", "probe")],
        1.0,
    )
    .await;
    let (status, report) = host.get("/readyz").await;
    assert_eq!(
        (status, report["status"].as_str()),
        (200, Some("degraded")),
        "{report}"
    );
    assert!(report["reasons"].to_string().contains("STALE"), "{report}");
}

#[tokio::test]
async fn dead_letters_are_listed_in_pages_filtered_and_shown_whole() {
    let (_setup, host) = started().await;
    for n in 0..5 {
        host.send_task(
            "work",
            "kind.a",
            json!({ "do": "reject", "reason": format!("broken {n}"), "code": "c.1" }),
        )
        .await;
    }
    host.send_task("work", "kind.b", json!({ "do": "retry", "reason": "busy" }))
        .await;
    host.send_event("events", "kind.a", "key", json!({ "do": "reject" }))
        .await;
    host.wait_letters(7).await;
    let count = async |query: &str| -> u64 {
        let (status, listing) = host.get(&format!("/v1/messaging/dlq?{query}")).await;
        assert_eq!(status, 200, "{listing}");
        let shown = listing["messages"].as_array().unwrap().len() as u64;
        assert_eq!(listing["count"], shown, "{query}");
        shown
    };
    for (query, expected) in [
        ("", 7),
        ("type=kind.a", 6),
        ("type=kind.b", 1),
        ("route=work", 6),
        ("class=exhausted", 1),
        ("class=rejected", 6),
        ("state=dead", 7),
        ("state=expired", 0),
        ("text=broken%203", 1),
        ("text=c.1", 5),
        ("route=work&type=kind.a&text=busy", 0),
    ] {
        assert_eq!(count(query).await, expected, "{query}");
    }
    // Pages by cursor stay right while letters come.
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    for page in 0..4 {
        let (_, listing) = host.get(&format!("/v1/messaging/dlq?limit=2{cursor}")).await;
        for letter in listing["messages"].as_array().unwrap() {
            ids.push(letter["id"].as_str().unwrap().to_owned());
        }
        if page == 0 {
            host.send_task("work", "kind.late", json!({ "do": "reject" }))
                .await;
            host.wait_letters(8).await;
        }
        match listing["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => assert_eq!(page, 3, "{listing}"),
        }
    }
    let mut unique = ids.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(
        (ids.len(), unique.len()),
        (7, 7),
        "each letter of the first look once, the late one not"
    );
    assert_eq!(
        host.get("/v1/messaging/dlq?limit=2&offset=7").await.1["messages"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let (_, found) = host.get("/v1/messaging/dlq?class=exhausted").await;
    let summary = &found["messages"][0];
    assert!(
        summary.get("original").is_none(),
        "a list carries no payloads: {summary}"
    );
    let (status, letter) = host
        .get(&format!("/v1/messaging/dlq/{}", summary["id"].as_str().unwrap()))
        .await;
    assert_eq!(status, 200);
    assert_eq!(letter["history"].as_array().map(Vec::len), Some(2), "{letter}");
    assert_eq!(
        (&letter["reason"], &letter["plugin"], &letter["route"]),
        (&json!("busy"), &json!("probe"), &json!("work"))
    );
    assert!(
        letter["original"]["body"]
            .as_str()
            .is_some_and(|body| body.contains("busy")),
        "{letter}"
    );
    assert!(
        letter["digest"]
            .as_str()
            .is_some_and(|digest| digest.starts_with("sha256:")),
        "{letter}"
    );
}
