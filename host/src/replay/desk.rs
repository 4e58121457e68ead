//! Where replays are asked for, looked at and cancelled.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::plan::plan;
use super::request::{Checked, Fault, Request, fault};
use super::routes::Routes;
use crate::broker::{self, Publisher, Scan, Topology};
use crate::model::replay::{Plan, Progress, RouteTarget};
use crate::model::{Clock, Ids, Replay, ReplayStatus, UnixMs};
use crate::store::{self, Replays, Submitted};
use crate::telemetry::Metrics;
use crate::telemetry::logs::printable;

/// A broker of Kafka that goes or comes back calls the topics it has unknown for a moment: seen a second before it was killed.
/// Believed when it is said for two seconds.
const DOUBTS: u32 = 4;
const AGAIN: Duration = Duration::from_millis(500);

/// What replays need, put together.
pub struct Desk {
    pub store: Arc<dyn Replays>,
    /// Those that can read a topic again. That of events first: it is meant where none is named.
    pub places: Vec<Place>,
    pub routes: Arc<dyn Routes>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub metrics: Arc<Metrics>,
    /// The runner looks for work.
    pub wake: Notify,
}

/// A broker whose topics can be read again, and get copies.
pub struct Place {
    pub broker: Arc<str>,
    pub scan: Arc<dyn Scan>,
    pub publisher: Arc<dyn Publisher>,
    pub topology: Arc<dyn Topology>,
}

/// Why it was not done. Nothing was.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Field(#[from] Fault),
    /// The beginning of the stretch was deleted; what is left begins here.
    #[error("the beginning of the stretch is gone from partition {partition} of `{topic}`")]
    Gone {
        topic: String,
        partition: u32,
        offset: u64,
        time: Option<UnixMs>,
    },
    #[error("no topic named `{0}`")]
    UnknownTopic(String),
    #[error("there is a replay `{0}` already")]
    Taken(String),
    #[error("no replay `{0}`")]
    Unknown(String),
    /// It has ended, so it cannot be cancelled.
    #[error("the replay `{0}` is {word} already", word = .1.as_str())]
    Ended(String, ReplayStatus),
    #[error("{0} replays are pending or running; wait until one has ended, or cancel one")]
    Full(u64),
    #[error("the broker of events cannot read a topic again")]
    NoScan,
    #[error("{0}")]
    Broker(broker::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Desk {
    /// Finds the offsets, makes the target if it is missing, and writes the job down; a host takes it from there.
    ///
    /// # Errors
    /// See [`Refused`].
    pub async fn submit(&self, request: Request) -> Result<Replay, Refused> {
        let checked = request.check()?;
        self.check_route(checked.route.as_ref())?;
        let id = checked.id.clone().unwrap_or_else(|| self.ids.next());
        if self.store.find(&id).await?.is_some() {
            return Err(Refused::Taken(id));
        }
        let plan = self.plan(&checked).await?;
        let now = self.clock.now_ms();
        let mut replay = Replay {
            id,
            progress: Progress::at_start(&plan),
            plan,
            status: ReplayStatus::Pending,
            created_ms: now,
            started_ms: None,
            ended_ms: None,
        };
        if replay.total() == 0 {
            replay.status = ReplayStatus::Completed;
            (replay.started_ms, replay.ended_ms) = (Some(now), Some(now));
        }
        match self.store.submit(&replay).await? {
            Submitted::Done => {}
            Submitted::Taken => return Err(Refused::Taken(replay.id)),
            Submitted::Full(most) => return Err(Refused::Full(most)),
        }
        tracing::info!(
            replay = %printable(&replay.id), topic = %replay.plan.topic, target = %replay.plan.target_name(),
            messages = replay.total(), dry_run = replay.plan.options.dry_run, "replay asked for"
        );
        self.wake.notify_one();
        Ok(replay)
    }

    fn check_route(&self, route: Option<&RouteTarget>) -> Result<(), Refused> {
        match route {
            Some(route) if self.routes.kind(&route.name).is_none() => {
                let reason = format!(
                    "this host has no route `{}`; `helix routes` shows those it has",
                    printable(&route.name)
                );
                Err(fault("target_route", reason).into())
            }
            _ => Ok(()),
        }
    }

    /// Where the plan of a replay is read from and written to.
    pub(super) fn place(&self, broker: Option<&str>) -> Option<&Place> {
        match broker {
            None => self.places.first(),
            Some(name) => self.places.iter().find(|place| &*place.broker == name),
        }
    }

    async fn plan(&self, checked: &Checked) -> Result<Plan, Refused> {
        let places = match &checked.broker {
            None => &self.places[..],
            Some(name) => std::slice::from_ref(self.place(Some(name)).ok_or_else(|| {
                let known: Vec<&str> = self.places.iter().map(|place| &*place.broker).collect();
                let reason = format!(
                    "no broker of that name can read a topic again; {} can",
                    known.join(", ")
                );
                fault("broker", reason)
            })?),
        };
        let mut doubts = DOUBTS;
        loop {
            match self.plan_at(places, checked).await {
                Err(Refused::UnknownTopic(_)) if doubts > 0 => doubts -= 1,
                decided => return decided,
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn plan_at(&self, places: &[Place], checked: &Checked) -> Result<Plan, Refused> {
        let mut refused = Refused::NoScan;
        for place in places {
            match plan(place, &*self.routes, checked).await {
                // It may be a stream of the broker of tasks.
                Err(unknown @ Refused::UnknownTopic(_)) => refused = unknown,
                planned => return planned,
            }
        }
        Err(refused)
    }

    /// # Errors
    /// There is none of that id, or the store does not answer.
    pub async fn show(&self, id: &str) -> Result<Replay, Refused> {
        self.store
            .find(id)
            .await?
            .ok_or_else(|| Refused::Unknown(id.to_owned()))
    }

    /// Newest first.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn list(&self, limit: usize) -> Result<Vec<Replay>, Refused> {
        Ok(self.store.newest(limit).await?)
    }

    /// On disk when it returns. Whoever runs it sends no batch after the one that is under way. Cancelling twice is fine.
    ///
    /// # Errors
    /// There is none of that id, it has completed or failed, or the store does not answer.
    pub async fn cancel(&self, id: &str) -> Result<Replay, Refused> {
        match self.store.cancel(id).await? {
            None => Err(Refused::Unknown(id.to_owned())),
            Some(replay) if replay.status == ReplayStatus::Cancelled => {
                tracing::info!(replay = %printable(id), "replay cancelled");
                Ok(replay)
            }
            Some(replay) => Err(Refused::Ended(replay.id, replay.status)),
        }
    }
}
