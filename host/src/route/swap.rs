//! The table that serves now. Replacing it is all or nothing; starting is replacing the empty one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::{ArcSwap, Guard};

use super::Table;
use crate::config::valid::Settings;

/// Shared by all that look routes up.
#[derive(Debug, Default)]
pub struct Routes {
    table: ArcSwap<Table>,
    generation: AtomicU64,
    /// Replacements one after another.
    replacing: Mutex<()>,
}

/// What a replacement changed, by the names of routes, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// 1 for the first table.
    pub generation: u64,
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<String>,
}

impl Change {
    /// The same routes as before.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

impl Routes {
    /// Empty: every message is unrouted.
    pub fn new() -> Self {
        Self::default()
    }

    /// For one lookup, or one batch of them. Cheap; do not keep it over an await.
    pub fn current(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// To keep.
    pub fn snapshot(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// 0 before the first table. Whoever caches a lookup looks it up again when this has moved.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Settings are checked, so this cannot fail: lookups see the old table or the new one, nothing between.
    pub fn replace(&self, settings: &Settings) -> Change {
        let _one_at_a_time = self.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.table.load_full();
        let after = Arc::new(Table::new(settings, &before));
        let mut change = compare(&before, &after);
        self.table.store(after);
        // After the table: who sees the new number sees the new table.
        change.generation = self.generation.fetch_add(1, Ordering::Release) + 1;
        change
    }
}

fn compare(before: &Table, after: &Table) -> Change {
    let mut change = Change::default();
    for route in after.routes() {
        match before.route(&route.name) {
            None => change.added.push(route.name.to_string()),
            Some(old) if !same(old, route) => change.changed.push(route.name.to_string()),
            Some(_) => {}
        }
    }
    let gone = before.routes().iter().filter(|r| after.route(&r.name).is_none());
    change.removed = gone.map(|r| r.name.to_string()).collect();
    change
}

/// Moving to another line is no change.
fn same(old: &crate::config::valid::Route, new: &crate::config::valid::Route) -> bool {
    let moved = crate::config::valid::Route {
        declared_at: old.declared_at.clone(),
        ..new.clone()
    };
    *old == moved
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::route::table::tests::settings;

    const ONE: &str = "[[routes]]\nname = \"one\"\nqueue = \"helixagent.tasks.llm\"\nplugin = \"p\"\n";
    const TWO: &str = "[[routes]]\nname = \"two\"\nqueue = \"helixagent.tasks.debate\"\nplugin = \"p\"\n";

    #[test]
    fn starting_is_replacing_the_empty_table() {
        let routes = Routes::new();
        assert_eq!(routes.generation(), 0);
        assert!(routes.current().sources().is_empty());
        let change = routes.replace(&settings(ONE));
        assert_eq!(
            (change.generation, change.added.as_slice()),
            (1, ["one".to_owned()].as_slice())
        );
        assert_eq!(routes.current().sources().len(), 1);
    }

    #[test]
    fn says_what_changed() {
        let routes = Routes::new();
        routes.replace(&settings(&format!("{ONE}{TWO}")));
        let change = routes.replace(&settings(&format!(
            "{ONE}concurrency = 9\n[[routes]]\nname = \"three\"\nqueue = \"*\"\nplugin = \"p\"\n"
        )));
        assert_eq!(change.added, ["three"]);
        assert_eq!(change.changed, ["one"]);
        assert_eq!(change.removed, ["two"]);
        assert_eq!(change.generation, 2);
    }

    #[test]
    fn a_route_that_only_moved_is_no_change_and_readers_keep_what_they_hold() {
        let routes = Routes::new();
        routes.replace(&settings(ONE));
        let held = routes.snapshot();
        assert!(routes.replace(&settings(&format!("\n\n{ONE}"))).is_empty());
        routes.replace(&settings(TWO));
        assert!(held.route("one").is_some());
        assert!(routes.snapshot().route("one").is_none());
    }

    #[test]
    fn unchanged_routes_keep_their_identity() {
        let routes = Routes::new();
        routes.replace(&settings(ONE));
        let before = routes.snapshot().route("one").unwrap().clone();
        routes.replace(&settings(&format!("{ONE}{TWO}")));
        assert!(Arc::ptr_eq(&before, routes.snapshot().route("one").unwrap()));
    }
}
