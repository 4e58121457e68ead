//! A host whose store is a Postgres database.

use std::time::Duration;

use helix_tests::brokers::Postgres;
use helix_tests::{Host, Setup, guests, unique, until, variable};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::seen;

const CONFIG: &str = r#"
[[routes]]
name = "work"
queue = "work"
plugin = "handler"
concurrency = 8
retry = { max_retries = 1, delay = "10ms" }
[plugins.handler]
publish = ["handled"]
[store]
url = "env:HELIX_STORE_URL"
"#;
const TOPOLOGY: &str = "[[queues]]\nname = \"work\"\n[[topics]]\nname = \"handled\"\n";

fn setup(url: &str, guest: &str, more: &str) -> Setup {
    let setup = Setup::new(&format!("{CONFIG}{more}"), &[])
        .topology(TOPOLOGY)
        .env("HELIX_STORE_URL", url);
    install(&setup, guest);
    setup
}

fn install(setup: &Setup, guest: &str) {
    let bytes = std::fs::read(guests::path(guest)).unwrap();
    guests::install(&setup.plugins(), "handler", &bytes);
}

fn own_schema() -> String {
    format!("schema = \"{}\"\n", unique("e2e").replace('-', "_"))
}

async fn done(host: &Host, n: f64) {
    host.wait_metric("messaging_outcomes_total", &[("outcome", "done")], n)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_failed_is_a_letter_in_the_database_and_is_sent_again_from_there() {
    let setup = setup(&variable("HELIX_TEST_POSTGRES_URL"), "torture", &own_schema());
    let host = setup.start().await;
    host.ready().await;
    let sent = host
        .send_task("work", "probe", json!({ "report": "handled" }))
        .await;
    let id = host.wait_letters(1).await[0]["id"].as_str().unwrap().to_owned();
    host.kill();
    assert!(
        !setup.path().join("state/store.db").exists(),
        "nothing is kept here"
    );

    install(&setup, "probe");
    let host = setup.start().await;
    host.ready().await;
    let (status, letter) = host.get(&format!("/v1/messaging/dlq/{id}")).await;
    assert_eq!((status, &letter["state"]), (200, &json!("dead")), "{letter}");
    let (status, answer) = host
        .post(&format!("/v1/messaging/dlq/{id}/reprocess"), &json!({}))
        .await;
    assert_eq!(status, 202, "{answer}");
    done(&host, 1.0).await;
    assert_eq!(
        host.get(&format!("/v1/messaging/dlq/{id}")).await.1["state"],
        "reprocessed"
    );
    assert_eq!(host.unexpected_lines(&[]), Vec::<String>::new());
    let password = variable("HELIX_TEST_POSTGRES_URL");
    let password = password.split([':', '@']).nth(2).unwrap().to_owned();
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    assert!(!log.contains(&password), "the password is in the log");
    let handled = seen::topic(&setup, "handled").await;
    assert_eq!(handled.len(), 1);
    assert_eq!(handled[0].of(), sent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_successes_go_on_and_failures_wait() {
    let server = Postgres::start();
    let setup = setup(&server.url, "probe", "");
    let host = setup.start().await;
    host.ready().await;
    let good = json!({ "report": "handled" });
    let mut sent = 0;
    for _ in 0..50 {
        host.send_task("work", "probe", good.clone()).await;
        sent += 1;
    }
    host.send_task("work", "probe", json!({ "do": "reject" })).await;
    host.wait_letters(1).await;
    server.control("kill");
    let (status, report) = until(
        "it says that it is not ready",
        Duration::from_secs(30),
        || async {
            let (status, report) = host.get("/readyz").await;
            (status == 503).then_some((status, report))
        },
    )
    .await;
    let reasons = report["reasons"].to_string();
    assert!(reasons.contains("the store failed"), "{status}: {reasons}");
    // Fewer than the route's calls at a time and the messages in hand, so that they do not stop the others.
    for _ in 0..3 {
        host.send_task("work", "probe", json!({ "do": "reject" })).await;
    }
    for _ in 0..200 {
        host.send_task("work", "probe", good.clone()).await;
        sent += 1;
    }
    done(&host, f64::from(sent)).await;
    server.control("restart");
    host.ready().await;
    let letters = host.wait_letters(4).await;
    assert_eq!(letters.len(), 4);
    // Said once for all the requests of the outage, and once more when a row is written again.
    host.send_task("work", "probe", good.clone()).await;
    sent += 1;
    done(&host, f64::from(sent)).await;
    let lines = host.log_lines();
    let of_audit = |level: &str| -> Vec<&Value> {
        let of = |line: &&Value| line["level"] == level && line.to_string().contains("audit table");
        lines.iter().filter(of).collect()
    };
    assert_eq!(of_audit("ERROR").len(), 1, "{:#?}", of_audit("ERROR"));
    let over = of_audit("WARN");
    assert_eq!(
        (over.len(), &over[0]["fields"]["missing"]),
        (1, &json!(203)),
        "{over:?}"
    );
    let known = [
        "dead letter; look",
        "stays unacknowledged and is tried again",
        "cannot read due retries",
        "in the audit table",
        "missing in it",
        "sqlx",
    ];
    assert_eq!(host.unexpected_lines(&known), Vec::<String>::new());
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    let handled = seen::topic(&setup, "handled").await;
    assert_eq!(handled.len(), usize::try_from(sent).unwrap(), "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_waits_for_a_database_that_is_still_starting() {
    let server = Postgres::start();
    server.control("kill");
    let setup = setup(&server.url, "probe", "");
    let starting = setup.start();
    let restart = async {
        until("it says what it waits for", Duration::from_secs(30), || async {
            let log = std::fs::read_to_string(setup.path().join("helix.log")).unwrap_or_default();
            (log.contains("waiting for the store") && log.contains("HX0402")).then_some(())
        })
        .await;
        server.control("restart");
    };
    let (host, ()) = tokio::join!(starting, restart);
    host.ready().await;
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_starts_waits_for_rows_that_somebody_has_locked() {
    let url = variable("HELIX_TEST_POSTGRES_URL");
    let schema = own_schema();
    let setup = setup(&url, "probe", &schema);
    let host = setup.start().await;
    host.ready().await;
    host.terminate().await;
    let mut other = PgConnection::connect(&url).await.unwrap();
    let name = schema.split('"').nth(1).unwrap();
    let lock = format!("BEGIN; LOCK TABLE {name}.redrive_jobs IN SHARE MODE");
    sqlx::raw_sql(AssertSqlSafe(lock))
        .execute(&mut other)
        .await
        .unwrap();
    let starting = setup.start();
    let release = async {
        until("it says what it waits for", Duration::from_secs(30), || async {
            let log = std::fs::read_to_string(setup.path().join("helix.log")).unwrap_or_default();
            (log.contains("waiting for the store") && log.contains("lock timeout")).then_some(())
        })
        .await;
        other.close().await.unwrap();
    };
    let (host, ()) = tokio::join!(starting, release);
    host.ready().await;
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
}

#[test]
fn a_login_that_is_refused_ends_the_start_at_once_with_the_reason() {
    let url = variable("HELIX_TEST_POSTGRES_URL");
    let (login, place) = url.split_once('@').unwrap();
    let user = login.split([':', '/']).nth(3).unwrap();
    let setup = setup(&format!("postgres://{user}:hunter2@{place}"), "probe", "");
    let output = setup.helix(&["run"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("HX0401") && said.contains("password authentication failed"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
}
