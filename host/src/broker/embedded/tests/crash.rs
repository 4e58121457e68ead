//! An unclean stop: nothing is lost, what may have run is flagged, the folder is free again.

use super::*;

/// The files as a dead process leaves them, in another folder.
fn copy_of(rig: &Rig) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for name in ["broker.db", "broker.db-wal"] {
        std::fs::copy(rig.dir.path().join(name), copy.path().join(name)).unwrap();
    }
    copy
}

#[tokio::test]
async fn unsettled_tasks_come_again_flagged() {
    let rig = Rig::new();
    let broker = rig.with_queue(3).await;
    let mut batch: Vec<_> = ids(0..10).iter().map(|id| task(id)).collect();
    batch.push(Outgoing {
        priority: Some(3),
        ..task("high")
    });
    publish(&broker, batch).await;
    let mut source = tasks_of(&broker, 4).await;
    let mut got = recv_exactly(&mut source, 4).await;
    assert_eq!(names(&got), ["high", "m00000", "m00001", "m00002"]);
    assert!(got.iter().all(|d| d.receipt.begin()));
    got.remove(1).receipt.ack();
    until("the acknowledgement is committed", || rows(&broker) == 10).await;
    drop(broker);
    drop((source, got));

    let broker = rig.open();
    assert_eq!(broker.topology().depth(MessageKind::Task, "q").await.unwrap(), 10);
    publish(&broker, vec![task("fresh")]).await;
    let mut source = tasks_of(&broker, 100).await;
    let got = recv_exactly(&mut source, 11).await;
    assert_eq!(names(&got)[..3], ["high", "m00001", "m00002"]);
    assert!(got[..3].iter().all(|d| d.raw.redelivered));
    assert!(
        !got[10].raw.redelivered,
        "what came after the crash cannot have run before it"
    );
}

#[tokio::test]
async fn only_as_much_is_flagged_as_can_have_run() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    let bound = queue::ACK_BACKLOG + 20;
    let total = bound + 100;
    publish(&broker, ids(0..total).iter().map(|id| task(id)).collect()).await;
    let mut source = tasks_of(&broker, 10).await;
    let held = recv_exactly(&mut source, 10).await;
    let copy = copy_of(&rig);
    drop((held, source));

    let broker = rig.try_open(copy.path()).unwrap();
    let mut source = tasks_of(&broker, total).await;
    let got = recv_exactly(&mut source, total).await;
    let flagged = got.iter().filter(|d| d.raw.redelivered).count();
    assert_eq!(flagged, bound);
    assert!(got[..flagged].iter().all(|d| d.raw.redelivered), "the first ones");
}

#[tokio::test]
async fn crashes_add_up_and_a_clean_stop_adds_none() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    publish(&broker, vec![task("killer")]).await;
    drop(broker);
    let crashes = |broker: &Embedded| broker.core.queue("q").unwrap().crashes(ready::key(1, 0, 1));
    let broker = rig.open();
    assert_eq!(crashes(&broker), 0, "nobody consumed");
    let mut broker = Some(broker);
    for round in 1..=3 {
        let running = broker.take().unwrap();
        let mut source = tasks_of(&running, 1).await;
        let got = recv_exactly(&mut source, 1).await;
        assert!(got[0].receipt.begin());
        drop(running);
        drop((got, source));
        let next = rig.open();
        assert_eq!(crashes(&next), round);
        broker = Some(next);
    }
    let last = broker.unwrap();
    let source = tasks_of(&last, 1).await;
    source.close(PATIENCE).await.unwrap();
    last.close().await;
    drop(last);
    let last = rig.open();
    assert_eq!(crashes(&last), 3);
}

#[tokio::test]
async fn closing_while_something_runs_counts_as_unclean() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    publish(&broker, vec![task("one"), task("two")]).await;
    let mut source = tasks_of(&broker, 2).await;
    let got = recv_exactly(&mut source, 2).await;
    assert!(got[0].receipt.begin());
    source.close(PATIENCE).await.unwrap();
    broker.close().await;
    drop((got, broker));
    let broker = rig.open();
    let mut source = tasks_of(&broker, 2).await;
    assert!(recv_exactly(&mut source, 1).await[0].raw.redelivered);
}

#[tokio::test]
async fn what_was_handed_out_but_never_began_is_not_flagged_after_a_clean_stop() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    publish(&broker, vec![task("one")]).await;
    let mut source = tasks_of(&broker, 2).await;
    let got = recv_exactly(&mut source, 1).await;
    source.close(PATIENCE).await.unwrap();
    broker.close().await;
    drop((got, broker));
    let broker = rig.open();
    let mut source = tasks_of(&broker, 2).await;
    assert!(!recv_exactly(&mut source, 1).await[0].raw.redelivered);
}

#[tokio::test]
async fn events_after_the_committed_prefix_come_again_flagged() {
    let rig = Rig::new();
    let broker = rig.with_topic(1).await;
    publish(&broker, (0..6).map(|n| event(&n.to_string(), None)).collect()).await;
    let mut source = events_of(&broker, 10).await;
    let mut got = recv_exactly(&mut source, 4).await;
    let rest = got.split_off(2);
    ack_all(got);
    until("the prefix is committed", || {
        broker.core.topic("t").unwrap().partitions[0]
            .committed
            .load(Ordering::Relaxed)
            == 2
    })
    .await;
    drop(broker);
    drop((rest, source));

    let broker = rig.open();
    publish(&broker, vec![event("fresh", None)]).await;
    let mut source = events_of(&broker, 10).await;
    let got = recv_exactly(&mut source, 5).await;
    let flags: Vec<_> = got.iter().map(|d| (id_of(d), d.raw.redelivered)).collect();
    let expect = [
        ("2", true),
        ("3", true),
        ("4", true),
        ("5", true),
        ("fresh", false),
    ];
    assert_eq!(flags, expect.map(|(id, flag)| (id.to_owned(), flag)));
}

#[tokio::test]
async fn an_event_finished_behind_a_gap_comes_again_flagged_after_a_clean_stop() {
    let rig = Rig::new();
    let broker = rig.with_topic(1).await;
    publish(&broker, (0..2).map(|n| event(&n.to_string(), None)).collect()).await;
    let mut source = events_of(&broker, 10).await;
    let mut got = recv_exactly(&mut source, 2).await;
    ack_all(vec![got.remove(1)]);
    source.close(PATIENCE).await.unwrap();
    broker.close().await;
    drop((got, broker));
    let broker = rig.open();
    let mut source = events_of(&broker, 10).await;
    let got = recv_exactly(&mut source, 2).await;
    assert_eq!(names(&got), ["0", "1"]);
    assert!(got[1].raw.redelivered, "its handler did run");
}

#[tokio::test]
async fn every_confirmed_message_is_in_the_files_of_a_dead_process() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    publish(&broker, ids(0..2_000).iter().map(|id| task(id)).collect()).await;
    let copy = copy_of(&rig);
    let other = rig.try_open(copy.path()).unwrap();
    let mut source = tasks_of(&other, 2_000).await;
    let got = recv_exactly(&mut source, 2_000).await;
    assert_eq!(names(&got), ids(0..2_000));
    assert!(got.iter().all(|d| !d.raw.redelivered), "nobody consumed");
}

#[tokio::test]
async fn two_hosts_cannot_share_the_folder() {
    let rig = Rig::new();
    let broker = rig.open();
    let refused = rig.try_open(rig.dir.path()).err().unwrap().to_string();
    assert!(
        refused.contains("HX0204") && refused.contains("another helix process"),
        "{refused}"
    );
    broker.close().await;
    rig.open();
}
