//! Patterns match as they would if written out naively, and the table finds the route that the rule names.
//!
//! An input is lines: `destination-pattern type-pattern`, up to an empty line; then `destination type`.

use std::cmp::Reverse;
use std::sync::OnceLock;

use helix_host::config::valid::{Pattern, Route, Settings};
use helix_host::config::{LoadRequest, load};
use helix_host::model::{MessageKind, Origin};
use helix_host::route::Table;

const MOST: usize = 16;

pub fn route(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.lines();
    let base = settings();
    let mut settings = base.clone();
    let template = settings.routes.remove(0);
    for line in lines.by_ref().take_while(|line| !line.is_empty()).take(MOST) {
        let (destination, message_type) = line.split_once(' ').unwrap_or((line, "*"));
        settings.routes.push(Route {
            name: settings.routes.len().to_string().into(),
            destination: Pattern::new(destination),
            message_type: Pattern::new(message_type),
            ..template.clone()
        });
    }
    let table = Table::new(&settings, &Table::default());
    assert_eq!(table.routes().len(), settings.routes.len());
    for line in lines.take(MOST) {
        let (destination, message_type) = line.split_once(' ').unwrap_or((line, ""));
        look_up(&settings, &table, destination, message_type);
    }
    // The same table from before: every route keeps its identity.
    let kept = Table::new(&settings, &table);
    let same = |(a, b)| std::sync::Arc::ptr_eq(a, b);
    assert!(kept.routes().iter().zip(table.routes()).all(same));
}

fn look_up(settings: &Settings, table: &Table, destination: &str, message_type: &str) {
    let takes = |pattern: &Pattern, name: &str| {
        let matches = naive(pattern.0.as_bytes(), name.as_bytes());
        assert_eq!(pattern.matches(name), matches, "{pattern} on {name:?}");
        matches
    };
    let rank = |pattern: &Pattern| (!pattern.is_literal(), Reverse(pattern.0.len()));
    let expected = settings
        .routes
        .iter()
        .filter(|r| takes(&r.destination, destination) & takes(&r.message_type, message_type))
        // The first of equals: the earlier line.
        .min_by_key(|r| (rank(&r.destination), rank(&r.message_type)));
    let origin = Origin {
        broker: "embedded".into(),
        kind: MessageKind::Task,
        destination: destination.into(),
        partition: None,
        offset: None,
    };
    let found = table.lookup(&origin, message_type);
    assert_eq!(
        found.map(|r| &*r.name),
        expected.map(|r| &*r.name),
        "{destination:?} {message_type:?}"
    );
}

/// `*` stands for any bytes: one row of "does this much of the pattern match this much of the name" after the other.
fn naive(pattern: &[u8], name: &[u8]) -> bool {
    let mut row = vec![false; name.len() + 1];
    row[0] = true;
    for p in pattern {
        let mut next = vec![false; name.len() + 1];
        for at in 0..=name.len() {
            next[at] = if *p == b'*' {
                row[at] || at > 0 && next[at - 1]
            } else {
                at > 0 && row[at - 1] && name[at - 1] == *p
            };
        }
        row = next;
    }
    row[name.len()]
}

/// A configuration with one route, to be varied.
fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("helix.toml");
        std::fs::write(&path, "[[routes]]\nqueue = \"helixagent.dlq\"\nplugin = \"p\"\n")
            .expect("a temporary file");
        let request = LoadRequest {
            path: Some(path),
            cwd: dir.path().to_owned(),
            ..LoadRequest::default()
        };
        load(request).unwrap_or_else(|faults| panic!("{faults}")).settings
    })
}
