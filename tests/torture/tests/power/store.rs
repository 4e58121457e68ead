//! Retries and dead letters that were answered `Ok` survive a power cut, also after a sync that failed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use helix_host::model::{
    Clock, DeadLetter, FailureClass, Headers, LetterState, MessageKind, Origin, RawMessage, raw::Properties,
};
use helix_host::store::sqlite::SqliteStore;
use helix_host::store::{DeadLetters, Parked, Retries};
use helix_torture::power::{Attached, Disk, Hands};

#[derive(Debug, Clone, PartialEq)]
enum Row {
    Parked(Box<Parked>),
    Letter(Box<DeadLetter>),
    Gone,
}

/// What was answered `Ok`, by id; none: the last change got no such answer, so that any state is right.
type Answers = Arc<Mutex<BTreeMap<String, Option<Row>>>>;

fn raw(id: &str, size: usize) -> RawMessage {
    RawMessage {
        origin: Origin {
            broker: "b".into(),
            kind: MessageKind::Task,
            destination: "q".into(),
            partition: None,
            offset: None,
        },
        body: Some(format!("{id}{}", "x".repeat(size)).into()),
        key: None,
        headers: Headers::new(),
        props: Properties::default(),
        timestamp_ms: Some(3),
        redelivered: false,
    }
}

fn parked(id: &str, size: usize) -> Parked {
    Parked {
        id: id.into(),
        route: "r".into(),
        raw: raw(id, size),
        attempt: 2,
        due_ms: 1,
        lane: None,
        history: Vec::new(),
        first_failure_ms: 5,
    }
}

fn letter(id: &str, size: usize) -> DeadLetter {
    DeadLetter {
        id: id.into(),
        raw: raw(id, size),
        message_id: None,
        message_type: None,
        route: Some("r".into()),
        plugin: None,
        digest: None,
        class: FailureClass::Exhausted,
        reason: "broken".into(),
        code: None,
        attempts: Vec::new(),
        first_failure_ms: 5,
        last_failure_ms: 6,
        trace_id: None,
        state: LetterState::Dead,
        reprocessed: 0,
    }
}

async fn open(path: &Path) -> Result<SqliteStore, helix_host::store::Error> {
    SqliteStore::open(path, Hands::start() as Arc<dyn Clock>).await
}

/// One message after the other: parked or dead at once; then completed, buried or left.
async fn work(store: SqliteStore, answers: Answers, mut rng: fastrand::Rng) {
    let note = |id: &str, row: Option<Row>| answers.lock().unwrap().insert(id.to_owned(), row);
    for _ in 0..rng.usize(5..20) {
        let (id, size) = (format!("{:016x}", rng.u64(..)), rng.usize(..6_000));
        note(&id, None);
        if rng.bool() {
            let entered = letter(&id, size);
            if store.enter(vec![entered.clone()]).await.is_err() {
                return;
            }
            note(&id, Some(Row::Letter(Box::new(entered))));
            continue;
        }
        let waits = parked(&id, size);
        if store.park(vec![waits.clone()]).await.is_err() {
            return;
        }
        note(&id, Some(Row::Parked(Box::new(waits))));
        let (changed, row) = match rng.u8(..3) {
            0 => {
                note(&id, None);
                (store.complete(&id).await, Row::Gone)
            }
            1 => {
                note(&id, None);
                let buried = letter(&id, size);
                (
                    store.bury(&id, buried.clone()).await.map(drop),
                    Row::Letter(Box::new(buried)),
                )
            }
            _ => continue,
        };
        if changed.is_err() {
            return;
        }
        note(&id, Some(row));
    }
}

async fn all_work(store: &SqliteStore, answers: &Answers, rng: &mut fastrand::Rng) {
    let workers: Vec<_> = (0..4)
        .map(|_| tokio::spawn(work(store.clone(), Arc::clone(answers), rng.fork())))
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
}

async fn check(store: &SqliteStore, answers: &Answers, seed: u64) {
    let due = store
        .claim_due(10, Duration::from_secs(60), 10_000)
        .await
        .unwrap();
    let mut due: BTreeMap<_, _> = due.into_iter().map(|row| (row.id.clone(), row)).collect();
    let mut known = answers.lock().unwrap().clone();
    for (id, answer) in &mut known {
        let (letter, waits) = (store.get(id).await.unwrap(), due.remove(id));
        let there = match (waits, letter) {
            // What was claimed before may have run; nothing else of a row changes.
            (Some(mut row), None) => {
                row.raw.redelivered = false;
                Row::Parked(Box::new(row))
            }
            (None, Some(letter)) => Row::Letter(Box::new(letter)),
            (None, None) => Row::Gone,
            both => panic!("seed {seed}: `{id}` waits and is dead: {both:?}"),
        };
        if let Some(expected) = answer {
            assert_eq!(there, *expected, "seed {seed}: `{id}`");
        }
        *answer = Some(there);
    }
    assert!(due.is_empty(), "seed {seed}: never parked: {due:?}");
    *answers.lock().unwrap() = known;
    assert_eq!(
        store.reclaim().await.unwrap(),
        store.count().await.unwrap(),
        "seed {seed}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_answered_survives_power_cuts() {
    for seed in super::seeds(60) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/store.db");
        let answers = Answers::default();
        let mut disk = Attached::new(Disk::new(folder.path()));
        let mut opened = 0;
        for _ in 0..3 {
            let early = rng.u8(..3) == 0;
            if early {
                disk.cut_in(rng.u64(1..60));
            }
            match open(&path).await {
                Ok(store) if !early => {
                    opened += 1;
                    check(&store, &answers, seed).await;
                    if rng.bool() {
                        disk.fail_sync(rng.u64(1..10));
                    }
                    disk.cut_in(rng.u64(1..400));
                    all_work(&store, &answers, &mut rng).await;
                }
                Ok(_) => {}
                Err(error) => assert!(disk.is_off(), "seed {seed}: {error}"),
            }
            let after = disk.reboot(&mut rng);
            drop(disk);
            disk = Attached::new(after);
        }
        let store = open(&path).await.unwrap();
        check(&store, &answers, seed).await;
        store.close().await;
        assert!(opened < 4);
    }
}

/// The hole that a failed sync leaves is not built upon by the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_after_a_failed_sync_trusts_nothing_that_only_memory_has() {
    for seed in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let disk = Attached::new(Disk::new(folder.path()));
        let dead = open(&path).await.unwrap();
        dead.enter(vec![letter("before", 10)]).await.unwrap();
        disk.fail_sync(1);
        assert!(dead.enter(vec![letter("unanswered", 10)]).await.is_err());
        // Before anything can close the file in good order.
        let disk = Attached::new(disk.killed());

        let store = open(&path).await.unwrap();
        store.enter(vec![letter("after", 10)]).await.unwrap();
        let after = disk.reboot(&mut fastrand::Rng::with_seed(seed));
        drop((disk, store, dead));

        let _disk = Attached::new(after);
        let store = open(&path).await.unwrap();
        for id in ["before", "after"] {
            assert_eq!(store.get(id).await.unwrap(), Some(letter(id, 10)), "seed {seed}");
        }
        store.close().await;
    }
}
