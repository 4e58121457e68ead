//! From what was asked to offsets and a target: asks the broker, and fixes the end.

use std::sync::Arc;

use super::desk::{Place, Refused};
use super::request::{Checked, From, To, fault};
use super::routes::Routes;
use crate::broker::{Bounds, Destination, Error, Scan, Topology};
use crate::model::replay::{Plan, Stretch};
use crate::model::{MessageKind, UnixMs};

/// # Errors
/// The topic is not there, the stretch cannot be read as asked, the target cannot be made, or the broker does not answer.
pub(super) async fn plan(place: &Place, routes: &dyn Routes, checked: &Checked) -> Result<Plan, Refused> {
    let (scan, topology) = (&*place.scan, &*place.topology);
    let bounds = match scan.bounds(&checked.topic).await {
        Ok(bounds) => bounds,
        Err(Error::UnknownDestination(_)) => return Err(Refused::UnknownTopic(checked.topic.clone())),
        Err(Error::Unsupported(reason)) => return Err(fault("topic", reason).into()),
        Err(error) => return Err(Refused::Broker(error)),
    };
    let stretches = match &checked.from {
        From::Time(from) => by_time(scan, checked, &bounds, *from).await?,
        From::Offsets(_) => by_offset(scan, checked, &bounds).await?,
    };
    // Where times in messages are not the broker's, the offsets alone decide.
    let exact = scan.time_step() == 1;
    let partitions = u32::try_from(bounds.len()).unwrap_or(u32::MAX);
    let empty = stretches.iter().all(Stretch::is_empty);
    if let Some(route) = &checked.route {
        takes(scan, routes, &route.name)?;
    }
    // Nothing to send is no reason to make a topic.
    let target_partitions = if checked.options.dry_run || empty || checked.route.is_some() {
        None
    } else {
        Some(target(scan, topology, &checked.target, partitions).await?)
    };
    let to_ms = match checked.to {
        To::Time(to) => Some(to).filter(|_| exact),
        To::End | To::Offsets(_) => None,
    };
    Ok(Plan {
        topic: checked.topic.clone(),
        broker: Some(place.broker.to_string()),
        route: checked.route.clone(),
        target: checked.target.clone(),
        target_partitions,
        partitions,
        stretches,
        from_ms: match checked.from {
            From::Time(from) => Some(from).filter(|_| exact),
            From::Offsets(_) => None,
        },
        to_ms,
        filter: checked.filter.clone(),
        options: checked.options.clone(),
    })
}

/// Messages of a topic are events; those of a stream are what the route handles.
fn takes(scan: &dyn Scan, routes: &dyn Routes, route: &str) -> Result<(), Refused> {
    if scan.kind() == MessageKind::Event && routes.kind(route) == Some(MessageKind::Task) {
        let reason = format!("route `{route}` handles tasks of a queue, and messages of a topic are events");
        return Err(fault("target_route", reason).into());
    }
    Ok(())
}

async fn by_time(
    scan: &dyn Scan,
    checked: &Checked,
    bounds: &[Bounds],
    from_ms: UnixMs,
) -> Result<Vec<Stretch>, Refused> {
    let topic = &checked.topic;
    let mut stretches = Vec::with_capacity(bounds.len());
    for b in bounds {
        let from = scan
            .offset_at(topic, b.partition, from_ms)
            .await
            .map_err(Refused::Broker)?
            .clamp(b.first, b.end);
        // Something was deleted, and what is left begins later than asked: what lay between is gone, or may be.
        if b.first > 0 && from == b.first && !checked.allow_truncated {
            let time = time_of(scan, topic, b).await?;
            // One that does not tell its time may be later.
            if time.map_or(b.first < b.end, |first| first > from_ms) {
                return Err(Refused::Gone {
                    topic: topic.clone(),
                    partition: b.partition,
                    offset: b.first,
                    time,
                });
            }
        }
        stretches.push(Stretch {
            partition: b.partition,
            from,
            to: end(scan, checked, b).await?.max(from),
        });
    }
    Ok(stretches)
}

async fn by_offset(scan: &dyn Scan, checked: &Checked, bounds: &[Bounds]) -> Result<Vec<Stretch>, Refused> {
    let From::Offsets(offsets) = &checked.from else {
        return Ok(Vec::new());
    };
    let mut stretches = Vec::with_capacity(offsets.len());
    for (&partition, &from) in offsets {
        let b = known(bounds, partition, "from_offsets", &checked.topic)?;
        if from > b.end {
            let reason = format!(
                "partition {partition} of `{}` ends at {}, before {from}",
                checked.topic, b.end
            );
            return Err(fault("from_offsets", reason).into());
        }
        if from < b.first && !checked.allow_truncated {
            return Err(Refused::Gone {
                topic: checked.topic.clone(),
                partition,
                offset: b.first,
                time: time_of(scan, &checked.topic, b).await?,
            });
        }
        let from = from.max(b.first);
        stretches.push(Stretch {
            partition,
            from,
            to: end(scan, checked, b).await?.max(from),
        });
    }
    Ok(stretches)
}

fn known<'a>(
    bounds: &'a [Bounds],
    partition: u32,
    field: &'static str,
    topic: &str,
) -> Result<&'a Bounds, Refused> {
    bounds.iter().find(|b| b.partition == partition).ok_or_else(|| {
        let reason = format!("`{topic}` has {} partitions, no number {partition}", bounds.len());
        fault(field, reason).into()
    })
}

/// Never beyond what is there now: the replay would follow its topic for ever.
async fn end(scan: &dyn Scan, checked: &Checked, b: &Bounds) -> Result<u64, Refused> {
    Ok(match &checked.to {
        To::End => b.end,
        To::Time(to) => scan
            .offset_at(&checked.topic, b.partition, to.next_multiple_of(scan.time_step()))
            .await
            .map_err(Refused::Broker)?
            .min(b.end),
        To::Offsets(offsets) => offsets.get(&b.partition).map_or(b.end, |to| (*to).min(b.end)),
    })
}

/// The time of the first record that is left.
async fn time_of(scan: &dyn Scan, topic: &str, b: &Bounds) -> Result<Option<UnixMs>, Refused> {
    if b.first == b.end {
        return Ok(None);
    }
    let first = scan.read(topic, b.partition, b.first, 1).await;
    let first = first.map_err(Refused::Broker)?;
    Ok(first.first().and_then(|raw| raw.timestamp_ms))
}

/// How many partitions it has; made with as many as the source when it is missing.
async fn target(
    scan: &dyn Scan,
    topology: &dyn Topology,
    target: &str,
    partitions: u32,
) -> Result<u32, Refused> {
    let count = |bounds: Vec<Bounds>| u32::try_from(bounds.len()).unwrap_or(u32::MAX);
    // Copies of a stream may go into any queue, which has one partition, so to speak.
    let there = match scan.kind() {
        MessageKind::Event => scan.bounds(target).await.map(count),
        MessageKind::Task => topology.depth(MessageKind::Task, target).await.map(|_| 1),
    };
    match there {
        Ok(partitions) => return Ok(partitions),
        Err(Error::UnknownDestination(_)) => {}
        Err(error) => return Err(Refused::Broker(error)),
    }
    let stream = ("x-queue-type".to_owned(), "stream".to_owned());
    let want = Destination {
        kind: scan.kind(),
        name: Arc::from(target),
        max_priority: 0,
        ttl: None,
        partitions,
        arguments: Some(stream)
            .filter(|_| scan.kind() == MessageKind::Task)
            .into_iter()
            .collect(),
    };
    match topology.create(&want).await {
        Ok(()) => tracing::info!(topic = target, partitions, "topic made for a replay"),
        Err(error @ (Error::Refused(_) | Error::Unsupported(_) | Error::UnknownDestination(_))) => {
            let reason =
                format!("there is no such topic and it cannot be made: {error}; make it, then ask again");
            return Err(fault("target_topic", reason).into());
        }
        Err(error) => return Err(Refused::Broker(error)),
    }
    match scan.kind() {
        MessageKind::Event => scan.bounds(target).await.map(count).map_err(Refused::Broker),
        MessageKind::Task => Ok(1),
    }
}
