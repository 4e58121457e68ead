//! A full disk, a broken file, a foreign file.

use super::*;

async fn sql_on_writer(broker: &Embedded, text: &str) {
    let (reply, answer) = oneshot::channel();
    assert!(
        broker
            .core
            .inbox
            .control(Control::Sql(text.into(), reply))
            .is_ok()
    );
    answer.await.unwrap();
}

#[tokio::test]
async fn a_full_disk_refuses_and_then_goes_on() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    publish(&broker, vec![task("before"), task("acked")]).await;
    let mut source = tasks_of(&broker, 1).await;
    // SQLite answers SQLITE_FULL at this number of pages, as it does when the disk has none left.
    sql_on_writer(&broker, "PRAGMA max_page_count = 1").await;
    let big = Outgoing {
        payload: vec![7; 400_000].into(),
        ..task("big")
    };
    let refused = publish_one(&broker, big.clone()).await;
    assert!(matches!(refused, Err(PublishError::Full(_))), "{refused:?}");
    assert!(matches!(broker.health(), Health::Degraded { .. }));
    ack_all(recv_exactly(&mut source, 1).await);
    sql_on_writer(&broker, "PRAGMA max_page_count = 1000000").await;
    publish(&broker, vec![big]).await;
    assert_eq!(broker.health(), Health::Up);
    until("the held back acknowledgement is committed", || {
        rows(&broker) == 2
    })
    .await;
    assert_eq!(names(&recv_exactly(&mut source, 1).await), ["acked"]);
    drop(source);
    let mut source = tasks_of(&broker, 10).await;
    let seen = names(&recv_exactly(&mut source, 2).await);
    assert_eq!(seen, ["acked", "big"]);
}

#[tokio::test]
async fn an_error_of_the_file_confirms_nothing_and_stops_the_writer() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    publish(&broker, vec![task("stored")]).await;
    let mut source = tasks_of(&broker, 10).await;
    sql_on_writer(&broker, "PRAGMA query_only = 1").await;
    let lost = publish_one(&broker, task("lost")).await;
    assert!(matches!(lost, Err(PublishError::Unknown(_))), "{lost:?}");
    until("the writer stops", || {
        matches!(broker.health(), Health::Down { .. })
    })
    .await;
    let Health::Down { reason } = broker.health() else {
        panic!()
    };
    assert!(
        reason.contains("HX0204") && reason.contains("broker.db"),
        "{reason}"
    );
    assert!(matches!(
        publish_one(&broker, task("after")).await,
        Err(PublishError::Unavailable(_))
    ));
    assert!(matches!(source.recv(1).await, Err(Error::Storage(_))));
    broker.close().await;
    drop((source, broker));

    let broker = rig.open();
    let mut source = tasks_of(&broker, 10).await;
    assert_eq!(names(&recv_exactly(&mut source, 1).await), ["stored"]);
}

#[tokio::test]
async fn a_file_that_is_not_ours_is_refused_with_the_next_step() {
    let rig = Rig::new();
    std::fs::write(
        rig.dir.path().join("broker.db"),
        "this is no database, it only has the name",
    )
    .unwrap();
    let refused = rig.try_open(rig.dir.path()).err().unwrap().to_string();
    assert!(
        refused.contains("HX0204") && refused.contains("broker.db") && refused.contains("moved away"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_log_of_writes_is_carried_over_and_does_not_grow() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    let mut source = tasks_of(&broker, 200).await;
    for round in 0..60 {
        let batch = (0..50).map(|n| Outgoing {
            payload: vec![7; 4_000].into(),
            ..task(&format!("{round}-{n}"))
        });
        publish(&broker, batch.collect()).await;
        ack_all(recv_exactly(&mut source, 50).await);
    }
    // 12 MB of payload went through; without checkpoints all of it would lie in the WAL.
    let wal = std::fs::metadata(rig.dir.path().join("broker.db-wal"))
        .unwrap()
        .len();
    assert!(wal < 8 << 20, "{wal} bytes");
}

#[tokio::test]
async fn a_damaged_row_does_not_stand_in_the_way() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    publish(&broker, ids(0..3).iter().map(|id| task(id)).collect()).await;
    sql_on_writer(&broker, "UPDATE task SET hdr = x'01FFFF' WHERE id = 'm00001'").await;
    let mut source = tasks_of(&broker, 10).await;
    let got = recv_exactly(&mut source, 3).await;
    assert_eq!(
        got[1].raw.body,
        crate::encode::encode(&task("m00001"), crate::model::WireFormat::Flat).body
    );
    assert_eq!(got[1].raw.props.message_id, None);
    assert_eq!(
        (id_of(&got[0]), id_of(&got[2])),
        ("m00000".into(), "m00002".into())
    );
}

#[tokio::test]
async fn acknowledgements_in_a_refused_batch_are_not_forgotten() {
    let rig = Rig::new();
    let broker = rig.with_queue(0).await;
    publish(&broker, vec![task("acked")]).await;
    let mut source = tasks_of(&broker, 1).await;
    let got = recv_exactly(&mut source, 1).await;
    sql_on_writer(&broker, "PRAGMA max_page_count = 1").await;
    // Keeps the writer busy until both are in the inbox, so that they share a batch.
    let busy = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000)
                SELECT count(*) FROM n";
    let (reply, _answer) = oneshot::channel();
    assert!(
        broker
            .core
            .inbox
            .control(Control::Sql(busy.into(), reply))
            .is_ok()
    );
    ack_all(got);
    let big = Outgoing {
        payload: vec![7; 400_000].into(),
        ..task("big")
    };
    assert!(matches!(
        publish_one(&broker, big).await,
        Err(PublishError::Full(_))
    ));
    sql_on_writer(&broker, "PRAGMA max_page_count = 1000000").await;
    until("the acknowledgement is committed", || rows(&broker) == 0).await;
}
