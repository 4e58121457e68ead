//! Reading a stretch again, beside the group. On RabbitMQ what is read is a stream: of one partition, with times in seconds, and
//! consumed by nobody of this host.

use std::sync::Arc;

use helix_host::broker::{Bounds, Broker, Destination, Error, Scan};
use helix_host::model::{Clock, Outgoing, RawMessage, SystemClock, UnixMs};
use helix_tests::{unique, until};

use super::brokers::Place;
use super::capabilities::Flag;
use super::stage::{PATIENCE, Stage, acknowledge, create, ids, names, send};

/// None where the broker declares that it cannot.
fn scan(stage: &Stage, broker: &dyn Broker) -> Option<Arc<dyn Scan>> {
    let declared = broker.capabilities().scan;
    assert_eq!(broker.scan().is_some(), declared, "what is declared is there");
    stage.can(Flag::Scan).then(|| broker.scan().unwrap())
}

fn id(raw: &RawMessage) -> String {
    let id = raw.headers.text("id").or(raw.props.message_id.as_deref());
    id.expect("an id").to_owned()
}

/// What can be read again there.
fn log(stage: &Stage, partitions: u32) -> Destination {
    let mut log = stage.wide(partitions);
    if stage.place == Place::RabbitMq {
        log.arguments
            .insert("x-queue-type".to_owned(), "stream".to_owned());
    }
    log
}

pub async fn a_stretch_is_read_again(stage: &Stage) {
    let broker = stage.open();
    let stream = stage.place == Place::RabbitMq;
    let partitions: u32 = if stream { 1 } else { 2 };
    let name = create(&*broker, &log(stage, partitions)).await;
    let Some(scan) = scan(stage, &*broker) else { return };
    let empty = |partition| Bounds {
        partition,
        first: 0,
        end: 0,
    };
    assert_eq!(
        sorted(scan.bounds(&name).await.unwrap()),
        (0..partitions).map(empty).collect::<Vec<_>>()
    );
    // One key: one partition.
    let batch = (0..20).map(|n| Outgoing {
        key: Some("k".into()),
        ..stage.message(&name, &n.to_string())
    });
    let confirmed = send(&*broker, batch.collect()).await;
    // RabbitMQ's confirms do not tell where.
    let partition = confirmed[0]
        .partition
        .or(stream.then_some(0))
        .expect("topics have partitions");
    for (n, confirmed) in confirmed.iter().enumerate().filter(|_| !stream) {
        assert_eq!(
            (confirmed.partition, confirmed.offset),
            (Some(partition), Some(n as u64))
        );
    }
    let bounds = sorted(scan.bounds(&name).await.unwrap());
    let ends: Vec<u64> = bounds.iter().map(|b| b.end).collect();
    let wanted = (0..partitions).map(|n| if n == partition { 20 } else { 0 });
    assert_eq!(ends, wanted.collect::<Vec<u64>>());
    let read = async |from, max| scan.read(&name, partition, from, max).await.unwrap();
    let stretch = read(5, 7).await;
    assert_eq!(stretch.iter().map(id).collect::<Vec<_>>(), names(5..12));
    let origin = &stretch[0].origin;
    assert_eq!((origin.partition, origin.offset), (Some(partition), Some(5)));
    assert_eq!(stretch[0].key.as_deref(), Some(&b"k"[..]));
    assert_eq!(
        read(18, 100).await.iter().map(id).collect::<Vec<_>>(),
        names(18..20),
        "up to the end"
    );
    assert!(read(20, 10).await.is_empty(), "nothing at the end");
    if partitions == 2 {
        let other = scan.read(&name, 1 - partition, 0, 10).await.unwrap();
        assert!(other.is_empty(), "the other partition is empty");
    }
    // The same again: reading changes nothing.
    assert_eq!(read(0, 100).await.len(), 20);
    let nowhere = unique("nowhere");
    assert!(matches!(scan.bounds(&nowhere).await, Err(Error::UnknownDestination(n)) if n == nowhere));
    broker.close().await;
}

fn sorted(mut bounds: Vec<Bounds>) -> Vec<Bounds> {
    bounds.sort_by_key(|b| b.partition);
    bounds
}

pub async fn an_offset_is_found_by_time(stage: &Stage) {
    let broker = stage.open();
    let name = create(&*broker, &log(stage, 1)).await;
    let Some(scan) = scan(stage, &*broker) else { return };
    if stage.place == Place::RabbitMq {
        return by_the_second(stage, &*broker, &*scan, &name).await;
    }
    for n in 0..5 {
        let before = SystemClock.now_ms();
        stage.send(&*broker, &name, n..n + 1).await;
        // Times differ from message to message.
        until("the clock goes on", PATIENCE, || async {
            (SystemClock.now_ms() > before + 5).then_some(())
        })
        .await;
    }
    let all = scan.read(&name, 0, 0, 100).await.unwrap();
    let times: Vec<UnixMs> = all.iter().map(|raw| raw.timestamp_ms.expect("a time")).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    for (offset, time) in times.iter().enumerate() {
        let offset = offset as u64;
        assert_eq!(
            scan.offset_at(&name, 0, *time).await.unwrap(),
            offset,
            "at the time of {offset}"
        );
        assert_eq!(
            scan.offset_at(&name, 0, time + 1).await.unwrap(),
            offset + 1,
            "just after {offset}"
        );
    }
    assert_eq!(
        scan.offset_at(&name, 0, 0).await.unwrap(),
        0,
        "from the beginning"
    );
    assert_eq!(
        scan.offset_at(&name, 0, times[4] + 1_000_000).await.unwrap(),
        5,
        "none so late: the end"
    );
    broker.close().await;
}

async fn by_the_second(stage: &Stage, broker: &dyn Broker, scan: &dyn Scan, name: &Arc<str>) {
    assert_eq!(scan.time_step(), 1000);
    stage.send(broker, name, 0..3).await;
    let second = (SystemClock.now_ms() / 1000 + 1) * 1000;
    until("the next second begins", PATIENCE, || async {
        (SystemClock.now_ms() > second + 5).then_some(())
    })
    .await;
    stage.send(broker, name, 3..5).await;
    for (time, offset) in [(0, 0), (second, 3), (second + 1_000_000, 5)] {
        assert_eq!(scan.offset_at(name, 0, time).await.unwrap(), offset, "at {time}");
    }
    broker.close().await;
}

pub async fn reading_leaves_the_group_alone(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    let Some(scan) = scan(stage, &*broker) else { return };
    stage.send(&*broker, &name, 0..6).await;
    if stage.place == Place::RabbitMq {
        // A queue keeps nothing: looking into it would take from it.
        for refused in [
            scan.bounds(&name).await.map(drop),
            scan.read(&name, 0, 0, 1).await.map(drop),
        ] {
            assert!(
                matches!(&refused, Err(Error::Unsupported(why)) if why.contains("classic queue")),
                "{refused:?}"
            );
        }
        assert_eq!(broker.topology().depth(stage.kind, &name).await.unwrap(), 6);
        let mut consumer = stage.consumer(&*broker, &name, 10).await;
        let all = consumer.take(6).await;
        assert!(
            all.iter().all(|delivery| !delivery.raw.redelivered),
            "nobody had them before"
        );
        acknowledge(all);
        consumer.leave().await;
        broker.close().await;
        return;
    }
    let mut consumer = stage.consumer(&*broker, &name, 10).await;
    let mut got = consumer.take(6).await;
    let rest = got.split_off(2);
    acknowledge(got);
    // Once beside a live consumer, once without one.
    assert_eq!(scan.read(&name, 0, 0, 100).await.unwrap().len(), 6);
    drop(rest);
    consumer.leave().await;
    assert_eq!(scan.read(&name, 0, 0, 100).await.unwrap().len(), 6);
    assert_eq!(
        broker.topology().depth(stage.kind, &name).await.unwrap(),
        4,
        "the group stands where it stood"
    );
    let mut next = stage.consumer(&*broker, &name, 10).await;
    let again = next.take(4).await;
    assert_eq!(ids(&again), names(2..6));
    acknowledge(again);
    next.leave().await;
    broker.close().await;
}
