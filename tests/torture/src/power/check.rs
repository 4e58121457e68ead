//! After a restart: everything in its place, nothing else, and counters that agree with rows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use helix_host::broker::embedded::Embedded;
use helix_host::broker::{Broker, Delivery, Source, Subscription};
use helix_host::model::MessageKind;
use rusqlite::Connection;

use super::model::{Model, id};

/// Nothing here takes longer than milliseconds; this only ends a run that hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);
const WINDOW: usize = 100_000;

/// Partition and offset by id.
type Places = BTreeMap<String, (u32, u64)>;

pub async fn subscribe(
    broker: &Embedded,
    kind: MessageKind,
    window: usize,
) -> Result<Box<dyn Source>, String> {
    let destination = match kind {
        MessageKind::Task => "q",
        MessageKind::Event => "t",
    };
    let subscription = Subscription {
        kind,
        destination: destination.into(),
        window,
    };
    broker.subscribe(subscription).await.map_err(|e| e.to_string())
}

/// Err: what is wrong, or what went wrong because the power is off.
pub async fn check(broker: &Embedded, file: &Path, model: &Model) -> Result<(), String> {
    let (mut found, ends) = log(broker, model).await?;
    let (events, _source) = everything(broker, MessageKind::Event).await?;
    positions(&events, &ends, model)?;
    let (tasks, _source) = everything(broker, MessageKind::Task).await?;
    order(&tasks, model)?;
    counters(file)?;
    let mut known = model.known();
    for delivery in events.iter().chain(&tasks) {
        known.check_delivery(&delivery.raw)?;
    }
    let places = tasks
        .iter()
        .map(|d| (id(&d.raw).to_owned(), (0, d.raw.origin.offset.unwrap_or(0))));
    found.extend(places);
    let deliverable = events
        .iter()
        .chain(&tasks)
        .map(|d| id(&d.raw).to_owned())
        .collect();
    known.check_complete(&found.keys().cloned().collect())?;
    known.settle(&found, &deliverable);
    Ok(())
}

/// Every record of the topic, by scan, and the end of each partition: offsets without a gap, each message once.
async fn log(broker: &Embedded, model: &Model) -> Result<(Places, BTreeMap<u32, u64>), String> {
    let scan = broker.scan().ok_or("no scan")?;
    let (mut found, mut ends) = (Places::new(), BTreeMap::new());
    for bounds in scan.bounds("t").await.map_err(|e| e.to_string())? {
        ends.insert(bounds.partition, bounds.end);
        let mut next = bounds.first;
        while next < bounds.end {
            let read = scan.read("t", bounds.partition, next, 1_000).await;
            let read = read.map_err(|e| e.to_string())?;
            if read.is_empty() {
                return Err(format!(
                    "partition {} ends at {next}, not at {}",
                    bounds.partition, bounds.end
                ));
            }
            for raw in read {
                model.known().check(&raw)?;
                if raw.origin.offset != Some(next) {
                    return Err(format!("offset {next} is missing: {:?} follows", raw.origin));
                }
                if found
                    .insert(id(&raw).to_owned(), (bounds.partition, next))
                    .is_some()
                {
                    return Err(format!("`{}` is in the log twice", id(&raw)));
                }
                next += 1;
            }
        }
    }
    Ok((found, ends))
}

/// Claims all that can be claimed. Dropping the deliveries gives them back.
async fn everything(
    broker: &Embedded,
    kind: MessageKind,
) -> Result<(Vec<Delivery>, Box<dyn Source>), String> {
    let name = if kind == MessageKind::Task { "q" } else { "t" };
    let mut source = subscribe(broker, kind, WINDOW).await?;
    let mut out: Vec<Delivery> = Vec::new();
    let depth = broker
        .topology()
        .depth(kind, name)
        .await
        .map_err(|e| e.to_string())?;
    while u64::try_from(out.len()).unwrap_or(0) < depth {
        let got = tokio::time::timeout(PATIENCE, source.recv(WINDOW)).await;
        let got = got.map_err(|_| format!("`{name}` says {depth} and delivers {}", out.len()))?;
        out.extend(got.map_err(|e| e.to_string())?);
    }
    if u64::try_from(out.len()) != Ok(depth) {
        return Err(format!("`{name}` says {depth} and delivers {}", out.len()));
    }
    Ok((out, source))
}

/// Our group goes on where it was: not beyond what was acknowledged, not before what was promised to be on disk; and from
/// there without a gap to the end.
fn positions(events: &[Delivery], ends: &BTreeMap<u32, u64>, model: &Model) -> Result<(), String> {
    let known = model.known();
    for (partition, end) in ends {
        let here = events
            .iter()
            .filter(|d| d.raw.origin.partition == Some(*partition));
        let offsets: Vec<u64> = here.filter_map(|d| d.raw.origin.offset).collect();
        let from = offsets.first().copied().unwrap_or(*end);
        if !(from..*end).eq(offsets.iter().copied()) {
            return Err(format!(
                "partition {partition} delivers {offsets:?}, its end is {end}"
            ));
        }
        let (acked, flushed) = (
            known.acked_to(*partition),
            known.flushed_to.get(partition).copied().unwrap_or(0),
        );
        if from > acked || from < flushed {
            return Err(format!(
                "partition {partition} goes on at {from}; acknowledged to {acked}, on disk to {flushed}"
            ));
        }
    }
    Ok(())
}

/// Higher priority first, then as they were published; each once.
fn order(tasks: &[Delivery], model: &Model) -> Result<(), String> {
    let known = model.known();
    let place = |d: &Delivery| {
        let priority = known.messages.get(id(&d.raw)).map_or(0, |m| m.priority);
        (u8::MAX - priority, d.raw.origin.offset)
    };
    let unique: BTreeSet<_> = tasks.iter().map(|d| id(&d.raw)).collect();
    // Delayed tasks become ready while the others are being claimed, so only what one claim returned is in order; here the
    // order of all is looked at within each priority.
    let mut last: BTreeMap<u8, Option<u64>> = BTreeMap::new();
    for (priority, offset) in tasks.iter().map(place) {
        let before = last.insert(priority, offset).flatten();
        if before.is_some() && before >= offset {
            return Err(format!("task {offset:?} comes after {before:?}"));
        }
    }
    if unique.len() == tasks.len() {
        Ok(())
    } else {
        Err("a task is there twice".into())
    }
}

/// What is kept beside the rows says the same as the rows.
pub fn counters(file: &Path) -> Result<(), String> {
    let wrong = |e: rusqlite::Error| e.to_string();
    let db = Connection::open(file).map_err(wrong)?;
    let snapshot = db.unchecked_transaction().map_err(wrong)?;
    let must_be_zero = |what: &str, sql: &str| {
        let rows: i64 = snapshot.query_row(sql, [], |r| r.get(0)).map_err(wrong)?;
        if rows == 0 {
            Ok(())
        } else {
            Err(format!("{rows} × {what}"))
        }
    };
    must_be_zero(
        "depth of a queue does not agree with its rows",
        "SELECT count(*) FROM queue q WHERE depth <> (SELECT count(*) FROM task WHERE key >> 48 = q.no)
           + (SELECT count(*) FROM delayed d WHERE d.queue = q.no)",
    )?;
    must_be_zero(
        "sequence of a queue is behind its rows",
        "SELECT count(*) FROM queue q JOIN task t ON t.key >> 48 = q.no WHERE (t.key & 0xfffffffffff) > q.sequence",
    )?;
    must_be_zero(
        "a position lies behind the end of its partition",
        "SELECT count(*) FROM offsets o JOIN partition p ON p.no = o.part WHERE o.off > p.next_off",
    )?;
    let mut partitions = snapshot.prepare("SELECT no FROM partition").map_err(wrong)?;
    let numbers = partitions.query_map([], |r| r.get(0)).map_err(wrong)?;
    for number in numbers.collect::<Result<Vec<i64>, _>>().map_err(wrong)? {
        let sql = format!(
            "SELECT count(*) FROM partition p WHERE no = {number} AND (next_off - first_off <>
               (SELECT count(*) FROM log_{number})
             OR next_off <> coalesce((SELECT max(off) + 1 FROM log_{number}), first_off))"
        );
        must_be_zero("ends of a partition do not agree with its records", &sql)?;
    }
    let whole: String = snapshot
        .query_row("PRAGMA integrity_check", [], |r| r.get(0))
        .map_err(wrong)?;
    if whole == "ok" { Ok(()) } else { Err(whole) }
}
