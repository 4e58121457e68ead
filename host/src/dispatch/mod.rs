//! From a delivery to its settlement: intake, lanes, run, settle, drain.
//!
//! ```text
//! Intake (one per source)          Runner (one per route)
//!   permit → recv → decode → route ─▶ Lanes ─▶ workers ─▶ guest ─▶ verdict ─▶ settle
//!                                       ▲                                       │
//!   Schedule (due retries) ─────────────┘◀── store ◀── parker ◀─────────────────┘
//! ```
//! A message holds its source's permit from before it is pulled until it is settled: that bounds memory, and when permits
//! run out the source stops pulling. Nothing here knows a concrete broker, store or guest.

mod context;
mod intake;
mod item;
pub mod lanes;
mod letter;
mod lookout;
mod park;
pub mod rehearse;
pub mod replay;
mod rest;
mod run;
mod runner;
mod schedule;
mod settle;
#[cfg(test)]
mod simulation;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

pub use context::{Context, Parts, Targets};
pub use item::{LaneName, lane_name};
use runner::Runner;

use crate::broker::{Broker, Destination, Subscription};
use crate::config::valid::{Park, Route, Settings};
use crate::model::MessageKind;
use crate::planted::{self, Bug};
use crate::route::{Routes, SourceSpec, Table};
use crate::tasks::{Kind, Tasks};

/// Owns every intake and runner; the only door to them.
pub struct Dispatcher {
    shared: Arc<Shared>,
    state: Mutex<State>,
}

/// What intakes, runners and the schedule look things up in.
pub struct Shared {
    pub(crate) context: Arc<Context>,
    pub(crate) routes: Routes,
    /// What queues and topics should be like, to create those that a route consumes and nobody made.
    pub(crate) topology: arc_swap::ArcSwap<Vec<Destination>>,
    pub(crate) runners: arc_swap::ArcSwap<HashMap<Arc<str>, Arc<Runner>>>,
}

impl Shared {
    /// Lanes that live in the store, for every runner there is and will be. Before the first message of whatever is new to
    /// this host: it would overtake them.
    pub(crate) async fn read_parked(&self) -> Result<(), crate::store::Error> {
        if planted::is(Bug::ParkForgottenOverRestart) {
            return Ok(());
        }
        let mut by_route: HashMap<String, Vec<lanes::LaneKey>> = HashMap::new();
        for (route, lane) in self.context.retries.lanes().await? {
            by_route.entry(route).or_default().push(lane.into());
        }
        let runners = self.runners.load();
        for (route, keys) in by_route {
            if let Some(runner) = runners.get(route.as_str()) {
                runner.mark_parked(&keys);
            }
            self.context
                .remember_parked(keys.iter().map(|key| (route.clone(), key.to_vec())));
        }
        Ok(())
    }
}

struct State {
    tasks: Tasks,
    /// Due retries are claimed.
    scheduled: bool,
    intakes: HashMap<SourceKey, CancellationToken>,
    /// Gone from the table; alive while they hold messages.
    leaving: Vec<Weak<Runner>>,
}

impl Dispatcher {
    /// Starts empty: the first [`Dispatcher::apply`] is a reload from the empty table. Lanes that live in the store are
    /// known before anything is pulled, so that nothing overtakes them.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(context: Arc<Context>) -> Result<Self, crate::store::Error> {
        let shared = Arc::new(Shared {
            context: Arc::clone(&context),
            routes: Routes::new(),
            topology: arc_swap::ArcSwap::from_pointee(Vec::new()),
            runners: arc_swap::ArcSwap::from_pointee(HashMap::new()),
        });
        shared.read_parked().await?;
        Ok(Self {
            shared,
            state: Mutex::new(State {
                tasks: Tasks::new(context.fatal.clone()),
                scheduled: false,
                intakes: HashMap::new(),
                leaving: Vec::new(),
            }),
        })
    }

    /// Makes the table the one that serves: new routes get runners, removed ones drain, changed ones change in place.
    /// Messages under way are not touched.
    pub fn apply(&self, settings: &Settings, brokers: &HashMap<Arc<str>, Arc<dyn Broker>>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut runners = HashMap::clone(&self.shared.runners.load());
        let table = Table::new(settings, &self.shared.routes.current());
        let wanted: HashMap<Arc<str>, Arc<Route>> = table
            .routes()
            .iter()
            .map(|route| (Arc::clone(&route.name), Arc::clone(route)))
            .collect();
        for (name, route) in &wanted {
            let runner = runners.entry(Arc::clone(name)).or_insert_with(|| {
                let (runner, parker) = Runner::new(Arc::clone(&self.shared.context), Arc::clone(route));
                state.tasks.spawn(Kind::Parker, parker);
                runner
            });
            for worker in runner.change(Arc::clone(route)) {
                state.tasks.spawn(Kind::Worker, worker);
            }
        }
        // A removed route finishes what it holds: its runner lives on in its workers until its lanes are empty.
        let removed: Vec<Arc<Runner>> = runners
            .iter()
            .filter(|(name, _)| !wanted.contains_key(*name))
            .map(|(_, r)| Arc::clone(r))
            .collect();
        // Runners of both tables before the table, and the old ones gone after it: whoever finds a route finds its runner, or
        // finds another route when it looks again.
        self.shared.topology.store(Arc::new(settings.topology.clone()));
        self.shared.runners.store(Arc::new(runners.clone()));
        let change = self.shared.routes.replace(settings);
        if !change.is_empty() {
            tracing::info!(generation = change.generation, added = ?change.added, removed = ?change.removed, changed = ?change.changed, "routes");
        }
        runners.retain(|name, _| wanted.contains_key(name));
        self.shared.runners.store(Arc::new(runners));
        state.leaving.retain(|runner| runner.strong_count() > 0);
        for runner in removed {
            state.leaving.push(Arc::downgrade(&runner));
            runner.retire();
        }
        // Not before there are routes: a retry claimed earlier would find none and wait until its lease runs out.
        if !state.scheduled {
            state.scheduled = true;
            state
                .tasks
                .spawn(Kind::Schedule, schedule::run(Arc::clone(&self.shared)));
        }
        self.reconcile_intakes(&mut state, table.sources(), brokers);
    }

    fn reconcile_intakes(
        &self,
        state: &mut State,
        wanted: &[SourceSpec],
        brokers: &HashMap<Arc<str>, Arc<dyn Broker>>,
    ) {
        state.intakes.retain(|key, stop| {
            let keep = wanted.iter().any(|spec| key_of(spec) == *key);
            if !keep {
                stop.cancel();
            }
            keep
        });
        for spec in wanted {
            let key = key_of(spec);
            if state.intakes.contains_key(&key) {
                continue;
            }
            let Some(broker) = brokers.get(&key.0) else {
                continue;
            };
            let stop = self.shared.context.pulling.child_token();
            let subscription = Subscription {
                kind: key.1,
                destination: Arc::clone(&key.2),
                window: spec.window,
            };
            let intake = intake::run(
                Arc::clone(&self.shared),
                Arc::clone(broker),
                subscription,
                stop.clone(),
            );
            state.tasks.spawn(Kind::Intake, intake);
            state.intakes.insert(key, stop);
        }
    }

    /// Wakes routes that wait for a plugin.
    pub fn plugins_changed(&self) {
        for runner in self.shared.runners.load().values() {
            runner.wake();
        }
    }

    /// Is there a route of that name?
    pub fn has_route(&self, name: &str) -> bool {
        self.shared.runners.load().contains_key(name)
    }

    /// The kind of message that a route handles, and its plugin; none when there is no such route.
    pub fn handles(&self, name: &str) -> Option<(MessageKind, Arc<str>)> {
        let runners = self.shared.runners.load();
        let route = runners.get(name)?.route.load();
        Some((route.kind, Arc::clone(&route.plugin)))
    }

    /// What becomes of later messages of a key of that route when one is given up on; none when there is no such route.
    pub fn park_of(&self, name: &str) -> Option<Option<Park>> {
        let runners = self.shared.runners.load();
        runners.get(name).map(|runner| runner.route.load().park)
    }

    /// Something was parked that is due.
    pub fn parked(&self) {
        self.shared.context.due_changed.notify_one();
    }

    /// Routes whose plugin is missing or has no handler for their kind of message.
    pub fn waiting_for_plugins(&self) -> Vec<String> {
        let runners = self.shared.runners.load();
        let mut waiting: Vec<String> = runners
            .values()
            .filter_map(|runner| runner.lacks_plugin())
            .collect();
        waiting.sort();
        waiting
    }

    /// Destinations that are being consumed, for gauges.
    pub fn subscriptions(&self) -> Vec<SourceKey> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.intakes.keys().cloned().collect()
    }

    /// Those of the table, and those that are gone from it and finish what they hold.
    fn runners(&self) -> Vec<Arc<Runner>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let leaving = state.leaving.iter().filter_map(Weak::upgrade);
        let serving = self.shared.runners.load();
        serving.values().map(Arc::clone).chain(leaving).collect()
    }

    /// Stop pulling → finish what runs within `limit` → settle → leave. What has not started goes back to its broker; what
    /// waits for a retry does too, or goes to the store where that is the better place.
    pub async fn drain(&self, limit: Duration) {
        let context = &self.shared.context;
        let deadline = tokio::time::Instant::now() + limit;
        context.pulling.cancel();
        // What was pulled is finished while there is time: a Kafka offset behind an unfinished one could not be committed,
        // and would run again elsewhere.
        let finish = deadline - limit / 5;
        let runners = self.runners();
        let at_rest = rest::come_to_rest(
            &context.busy,
            || runners.iter().any(|r| r.has_work()),
            || runners.iter().for_each(|r| r.wake()),
        );
        let finished = tokio::time::timeout_at(finish, at_rest).await;
        context.busy.freeze();
        context.stop.cancel();
        for runner in &runners {
            runner.shelve();
            runner.clear();
        }
        let settled = tokio::time::timeout_at(deadline, context.busy.idle()).await;
        if finished.is_err() || settled.is_err() {
            tracing::warn!(
                limit_s = limit.as_secs(),
                "not everything finished in time; the rest will be delivered again"
            );
        }
        context.abort.cancel();
        context.closing.cancel();
        let mut tasks = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut state.tasks, Tasks::new(CancellationToken::new()))
        };
        // Leaving a consumer group and flushing acknowledgements is short; it has its own bound beyond the drain limit.
        // A Kafka source that waits for its last commit and then leaves may need the limit twice.
        tasks.join(CLOSE_LIMIT * 2 + Duration::from_secs(2)).await;
    }
}

type SourceKey = (Arc<str>, MessageKind, Arc<str>);

fn key_of(spec: &SourceSpec) -> SourceKey {
    (Arc::clone(&spec.broker), spec.kind, Arc::clone(&spec.destination))
}

/// How long a source may take to send its last acknowledgements and leave.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
