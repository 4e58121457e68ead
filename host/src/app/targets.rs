//! Where handlers may publish to, as far as it is known without asking a broker.

use std::collections::HashSet;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::valid::{Broker, Settings};
use crate::guest;
use crate::model::MessageKind;

/// The names of the topology and of literal routes.
pub(super) struct Known(ArcSwap<Names>);

struct Names {
    tasks: HashSet<Arc<str>>,
    events: HashSet<Arc<str>>,
    /// On the embedded broker nothing exists beside the topology; elsewhere the broker knows, and says so when published to.
    tasks_complete: bool,
    events_complete: bool,
    routes: Vec<Arc<crate::config::valid::Route>>,
}

impl Known {
    pub fn new(settings: &Settings) -> Self {
        Self(ArcSwap::from_pointee(names(settings)))
    }

    pub fn replace(&self, settings: &Settings) {
        self.0.store(Arc::new(names(settings)));
    }
}

fn names(settings: &Settings) -> Names {
    let all = |kind: MessageKind| {
        let topology = settings
            .topology
            .iter()
            .filter(|d| d.kind == kind)
            .map(|d| Arc::clone(&d.name));
        let routes = settings
            .routes
            .iter()
            .filter(|r| r.kind == kind && r.destination.is_literal())
            .map(|r| Arc::clone(&r.destination.0));
        topology.chain(routes).collect()
    };
    let embedded = |name: &str| matches!(settings.brokers.get(name), Some(Broker::Embedded(_)));
    Names {
        tasks: all(MessageKind::Task),
        events: all(MessageKind::Event),
        tasks_complete: embedded(&settings.tasks_broker),
        events_complete: embedded(&settings.events_broker),
        routes: settings.routes.iter().cloned().map(Arc::new).collect(),
    }
}

impl guest::Targets for Known {
    fn resolve(&self, kind: MessageKind, message_type: &str) -> Option<Arc<str>> {
        let names = self.0.load();
        names
            .routes
            .iter()
            .find(|r| r.kind == kind && r.destination.is_literal() && r.message_type.matches(message_type))
            .map(|r| Arc::clone(&r.destination.0))
    }

    fn exists(&self, kind: MessageKind, name: &str) -> bool {
        let names = self.0.load();
        match kind {
            MessageKind::Task => !names.tasks_complete || names.tasks.contains(name),
            MessageKind::Event => !names.events_complete || names.events.contains(name),
        }
    }
}
