//! Topics: keys, groups, positions, release, retention, reading again.

use super::*;

fn offset(delivery: &Delivery) -> (u32, u64) {
    (
        delivery.raw.origin.partition.unwrap(),
        delivery.raw.origin.offset.unwrap(),
    )
}

#[tokio::test]
async fn a_key_stays_in_its_partition_and_in_order() {
    let rig = Rig::new();
    let broker = rig.with_topic(6).await;
    let keys = ["21", "foobar", "abc", "d", "e"];
    let batch: Vec<_> = (0..500)
        .map(|n| event(&format!("{n:04}"), Some(keys[n % 5])))
        .collect();
    let confirmed = publish(&broker, batch).await;
    for (n, confirmed) in confirmed.iter().enumerate() {
        assert_eq!(confirmed.partition, Some(partition_of(keys[n % 5].as_bytes(), 6)));
    }
    let mut source = events_of(&broker, 1_000).await;
    let got = recv_exactly(&mut source, 500).await;
    for key in keys {
        let of_key: Vec<_> = got
            .iter()
            .filter(|d| d.raw.key.as_deref() == Some(key.as_bytes()))
            .collect();
        assert_eq!(of_key.len(), 100);
        assert!(of_key.is_sorted_by_key(|d| id_of(d)), "{key}");
    }
}

#[tokio::test]
async fn without_a_key_partitions_take_turns() {
    let rig = Rig::new();
    let broker = rig.with_topic(3).await;
    let confirmed = publish(&broker, (0..9).map(|n| event(&n.to_string(), None)).collect()).await;
    let partitions: Vec<_> = confirmed.iter().map(|c| c.partition.unwrap()).collect();
    assert_eq!(partitions, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[tokio::test]
async fn a_group_goes_on_where_its_contiguous_prefix_ends() {
    let rig = Rig::new();
    let broker = rig.with_topic(1).await;
    publish(&broker, (0..10).map(|n| event(&n.to_string(), None)).collect()).await;
    let mut source = events_of(&broker, 100).await;
    let mut got = recv_exactly(&mut source, 10).await;
    let hole = got.remove(3);
    ack_all(got);
    drop(hole);
    source.close(PATIENCE).await.unwrap();
    assert_eq!(broker.topology().depth(MessageKind::Event, "t").await.unwrap(), 7);
    broker.close().await;
    drop(broker);

    let broker = rig.open();
    let mut source = events_of(&broker, 100).await;
    let got = recv_exactly(&mut source, 7).await;
    assert_eq!(
        got.iter().map(|d| offset(d).1).collect::<Vec<_>>(),
        (3..10).collect::<Vec<_>>()
    );
    ack_all(got);
    source.close(PATIENCE).await.unwrap();
    broker.close().await;
    drop(broker);

    // Another group starts at the beginning.
    let options = valid::Embedded {
        path: rig.dir.path().to_owned(),
        group: "other".into(),
    };
    let broker = Embedded::open("local", &options, valid::Formats::default(), rig.clock.clone()).unwrap();
    let mut source = events_of(&broker, 100).await;
    let got = recv_exactly(&mut source, 10).await;
    assert!(got.iter().all(|d| !d.raw.redelivered));
}

#[tokio::test]
async fn a_released_event_comes_again_and_is_not_passed_over() {
    let rig = Rig::new();
    let broker = rig.with_topic(1).await;
    publish(&broker, (0..4).map(|n| event(&n.to_string(), None)).collect()).await;
    let mut source = events_of(&broker, 100).await;
    let mut got = recv_exactly(&mut source, 4).await;
    let released = got.remove(1);
    assert!(released.receipt.begin());
    ack_all(got);
    drop(released);
    until("the prefix is committed", || {
        broker.core.topic("t").unwrap().partitions[0]
            .committed
            .load(Ordering::Relaxed)
            == 1
    })
    .await;
    let again = recv_exactly(&mut source, 1).await;
    assert_eq!(offset(&again[0]), (0, 1));
    assert!(again[0].raw.redelivered);
    ack_all(again);
    source.close(PATIENCE).await.unwrap();
    assert_eq!(broker.topology().depth(MessageKind::Event, "t").await.unwrap(), 0);
}

#[tokio::test]
async fn an_unfinished_head_stops_reading_at_the_span() {
    let rig = Rig::new();
    let broker = rig.with_topic(1).await;
    let span = usize::try_from(Topic::span_for(100)).unwrap();
    publish(
        &broker,
        (0..span + 50).map(|n| event(&n.to_string(), None)).collect(),
    )
    .await;
    let mut source = events_of(&broker, 100).await;
    let head = recv_exactly(&mut source, 1).await;
    for _ in 0..span - 1 {
        ack_all(recv_exactly(&mut source, 1).await);
    }
    assert_nothing(&mut source, &broker).await;
    ack_all(head);
    assert_eq!(recv_exactly(&mut source, 50).await.len(), 50);
}

#[tokio::test]
async fn retention_deletes_the_old_and_readers_go_on() {
    let rig = Rig::new();
    let broker = rig.open();
    let want = Destination {
        ttl: Some(Duration::from_secs(60)),
        ..topic("t", 1)
    };
    broker.topology().create(&want).await.unwrap();
    publish(
        &broker,
        (0..2_500).map(|n| event(&format!("old{n}"), None)).collect(),
    )
    .await;
    let mut source = events_of(&broker, 10).await;
    let held = recv_exactly(&mut source, 2).await;
    rig.clock.advance(Duration::from_secs(61));
    publish(&broker, vec![event("new", None)]).await;
    let scan = broker.scan().unwrap();
    let topic = broker.core.topic("t").unwrap();
    until("retention", || {
        topic.partitions[0].first.load(Ordering::Relaxed) == 2_500
    })
    .await;
    assert_eq!(
        scan.bounds("t").await.unwrap(),
        [crate::broker::Bounds {
            partition: 0,
            first: 2_500,
            end: 2_501
        }]
    );
    let newest = recv_exactly(&mut source, 1).await;
    assert_eq!(names(&newest), ["new"]);
    drop(held);
    assert_nothing(&mut source, &broker).await;
    assert_eq!(broker.topology().depth(MessageKind::Event, "t").await.unwrap(), 1);
    drop(source);
    broker.close().await;
    drop(broker);
    assert_eq!(
        rig.open().scan().unwrap().bounds("t").await.unwrap()[0].first,
        2_500
    );
}

#[tokio::test]
async fn a_stretch_can_be_read_again_by_offset_and_by_time() {
    let rig = Rig::new();
    let broker = rig.with_topic(2).await;
    for n in 0..20 {
        publish(&broker, vec![event(&n.to_string(), Some("21"))]).await;
        rig.clock.advance(Duration::from_secs(10));
    }
    let p = partition_of(b"21", 2);
    let scan = broker.scan().unwrap();
    let read = scan.read("t", p, 5, 3).await.unwrap();
    let offsets: Vec<_> = read.iter().map(|m| m.origin.offset.unwrap()).collect();
    assert_eq!(offsets, [5, 6, 7]);
    assert_eq!(read[0].timestamp_ms, Some(START + 50_000));
    assert!(scan.read("t", p, 20, 3).await.unwrap().is_empty());
    for (time, expect) in [
        (0, 0),
        (START, 0),
        (START + 1, 1),
        (START + 50_000, 5),
        (START + 999_999, 20),
    ] {
        assert_eq!(scan.offset_at("t", p, time).await.unwrap(), expect, "{time}");
    }
    assert!(matches!(
        scan.bounds("nope").await,
        Err(Error::UnknownDestination(_))
    ));
    assert!(matches!(
        scan.read("t", 9, 0, 1).await,
        Err(Error::UnknownDestination(_))
    ));
}

#[tokio::test]
async fn two_sources_of_a_topic_share_it() {
    let rig = Rig::new();
    let broker = rig.with_topic(3).await;
    publish(
        &broker,
        (0..60).map(|n| event(&format!("{n:02}"), None)).collect(),
    )
    .await;
    let (mut one, mut two) = (events_of(&broker, 30).await, events_of(&broker, 30).await);
    let held = (recv_exactly(&mut one, 30).await, recv_exactly(&mut two, 30).await);
    let mut seen = [names(&held.0), names(&held.1)].concat();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 60);
}

#[tokio::test]
async fn large_events_are_handed_out_in_bounded_reads() {
    let rig = Rig::new();
    let broker = rig.with_topic(1).await;
    for id in ids(0..5) {
        let large = vec![7; source::READ_BYTES / 2 + 1];
        publish(
            &broker,
            vec![Outgoing {
                payload: large.into(),
                ..event(&id, None)
            }],
        )
        .await;
    }
    let mut source = events_of(&broker, 10).await;
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let got = recv(&mut source, 10).await;
        assert!(got.len() <= 2, "{} at a time", got.len());
        assert!(got.iter().all(|d| !d.raw.redelivered));
        seen.extend(names(&got));
        ack_all(got);
    }
    assert_eq!(seen, ids(0..5));
}
