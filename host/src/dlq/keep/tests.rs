//! Ages by the clock that the store goes by, in batches, and only what is too old.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;

use super::*;
use crate::model::raw::Properties;
use crate::model::{DeadLetter, FailureClass, Headers, LetterState, MessageKind, Origin, RawMessage};
use crate::store::sqlite::SqliteStore;
use crate::store::{DeadLetters, LetterFilter, Page};

const HOUR: u64 = 3_600_000;
const DAY: u64 = 24 * HOUR;

struct Hands(AtomicU64);

impl Clock for Hands {
    fn now_ms(&self) -> UnixMs {
        self.0.load(Ordering::SeqCst)
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}

fn letter(n: u64, failed_ms: UnixMs) -> DeadLetter {
    DeadLetter {
        id: format!("n{n:05}"),
        raw: RawMessage {
            origin: Origin {
                broker: "b".into(),
                kind: MessageKind::Task,
                destination: "d".into(),
                partition: None,
                offset: None,
            },
            body: Some(Bytes::from_static(b"{}")),
            key: None,
            headers: Headers::new(),
            props: Properties::default(),
            timestamp_ms: None,
            redelivered: false,
        },
        message_id: None,
        message_type: None,
        route: None,
        plugin: None,
        digest: None,
        class: FailureClass::Exhausted,
        reason: "no".into(),
        code: None,
        attempts: Vec::new(),
        first_failure_ms: 1,
        last_failure_ms: failed_ms,
        trace_id: None,
        state: LetterState::Dead,
        reprocessed: 0,
    }
}

struct Stage {
    _folder: tempfile::TempDir,
    clock: Arc<Hands>,
    store: SqliteStore,
    keep: Keep,
    settings: watch::Sender<valid::Keep>,
}

impl Stage {
    async fn new(now: UnixMs, retention_ms: u64, closed_ms: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(Hands(AtomicU64::new(now)));
        let path = folder.path().join("store.db");
        let store = SqliteStore::open(&path, Arc::clone(&clock) as Arc<dyn Clock>)
            .await
            .unwrap();
        let settings = watch::Sender::new(valid::Keep {
            retention: Some(Duration::from_millis(retention_ms)),
            closed: Some(Duration::from_millis(closed_ms)),
        });
        Self {
            keep: Keep {
                letters: Arc::new(store.clone()),
                clock: Arc::clone(&clock) as Arc<dyn Clock>,
                metrics: Arc::new(Metrics::new().unwrap()),
                settings: settings.subscribe(),
            },
            _folder: folder,
            clock,
            store,
            settings,
        }
    }

    async fn once(&self) {
        let keep = *self.settings.borrow();
        self.keep.once(keep, &CancellationToken::new()).await.unwrap();
    }

    async fn count(&self, state: LetterState) -> u64 {
        let filter = LetterFilter {
            state: Some(state),
            ..LetterFilter::default()
        };
        self.store.list(&filter, &Page::default()).await.unwrap().count
    }
}

#[test]
fn looks_often_enough_and_no_clock_is_too_young() {
    assert_eq!(until(10, Some(Duration::from_millis(11))), None);
    assert_eq!(until(10, Some(Duration::from_millis(3))), Some(7));
    assert_eq!(until(10, None), None);
    let every = |retention, closed| interval(valid::Keep { retention, closed });
    let seconds = |n| Some(Duration::from_secs(n));
    assert_eq!(every(None, None), LOOK.1);
    assert_eq!(every(seconds(30 * 86_400), None), LOOK.1);
    assert_eq!(every(seconds(30 * 86_400), seconds(4)), Duration::from_secs(1));
    assert_eq!(every(Some(Duration::from_millis(1)), None), LOOK.0);
}

#[tokio::test]
async fn more_than_fit_into_one_batch_expire_and_are_deleted_at_last() {
    let stage = Stage::new(100 * DAY, 30 * DAY, 10 * DAY).await;
    let many = AT_ONCE as u64 * 2 + 17;
    let old = (0..many).map(|n| letter(n, 69 * DAY)).collect();
    stage.store.enter(old).await.unwrap();
    stage.store.enter(vec![letter(many, 71 * DAY)]).await.unwrap();
    let commits = stage.store.commits();
    stage.once().await;
    assert_eq!(stage.count(LetterState::Expired).await, many);
    assert_eq!(stage.count(LetterState::Dead).await, 1);
    assert_eq!(
        stage.store.commits() - commits,
        3,
        "so that others get in between"
    );
    let counted = stage
        .keep
        .metrics
        .dlq_auto_expired
        .with_label_values(&[DLQ])
        .get();
    assert_eq!(counted, many);
    // Visible, with the reason, for as long as it says.
    let trail = stage.store.trail("n00000").await.unwrap();
    assert!(
        trail
            .iter()
            .any(|e| e.note.reason.as_deref().unwrap().contains("dlq.retention"))
    );
    stage.clock.0.store(110 * DAY - 1, Ordering::SeqCst);
    stage.once().await;
    assert_eq!(stage.count(LetterState::Expired).await, many + 1);
    stage.clock.0.store(110 * DAY, Ordering::SeqCst);
    stage.once().await;
    assert_eq!(
        stage.count(LetterState::Expired).await,
        1,
        "the one that expired later"
    );
    assert_eq!(stage.store.trail("n00000").await.unwrap(), []);
}

#[tokio::test]
async fn a_clock_that_jumps_an_hour_makes_only_that_hour_expire() {
    let stage = Stage::new(100 * DAY, 30 * DAY, 30 * DAY).await;
    // One for each hour of two days around the limit.
    let letters = (0..48).map(|n| letter(n, 69 * DAY + n * HOUR)).collect();
    stage.store.enter(letters).await.unwrap();
    stage.once().await;
    assert_eq!(stage.count(LetterState::Expired).await, 25);
    stage.clock.0.fetch_add(HOUR, Ordering::SeqCst);
    stage.once().await;
    assert_eq!(stage.count(LetterState::Expired).await, 26);
    stage.clock.0.fetch_sub(3 * HOUR, Ordering::SeqCst);
    stage.once().await;
    assert_eq!(stage.count(LetterState::Expired).await, 26);
    // From a clock that was years ahead: they expire, are visible, and not one of them is deleted at once.
    stage.clock.0.fetch_add(3_650 * DAY, Ordering::SeqCst);
    stage.once().await;
    stage.once().await;
    assert_eq!(stage.count(LetterState::Dead).await, 0);
    assert_eq!(
        stage.count(LetterState::Expired).await,
        22,
        "but those that had expired long before"
    );
}

#[tokio::test]
async fn nothing_expires_where_it_is_switched_off() {
    let stage = Stage::new(1_000 * DAY, 1, 1).await;
    stage.store.enter(vec![letter(1, 1)]).await.unwrap();
    stage.settings.send_replace(valid::Keep::default());
    stage.once().await;
    assert_eq!(stage.count(LetterState::Dead).await, 1);
}

#[tokio::test]
async fn it_goes_by_the_settings_of_now() {
    let stage = Stage::new(1_000 * DAY, 900 * DAY, 900 * DAY).await;
    stage.store.enter(vec![letter(1, 999 * DAY)]).await.unwrap();
    let stop = CancellationToken::new();
    let (store, settings) = (stage.store.clone(), stage.settings.clone());
    let running = tokio::spawn(stage.keep.run(stop.clone()));
    settings.send_replace(valid::Keep {
        retention: Some(Duration::from_millis(HOUR)),
        closed: None,
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    while store.get("n00001").await.unwrap().unwrap().state != LetterState::Expired {
        assert!(
            Instant::now() < deadline,
            "it does not look again when its settings change"
        );
        tokio::time::sleep(Duration::from_millis(5)).await; // the pace of polling
    }
    stop.cancel();
    running.await.unwrap().unwrap();
}
