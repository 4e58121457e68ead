//! What adopting and exporting dead letters needs, put together.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::App;
use crate::broker::Broker;
use crate::config::valid::Settings;
use crate::dlq::adopt::Place;
use crate::dlq::adopt::intake::Intake;
use crate::dlq::export::{Exporter, Topics};
use crate::model::{BrokerKind, Clock, UuidIds};
use crate::tasks::{Kind, Tasks};

/// RabbitMQ alone dead-letters by itself.
fn adopts_from<'a>(
    settings: &'a Settings,
    brokers: &'a HashMap<Arc<str>, Arc<dyn Broker>>,
) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<dyn Broker>)> {
    let queue = settings.dlq_adopt.as_ref().filter(|_| settings.host.messaging);
    queue.into_iter().flat_map(move |queue| {
        brokers
            .values()
            .filter(|broker| broker.capabilities().kind == BrokerKind::RabbitMq)
            .map(move |broker| (queue, broker))
    })
}

fn exports(settings: &Settings) -> bool {
    let export = &settings.dlq_export;
    settings.host.messaging && (export.tasks.is_some() || export.events.is_some())
}

/// One for each task of [`spawn`], to say that it has nothing under way any more.
pub(super) fn idle(
    settings: &Settings,
    brokers: &HashMap<Arc<str>, Arc<dyn Broker>>,
) -> Vec<CancellationToken> {
    let tasks = adopts_from(settings, brokers).count() + usize::from(exports(settings));
    (0..tasks).map(|_| CancellationToken::new()).collect()
}

pub(super) fn spawn(app: &App, clock: &Arc<dyn Clock>, tasks: &mut Tasks) {
    let settings = app.settings.load();
    let mut idle = app.dead_letters_idle.iter().cloned();
    for (queue, broker) in adopts_from(&settings, &app.brokers) {
        let intake = Intake {
            broker: Arc::clone(broker),
            place: Place {
                queue: Arc::clone(queue),
                events: settings.events_broker.as_str().into(),
            },
            letters: Arc::clone(&app.store.letters),
            clock: Arc::clone(clock),
            ids: Arc::new(UuidIds),
            metrics: Arc::clone(&app.metrics),
            stop: app.stopping.clone(),
            idle: idle.next().unwrap_or_default(),
        };
        tasks.spawn(Kind::Adopt, intake.run());
    }
    if exports(&settings) {
        let (broker, publisher) = &app.context.targets.events;
        let exporter = Exporter {
            topics: Topics {
                tasks: settings.dlq_export.tasks.clone(),
                events: settings.dlq_export.events.clone(),
            },
            broker: Arc::clone(broker),
            publisher: Arc::clone(publisher),
            letters: Arc::clone(&app.store.letters),
            exports: Arc::clone(&app.store.exports),
            clock: Arc::clone(clock),
            metrics: Arc::clone(&app.metrics),
            stop: app.stopping.clone(),
            idle: idle.next().unwrap_or_default(),
        };
        tasks.spawn(Kind::Export, exporter.run());
    }
}
