//! Group commit, cancellation, unknown targets, topology.

use super::*;
use crate::broker::Comparison;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_publishes_share_commits() {
    const PUBLISHERS: usize = 200;
    const EACH: usize = 20;
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    let before = broker.commits();
    let mut running = Vec::new();
    for p in 0..PUBLISHERS {
        let publisher = broker.publisher();
        running.push(tokio::spawn(async move {
            for n in 0..EACH {
                publisher
                    .publish(vec![task(&format!("{p}-{n}"))])
                    .await
                    .pop()
                    .unwrap()
                    .unwrap();
            }
        }));
    }
    for publisher in running {
        tokio::time::timeout(PATIENCE, publisher)
            .await
            .expect("stuck")
            .unwrap();
    }
    let commits = usize::try_from(broker.commits() - before).unwrap();
    let messages = PUBLISHERS * EACH;
    assert_eq!(
        broker.topology().depth(MessageKind::Task, "q").await.unwrap(),
        messages as u64
    );
    assert!(
        commits * 4 < messages,
        "{commits} commits for {messages} messages"
    );
}

#[tokio::test]
async fn a_large_publish_is_answered_in_order() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    let mut batch: Vec<_> = ids(0..3_000).iter().map(|id| task(id)).collect();
    batch.insert(
        1_500,
        Outgoing {
            destination: "nowhere".into(),
            ..task("x")
        },
    );
    let results = broker.publisher().publish(batch).await;
    let sequences: Vec<_> = results
        .iter()
        .map(|r| r.as_ref().ok().and_then(|c| c.offset))
        .collect();
    let expect: Vec<_> = (1..=1_500)
        .map(Some)
        .chain([None])
        .chain((1_501..=3_000).map(Some))
        .collect();
    assert_eq!(sequences, expect);
}

#[tokio::test]
async fn unknown_targets_are_refused() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    broker.topology().create(&topic("t", 1)).await.unwrap();
    let nowhere = Outgoing {
        destination: "nowhere".into(),
        ..task("1")
    };
    assert_eq!(
        publish_one(&broker, nowhere).await,
        Err(PublishError::UnknownTarget("nowhere".into()))
    );
    // A queue is no topic.
    let wrong = Outgoing {
        kind: MessageKind::Event,
        ..task("1")
    };
    assert_eq!(
        publish_one(&broker, wrong).await,
        Err(PublishError::UnknownTarget("q".into()))
    );
    let later = Outgoing {
        not_before_ms: Some(START + 9),
        ..event("1", None)
    };
    assert!(matches!(
        publish_one(&broker, later).await,
        Err(PublishError::Invalid(_))
    ));
    let missing = Subscription {
        kind: MessageKind::Task,
        destination: "nowhere".into(),
        window: 1,
    };
    assert!(matches!(
        broker.subscribe(missing).await.err(),
        Some(Error::UnknownDestination(_))
    ));
}

#[tokio::test]
async fn a_cancelled_recv_loses_nothing() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    publish(&broker, ids(0..100).iter().map(|id| task(id)).collect()).await;
    let mut source = tasks_of(&broker, 100).await;
    let mut seen = Vec::new();
    while seen.len() < 100 {
        // One poll only, then dropped: the claim goes on behind it.
        let got = futures::FutureExt::now_or_never(source.recv(7));
        match got {
            Some(got) => {
                let got = got.unwrap();
                assert!(got.iter().all(|d| !d.raw.redelivered));
                seen.extend(names(&got));
                ack_all(got);
            }
            None => tokio::task::yield_now().await,
        }
    }
    assert_eq!(seen, ids(0..100));
}

#[tokio::test]
async fn a_waiting_recv_wakes_for_a_publish_and_ends_with_the_broker() {
    let rig = Rig::new();
    let broker = Arc::new(rig.with_queue(0).await);
    let mut source = tasks_of(&broker, 10).await;
    let (waiting, ()) = tokio::join!(recv(&mut source, 10), async {
        publish(&broker, vec![task("one")]).await;
    });
    assert_eq!(names(&waiting), ["one"]);
    let (end, ()) = tokio::join!(recv(&mut source, 10), broker.close());
    assert!(end.is_empty());
    assert!(matches!(
        publish_one(&broker, task("2")).await,
        Err(PublishError::Unavailable(_))
    ));
    assert!(matches!(broker.health(), Health::Down { .. }));
}

#[tokio::test]
async fn topology_creates_once_and_names_differences() {
    let rig = Rig::new();
    let broker = rig.open();
    let topology = broker.topology();
    let want = Destination {
        ttl: Some(Duration::from_secs(300)),
        ..queue("q", 10)
    };
    assert_eq!(topology.compare(&want).await.unwrap(), Comparison::Missing);
    topology.create(&want).await.unwrap();
    topology.create(&queue("q", 3)).await.unwrap();
    assert_eq!(topology.compare(&want).await.unwrap(), Comparison::Same);
    topology.create(&topic("t", 6)).await.unwrap();
    broker.close().await;
    drop((topology, broker));

    let broker = rig.open();
    let topology = broker.topology();
    assert_eq!(topology.compare(&want).await.unwrap(), Comparison::Same);
    assert_eq!(topology.compare(&topic("t", 6)).await.unwrap(), Comparison::Same);
    let Comparison::Differs { differences } = topology.compare(&topic("t", 3)).await.unwrap() else {
        panic!("not noticed");
    };
    assert_eq!(differences, ["partitions is 6, wanted 3"]);
    let none = topology.depth(MessageKind::Task, "nope").await;
    assert!(matches!(none, Err(Error::UnknownDestination(_))));
}
