//! Who may do what over HTTP: roles, the right to read payloads, and the audit table that remembers.

use std::time::{Duration, Instant};

use helix_tests::{Host, Setup, until};
use reqwest::Method;
use serde_json::{Value, json};

const CONFIG: &str = r#"
[[tokens]]
name = "vic"
token = "env:VIC"
[[tokens]]
name = "olga"
token = "env:OLGA"
role = "operator"
payloads = true
[[tokens]]
name = "ada"
token = "env:ADA"
role = "admin"
[[routes]]
name = "work"
queue = "work"
plugin = "probe"
retry = { max_retries = 0 }
"#;

const TOPOLOGY: &str = "[[queues]]\nname = \"work\"\n";

fn setup(config: &str) -> Setup {
    Setup::new(config, &["probe"])
        .topology(TOPOLOGY)
        .env("VIC", "vic-token")
        .env("OLGA", "olga-token")
        .env("ADA", "ada-token")
}

async fn ask(host: &Host, method: Method, path: &str, token: &str, body: Value) -> (u16, Value) {
    let answer = helix_tests::Client::default()
        .request(method, format!("{}{path}", host.url()))
        .bearer_auth(token)
        .json(&body)
        .send()
        .await
        .unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().unwrap_or_default())
}

async fn get(host: &Host, path: &str, token: &str) -> (u16, Value) {
    ask(host, Method::GET, path, token, Value::Null).await
}

/// A dead letter with a payload that nobody should see by chance; its id.
async fn a_letter(host: &Host) -> String {
    let task = json!({ "type": "t", "payload": { "do": "reject", "reason": "no", "card": "4711" } });
    let (status, answer) = ask(host, Method::POST, "/v1/messaging/tasks/work", "olga-token", task).await;
    assert_eq!(status, 202, "{answer}");
    until("the letter", Duration::from_secs(30), || async {
        let (_, listing) = get(host, "/v1/messaging/dlq", "vic-token").await;
        listing["messages"][0]["id"].as_str().map(str::to_owned)
    })
    .await
}

#[tokio::test]
async fn each_role_reaches_what_it_may_and_the_audit_table_says_who_did_what() {
    let setup = setup(CONFIG);
    let host = setup.start().await;
    host.ready().await;
    let id = a_letter(&host).await;
    let letter = format!("/v1/messaging/dlq/{id}");
    let reprocess = format!("{letter}/reprocess");

    for (method, path, lowest) in [
        (Method::GET, letter.as_str(), 0),
        (Method::GET, "/v1/messaging/plugins", 0),
        (Method::POST, "/v1/messaging/tasks/nowhere", 1),
        (Method::DELETE, "/v1/messaging/dlq/none/discard", 1),
        (Method::DELETE, "/v1/messaging/dlq/none", 1),
        (Method::GET, "/v1/messaging/audit", 2),
    ] {
        for (role, token) in ["vic-token", "olga-token", "ada-token"].into_iter().enumerate() {
            let (status, answer) = ask(&host, method.clone(), path, token, json!({})).await;
            let refused = (status, answer["code"].as_str()) == (403, Some("HX0508"));
            assert_eq!(
                refused,
                role < lowest,
                "{method} {path} as {token}: {status} {answer}"
            );
        }
        let (status, answer) = ask(&host, method.clone(), path, "bad-token", json!({})).await;
        assert_eq!((status, answer["code"].as_str()), (401, Some("HX0507")), "{path}");
    }

    // Actors are the tokens' names; what a caller says of itself is only added.
    let said = json!({ "actor": "root" });
    let (status, answer) = ask(&host, Method::POST, &reprocess, "olga-token", said).await;
    assert_eq!(status, 202, "{answer}");
    let (_, shown) = get(&host, &letter, "olga-token").await;
    assert_eq!(shown["trail"][0]["actor"], "olga (says: root)", "{shown}");

    let (status, audit) = get(&host, "/v1/messaging/audit?limit=1000", "ada-token").await;
    assert_eq!(status, 200, "{audit}");
    let rows: Vec<(String, String, u64)> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            (
                e["actor"].as_str().unwrap().to_owned(),
                e["action"].as_str().unwrap().to_owned(),
                e["status"].as_u64().unwrap(),
            )
        })
        .collect();
    for (actor, action, status) in [
        ("olga", "POST /v1/messaging/tasks/{queue}", 202),
        ("olga", "POST /v1/messaging/dlq/{id}/reprocess", 202),
        ("vic", "POST /v1/messaging/tasks/{queue}", 403),
        ("?", "GET /v1/messaging/audit", 401),
        ("ada", "DELETE /v1/messaging/dlq/{id}/discard", 404),
    ] {
        assert!(
            rows.contains(&(actor.into(), action.into(), status)),
            "{actor} {action} {status} is not in {rows:?}"
        );
    }
    assert!(
        !rows
            .iter()
            .any(|(_, action, status)| action.starts_with("GET") && *status == 200),
        "who only looks leaves no row: {rows:?}"
    );
    // Paging: each row once, in order.
    let mut paged = Vec::new();
    let mut cursor = String::new();
    loop {
        let (_, page) = get(
            &host,
            &format!("/v1/messaging/audit?limit=3{cursor}"),
            "ada-token",
        )
        .await;
        paged.extend(page["entries"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_u64() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(&paged, audit["entries"].as_array().unwrap());
    let (status, problem) = get(&host, "/v1/messaging/audit?limit=0", "ada-token").await;
    assert_eq!((status, problem["code"].as_str()), (400, Some("HX0501")));
    assert!(!host.log_text().contains("-token"), "a token is in the log");
}

#[tokio::test]
async fn payloads_are_shown_only_to_who_may_read_them() {
    let setup = setup(CONFIG);
    let host = setup.start().await;
    host.ready().await;
    let path = format!("/v1/messaging/dlq/{}", a_letter(&host).await);
    // The admin's token has no such right.
    for token in ["vic-token", "ada-token"] {
        let (status, shown) = get(&host, &path, token).await;
        assert_eq!((status, &shown["withheld"]), (200, &json!(true)), "{shown}");
        assert_eq!(
            shown["history"].as_array().unwrap().len(),
            1,
            "how it failed is no payload"
        );
        assert!(!shown.to_string().contains("4711"), "{shown}");
    }
    let (_, shown) = get(&host, &path, "olga-token").await;
    assert!(
        shown["original"]["body"].as_str().unwrap().contains("4711"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_token_that_is_taken_out_of_the_file_stops_working_without_a_restart() {
    let setup = setup(CONFIG);
    let host = setup.start().await;
    host.ready().await;
    assert_eq!(get(&host, "/v1/messaging/dlq", "olga-token").await.0, 200);
    setup.configure(&CONFIG.replace("env:OLGA", "env:PATH"));
    until("the token does not work", Duration::from_secs(30), || async {
        match get(&host, "/v1/messaging/dlq", "olga-token").await.0 {
            200 => None,
            401 => Some(()),
            status => panic!("{status}"),
        }
    })
    .await;
    assert_eq!(
        get(&host, "/v1/messaging/dlq", "vic-token").await.0,
        200,
        "the others stay"
    );
}

#[tokio::test]
async fn a_flood_of_bad_tokens_is_answered_and_slows_nobody_with_a_good_one() {
    let setup = setup(CONFIG);
    let host = setup.start().await;
    host.ready().await;
    let started = Instant::now();
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for n in 0..2_000 {
        let (status, _) = get(&host, "/v1/messaging/dlq", &format!("wrong-{n}")).await;
        *statuses.entry(status).or_default() += 1;
        if n % 100 == 0 {
            assert_eq!(get(&host, "/v1/messaging/dlq", "vic-token").await.0, 200);
        }
    }
    let known: Vec<u16> = statuses.keys().copied().collect();
    assert!(known.iter().all(|s| [401, 429].contains(s)), "{statuses:?}");
    let (_, audit) = get(&host, "/v1/messaging/audit?limit=1000", "ada-token").await;
    let rows = audit["entries"].as_array().unwrap();
    let refused: Vec<_> = rows.iter().filter(|row| row["role"] == "none").collect();
    // A row for each would let anybody fill the disk: 60 of each minute that was touched, and one for its rest.
    let minutes = usize::try_from(started.elapsed().as_secs() / 60).unwrap() + 2;
    assert!(refused.len() >= 60, "{} rows", refused.len());
    assert!(
        refused.len() <= 61 * minutes,
        "{} rows in {minutes} minutes",
        refused.len()
    );
    let counted: u64 = refused.iter().map(|row| row["count"].as_u64().unwrap()).sum();
    assert!(counted <= 2_000, "{counted}");
}
