//! Who may import whom in `host/src`: reads every path in the code and fails on a wrong arrow.
//!
//! The rule is the three tables below. A new room needs a line in [`ROOMS`]; a wrong arrow is repaired in the code, or
//! the table is changed with its reason.

mod paths;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use self::paths::{Token, paths, tokens, without_tests};

/// (room, rooms it may import, why). A room is a file or folder directly under `host/src`.
const ROOMS: &[(&str, &[&str], &str)] = &[
    (
        "main",
        &["cli"],
        "main parses, calls the library, maps the error to an exit code",
    ),
    (
        "cli",
        &[
            "app",
            "broker",
            "config",
            "decode",
            "dlq",
            "error",
            "guest",
            "model",
            "replay",
            "telemetry",
        ],
        "commands start the app, or speak HTTP to a running host: they never call the API's code",
    ),
    (
        "app",
        &[
            "broker",
            "config",
            "dispatch",
            "dlq",
            "error",
            "guest",
            "http",
            "model",
            "replay",
            "route",
            "store",
            "tasks",
            "telemetry",
        ],
        "the composition root knows every room but the command line",
    ),
    (
        "http",
        &[
            "broker",
            "dispatch",
            "dlq",
            "error",
            "guest",
            "model",
            "replay",
            "store",
            "telemetry",
        ],
        "the API shows and publishes; it does not configure or decide",
    ),
    (
        "dispatch",
        &[
            "broker",
            "config",
            "decode",
            "guest",
            "model",
            "planted",
            "retry",
            "route",
            "store",
            "tasks",
            "telemetry",
        ],
        "dispatch moves messages and knows neither its callers nor how its output is encoded",
    ),
    (
        "dlq",
        &[
            "broker",
            "config",
            "decode",
            "model",
            "planted",
            "retry",
            "store",
            "telemetry",
        ],
        "dead letters are shown and sent again through the seams; routes are asked for by a trait of its own. What is sent \
         unasked follows a policy of the settings, with the delays of any retry",
    ),
    (
        "replay",
        &[
            "broker",
            "config",
            "decode",
            "model",
            "planted",
            "store",
            "telemetry",
        ],
        "replays read and publish through the seams; of the settings they know how a duration is written",
    ),
    (
        "route",
        &["broker", "config", "model"],
        "the routing table is pure",
    ),
    (
        "retry",
        &["config", "model"],
        "a verdict is a pure function of outcome, attempt and policy",
    ),
    (
        "encode",
        &["decode", "model"],
        "writing takes names and checks from reading, never the other way",
    ),
    ("decode", &["model"], "bytes to envelope, nothing else"),
    (
        "guest",
        &["config", "error", "model", "planted"],
        "handlers know no broker and no store",
    ),
    (
        "store",
        &["model", "planted"],
        "state knows words of the trade only",
    ),
    (
        "broker",
        &["config", "encode", "error", "model", "planted"],
        "adapters know no route and no handler",
    ),
    (
        "config",
        &["broker", "error", "model"],
        "settings know what a broker can promise, through its seam",
    ),
    ("planted", &[], "stands alone"),
    ("tasks", &[], "stands alone"),
    ("telemetry", &[], "stands alone"),
    ("error", &[], "stands alone"),
    ("model", &[], "the words of the trade depend on nothing"),
];

/// (path, who may say it, why). Everything deeper is meant as well. `broker/kafka` is a folder or the file of that name.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("crate::broker::embedded", &["app", "broker/embedded"], CONCRETE),
    ("crate::broker::kafka", &["app", "broker/kafka"], CONCRETE),
    ("crate::broker::rabbitmq", &["app", "broker/rabbitmq"], CONCRETE),
    ("crate::store::postgres", &["app", "store/postgres"], CONCRETE),
    ("crate::store::sqlite", &["app", "store/sqlite"], CONCRETE),
    ("crate::guest::Runtime", &["app", "guest", "cli"], CONCRETE),
    ("crate::guest::RuntimeOptions", &["app", "guest", "cli"], CONCRETE),
    ("crate::guest::inspect", &["app", "guest", "cli"], CONCRETE),
    ("lapin", &["broker/rabbitmq"], FOREIGN),
    ("rdkafka", &["broker/kafka"], FOREIGN),
    ("rusqlite", &["broker/embedded"], FOREIGN),
    ("sqlx", &["store"], FOREIGN),
    ("wasmtime", &["guest"], FOREIGN),
    ("wasmtime_wasi", &["guest"], FOREIGN),
    ("wasmtime_wasi_http", &["guest"], FOREIGN),
    ("axum", &["http"], FOREIGN),
    ("hyper", &["http"], FOREIGN),
    ("hyper_util", &["http"], FOREIGN),
    ("clap", &["cli", "main"], FOREIGN),
];
const CONCRETE: &str =
    "only the composition root names a concrete adapter; the others see the traits of its mod.rs";
const FOREIGN: &str = "this library has one room; the others see our own types";

/// (where, what is not said there, why).
const NEVER: &[(&[&str], &[&str], &str)] = &[(
    &[
        "model",
        "decode",
        "encode",
        "retry",
        "route",
        "dispatch/lanes",
        "dlq/adopt/deaths",
        "dlq/adopt/shape",
        "dlq/export/shape",
        "dlq/auto/doors",
        "dlq/auto/policy",
        "dlq/plan",
        "replay/filter",
        "replay/job",
        "replay/pace",
        "replay/request",
        "replay/seen",
        "broker/kafka/ledger",
        "broker/rabbitmq/acks",
    ],
    &["tokio", "std::fs", "std::net", "std::process", "std::thread"],
    "policy has no I/O, so that tests can drive it",
)];

#[derive(Debug)]
struct Source {
    /// From `host/src`, with `/`.
    path: String,
    text: String,
}

#[test]
fn imports_go_one_way() {
    let sources = host_sources();
    assert!(
        sources.len() > 100,
        "only {} files found: is host/src still there?",
        sources.len()
    );
    let wrong = check(&sources);
    assert!(
        wrong.is_empty(),
        "{} wrong arrows:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_room_of_the_table_exists() {
    let sources = host_sources();
    for (room, allowed, _) in ROOMS {
        assert!(
            sources.iter().any(|s| room_of(&s.path) == *room),
            "no room `{room}` in host/src"
        );
        for name in *allowed {
            assert!(
                ROOMS.iter().any(|(room, ..)| room == name),
                "`{room}` may import `{name}`, which is no room"
            );
        }
    }
}

#[test]
fn a_planted_wrong_arrow_is_found() {
    let planted = [
        (
            "decode/flat.rs",
            "use crate::dispatch::Context;",
            "decode may not import dispatch",
        ),
        (
            "model/ids.rs",
            "use crate::error::Code;",
            "model may not import error",
        ),
        (
            "dispatch/run.rs",
            "use crate::{model::Failure, broker::{Error, kafka::Kafka}};",
            "crate::broker::kafka",
        ),
        (
            "dispatch/run.rs",
            "fn f() { let x = crate::store::sqlite::SqliteStore::open(); }",
            "crate::store::sqlite",
        ),
        (
            "http/mod.rs",
            "use crate::guest::{Plugins, Runtime};",
            "crate::guest::Runtime",
        ),
        (
            "broker/kafka/source.rs",
            "use super::super::rabbitmq::RabbitMq;",
            "crate::broker::rabbitmq",
        ),
        (
            "broker/embedded/mod.rs",
            "use super::{kafka};",
            "crate::broker::kafka",
        ),
        (
            "guest/call.rs",
            "use super::super::http::Problem;",
            "guest may not import http",
        ),
        (
            "store/mod.rs",
            "async fn f() -> Result<(), ::rusqlite::Error> {}",
            "`rusqlite`",
        ),
        ("broker/rabbitmq/mod.rs", "pub use rdkafka as kafka;", "`rdkafka`"),
        ("app.rs", "use crate::cli::Exit;", "app may not import cli"),
        (
            "cli/send.rs",
            "use crate::http::Problem;",
            "cli may not import http",
        ),
        ("main.rs", "use helix_host::app::App;", "main may not import app"),
        ("retry/policy.rs", "use std::fs;", "`std::fs` is not"),
        (
            "dispatch/lanes.rs",
            "use tokio::sync::Notify;",
            "`tokio::sync::Notify`",
        ),
        ("attic/mod.rs", "", "no room `attic`"),
        (
            "decode/mod.rs",
            "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::http::Api;",
            "decode may not import http",
        ),
    ];
    for (path, text, expected) in planted {
        let wrong = check(&[source(path, text)]);
        assert!(
            wrong.iter().any(|line| line.contains(expected)),
            "{path}: `{text}` gave {wrong:?}"
        );
    }
}

#[test]
fn what_is_no_import_is_left_alone() {
    let harmless = [
        (
            "decode/flat.rs",
            "// use crate::dispatch::Context;\n/* crate::http /* nested */ crate::cli */",
        ),
        (
            "decode/flat.rs",
            r##"const A: &str = "crate::http::Api"; const B: &str = r#"a " crate::cli::X"#;"##,
        ),
        (
            "decode/flat.rs",
            "#[cfg(test)]\nmod tests { use crate::http::Api; mod inner { use lapin::Channel; } }",
        ),
        (
            "decode/flat.rs",
            "fn f<'a>(c: char) -> &'a str { if c == '\"' || c == '\\'' { \"\" } else { \"x\" } }",
        ),
        (
            "dispatch/run.rs",
            "use crate::broker::{Error, Receipt}; use super::settle; use self::batch::Batch;",
        ),
        (
            "broker/kafka/desk.rs",
            "use crate::broker::kafka::ledger::Ledger; use rdkafka::consumer::{self, Consumer};",
        ),
    ];
    for (path, text) in harmless {
        assert_eq!(
            check(&[source(path, text)]),
            Vec::<String>::new(),
            "{path}: `{text}`"
        );
    }
    let tested = [
        source(
            "decode/mod.rs",
            "#[cfg(test)]\n#[path = \"odd.rs\"]\nmod tests;\n#[cfg(test)]\nmod fuzz;",
        ),
        source("decode/odd.rs", "use crate::http::Api;"),
        source("decode/fuzz.rs", "use crate::http::Api;"),
        source("decode/fuzz/deep.rs", "use crate::http::Api;"),
    ];
    assert_eq!(check(&tested), Vec::<String>::new(), "files of test modules");
}

fn source(path: &str, text: &str) -> Source {
    Source {
        path: path.to_owned(),
        text: text.to_owned(),
    }
}

/// Every wrong arrow, one line each.
fn check(sources: &[Source]) -> Vec<String> {
    let mut plain: Vec<(&str, Vec<Token>)> = Vec::new();
    let mut only_tests = BTreeSet::new();
    for source in sources {
        let (tokens, modules) = without_tests(&source.path, &tokens(&source.text));
        only_tests.extend(modules);
        plain.push((&source.path, tokens));
    }
    let is_test = |path: &str| {
        only_tests
            .iter()
            .any(|m| path == format!("{m}.rs") || path.starts_with(&format!("{m}/")))
    };
    let mut wrong = BTreeSet::new();
    for (path, tokens) in plain.iter().filter(|(path, _)| !is_test(path)) {
        let room = room_of(path);
        if room == "lib" {
            continue;
        }
        let Some((_, allowed, why)) = ROOMS.iter().find(|(name, ..)| *name == room) else {
            wrong.insert(format!(
                "{path}: no room `{room}` in the table of tests/it/architecture.rs"
            ));
            continue;
        };
        for said in paths(path, tokens) {
            if let Some(target) = said
                .strip_prefix("crate::")
                .and_then(|rest| rest.split("::").next())
            {
                let is_room = ROOMS.iter().any(|(name, ..)| *name == target);
                if is_room && target != room && !allowed.contains(&target) {
                    wrong.insert(format!(
                        "{path}: {room} may not import {target} (`{said}`): {why}"
                    ));
                }
            }
            for (what, places, why) in ONLY_IN {
                if within(&said, what) && !places.iter().any(|place| stands_in(path, place)) {
                    wrong.insert(format!("{path}: `{what}` only in {}: {why}", places.join(", ")));
                }
            }
            for (places, what, why) in NEVER {
                if places.iter().any(|place| stands_in(path, place))
                    && what.iter().any(|what| within(&said, what))
                {
                    wrong.insert(format!("{path}: `{said}` is not for this room: {why}"));
                }
            }
        }
    }
    wrong.into_iter().collect()
}

fn within(said: &str, path: &str) -> bool {
    said == path || said.strip_prefix(path).is_some_and(|rest| rest.starts_with("::"))
}

fn stands_in(path: &str, place: &str) -> bool {
    path == format!("{place}.rs") || path.starts_with(&format!("{place}/"))
}

fn room_of(path: &str) -> &str {
    path.split('/').next().unwrap_or(path).trim_end_matches(".rs")
}

fn host_sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries {
            let path: PathBuf = entry.expect("an entry of host/src").path();
            let name = path
                .strip_prefix(&root)
                .expect("below host/src")
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") && !name.starts_with("cli/new/template/") {
                let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
                files.push(Source { path: name, text });
            }
        }
    }
    files
}
