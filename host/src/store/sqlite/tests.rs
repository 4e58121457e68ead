//! On real files: what was confirmed is there after a crash, lanes keep their order, pages stay right, full is full.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod exports;
mod groups;
mod held;
mod jobs;
mod letters;
mod plans;
mod replays;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use bytes::Bytes;
use futures::future::join_all;

use super::*;
use crate::model::outcome::Failure;
use crate::model::raw::Properties;
use crate::model::{
    Attempt, DeadLetter, FailureClass, LetterState, MessageKind, Origin, Outcome, RawMessage, UnixMs,
};
use crate::store::{DeadLetters, LetterFilter, Page, Parked, Retries};

struct Hands(Mutex<UnixMs>);

impl Hands {
    fn at(ms: UnixMs) -> Arc<Self> {
        Arc::new(Self(Mutex::new(ms)))
    }

    fn set(&self, ms: UnixMs) {
        *self.0.lock().unwrap() = ms;
    }
}

impl Clock for Hands {
    fn now_ms(&self) -> UnixMs {
        *self.0.lock().unwrap()
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}

const LEASE: Duration = Duration::from_millis(1_000);

fn message(body: &[u8]) -> RawMessage {
    RawMessage {
        origin: Origin {
            broker: "k".into(),
            kind: MessageKind::Event,
            destination: "topic".into(),
            partition: Some(3),
            offset: Some(u64::MAX),
        },
        body: Some(Bytes::copy_from_slice(body)),
        key: None,
        headers: [("a", &b"1"[..]), ("A", b"\xff\x00"), ("a", b"")]
            .into_iter()
            .map(|(n, v)| (n, Bytes::from_static(v)))
            .collect(),
        props: Properties::default(),
        timestamp_ms: Some(9),
        redelivered: false,
    }
}

fn attempt(number: u32) -> Attempt {
    Attempt {
        number,
        started_ms: 5,
        duration_us: u64::MAX,
        outcome: Outcome::Retry {
            failure: Failure::coded("c", "why"),
            after: Some(Duration::from_millis(1_500)),
        },
        digest: Some("sha256:0".into()),
        log: vec!["line".into()],
    }
}

fn parked(id: &str, due_ms: UnixMs, lane: Option<&str>) -> Parked {
    Parked {
        id: id.into(),
        route: "r".into(),
        raw: message(id.as_bytes()),
        attempt: 2,
        due_ms,
        lane: lane.map(|l| l.as_bytes().to_vec()),
        history: vec![attempt(1)],
        first_failure_ms: 5,
    }
}

fn letter(id: &str, last_failure_ms: UnixMs) -> DeadLetter {
    DeadLetter {
        id: id.into(),
        raw: message(id.as_bytes()),
        message_id: Some(format!("m-{id}")),
        message_type: Some("t".into()),
        route: Some("r".into()),
        plugin: Some("p".into()),
        digest: None,
        class: FailureClass::Exhausted,
        reason: "100% broken_".into(),
        code: Some("c".into()),
        attempts: vec![attempt(1), attempt(2)],
        first_failure_ms: 5,
        last_failure_ms,
        trace_id: None,
        state: LetterState::Dead,
        reprocessed: 0,
    }
}

async fn open(path: &Path, clock: &Arc<Hands>) -> SqliteStore {
    SqliteStore::open(path, Arc::clone(clock) as Arc<dyn Clock>)
        .await
        .unwrap()
}

async fn fresh() -> (tempfile::TempDir, PathBuf, Arc<Hands>, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/store.db");
    let clock = Hands::at(0);
    let store = open(&path, &clock).await;
    (folder, path, clock, store)
}

fn ids(rows: &[Parked]) -> Vec<&str> {
    rows.iter().map(|row| row.id.as_str()).collect()
}

/// What a kernel has on disk when the process is killed now.
fn crash_image(path: &Path, to: &Path) {
    std::fs::copy(path, to).unwrap();
    let log = |p: &Path| PathBuf::from(format!("{}-wal", p.display()));
    std::fs::copy(log(path), log(to)).unwrap();
}

#[tokio::test]
async fn what_was_confirmed_survives_a_crash() {
    let (folder, path, clock, store) = fresh().await;
    store
        .park(vec![parked("a", 10, None), parked("b", 20, Some("l"))])
        .await
        .unwrap();
    store.enter(vec![letter("x", 1)]).await.unwrap();
    store.complete("a").await.unwrap();
    let image = folder.path().join("image.db");
    crash_image(&path, &image);

    let after = open(&image, &clock).await;
    let claimed = after.claim_due(100, LEASE, 10).await.unwrap();
    assert_eq!(claimed, [parked("b", 20, Some("l"))]);
    assert_eq!(after.get("x").await.unwrap(), Some(letter("x", 1)));
    assert_eq!(after.count().await.unwrap(), 1);
}

#[tokio::test]
async fn closing_and_opening_keeps_everything() {
    let (_folder, path, clock, store) = fresh().await;
    store.park(vec![parked("a", 10, None)]).await.unwrap();
    let other = store.clone();
    store.close().await;
    assert!(matches!(other.complete("a").await, Err(Error::Storage(_))));
    assert!(!path.with_extension("db-wal").exists(), "closed properly");
    let again = open(&path, &clock).await;
    assert_eq!(again.count().await.unwrap(), 1);
}

#[tokio::test]
async fn parking_twice_is_one_row() {
    let (_folder, _path, _clock, store) = fresh().await;
    store
        .park(vec![parked("a", 10, None), parked("a", 99, None)])
        .await
        .unwrap();
    store.park(vec![parked("a", 77, Some("l"))]).await.unwrap();
    assert_eq!(
        store.claim_due(100, LEASE, 10).await.unwrap(),
        [parked("a", 10, None)]
    );
    assert!(store.lanes().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_lease_that_runs_out_hands_the_row_out_again_and_says_so() {
    let (_folder, _path, clock, store) = fresh().await;
    store
        .park(vec![parked("a", 10, None), parked("b", 20, None)])
        .await
        .unwrap();
    assert_eq!(store.next_due().await.unwrap(), Some(10));
    assert!(store.claim_due(9, LEASE, 10).await.unwrap().is_empty());
    clock.set(30);
    assert_eq!(ids(&store.claim_due(30, LEASE, 1).await.unwrap()), ["a"]);
    assert_eq!(ids(&store.claim_due(30, LEASE, 9).await.unwrap()), ["b"]);
    assert!(store.claim_due(1_029, LEASE, 9).await.unwrap().is_empty());
    assert_eq!(store.next_due().await.unwrap(), Some(1_030));

    let again = store.claim_due(1_030, LEASE, 9).await.unwrap();
    assert_eq!(ids(&again), ["a", "b"]);
    assert!(again.iter().all(|row| row.raw.redelivered));

    let later = Parked {
        attempt: 3,
        due_ms: 50,
        history: vec![attempt(1), attempt(2)],
        ..parked("a", 10, None)
    };
    store.reschedule(later.clone()).await.unwrap();
    assert_eq!(
        store.claim_due(50, LEASE, 9).await.unwrap(),
        [later],
        "an outcome was recorded, so not redelivered"
    );
    store.release("a").await.unwrap();
    assert_eq!(ids(&store.claim_due(50, LEASE, 9).await.unwrap()), ["a"]);
    assert_eq!(store.reclaim().await.unwrap(), 2);
    assert_eq!(store.claim_due(50, LEASE, 9).await.unwrap().len(), 2);
}

#[tokio::test]
async fn of_a_lane_only_the_head_is_handed_out_in_the_order_of_parking() {
    let (_folder, _path, clock, store) = fresh().await;
    let rows = [("1", "x", 50), ("2", "x", 10), ("3", "y", 10), ("4", "x", 10)];
    for (id, lane, due) in rows {
        store.park(vec![parked(id, due, Some(lane))]).await.unwrap();
    }
    assert_eq!(store.next_due().await.unwrap(), Some(10));
    assert_eq!(
        ids(&store.claim_due(10, LEASE, 9).await.unwrap()),
        ["3"],
        "2 and 4 wait behind 1"
    );
    assert_eq!(ids(&store.claim_due(50, LEASE, 9).await.unwrap()), ["1"]);
    store.reschedule(parked("1", 70, Some("x"))).await.unwrap();
    assert!(
        store.claim_due(69, LEASE, 9).await.unwrap().is_empty(),
        "the same place in its lane"
    );
    assert_eq!(ids(&store.claim_due(70, LEASE, 9).await.unwrap()), ["1"]);
    store.complete("1").await.unwrap();
    store.complete("1").await.unwrap();
    clock.set(70);
    assert_eq!(ids(&store.claim_due(70, LEASE, 9).await.unwrap()), ["2"]);
    assert_eq!(
        store.lanes().await.unwrap(),
        [("r".into(), b"x".to_vec()), ("r".into(), b"y".to_vec())]
    );
    store.bury("2", letter("2", 1)).await.unwrap();
    assert_eq!(ids(&store.claim_due(70, LEASE, 9).await.unwrap()), ["4"]);
    store.complete("4").await.unwrap();
    assert!(store.lane_is_empty("r", b"x").await.unwrap());
    assert!(!store.lane_is_empty("r", b"y").await.unwrap());
    assert!(store.lane_is_empty("other", b"y").await.unwrap());
    store.park(vec![parked("5", 10, Some("x"))]).await.unwrap();
    assert_eq!(
        ids(&store.claim_due(70, LEASE, 9).await.unwrap()),
        ["5"],
        "the head of a lane that was empty"
    );
}

#[tokio::test]
async fn burying_is_atomic() {
    let (folder, path, clock, store) = fresh().await;
    store.park(vec![parked("a", 10, None)]).await.unwrap();
    // The row is removed after the letter is written; when that fails the letter must not be there either.
    let mut shell = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path))
        .await
        .unwrap();
    sqlx::raw_sql("CREATE TRIGGER stuck BEFORE DELETE ON parked BEGIN SELECT RAISE(ABORT, 'stuck'); END")
        .execute(&mut shell)
        .await
        .unwrap();
    assert!(store.bury("a", letter("a", 1)).await.is_err());
    assert_eq!(
        (store.count().await.unwrap(), store.get("a").await.unwrap()),
        (1, None)
    );
    sqlx::raw_sql("DROP TRIGGER stuck")
        .execute(&mut shell)
        .await
        .unwrap();
    store.bury("a", letter("a", 1)).await.unwrap();
    let image = folder.path().join("image.db");
    crash_image(&path, &image);
    let after = open(&image, &clock).await;
    assert_eq!(
        (after.count().await.unwrap(), after.get("a").await.unwrap()),
        (0, Some(letter("a", 1)))
    );
}

#[tokio::test]
async fn one_failing_change_does_not_fail_its_neighbours() {
    let (_folder, path, _clock, store) = fresh().await;
    store.park(vec![parked("bad", 10, None)]).await.unwrap();
    let mut shell = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path))
        .await
        .unwrap();
    // RAISE(ROLLBACK) takes the whole transaction with it, as a full disk does.
    sqlx::raw_sql(
        "CREATE TRIGGER stuck BEFORE DELETE ON parked WHEN old.id = 'bad' BEGIN SELECT RAISE(ROLLBACK, 'stuck'); END",
    )
    .execute(&mut shell)
    .await
    .unwrap();
    for _ in 0..3 {
        let rows: Vec<String> = (0..50).map(|n| format!("n{n}")).collect();
        let (parks, bad, more) = tokio::join!(
            join_all(rows.iter().map(|id| store.park(vec![parked(id, 10, None)]))),
            store.complete("bad"),
            store.enter(vec![letter("x", 1)]),
        );
        assert!(parks.iter().all(Result::is_ok) && more.is_ok());
        assert!(bad.is_err());
        assert_eq!(store.count().await.unwrap(), 51);
    }
}

#[tokio::test]
async fn a_thousand_parks_share_their_commits() {
    let (_folder, _path, _clock, store) = fresh().await;
    let before = store.commits();
    let rows: Vec<String> = (0..1_000).map(|n| format!("n{n}")).collect();
    let results = join_all(rows.iter().map(|id| store.park(vec![parked(id, 10, None)]))).await;
    assert!(results.iter().all(Result::is_ok));
    let commits = store.commits() - before;
    assert!((4..=100).contains(&commits), "{commits} transactions");
    assert_eq!(store.count().await.unwrap(), 1_000);
}

#[tokio::test]
async fn claims_by_many_at_once_hand_out_each_row_once() {
    let (_folder, _path, _clock, store) = fresh().await;
    let rows = (0..200).map(|n| parked(&format!("n{n}"), n, None)).collect();
    store.park(rows).await.unwrap();
    let claims = join_all((0..30).map(|_| store.claim_due(500, LEASE, 7))).await;
    let all: Vec<String> = claims
        .into_iter()
        .flat_map(Result::unwrap)
        .map(|row| row.id)
        .collect();
    assert_eq!(all.len(), 200);
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 200);
}

#[tokio::test]
async fn claimed_rows_nobody_waits_for_are_let_go() {
    let (_folder, _path, _clock, store) = fresh().await;
    store.park(vec![parked("a", 10, None)]).await.unwrap();
    {
        let mut claim = std::pin::pin!(store.claim_due(10, LEASE, 9));
        // Polled once, so the request is on its way, then dropped.
        assert!(futures::poll!(&mut claim).is_pending());
    }
    store.park(vec![parked("later", 99, None)]).await.unwrap();
    assert_eq!(ids(&store.claim_due(10, LEASE, 9).await.unwrap()), ["a"]);
}

#[tokio::test]
async fn entering_a_letter_again_updates_it() {
    let (_folder, _path, _clock, store) = fresh().await;
    store.enter(vec![letter("a", 10), letter("b", 10)]).await.unwrap();
    let again = DeadLetter {
        first_failure_ms: 9,
        attempts: vec![attempt(3)],
        reason: "new".into(),
        ..letter("a", 20)
    };
    store.enter(vec![again.clone()]).await.unwrap();
    assert_eq!(
        store.get("a").await.unwrap(),
        Some(DeadLetter {
            first_failure_ms: 5,
            ..again
        })
    );
    assert_eq!(store.depth().await.unwrap(), [("topic".to_owned(), 2)]);
    store
        .enter(vec![DeadLetter {
            state: LetterState::Expired,
            ..letter("b", 10)
        }])
        .await
        .unwrap();
    assert_eq!(store.depth().await.unwrap(), [("topic".to_owned(), 1)]);
    assert_eq!(store.get("nobody").await.unwrap(), None);
}

#[tokio::test]
async fn filters_all_have_to_hold() {
    let (_folder, _path, _clock, store) = fresh().await;
    let other = DeadLetter {
        route: Some("q".into()),
        message_type: None,
        class: FailureClass::TooLarge,
        state: LetterState::Discarded,
        reason: "100x brokenx".into(),
        code: None,
        message_id: None,
        ..letter("b", 2)
    };
    store.enter(vec![letter("a", 1), other]).await.unwrap();
    let found = async |filter: LetterFilter| -> String {
        let page = store.list(&filter, &Page::default()).await.unwrap();
        assert_eq!(page.count as usize, page.letters.len());
        page.letters.iter().map(|l| l.id.as_str()).collect()
    };
    let any = LetterFilter::default;
    let text = |text: &str| LetterFilter {
        text: Some(text.into()),
        ..any()
    };
    assert_eq!(found(any()).await, "ba");
    assert_eq!(
        found(LetterFilter {
            route: Some("q".into()),
            ..any()
        })
        .await,
        "b"
    );
    assert_eq!(
        found(LetterFilter {
            message_type: Some("t".into()),
            ..any()
        })
        .await,
        "a"
    );
    assert_eq!(
        found(LetterFilter {
            class: Some(FailureClass::TooLarge),
            ..any()
        })
        .await,
        "b"
    );
    assert_eq!(
        found(LetterFilter {
            state: Some(LetterState::Dead),
            ..any()
        })
        .await,
        "a"
    );
    assert_eq!(
        found(LetterFilter {
            state: Some(LetterState::Dead),
            route: Some("q".into()),
            ..any()
        })
        .await,
        ""
    );
    assert_eq!(
        found(text("BROKEN_ 100%")).await,
        "ba",
        "% and _ are in no word, and one that begins like that is meant as well"
    );
    assert_eq!(found(text("100% brokenx")).await, "b");
    assert_eq!(found(text("10 broken")).await, "", "too short for a beginning");
    assert_eq!(found(text("brok")).await, "ba", "a beginning is enough");
    assert_eq!(found(text("oken")).await, "", "an end is not");
    assert_eq!(found(text("m-a")).await, "a");
    assert_eq!(found(text("topic")).await, "ba");
    assert_eq!(found(text("' OR 1=1 --")).await, "");
}

#[tokio::test]
async fn pages_stay_right_while_letters_come() {
    let (_folder, _path, _clock, store) = fresh().await;
    // Ten letters share each last failure, so the id has to decide.
    let letters: Vec<_> = (0..50).map(|n| letter(&format!("n{n:02}"), n / 10)).collect();
    store.enter(letters).await.unwrap();
    let mut seen = Vec::new();
    let mut cursor = None;
    for round in 0.. {
        let page = Page {
            limit: 7,
            cursor,
            ..Page::default()
        };
        let page = store.list(&LetterFilter::default(), &page).await.unwrap();
        seen.extend(page.letters.into_iter().map(|l| l.id));
        store
            .enter(vec![letter(&format!("new{round}"), 1_000)])
            .await
            .unwrap();
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    let mut want: Vec<String> = (0..50).map(|n| format!("n{n:02}")).collect();
    want.reverse();
    assert_eq!(seen, want);

    let page = Page {
        limit: 3,
        offset: 8,
        cursor: None,
    };
    let page = store.list(&LetterFilter::default(), &page).await.unwrap();
    assert_eq!((page.count, page.letters[0].id.as_str()), (58, "n49"));
    for cursor in ["", "x", "bm8", "\u{e9}"] {
        let page = Page {
            cursor: Some(cursor.into()),
            ..Page::default()
        };
        let error = store.list(&LetterFilter::default(), &page).await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{cursor}: {error}");
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_that_passes() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Hands::at(0);
    let store = SqliteStore::open_bounded(&folder.path().join("store.db"), clock, Some(64))
        .await
        .unwrap();
    let big = |n: usize| Parked {
        raw: message(&[7; 20_000]),
        ..parked(&format!("big{n}"), 10, None)
    };
    let mut kept = 0;
    let error = loop {
        match store.park(vec![big(kept)]).await {
            Ok(()) => kept += 1,
            Err(error) => break error,
        }
        assert!(kept < 100, "64 pages of 4 KiB hold no more than 13");
    };
    assert!(matches!(error, Error::Full(_)), "{error}");
    assert_eq!(store.count().await.unwrap(), kept as u64, "all or nothing");
    // Neighbours that make room, or need none, get through.
    let (full, done) = tokio::join!(store.park(vec![big(90), big(91)]), store.complete("big0"));
    assert!(matches!(full, Err(Error::Full(_))) && done.is_ok());
    // Two for one: the new row may need a leaf page of its own.
    store.complete("big1").await.unwrap();
    store.park(vec![big(99)]).await.unwrap();
    assert_eq!(store.claim_due(100, LEASE, 99).await.unwrap().len(), kept - 1);
}

#[tokio::test]
async fn files_that_cannot_be_used_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let clock = || Hands::at(0);
    let path = folder.path().join("store.db");
    std::fs::write(&path, "this is not a database at all".repeat(50)).unwrap();
    let said = |error: Error| error.to_string();
    let error = said(SqliteStore::open(&path, clock()).await.err().unwrap());
    assert!(
        error.contains("store.db") && error.contains("not a database"),
        "{error}"
    );

    let path = folder.path().join("newer.db");
    open(&path, &clock()).await.close().await;
    let mut shell = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path))
        .await
        .unwrap();
    sqlx::raw_sql("PRAGMA user_version = 99")
        .execute(&mut shell)
        .await
        .unwrap();
    shell.close().await.unwrap();
    let error = said(SqliteStore::open(&path, clock()).await.err().unwrap());
    assert!(error.contains("99"), "{error}");

    let error = SqliteStore::open(folder.path(), clock()).await.err().unwrap();
    assert!(matches!(error, Error::Open { .. }), "{error}");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_does_not_stop_the_others() {
    let (_folder, path, _clock, store) = fresh().await;
    store
        .park(vec![parked("bad", 10, None), parked("good", 20, None)])
        .await
        .unwrap();
    let mut shell = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path))
        .await
        .unwrap();
    sqlx::raw_sql("UPDATE parked SET message = x'00' WHERE id = 'bad'")
        .execute(&mut shell)
        .await
        .unwrap();
    assert_eq!(ids(&store.claim_due(100, LEASE, 9).await.unwrap()), ["good"]);
    assert_eq!(store.count().await.unwrap(), 2);
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, path, _clock, store) = fresh().await;
    store.park(vec![parked("a", 10, None)]).await.unwrap();
    for file in [path.clone(), path.with_extension("db-wal")] {
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o077,
            0,
            "{}",
            file.display()
        );
    }
}
