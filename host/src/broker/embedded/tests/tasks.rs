//! Queues: order, priorities, delays, release, competing sources, expiry.

use std::collections::HashSet;

use super::*;

#[tokio::test]
async fn what_is_acknowledged_is_gone_after_reopening() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    publish(&broker, ids(0..500).iter().map(|id| task(id)).collect()).await;
    let mut source = tasks_of(&broker, 100).await;
    let mut seen = Vec::new();
    while seen.len() < 500 {
        let got = recv(&mut source, 64).await;
        assert!(got.len() <= 64);
        assert!(got.iter().all(|d| !d.raw.redelivered));
        seen.extend(names(&got));
        ack_all(got);
    }
    assert_eq!(seen, ids(0..500));
    source.close(PATIENCE).await.unwrap();
    broker.close().await;
    drop(broker);

    let broker = rig.open();
    assert_eq!(broker.topology().depth(MessageKind::Task, "q").await.unwrap(), 0);
    let confirmed = publish_one(&broker, task("later")).await.unwrap();
    assert_eq!(confirmed.offset, Some(501), "a sequence is never issued twice");
    let mut source = tasks_of(&broker, 100).await;
    let got = recv(&mut source, 10).await;
    assert_eq!(names(&got), ["later"]);
    assert!(!got[0].raw.redelivered);
}

#[tokio::test]
async fn everything_about_a_message_survives() {
    let rig = Rig::new();
    let broker = rig.with_queue(10).await;
    let mut message = task("full");
    message.headers.push("x-one", "1");
    message.headers.push("x-one", "2");
    message.key = Some("k".into());
    message.priority = Some(7);
    message.content_type = Some("application/json".into());
    message.correlation_id = Some("c".into());
    message.reply_to = Some("r".into());
    message.deadline_ms = Some(START + 5_000);
    let wire = crate::encode::encode(&message, crate::model::WireFormat::Flat);
    publish(&broker, vec![message]).await;
    let mut tombstone = task("null");
    tombstone.tombstone = true;
    tombstone.payload = bytes::Bytes::new();
    let null = crate::encode::encode(&tombstone, crate::model::WireFormat::Flat).body;
    let mut empty = task("empty");
    empty.payload = bytes::Bytes::new();
    let none = crate::encode::encode(&empty, crate::model::WireFormat::Flat).body;
    publish(&broker, vec![tombstone, empty]).await;

    let mut source = tasks_of(&broker, 10).await;
    let got = recv_exactly(&mut source, 3).await;
    let raw = &got[0].raw;
    assert_eq!(
        (&raw.body, &raw.key, &raw.headers),
        (&wire.body, &wire.key, &wire.headers)
    );
    let expect = crate::model::raw::Properties {
        expires_ms: Some(START + 5_000),
        ..wire.props
    };
    assert_eq!(raw.props, expect);
    assert_eq!(raw.timestamp_ms, Some(START));
    assert_eq!((&*raw.origin.broker, &*raw.origin.destination), ("local", "q"));
    assert_eq!((raw.origin.partition, raw.origin.offset), (None, Some(1)));
    assert_eq!((&got[1].raw.body, &got[2].raw.body), (&null, &none));
}

#[tokio::test]
async fn higher_priority_first_and_in_order_inside() {
    let rig = Rig::new();
    let broker = rig.with_queue(5).await;
    let priorities = [0u8, 5, 2, 5, 0, 9, 2, 1];
    let mut batch = Vec::new();
    for (n, priority) in priorities.iter().enumerate() {
        batch.push(Outgoing {
            priority: Some(*priority),
            ..task(&format!("p{}-{n}", priority.min(&5)))
        });
    }
    publish(&broker, batch).await;
    let mut source = tasks_of(&broker, 100).await;
    let got = recv_exactly(&mut source, 8).await;
    assert_eq!(
        names(&got),
        ["p5-1", "p5-3", "p5-5", "p2-2", "p2-6", "p1-7", "p0-0", "p0-4"]
    );
}

#[tokio::test]
async fn a_released_task_comes_again_in_its_place() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    publish(&broker, ids(0..5).iter().map(|id| task(id)).collect()).await;
    let mut source = tasks_of(&broker, 2).await;
    let mut got = recv_exactly(&mut source, 2).await;
    assert!(got[0].receipt.begin());
    drop(got.remove(0));
    let again = recv_exactly(&mut source, 1).await;
    assert_eq!(names(&again), ["m00000"]);
    assert!(again[0].raw.redelivered);
    ack_all(got);
    let next = recv_exactly(&mut source, 1).await;
    assert_eq!(names(&next), ["m00002"]);
    assert!(!next[0].raw.redelivered);
}

#[tokio::test]
async fn the_window_bounds_what_is_unsettled() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    publish(&broker, ids(0..50).iter().map(|id| task(id)).collect()).await;
    let mut source = tasks_of(&broker, 8).await;
    let held = recv_exactly(&mut source, 8).await;
    assert_nothing(&mut source, &broker).await;
    assert_eq!(broker.topology().depth(MessageKind::Task, "q").await.unwrap(), 42);
    ack_all(held);
    assert_eq!(names(&recv_exactly(&mut source, 8).await), ids(8..16));
}

#[tokio::test]
async fn a_delayed_task_waits_for_its_time() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    let at = |id: &str, ms: u64| Outgoing {
        not_before_ms: Some(START + ms),
        ..task(id)
    };
    publish(
        &broker,
        vec![at("late", 60_000), at("soon", 30_000), at("past", 0), task("now")],
    )
    .await;
    let mut source = tasks_of(&broker, 10).await;
    let held = recv_exactly(&mut source, 2).await;
    assert_eq!(names(&held), ["past", "now"]);
    assert_nothing(&mut source, &broker).await;
    rig.clock.advance(Duration::from_secs(31));
    let soon = recv_exactly(&mut source, 1).await;
    assert_eq!(names(&soon), ["soon"]);
    ack_all(held);
    ack_all(soon);
    source.close(PATIENCE).await.unwrap();
    broker.close().await;
    drop(broker);

    let broker = rig.open();
    rig.clock.advance(Duration::from_secs(31));
    let mut source = tasks_of(&broker, 10).await;
    assert_eq!(names(&recv_exactly(&mut source, 1).await), ["late"]);
}

#[tokio::test]
async fn an_expired_task_is_delivered_with_its_expiry() {
    let rig = Rig::new();
    let broker = rig.open();
    let want = Destination {
        ttl: Some(Duration::from_secs(60)),
        ..queue("q", 0)
    };
    broker.topology().create(&want).await.unwrap();
    let early = Outgoing {
        deadline_ms: Some(START + 1_000),
        ..task("deadline")
    };
    let late = Outgoing {
        deadline_ms: Some(START + 900_000),
        ..task("ttl")
    };
    publish(&broker, vec![early, late]).await;
    rig.clock.advance(Duration::from_secs(3_600));
    let mut source = tasks_of(&broker, 10).await;
    let got = recv_exactly(&mut source, 2).await;
    assert_eq!(names(&got), ["deadline", "ttl"]);
    assert_eq!(got[0].raw.props.expires_ms, Some(START + 1_000));
    assert_eq!(got[1].raw.props.expires_ms, Some(START + 60_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn competing_sources_never_both_get_a_message() {
    const COUNT: usize = 3_000;
    let rig = Rig::new();
    let broker = Arc::new(rig.with_queue(3).await);
    let messages = ids(0..COUNT).into_iter().enumerate().map(|(n, id)| Outgoing {
        priority: Some((n % 4) as u8),
        ..task(&id)
    });
    let messages: Vec<_> = messages.collect();
    let publisher = broker.publisher();
    let publishing = tokio::spawn(async move {
        for chunk in messages.chunks(100) {
            publisher
                .publish(chunk.to_vec())
                .await
                .into_iter()
                .for_each(|r| assert!(r.is_ok()));
        }
    });
    let done = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut consumers = Vec::new();
    for _ in 0..3 {
        let mut source = tasks_of(&broker, 50).await;
        let done = Arc::clone(&done);
        consumers.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            while done.load(Ordering::SeqCst) < COUNT {
                // Cut short on purpose: a dropped recv must lose nothing.
                let Ok(got) = tokio::time::timeout(Duration::from_millis(2), source.recv(20)).await else {
                    continue;
                };
                let got = got.unwrap();
                assert!(got.iter().all(|d| !d.raw.redelivered));
                done.fetch_add(got.len(), Ordering::SeqCst);
                seen.extend(names(&got));
                ack_all(got);
            }
            source.close(PATIENCE).await.unwrap();
            seen
        }));
    }
    publishing.await.unwrap();
    let mut all = Vec::new();
    for consumer in consumers {
        all.extend(
            tokio::time::timeout(PATIENCE, consumer)
                .await
                .expect("stuck")
                .unwrap(),
        );
    }
    assert_eq!(all.len(), COUNT);
    assert_eq!(all.into_iter().collect::<HashSet<_>>().len(), COUNT);
    assert_eq!(rows(&broker), 0);
}

#[tokio::test]
async fn a_closed_source_gives_back_what_it_holds() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    publish(&broker, ids(0..4).iter().map(|id| task(id)).collect()).await;
    let mut source = tasks_of(&broker, 10).await;
    let mut held = recv_exactly(&mut source, 4).await;
    let first = held.remove(0);
    source.pause().await;
    assert!(source.recv(1).await.unwrap().is_empty(), "pulls after pause");
    first.receipt.ack();
    source.close(PATIENCE).await.unwrap();
    assert_eq!(
        rows(&broker),
        3,
        "the acknowledgement is on disk when close returns"
    );
    let mut other = tasks_of(&broker, 10).await;
    assert_eq!(names(&recv_exactly(&mut other, 3).await), ids(1..4));
    assert!(
        held.iter().all(|d| !d.receipt.begin()),
        "begins what another source holds"
    );
    ack_all_late(held);
    assert_eq!(rows(&broker), 3);
}

fn ack_all_late(deliveries: Vec<Delivery>) {
    deliveries.into_iter().for_each(|d| d.receipt.ack());
}

#[tokio::test]
async fn more_delayed_tasks_than_one_commit_moves_come_in_order() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    let count = 2 * batch::BATCH_DUE + 10;
    let later = |id: &String| Outgoing {
        not_before_ms: Some(START + 1_000),
        ..task(id)
    };
    publish(&broker, ids(0..count).iter().map(later).collect()).await;
    assert_eq!(
        broker.topology().depth(MessageKind::Task, "q").await.unwrap(),
        count as u64
    );
    rig.clock.advance(Duration::from_secs(2));
    let mut source = tasks_of(&broker, count).await;
    assert_eq!(names(&recv_exactly(&mut source, count).await), ids(0..count));
}

#[tokio::test]
async fn large_tasks_are_handed_out_in_bounded_reads() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    for id in ids(0..5) {
        publish(
            &broker,
            vec![Outgoing {
                payload: vec![7; source::READ_BYTES / 2 + 1].into(),
                ..task(&id)
            }],
        )
        .await;
    }
    let mut source = tasks_of(&broker, 10).await;
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let got = recv(&mut source, 10).await;
        assert!(got.iter().all(|d| !d.raw.redelivered));
        seen.extend(names(&got));
        ack_all(got);
    }
    assert_eq!(seen, ids(0..5));
}

#[tokio::test]
async fn a_release_wakes_another_source() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    publish(&broker, vec![task("one")]).await;
    let (mut one, mut two) = (tasks_of(&broker, 1).await, tasks_of(&broker, 1).await);
    let held = recv_exactly(&mut one, 1).await;
    assert_nothing(&mut two, &broker).await;
    let (got, ()) = tokio::join!(recv(&mut two, 1), async { drop(held) });
    assert_eq!(names(&got), ["one"]);
}
