#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::config::{LoadRequest, load};

pub(in crate::route) fn settings(toml: &str) -> Settings {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("helix.toml");
    std::fs::write(&path, toml).unwrap();
    let request = LoadRequest {
        path: Some(path),
        flags: vec![],
        env: BTreeMap::new(),
        cwd: dir.path().to_owned(),
    };
    load(request).unwrap_or_else(|faults| panic!("{faults}")).settings
}

fn origin(kind: MessageKind, destination: &str) -> Origin {
    Origin {
        broker: "embedded".into(),
        kind,
        destination: destination.into(),
        partition: None,
        offset: None,
    }
}

const ROUTES: &str = r#"
[[routes]]
name = "all"
queue = "*"
plugin = "a"
[[routes]]
name = "tasks"
queue = "helixagent.tasks.*"
plugin = "a"
[[routes]]
name = "tasks-exact-type"
queue = "helixagent.tasks.*"
type = "llm.request"
plugin = "a"
[[routes]]
name = "llm"
queue = "helixagent.tasks.llm"
plugin = "a"
[[routes]]
name = "llm-llm"
queue = "helixagent.tasks.llm"
type = "llm.*"
plugin = "a"
[[routes]]
name = "llm-longer"
queue = "helixagent.tasks.llm"
type = "llm.req*"
plugin = "a"
[[routes]]
name = "llm-exact"
queue = "helixagent.tasks.llm"
type = "llm.request"
plugin = "a"
[[routes]]
name = "events"
topic = "helixagent.events.*"
plugin = "a"
"#;

#[test]
fn the_most_specific_route_wins() {
    let table = Table::new(&settings(ROUTES), &Table::default());
    for (kind, destination, message_type, route) in [
        (
            MessageKind::Task,
            "helixagent.tasks.llm",
            "llm.request",
            Some("llm-exact"),
        ),
        (
            MessageKind::Task,
            "helixagent.tasks.llm",
            "llm.requeue",
            Some("llm-longer"),
        ),
        (
            MessageKind::Task,
            "helixagent.tasks.llm",
            "llm.other",
            Some("llm-llm"),
        ),
        (MessageKind::Task, "helixagent.tasks.llm", "else", Some("llm")),
        // A literal type does not beat a literal destination; among patterns it beats `*`.
        (
            MessageKind::Task,
            "helixagent.tasks.debate",
            "llm.request",
            Some("tasks-exact-type"),
        ),
        (
            MessageKind::Task,
            "helixagent.tasks.debate",
            "debate.round",
            Some("tasks"),
        ),
        (MessageKind::Task, "other", "x", Some("all")),
        (MessageKind::Event, "helixagent.events.audit", "x", Some("events")),
        (MessageKind::Event, "helixagent.stream.tokens", "x", None),
    ] {
        let found = table
            .lookup(&origin(kind, destination), message_type)
            .map(|r| &*r.name);
        assert_eq!(found, route, "{destination} {message_type}");
    }
    let elsewhere = Origin {
        broker: "kafka".into(),
        ..origin(MessageKind::Task, "helixagent.tasks.llm")
    };
    assert!(table.lookup(&elsewhere, "llm.request").is_none());
}

#[test]
fn equally_specific_routes_keep_the_order_of_the_file() {
    let toml = r#"
[[routes]]
name = "first"
queue = "helixagent.tasks.*"
type = "a*"
plugin = "p"
[[routes]]
name = "second"
queue = "helixagent.tasks.*"
type = "*a"
plugin = "p"
"#;
    let table = Table::new(&settings(toml), &Table::default());
    let found = table
        .lookup(&origin(MessageKind::Task, "helixagent.tasks.llm"), "aha")
        .unwrap();
    assert_eq!(&*found.name, "first");
}

#[test]
fn sources_expand_patterns_and_leave_dead_letters_alone() {
    let table = Table::new(&settings(ROUTES), &Table::default());
    let names: Vec<&str> = table.sources().iter().map(|s| &*s.destination).collect();
    assert_eq!(names.iter().filter(|n| **n == "helixagent.tasks.llm").count(), 1);
    assert!(names.contains(&"helixagent.tasks.debate") && names.contains(&"helixagent.events.audit"));
    assert!(!names.iter().any(|n| n.contains("dlq")), "{names:?}");
    assert!(
        table
            .sources()
            .iter()
            .all(|s| s.window == 1000 && &*s.broker == "embedded")
    );
    let named = settings("[[routes]]\nqueue = \"helixagent.dlq\"\nplugin = \"p\"\n");
    assert_eq!(
        &*Table::new(&named, &Table::default()).sources()[0].destination,
        "helixagent.dlq"
    );
}

#[test]
fn messaging_off_is_an_empty_table() {
    let mut settings = settings(ROUTES);
    settings.host.messaging = false;
    let table = Table::new(&settings, &Table::default());
    assert!(table.sources().is_empty() && table.routes().is_empty());
}

proptest! {
    /// The table agrees with the rule written out plainly.
    #[test]
    fn agrees_with_the_rule(
        routes in proptest::collection::vec(("[ab*]{1,3}", "[ab*]{1,3}"), 0..8),
        destination in "[ab]{1,3}",
        message_type in "[ab]{1,3}",
    ) {
        let mut settings = settings("");
        let base = self::settings("[[routes]]\nqueue = \"helixagent.dlq\"\nplugin = \"p\"\n").routes[0].clone();
        settings.routes = routes
            .iter()
            .enumerate()
            .map(|(n, (d, t))| Route {
                name: n.to_string().into(),
                destination: crate::config::valid::Pattern::new(d.as_str()),
                message_type: crate::config::valid::Pattern::new(t.as_str()),
                ..base.clone()
            })
            .collect();
        let table = Table::new(&settings, &Table::default());
        let found = table.lookup(&origin(MessageKind::Task, &destination), &message_type).map(|r| r.name.to_string());
        let expected = settings
            .routes
            .iter()
            .filter(|r| r.destination.matches(&destination) && r.message_type.matches(&message_type))
            .min_by_key(|r| {
                let rank = |p: &crate::config::valid::Pattern| (!p.is_literal(), std::cmp::Reverse(p.0.len()));
                (rank(&r.destination), rank(&r.message_type))
            })
            .map(|r| r.name.to_string());
        prop_assert_eq!(found, expected);
    }
}
