//! Receiving and settling.

use std::time::Duration;

use helix_host::broker::Delivery;
use helix_host::model::MessageKind;

use super::capabilities::Flag;
use super::stage::{Stage, acknowledge, id, ids, names};

pub async fn acknowledged_is_gone(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    stage.send(&*broker, &name, 0..5).await;
    let mut consumer = stage.consumer(&*broker, &name, 100).await;
    let got = consumer.take(5).await;
    assert_eq!(ids(&got), names(0..5));
    for delivery in &got {
        assert!(
            !delivery.raw.redelivered,
            "{} comes for the first time",
            id(delivery)
        );
        assert_eq!(delivery.raw.origin.kind, stage.kind);
        assert_eq!(delivery.raw.origin.destination, name);
        assert_eq!(delivery.raw.origin.broker, broker.name());
    }
    acknowledge(got);
    consumer.leave().await;
    stage.assert_empty(&*broker, &name).await;
    broker.close().await;
    drop(broker);
    let broker = stage.open();
    stage.assert_empty(&*broker, &name).await;
    broker.close().await;
}

pub async fn dropped_receipt_comes_again(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    stage.send(&*broker, &name, 0..3).await;
    let mut consumer = stage.consumer(&*broker, &name, 100).await;
    let mut got = consumer.take(3).await;
    let dropped = got.remove(1);
    acknowledge(got);
    assert!(dropped.receipt.begin());
    drop(dropped);
    let again = consumer.take(1).await;
    assert_eq!(ids(&again), ["1"]);
    assert_eq!(
        again[0].raw.redelivered,
        stage.can(Flag::Redelivery),
        "told that it may have run"
    );
    acknowledge(again);
    consumer.leave().await;
    stage.assert_empty(&*broker, &name).await;
    broker.close().await;
}

pub async fn unsettled_is_delivered_again(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    stage.send(&*broker, &name, 0..5).await;
    let mut consumer = stage.consumer(&*broker, &name, 100).await;
    let mut got = consumer.take(5).await;
    let held = got.split_off(2);
    acknowledge(got);
    consumer.leave().await;
    let mut next = stage.consumer(&*broker, &name, 100).await;
    let again = next.take(3).await;
    assert_eq!(ids(&again), names(2..5));
    let flagged = again.iter().filter(|delivery| delivery.raw.redelivered).count();
    if !stage.can(Flag::Redelivery) {
        assert_eq!(flagged, 0, "nothing is claimed that is not known");
    } else if stage.kind == MessageKind::Task {
        assert_eq!(flagged, 3, "they were handed out before");
    }
    drop(held);
    acknowledge(again);
    next.leave().await;
    stage.assert_empty(&*broker, &name).await;
    broker.close().await;
}

pub async fn a_receipt_is_void_after_close(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    stage.send(&*broker, &name, 0..2).await;
    let mut consumer = stage.consumer(&*broker, &name, 100).await;
    let mut got = consumer.take(2).await;
    consumer.leave().await;
    let (second, first) = (got.pop().unwrap(), got.pop().unwrap());
    assert!(!first.receipt.begin(), "somebody else will get it");
    let mut next = stage.consumer(&*broker, &name, 100).await;
    let again = next.take(2).await;
    // Too late: these must not settle what the next consumer holds.
    first.receipt.ack();
    drop(second);
    next.assert_silent("a late release gave it to somebody again")
        .await;
    drop(again);
    next.leave().await;
    let mut last = stage.consumer(&*broker, &name, 100).await;
    let again = last.take(2).await;
    assert_eq!(ids(&again), names(0..2), "a late acknowledgement counted");
    acknowledge(again);
    last.leave().await;
    broker.close().await;
}

pub async fn a_hole_is_delivered_again_after_reopening(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    stage.send(&*broker, &name, 0..10).await;
    let mut consumer = stage.consumer(&*broker, &name, 100).await;
    let mut held: Vec<Delivery> = Vec::new();
    let mut got = consumer.take(10).await;
    // 5 6 7 8 9 0 1 2 3 4: what is finished last is neither the lowest nor the highest.
    got.rotate_left(5);
    for delivery in got {
        if matches!(&*id(&delivery), "3" | "7") {
            held.push(delivery);
        } else {
            acknowledge([delivery]);
        }
    }
    consumer.leave().await;
    broker.close().await;
    drop((held, broker));
    let broker = stage.open();
    let mut next = stage.consumer(&*broker, &name, 100).await;
    // A queue forgets single messages; a log goes on at the first hole, and what was finished behind it comes again.
    let expected = match stage.kind {
        MessageKind::Task => names([3, 7]),
        MessageKind::Event => names(3..10),
    };
    let got = next.take(expected.len()).await;
    assert_eq!(ids(&got), expected);
    acknowledge(got);
    next.leave().await;
    stage.assert_empty(&*broker, &name).await;
    broker.close().await;
}

pub async fn the_window_bounds_what_is_unsettled(stage: &Stage) {
    const WINDOW: usize = 4;
    let (broker, name) = stage.ready().await;
    stage.send(&*broker, &name, 0..12).await;
    let mut consumer = stage.consumer(&*broker, &name, WINDOW).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let held = consumer.take(WINDOW).await;
        consumer.assert_silent("more than the window").await;
        seen.extend(ids(&held));
        acknowledge(held);
    }
    assert_eq!(seen, names(0..12));
    consumer.leave().await;
    stage.assert_empty(&*broker, &name).await;
    broker.close().await;
}

pub async fn pause_stops_pulling(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    stage.send(&*broker, &name, 0..1).await;
    let mut consumer = stage.consumer(&*broker, &name, 100).await;
    let got = consumer.take(1).await;
    consumer.pause().await;
    stage.send(&*broker, &name, 1..4).await;
    consumer.assert_silent("paused").await;
    acknowledge(got);
    consumer.leave().await;
    let mut next = stage.consumer(&*broker, &name, 100).await;
    let rest = next.take(3).await;
    assert_eq!(
        ids(&rest),
        names(1..4),
        "settled in the pause, and nothing of what came in it is lost"
    );
    acknowledge(rest);
    next.leave().await;
    stage.assert_empty(&*broker, &name).await;
    broker.close().await;
}

pub async fn a_cancelled_recv_loses_nothing(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    let mut consumer = stage.consumer(&*broker, &name, 8).await;
    stage.send(&*broker, &name, 0..100).await;
    let mut seen = Vec::new();
    let deadline = std::time::Instant::now() + super::stage::PATIENCE;
    let mut patience = 0;
    while seen.len() < 100 {
        assert!(
            std::time::Instant::now() < deadline,
            "{} of 100 came: {seen:?}",
            seen.len()
        );
        // Cancelled at ever other points, down to the first poll.
        patience = (patience + 170) % 3000;
        let limit = Duration::from_micros(patience);
        if let Ok(batch) = tokio::time::timeout(limit, consumer.recv(3)).await {
            seen.extend(ids(&batch));
            acknowledge(batch);
        }
    }
    assert_eq!(seen, names(0..100));
    consumer.leave().await;
    broker.close().await;
}
