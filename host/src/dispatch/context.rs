//! What every room of dispatch needs, injected once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::item::Item;
use super::lanes::LaneKey;
use super::rest::Busy;
use crate::broker::Publisher;
use crate::config::valid::{Limits, Unrouted};
use crate::guest::Plugins;
use crate::model::{Clock, Ids, MessageKind};
use crate::store::{DeadLetters, HeldKeys, Retries};
use crate::telemetry::Metrics;

/// Where handler output goes: the broker that holds queues, and the one that holds topics.
#[derive(Clone)]
pub struct Targets {
    pub tasks: (Arc<str>, Arc<dyn Publisher>),
    pub events: (Arc<str>, Arc<dyn Publisher>),
}

impl Targets {
    /// Name (for metrics) and publisher.
    pub fn of(&self, kind: MessageKind) -> &(Arc<str>, Arc<dyn Publisher>) {
        match kind {
            MessageKind::Task => &self.tasks,
            MessageKind::Event => &self.events,
        }
    }
}

pub struct Context {
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    /// 0.0 … 1.0, for jitter.
    pub random: Box<dyn Fn() -> f64 + Send + Sync>,
    pub metrics: Arc<Metrics>,
    pub plugins: Arc<dyn Plugins>,
    pub retries: Arc<dyn Retries>,
    pub letters: Arc<dyn DeadLetters>,
    pub held: Arc<dyn HeldKeys>,
    pub targets: Targets,
    pub limits: Limits,
    pub unrouted: arc_swap::ArcSwap<Unrouted>,
    /// Brokers of this host alone.
    own_brokers: HashSet<Arc<str>>,
    /// Cancelled when a task fails that the host cannot do without.
    pub fatal: CancellationToken,
    /// Stop pulling.
    pub pulling: CancellationToken,
    /// Stop starting calls.
    pub stop: CancellationToken,
    /// The drain limit is over: let go of what still runs.
    pub abort: CancellationToken,
    /// Everything is settled or given up: sources may leave.
    pub closing: CancellationToken,
    /// A retry was parked or became due earlier.
    pub(super) due_changed: Notify,
    pub(super) busy: Busy,
    parked: Mutex<HashMap<String, HashSet<LaneKey>>>,
}

/// The seam values that make a [`Context`].
pub struct Parts {
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub random: Box<dyn Fn() -> f64 + Send + Sync>,
    pub metrics: Arc<Metrics>,
    pub plugins: Arc<dyn Plugins>,
    pub retries: Arc<dyn Retries>,
    pub letters: Arc<dyn DeadLetters>,
    pub held: Arc<dyn HeldKeys>,
    pub targets: Targets,
    pub limits: Limits,
    pub unrouted: Unrouted,
    /// Names of the brokers that no other host consumes from, see [`crate::broker::Capabilities::shared`].
    pub own_brokers: HashSet<Arc<str>>,
    pub fatal: CancellationToken,
}

impl Context {
    pub fn new(parts: Parts) -> Self {
        Self {
            clock: parts.clock,
            ids: parts.ids,
            random: parts.random,
            metrics: parts.metrics,
            plugins: parts.plugins,
            retries: parts.retries,
            letters: parts.letters,
            held: parts.held,
            targets: parts.targets,
            limits: parts.limits,
            unrouted: arc_swap::ArcSwap::from_pointee(parts.unrouted),
            own_brokers: parts.own_brokers,
            fatal: parts.fatal,
            pulling: CancellationToken::new(),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
            closing: CancellationToken::new(),
            due_changed: Notify::new(),
            busy: Busy::default(),
            parked: Mutex::default(),
        }
    }

    /// (route, lane): found in the store, or brought there by a runner that is going.
    pub(super) fn remember_parked(&self, lanes: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let mut parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        for (route, lane) in lanes {
            parked.entry(route).or_default().insert(lane.into());
        }
    }

    /// Lanes of a route that may be in the store when its runner begins.
    pub(super) fn parked_lanes(&self, route: &str) -> Vec<LaneKey> {
        let parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        let lanes = parked.get(route).map(|lanes| lanes.iter().cloned().collect());
        lanes.unwrap_or_default()
    }

    /// No other host can get this message, nor one of its key, whatever becomes of this one.
    pub(super) fn is_ours_alone(&self, item: &Item) -> bool {
        self.own_brokers.contains(&item.envelope.origin.broker)
    }
}
