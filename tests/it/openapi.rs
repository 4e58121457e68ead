//! The OpenAPI document and the host agree: paths, methods, roles. Answers are held against it by the client of all tests.

use std::collections::BTreeSet;

use helix_tests::{Client, Host, Setup};
use reqwest::Method;
use serde_json::{Map, Value, json};

const CONFIG: &str = r#"
[[tokens]]
name = "vic"
token = "env:VIC"
[[tokens]]
name = "olga"
token = "env:OLGA"
role = "operator"
[[tokens]]
name = "ada"
token = "env:ADA"
role = "admin"
[[routes]]
queue = "work"
plugin = "probe"
"#;

/// From the least.
const TOKENS: [(&str, &str); 3] = [
    ("viewer", "vic-token"),
    ("operator", "olga-token"),
    ("admin", "ada-token"),
];

async fn started() -> (Setup, Host) {
    let setup = Setup::new(CONFIG, &["probe"])
        .topology("[[queues]]\nname = \"work\"\n")
        .env("VIC", "vic-token")
        .env("OLGA", "olga-token")
        .env("ADA", "ada-token");
    let host = setup.start().await;
    host.ready().await;
    (setup, host)
}

fn document() -> Value {
    serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap()
}

/// Path with something for each name, and what it takes.
fn paths(document: &Value) -> Vec<(String, &Map<String, Value>)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .map(|(path, methods)| {
            let parts = path
                .split('/')
                .map(|part| if part.starts_with('{') { "none" } else { part });
            (parts.collect::<Vec<_>>().join("/"), methods.as_object().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn a_host_takes_the_methods_of_the_document_and_no_other() {
    let (_setup, host) = started().await;
    let (document, client) = (document(), Client::default());
    for (path, methods) in paths(&document) {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let answer = client
                .request(method.parse().unwrap(), format!("{}{path}", host.url()))
                // Known to nobody, so nothing is done.
                .bearer_auth("no-token")
                .send()
                .await
                .unwrap();
            let status = answer.status().as_u16();
            let Some(operation) = methods.get(&method.to_ascii_lowercase()) else {
                assert_eq!(status, 405, "{method} {path}");
                let allowed: BTreeSet<String> = answer.headers()["allow"]
                    .to_str()
                    .unwrap()
                    .split(',')
                    .filter(|method| *method != "HEAD")
                    .map(str::to_ascii_lowercase)
                    .collect();
                assert_eq!(allowed, methods.keys().cloned().collect(), "{path}");
                continue;
            };
            let open = operation["x-role"] == "none";
            assert_eq!(status, if open { 200 } else { 401 }, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn each_operation_asks_for_the_role_of_the_document() {
    let (_setup, host) = started().await;
    let (document, client) = (document(), Client::default());
    let mut asked = 0;
    for (path, methods) in paths(&document) {
        for (method, operation) in methods {
            let Some(least) = TOKENS.iter().position(|(role, _)| operation["x-role"] == *role) else {
                assert_eq!(operation["x-role"], "none");
                continue;
            };
            assert_eq!(operation["security"], json!([{ "token": [TOKENS[least].0] }]));
            for (role, (_, token)) in TOKENS.iter().enumerate() {
                let method: Method = method.to_ascii_uppercase().parse().unwrap();
                let answer = client
                    .request(method.clone(), format!("{}{path}", host.url()))
                    .bearer_auth(token)
                    .send()
                    .await
                    .unwrap();
                let problem: Value = answer.json().unwrap_or_default();
                let refused = problem["code"] == "HX0508";
                assert_eq!(refused, role < least, "{method} {path} with {token}: {problem}");
                asked += 1;
            }
        }
    }
    assert!(asked > 60, "only {asked}");
}

#[tokio::test]
async fn the_document_is_served_as_it_is_committed() {
    let (_setup, host) = started().await;
    let (status, served) = host.get("/openapi.json").await;
    assert_eq!((status, served), (200, document()));
}

/// The router is made of the list that the document is made of, in one place.
#[test]
fn no_route_is_made_beside_the_list() {
    let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/src/http")];
    let (mut files, mut made) = (0, Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            let lines = text.lines().filter(|line| {
                [
                    ".route(",
                    ".route_service(",
                    ".nest(",
                    ".nest_service(",
                    ".merge(",
                ]
                .iter()
                .any(|made| line.contains(made))
            });
            made.extend(lines.map(|line| format!("{}: {}", path.display(), line.trim())));
        }
    }
    assert!(files > 15, "only {files} files");
    made.retain(|line| !line.contains("taken.merge("));
    assert_eq!(made.len(), 1, "{made:#?}");
    assert!(made[0].contains("route.path"), "{made:?}");
}
