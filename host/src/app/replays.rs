//! What replays need, put together: brokers whose topics can be read again, and the routes of this host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::App;
use crate::broker::Broker;
use crate::dispatch::{self, Dispatcher};
use crate::guest::{Candidates, Plugins, Runtime, Version};
use crate::model::replay::Fate;
use crate::model::{Clock, MessageKind, RawMessage, UuidIds};
use crate::replay::{Desk, Order, Place, Routes, Waits};

pub(super) fn desk(app: &App, clock: &Arc<dyn Clock>) -> Desk {
    let settings = app.settings.load();
    let mut names = vec![settings.events_broker.as_str()];
    names.extend(Some(settings.tasks_broker.as_str()).filter(|name| *name != settings.events_broker));
    Desk {
        store: Arc::clone(&app.store.replays),
        places: names
            .into_iter()
            .filter_map(|name| place(&**app.brokers.get(name)?))
            .collect(),
        routes: Arc::new(RoutesOf {
            dispatcher: Arc::clone(&app.dispatcher),
            runtime: app.runtime.clone(),
            twins: Mutex::default(),
        }),
        clock: Arc::clone(clock),
        ids: Arc::new(UuidIds),
        metrics: Arc::clone(&app.metrics),
        wake: tokio::sync::Notify::new(),
    }
}

fn place(broker: &dyn Broker) -> Option<Place> {
    Some(Place {
        broker: broker.name(),
        scan: broker.scan()?,
        publisher: broker.publisher(),
        topology: broker.topology(),
    })
}

/// A twin is made anew after this time: grants and limits may have changed.
const TWIN: Duration = Duration::from_secs(10);

/// By plugin, versions that carry nothing out, and since when.
type Twins = HashMap<Arc<str>, (Arc<dyn Version>, Instant)>;

struct RoutesOf {
    dispatcher: Arc<Dispatcher>,
    runtime: Runtime,
    twins: Mutex<Twins>,
}

impl RoutesOf {
    fn twins(&self) -> MutexGuard<'_, Twins> {
        self.twins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What serves, with its effects withheld, and few instances of its own.
    async fn twin(&self, plugin: &Arc<str>) -> Result<Arc<dyn Version>, Waits> {
        let serving = self.runtime.current(plugin).map(|version| version.digest());
        if let Some((twin, since)) = self.twins().get(plugin)
            && Some(twin.digest()) == serving
            && since.elapsed() < TWIN
        {
            return Ok(Arc::clone(twin));
        }
        let twin = self.runtime.candidate(plugin, None).await;
        let twin = twin.map_err(|error| Waits(format!("nobody handles its messages: {error}")))?;
        let mut twins = self.twins();
        twins.retain(|_, (_, since)| since.elapsed() < TWIN);
        twins.insert(Arc::clone(plugin), (Arc::clone(&twin), Instant::now()));
        Ok(twin)
    }
}

#[async_trait]
impl Routes for RoutesOf {
    fn kind(&self, route: &str) -> Option<MessageKind> {
        self.dispatcher.handles(route).map(|(kind, _)| kind)
    }

    async fn hand_over(&self, order: &Order, batch: Vec<RawMessage>) -> Result<Vec<Option<Fate>>, Waits> {
        let name = &order.target.name;
        let Some((_, plugin)) = self.dispatcher.handles(name) else {
            return Err(Waits(format!(
                "this host has no route `{name}`; add it again, or cancel the replay"
            )));
        };
        let part = match order.target.side_effects {
            true => None,
            false => Some(self.twin(&plugin).await?),
        };
        let order = dispatch::replay::Order {
            route: name.as_str().into(),
            replay: Arc::clone(&order.replay),
            part,
            stop: order.stop.clone(),
            notice: order.notice.clone(),
        };
        self.dispatcher.replay(&order, batch).await.map_err(Waits)
    }
}
