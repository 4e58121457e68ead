//! The command line: exit codes, JSON everywhere, and commands about a running host.

use std::process::Output;

use helix_tests::{Host, Setup, brokers, guests, unique};
use serde_json::{Value, json};

const CONFIG: &str = r#"
[[routes]]
name = "work"
queue = "work"
plugin = "probe"
retry = { max_retries = 0 }
"#;

const TOPOLOGY: &str = "[[queues]]\nname = \"work\"\n[[topics]]\nname = \"events\"\npartitions = 2\n";

fn setup() -> Setup {
    Setup::new(CONFIG, &["probe"]).topology(TOPOLOGY)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn stdout(output: &Output, code: i32) -> String {
    let talk = text(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}\n{talk}",
        text(&output.stdout)
    );
    text(&output.stdout)
}

/// The last part of stderr of a command that has to fail so.
fn complaint(output: &Output, code: i32) -> String {
    stdout(output, code);
    text(&output.stderr)
}

fn value(output: &Output, code: i32) -> Value {
    let out = stdout(output, code);
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("no JSON: {error}: {out}"))
}

/// With the address of the running host.
fn ask(setup: &Setup, host: &Host, arguments: &[&str]) -> Output {
    setup.helix(&[&["--url", host.url()], arguments].concat())
}

#[test]
fn exit_codes_tell_usage_invalid_and_unreachable_apart() {
    let setup = setup();
    for arguments in [
        vec!["no-such-command"],
        vec!["send"],
        vec!["send", "--queue", "work", "{}"],
        vec!["--set", "limits", "routes"],
    ] {
        assert!(
            !complaint(&setup.helix(&arguments), 2).is_empty(),
            "{arguments:?}"
        );
    }
    for arguments in [
        vec!["send", "--queue", "work", "--type", "a", "{}"],
        vec!["dlq", "ls"],
        vec!["dlq", "show", "x"],
        vec!["plugin", "ls"],
    ] {
        let arguments = [vec!["--url", "http://127.0.0.1:9"], arguments].concat();
        let said = complaint(&setup.helix(&arguments), 4);
        assert!(
            said.contains("HX0601") && said.contains("http://127.0.0.1:9") && said.contains("helix run"),
            "{said}"
        );
    }
    assert!(complaint(&setup.helix(&["plugin", "inspect", "nobody"]), 3).contains("HX0308"));
    assert!(complaint(&setup.helix(&["call", "probe", "@nofile"]), 1).contains("HX0602"));
    setup.configure("[[routes]]\nqueue = \"work\"\nplugin = \"probe\"\nconcurency = 3\n");
    for arguments in [
        vec!["check"],
        vec!["run"],
        vec!["routes"],
        vec!["config", "show"],
        vec!["topology", "plan"],
    ] {
        let said = complaint(&setup.helix(&arguments), 3);
        assert!(
            said.contains("HX0102") && said.contains("concurrency") && said.contains("helix.toml"),
            "{arguments:?}: {said}"
        );
    }
}

#[test]
fn check_finds_what_a_route_lacks_before_anything_starts() {
    let setup = setup();
    assert!(stdout(&setup.helix(&["check"]), 0).contains("ok: 1 routes, 1 plugins, 2 queues and topics"));
    assert_eq!(
        value(&setup.helix(&["check", "-o", "json"]), 0),
        json!({ "faults": [] })
    );
    guests::install(&setup.plugins(), "probe", b"no component");
    assert!(complaint(&setup.helix(&["check"]), 3).contains("HX03"));
    let faults = value(&setup.helix(&["check", "-o", "json"]), 3);
    assert_eq!(faults["faults"].as_array().map(Vec::len), Some(1), "{faults}");
    stdout(&setup.helix(&["check", "--no-plugins"]), 0);
    // A handler of the wrong kind.
    guests::install(
        &setup.plugins(),
        "probe",
        &std::fs::read(guests::path("probe-batch")).unwrap(),
    );
    let said = complaint(&setup.helix(&["check"]), 3);
    assert!(said.contains("HX0302") && said.contains("work"), "{said}");
}

#[test]
fn what_describes_the_configuration_is_text_and_json() {
    let setup = setup();
    let routes = value(&setup.helix(&["routes", "-o", "json"]), 0);
    assert_eq!(
        (&routes[0]["name"], &routes[0]["plugin"], &routes[0]["kind"]),
        (&json!("work"), &json!("probe"), &json!("task"))
    );
    assert!(stdout(&setup.helix(&["routes"]), 0).contains("helix.toml:"));
    let shown = value(&setup.helix(&["config", "show", "-o", "json"]), 0);
    assert!(shown.as_object().is_some_and(|map| map.len() > 20), "{shown}");
    let explained = value(
        &setup.helix(&[
            "config",
            "explain",
            "limits.in_flight",
            "-o",
            "json",
            "--set",
            "limits.in_flight=7",
        ]),
        0,
    );
    assert_eq!(explained.as_array().map(Vec::len), Some(1), "{explained}");
    assert!(explained[0].to_string().contains("\"7\""), "{explained}");
    assert!(stdout(&setup.helix(&["config", "explain", "routes"]), 0).contains("helix.toml:"));
    let schema = value(&setup.helix(&["config", "schema"]), 0);
    assert!(schema["properties"]["routes"].is_object());
    let reference = stdout(&setup.helix(&["config", "reference"]), 0);
    assert!(
        reference.contains("[[routes]]") && reference.contains("in_flight = 1000"),
        "{reference}"
    );
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&setup.helix(&["completion", shell]), 0);
        assert!(script.contains("topology") && script.contains("helix"), "{shell}");
    }
    let exported = value(&setup.helix(&["topology", "export"]), 0);
    assert_eq!(exported.as_array().map(Vec::len), Some(2), "{exported}");
}

#[test]
fn call_runs_one_handler_without_a_broker() {
    let setup = setup();
    let message = |payload: Value| json!({ "type": "probe", "id": "m", "payload": payload }).to_string();
    let call = |payload: Value| setup.helix(&["call", "probe", &message(payload), "-o", "json"]);
    assert_eq!(value(&call(json!({})), 0)["result"]["outcome"], "done");
    let rejected = value(&call(json!({ "do": "reject", "reason": "no", "code": "c" })), 1);
    assert_eq!(
        rejected["result"]["failure"],
        json!({ "reason": "no", "code": "c" }),
        "{rejected}"
    );
    assert!(complaint(&setup.helix(&["call", "probe", "no json"]), 3).contains("--type"));
    std::fs::write(setup.path().join("message.json"), message(json!({}))).unwrap();
    assert!(stdout(&setup.helix(&["call", "plugins/probe.wasm", "@message.json"]), 0).starts_with("done"));
    assert!(
        stdout(
            &setup.helix(&[
                "call",
                "probe",
                "{\"do\":\"log-flood\",\"count\":1}",
                "--type",
                "x",
                "--event"
            ]),
            0
        )
        .contains("flood 0")
    );
    // What it publishes is shown and goes nowhere; grants of the configuration hold.
    let publish = json!({ "do": "publish", "topic": "events" });
    assert_ne!(
        value(&call(publish.clone()), 1)["result"]["outcome"],
        "done",
        "not granted"
    );
    setup.configure(&format!("{CONFIG}[plugins.probe]\npublish = [\"events\"]\n"));
    let published = value(&call(publish), 0);
    assert_eq!(
        (
            &published["published"][0]["id"],
            &published["published"][0]["destination"]
        ),
        (&json!("m/0"), &json!("events"))
    );
}

#[test]
fn inspect_shows_handlers_imports_and_grants() {
    let setup = setup();
    for name in ["probe", "plugins/probe.wasm"] {
        let status = value(&setup.helix(&["plugin", "inspect", name, "-o", "json"]), 0);
        assert_eq!(status["exports"]["task"], true, "{status}");
        let publisher = status["imports"]
            .as_array()
            .unwrap()
            .iter()
            .find(|i| i["interface"].to_string().contains("publisher"));
        assert_eq!(publisher.unwrap()["granted"], false, "{status}");
        assert!(
            publisher.unwrap()["grant"]
                .as_str()
                .is_some_and(|line| line.contains("publish")),
            "{status}"
        );
    }
    let shown = stdout(&setup.helix(&["plugin", "inspect", "probe"]), 0);
    assert!(
        shown.contains("refused when used") && shown.contains("task"),
        "{shown}"
    );
}

#[tokio::test]
async fn commands_about_a_running_host_ask_it() {
    let setup = setup();
    let host = setup.start().await;
    host.ready().await;
    let reject = json!({ "do": "reject", "reason": "bad \u{1b}[31m input", "code": "c.7" }).to_string();
    let sent = [
        "send",
        "--queue",
        "work",
        "--type",
        "probe",
        "--id",
        "s-1",
        "--key",
        "k",
        "--priority",
        "3",
        "--header",
        "tenant=blue",
        &reject,
    ];
    assert!(stdout(&ask(&setup, &host, &sent), 0).starts_with("accepted s-1 in embedded/work"));
    let sent = value(
        &ask(
            &setup,
            &host,
            &[
                "send",
                "--topic",
                "events",
                "--type",
                "t",
                "plain text",
                "-o",
                "json",
            ],
        ),
        0,
    );
    assert!(sent["id"].is_string() && sent["offset"].is_u64(), "{sent}");
    host.wait_letters(1).await;
    let listing = value(&ask(&setup, &host, &["dlq", "ls", "-o", "json"]), 0);
    assert_eq!(
        (&listing["count"], &listing["messages"][0]["message_id"]),
        (&json!(1), &json!("s-1")),
        "{listing}"
    );
    let id = listing["messages"][0]["id"].as_str().unwrap();
    let letter = value(&ask(&setup, &host, &["dlq", "show", id, "-o", "json"]), 0);
    assert_eq!(letter["code"], "c.7");
    assert!(
        letter["original"]["headers"].to_string().contains("blue"),
        "{letter}"
    );
    for arguments in [vec!["dlq", "ls"], vec!["dlq", "show", id]] {
        let shown = stdout(&ask(&setup, &host, &arguments), 0);
        assert!(
            shown.contains(id) && shown.contains("rejected") && !shown.contains('\u{1b}'),
            "{shown}"
        );
    }
    assert!(stdout(&ask(&setup, &host, &["dlq", "ls", "--class", "expired"]), 0).contains("no dead letters"));
    let plugins = value(&ask(&setup, &host, &["plugin", "ls", "-o", "json"]), 0);
    assert_eq!(plugins[0]["name"], "probe");
    assert!(stdout(&ask(&setup, &host, &["plugin", "ls"]), 0).contains("serving"));
    // Refusals of the host.
    assert!(
        complaint(
            &ask(&setup, &host, &["send", "--queue", "nowhere", "--type", "a", "1"]),
            1
        )
        .contains("HX0502")
    );
    assert!(complaint(&ask(&setup, &host, &["dlq", "show", "none"]), 1).contains("HX0502"));
    assert!(complaint(&ask(&setup, &host, &["dlq", "ls", "--class", "red"]), 3).contains("HX0501"));
    // Two hosts in one folder would take each other's messages.
    assert!(complaint(&setup.helix(&["run"]), 1).contains("another host"));
}

/// State of every destination of a plan, by name.
fn states(rows: &Value) -> Vec<(String, String, bool)> {
    let rows = rows.as_array().unwrap();
    rows.iter()
        .map(|r| {
            (
                r["name"].as_str().unwrap().to_owned(),
                r["state"].as_str().unwrap().to_owned(),
                r["created"] == true,
            )
        })
        .collect()
}

/// Missing, then created, then the same.
fn plan_and_apply(setup: &Setup, names: &[&str]) {
    let expect = |state: &str, created: bool| -> Vec<(String, String, bool)> {
        names
            .iter()
            .map(|name| ((*name).to_owned(), state.to_owned(), created))
            .collect()
    };
    let run = |what: &str| states(&value(&setup.helix(&["topology", what, "-o", "json"]), 0));
    assert_eq!(run("plan"), expect("missing", false));
    assert_eq!(run("plan"), expect("missing", false), "a plan changes nothing");
    assert_eq!(run("apply"), expect("missing", true));
    assert_eq!(run("plan"), expect("same", false));
    assert_eq!(run("apply"), expect("same", false));
}

fn differs(setup: &Setup, name: &str, word: &str) {
    let rows = value(&setup.helix(&["topology", "apply", "-o", "json"]), 0);
    let row = rows
        .as_array()
        .unwrap()
        .iter()
        .find(|r| r["name"] == name)
        .unwrap();
    assert_eq!(
        (&row["state"], &row["created"]),
        (&json!("differs"), &json!(false)),
        "{row}"
    );
    assert!(row["differences"].to_string().contains(word), "{row}");
    let shown = stdout(&setup.helix(&["topology", "plan"]), 0);
    assert!(shown.contains("HX0110"), "{shown}");
}

#[test]
fn topology_on_the_embedded_broker() {
    let setup = setup();
    plan_and_apply(&setup, &["work", "events"]);
    let setup =
        setup.topology("[[queues]]\nname = \"work\"\n[[topics]]\nname = \"events\"\npartitions = 5\n");
    differs(&setup, "events", "5");
}

#[test]
fn topology_on_rabbitmq() {
    let queue = unique("plan");
    let file =
        |priority: u8| format!("[[queues]]\nname = \"{queue}\"\nmax_priority = {priority}\nttl = \"1h\"\n");
    let config = format!(
        "[messaging]\ntasks = \"rabbitmq\"\n{}{}",
        brokers::rabbitmq_toml(),
        CONFIG.replace("queue = \"work\"", &format!("queue = \"{queue}\""))
    );
    let setup = Setup::new(&config, &[]).topology(&file(5));
    plan_and_apply(&setup, &[&queue]);
    differs(&setup.topology(&file(9)), &queue, "priority");
}

#[test]
fn topology_on_kafka() {
    let topic = unique("plan");
    let file = |partitions: u8| {
        format!("[[topics]]\nname = \"{topic}\"\npartitions = {partitions}\nretention = \"1h\"\n")
    };
    let config = format!(
        "[messaging]\nevents = \"kafka\"\n{}{}",
        brokers::kafka_toml(&unique("group")),
        CONFIG.replace("queue = \"work\"", &format!("topic = \"{topic}\""))
    );
    let setup = Setup::new(&config, &[]).topology(&file(2));
    plan_and_apply(&setup, &[&topic]);
    differs(&setup.topology(&file(4)), &topic, "partitions");
}

#[test]
fn a_broker_that_nobody_runs_is_unreachable_with_its_address() {
    let toml = "[messaging]\ntasks = \"rabbitmq\"\n[brokers.rabbitmq]\nkind = \"rabbitmq\"\nhost = \"127.0.0.1\"\nport = 9\nuser = \"u\"\npassword = \"env:SOME_PASSWORD\"\n";
    let setup = Setup::new(&format!("{toml}{CONFIG}"), &[])
        .topology("[[queues]]\nname = \"work\"\n")
        .env("SOME_PASSWORD", "hunter2");
    let said = complaint(&setup.helix(&["topology", "plan", "--wait", "0"]), 4);
    assert!(
        said.contains("HX0201") && said.contains("127.0.0.1:9") && !said.contains("hunter2"),
        "{said}"
    );
}
