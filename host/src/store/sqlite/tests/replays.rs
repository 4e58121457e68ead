//! Replays on a real file: one host has a replay at a time, its progress is kept, and a cancel is seen by whoever runs it.

use super::*;
use crate::model::replay::{Filter, Options, Plan, Progress, Stretch};
use crate::model::{Replay, ReplayStatus};
use crate::store::{Hold, Replays, Submitted};

fn replay(id: &str, created_ms: UnixMs) -> Replay {
    let plan = Plan {
        topic: "t".into(),
        broker: None,
        route: None,
        target: "t.replay".into(),
        target_partitions: Some(2),
        partitions: 2,
        stretches: vec![Stretch {
            partition: 1,
            from: 5,
            to: u64::MAX,
        }],
        from_ms: Some(7),
        to_ms: None,
        filter: Filter {
            headers: [("a".to_owned(), "b".to_owned())].into(),
            ..Filter::default()
        },
        options: Options {
            batch_size: 100,
            delay: Duration::from_nanos(10_000_001),
            rate: Some(3),
            dry_run: false,
            preserve_order: true,
            skip_duplicates: true,
        },
    };
    Replay {
        id: id.into(),
        progress: Progress::at_start(&plan),
        plan,
        status: ReplayStatus::Pending,
        created_ms,
        started_ms: None,
        ended_ms: None,
    }
}

fn progress(replayed: u64) -> Progress {
    Progress {
        next: vec![5 + replayed],
        replayed,
        last_id: Some("x".into()),
        ..Progress::default()
    }
}

async fn taken(store: &SqliteStore, holder: &str) -> Option<String> {
    store.take(holder, LEASE).await.unwrap().map(|replay| replay.id)
}

#[tokio::test]
async fn a_replay_is_kept_as_it_was_asked_for_and_its_id_is_taken() {
    let (folder, path, clock, store) = fresh().await;
    assert_eq!(store.submit(&replay("a", 1)).await.unwrap(), Submitted::Done);
    assert_eq!(store.submit(&replay("a", 2)).await.unwrap(), Submitted::Taken);
    store.submit(&replay("b", 2)).await.unwrap();
    let image = folder.path().join("image.db");
    crash_image(&path, &image);
    let after = open(&image, &clock).await;
    assert_eq!(after.find("a").await.unwrap(), Some(replay("a", 1)));
    let newest = after.newest(10).await.unwrap();
    assert_eq!(newest, [replay("b", 2), replay("a", 1)]);
    assert_eq!(after.newest(1).await.unwrap().len(), 1);
    assert_eq!(after.find("c").await.unwrap(), None);
}

#[tokio::test]
async fn one_holder_has_it_until_its_lease_runs_out() {
    let (_folder, _path, clock, store) = fresh().await;
    store.submit(&replay("b", 2)).await.unwrap();
    store.submit(&replay("a", 1)).await.unwrap();
    clock.set(10);
    assert_eq!(taken(&store, "h1").await.as_deref(), Some("a"), "the oldest");
    assert_eq!(taken(&store, "h2").await.as_deref(), Some("b"));
    assert_eq!(taken(&store, "h3").await, None);
    let running = store.find("a").await.unwrap().unwrap();
    assert_eq!(
        (running.status, running.started_ms),
        (ReplayStatus::Running, Some(10))
    );
    clock.set(500);
    let record = async |holder: &str, n| store.record("a", holder, LEASE, &progress(n)).await.unwrap();
    assert_eq!(record("h1", 3).await, Hold::Ours);
    assert_eq!(record("h2", 9).await, Hold::Lost);
    assert_eq!(store.holds("a", "h1").await.unwrap(), Hold::Ours);
    assert_eq!(store.holds("a", "h2").await.unwrap(), Hold::Lost);
    // b's lease ends at 1010, a's was renewed.
    clock.set(1_100);
    assert_eq!(taken(&store, "h4").await.as_deref(), Some("b"));
    assert_eq!(taken(&store, "h4").await, None);
    clock.set(1_500);
    let again = store.take("h5", LEASE).await.unwrap().unwrap();
    assert_eq!(
        (&*again.id, again.progress),
        ("a", progress(3)),
        "from its checkpoint"
    );
    assert_eq!(
        record("h1", 4).await,
        Hold::Lost,
        "nothing of the old holder counts"
    );
    assert_eq!(
        store
            .finish("a", "h1", ReplayStatus::Completed, &progress(4))
            .await
            .unwrap(),
        Hold::Lost
    );
    assert_eq!(store.find("a").await.unwrap().unwrap().progress, progress(3));
    let end = ReplayStatus::Completed;
    assert_eq!(
        store.finish("a", "h5", end, &progress(7)).await.unwrap(),
        Hold::Ours
    );
    let ended = store.find("a").await.unwrap().unwrap();
    assert_eq!(
        (ended.status, ended.progress, ended.ended_ms),
        (end, progress(7), Some(1_500))
    );
    clock.set(99_999);
    assert_eq!(taken(&store, "h6").await.as_deref(), Some("b"), "a has ended");
}

#[tokio::test]
async fn what_a_host_lets_go_of_or_dies_with_is_there_at_once() {
    let (_folder, _path, _clock, store) = fresh().await;
    store.submit(&replay("a", 1)).await.unwrap();
    taken(&store, "h1").await;
    store.give_back("a", "other").await.unwrap();
    assert_eq!(taken(&store, "h2").await, None, "not theirs");
    store.give_back("a", "h1").await.unwrap();
    assert_eq!(
        store.find("a").await.unwrap().unwrap().status,
        ReplayStatus::Pending
    );
    assert_eq!(taken(&store, "h2").await.as_deref(), Some("a"));
    assert_eq!(store.reclaim().await.unwrap(), 1);
    assert_eq!(taken(&store, "h3").await.as_deref(), Some("a"));
}

#[tokio::test]
async fn a_cancel_is_seen_by_whoever_runs_it_and_the_last_batch_is_counted() {
    let (_folder, _path, clock, store) = fresh().await;
    for id in ["a", "b"] {
        store.submit(&replay(id, 1)).await.unwrap();
    }
    taken(&store, "h1").await;
    clock.set(50);
    let cancelled = store.cancel("a").await.unwrap().unwrap();
    assert_eq!(
        (cancelled.status, cancelled.ended_ms),
        (ReplayStatus::Cancelled, Some(50))
    );
    assert_eq!(store.holds("a", "h1").await.unwrap(), Hold::Cancelled);
    let hold = store.record("a", "h1", LEASE, &progress(2)).await.unwrap();
    assert_eq!(hold, Hold::Cancelled);
    let late = store
        .finish("a", "h1", ReplayStatus::Completed, &progress(2))
        .await;
    assert_eq!(late.unwrap(), Hold::Cancelled, "it stays cancelled");
    let kept = store.find("a").await.unwrap().unwrap();
    assert_eq!(
        (kept.status, kept.progress),
        (ReplayStatus::Cancelled, progress(2))
    );
    store.cancel("b").await.unwrap();
    clock.set(99_999);
    assert_eq!(taken(&store, "h2").await, None, "nobody takes what was cancelled");
    assert_eq!(store.cancel("c").await.unwrap(), None);
    assert_eq!(
        store.cancel("a").await.unwrap().unwrap().ended_ms,
        Some(50),
        "twice is once"
    );
}

#[tokio::test]
async fn a_hundred_wait_at_most_and_those_that_ended_a_month_ago_are_forgotten() {
    let (_folder, _path, clock, store) = fresh().await;
    for n in 0..100 {
        store.submit(&replay(&n.to_string(), n)).await.unwrap();
    }
    assert_eq!(store.submit(&replay("x", 1)).await.unwrap(), Submitted::Full(100));
    store.cancel("0").await.unwrap();
    assert_eq!(store.submit(&replay("x", 1)).await.unwrap(), Submitted::Done);
    clock.set(31 * 24 * 3_600_000);
    store.cancel("1").await.unwrap();
    store.submit(&replay("y", 1)).await.unwrap();
    assert_eq!(store.find("0").await.unwrap(), None);
    assert!(store.find("1").await.unwrap().is_some());
}

#[tokio::test]
async fn one_that_cannot_be_read_does_not_stop_the_others() {
    let (_folder, path, _clock, store) = fresh().await;
    for id in ["a", "b"] {
        store.submit(&replay(id, 1)).await.unwrap();
    }
    let mut shell = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path))
        .await
        .unwrap();
    sqlx::raw_sql("UPDATE replays SET plan = '{' WHERE id = 'a'")
        .execute(&mut shell)
        .await
        .unwrap();
    assert_eq!(taken(&store, "h").await, None);
    assert_eq!(taken(&store, "h").await.as_deref(), Some("b"));
}
