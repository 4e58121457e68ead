//! Compiled routes. Pure; a lookup allocates nothing.

use std::collections::HashMap;
use std::sync::Arc;

use crate::broker::Destination;
use crate::config::valid::{Route, Settings};
use crate::model::{MessageKind, Origin};

/// Finds the route of a message: a literal destination over a pattern, then a literal type over a pattern, then the
/// longer pattern, then the earlier line.
#[derive(Debug, Default)]
pub struct Table {
    routes: Vec<Arc<Route>>,
    sides: HashMap<Arc<str>, Broker>,
    sources: Vec<SourceSpec>,
}

/// One queue or topic to consume, because a route wants messages from it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SourceSpec {
    pub broker: Arc<str>,
    pub kind: MessageKind,
    pub destination: Arc<str>,
    /// Unsettled deliveries at a time.
    pub window: usize,
}

#[derive(Debug, Default)]
struct Broker {
    tasks: Side,
    events: Side,
}

/// Routes of one broker and kind.
#[derive(Debug, Default)]
struct Side {
    literal: HashMap<Arc<str>, ByType>,
    /// Most specific first.
    patterns: Vec<Arc<Route>>,
}

/// Routes of one literal destination.
#[derive(Debug, Default)]
struct ByType {
    literal: HashMap<Arc<str>, Arc<Route>>,
    /// Most specific first.
    patterns: Vec<Arc<Route>>,
}

impl Table {
    /// Routes that share their name with an unchanged route of `before` keep its identity (`Arc::ptr_eq`), so that what
    /// hangs on a route (lanes, permits, metrics) need not be built again.
    pub fn new(settings: &Settings, before: &Table) -> Self {
        let kept = |route: &Route| before.routes.iter().find(|r| ***r == *route).cloned();
        let routes: Vec<Arc<Route>> = match settings.host.messaging {
            true => settings
                .routes
                .iter()
                .map(|r| kept(r).unwrap_or_else(|| Arc::new(r.clone())))
                .collect(),
            false => Vec::new(),
        };
        let mut sides: HashMap<Arc<str>, Broker> = HashMap::new();
        for route in &routes {
            sides
                .entry(route.broker.clone())
                .or_default()
                .side_mut(route.kind)
                .add(route.clone());
        }
        for broker in sides.values_mut() {
            broker.tasks.sort();
            broker.events.sort();
        }
        let sources = sources(&routes, &settings.topology, settings.limits.in_flight);
        Self {
            routes,
            sides,
            sources,
        }
    }

    pub fn lookup(&self, origin: &Origin, message_type: &str) -> Option<&Arc<Route>> {
        let side = self.sides.get(&*origin.broker)?.side(origin.kind);
        if let Some(by_type) = side.literal.get(&*origin.destination) {
            let exact = by_type.literal.get(message_type);
            let found = exact.or_else(|| {
                by_type
                    .patterns
                    .iter()
                    .find(|r| r.message_type.matches(message_type))
            });
            if found.is_some() {
                return found;
            }
        }
        side.patterns
            .iter()
            .find(|r| r.destination.matches(&origin.destination) && r.message_type.matches(message_type))
    }

    /// In the order of the file.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    pub fn route(&self, name: &str) -> Option<&Arc<Route>> {
        self.routes.iter().find(|r| &*r.name == name)
    }

    /// What to consume: every destination some route names or whose pattern covers it in the topology; sorted, each once.
    pub fn sources(&self) -> &[SourceSpec] {
        &self.sources
    }
}

impl Broker {
    fn side(&self, kind: MessageKind) -> &Side {
        match kind {
            MessageKind::Task => &self.tasks,
            MessageKind::Event => &self.events,
        }
    }

    fn side_mut(&mut self, kind: MessageKind) -> &mut Side {
        match kind {
            MessageKind::Task => &mut self.tasks,
            MessageKind::Event => &mut self.events,
        }
    }
}

impl Side {
    fn add(&mut self, route: Arc<Route>) {
        if !route.destination.is_literal() {
            self.patterns.push(route);
            return;
        }
        let by_type = self.literal.entry(route.destination.0.clone()).or_default();
        if route.message_type.is_literal() {
            by_type
                .literal
                .entry(route.message_type.0.clone())
                .or_insert(route);
        } else {
            by_type.patterns.push(route);
        }
    }

    // Stable sorts: what is equally specific stays in the order of the file.
    fn sort(&mut self) {
        let rank = |r: &Arc<Route>| {
            let of_type = (
                !r.message_type.is_literal(),
                std::cmp::Reverse(r.message_type.0.len()),
            );
            (std::cmp::Reverse(r.destination.0.len()), of_type)
        };
        self.patterns.sort_by_key(rank);
        for by_type in self.literal.values_mut() {
            by_type.patterns.sort_by_key(rank);
        }
    }
}

fn sources(routes: &[Arc<Route>], topology: &[Destination], window: usize) -> Vec<SourceSpec> {
    let mut found = Vec::new();
    for route in routes {
        let source = |destination: &Arc<str>| SourceSpec {
            broker: route.broker.clone(),
            kind: route.kind,
            destination: destination.clone(),
            window,
        };
        if route.destination.is_literal() {
            found.push(source(&route.destination.0));
            continue;
        }
        let covered = topology
            .iter()
            .filter(|d| d.kind == route.kind && route.destination.matches(&d.name));
        found.extend(
            covered
                .filter(|d| !holds_dead_letters(&d.name))
                .map(|d| source(&d.name)),
        );
    }
    found.sort_by(|a, b| {
        let key = |s: &SourceSpec| (s.broker.clone(), s.kind.as_str(), s.destination.clone());
        key(a).cmp(&key(b))
    });
    found.dedup();
    found
}

/// `helixagent.dlq`, `helixagent.dlq.tasks`: a pattern that covered them would run failed messages again for ever.
fn holds_dead_letters(name: &str) -> bool {
    name.split('.').any(|part| part == "dlq")
}

#[cfg(test)]
pub(super) mod tests;
