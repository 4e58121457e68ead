//! On a real store: a letter is pending until its copy is confirmed, and nothing that happens in between loses it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::broker::Confirmed;
use crate::model::raw::Properties;
use crate::model::{DeadLetter, FailureClass, Headers, LetterState, Outgoing, RawMessage, SystemClock};
use crate::store::sqlite::SqliteStore;

/// A topic that answers as it is told.
#[derive(Default)]
struct Topic {
    answer: Mutex<Option<PublishError>>,
    /// Ids of what it stored, one batch each.
    stored: Mutex<Vec<Vec<String>>>,
}

#[async_trait]
impl Publisher for Topic {
    async fn publish(&self, _: Vec<Outgoing>) -> Vec<Result<Confirmed, PublishError>> {
        panic!("a copy is not encoded anew")
    }

    async fn copy(&self, _: &Arc<str>, batch: &[Replica]) -> Vec<Result<Confirmed, PublishError>> {
        if let Some(error) = self.answer.lock().unwrap().clone() {
            return vec![Err(error); batch.len()];
        }
        let ids = batch
            .iter()
            .map(|copy| copy.raw.headers.text("id").unwrap().to_owned());
        self.stored.lock().unwrap().push(ids.collect());
        let confirmed = Confirmed {
            partition: None,
            offset: None,
        };
        vec![Ok(confirmed); batch.len()]
    }
}

/// The store, which can lose what it was told after a confirm.
struct Forgetful {
    store: SqliteStore,
    forgets: AtomicBool,
}

#[async_trait]
impl Exports for Forgetful {
    fn export(&self, tasks: bool, events: bool) {
        self.store.export(tasks, events);
    }

    async fn pending_exports(&self) -> Result<u64, Error> {
        self.store.pending_exports().await
    }

    async fn claim_exports(
        &self,
        kind: MessageKind,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<Export>, Error> {
        self.store.claim_exports(kind, limit, lease).await
    }

    async fn exported(&self, done: Vec<Export>) -> Result<(), Error> {
        if self.forgets.load(Ordering::SeqCst) {
            return Err(Error::Storage("away".into()));
        }
        self.store.exported(done).await
    }

    async fn give_back_exports(&self, claimed: Vec<Export>) -> Result<(), Error> {
        self.store.give_back_exports(claimed).await
    }
}

fn letter(id: &str, kind: MessageKind, destination: &str) -> DeadLetter {
    DeadLetter {
        id: id.into(),
        raw: RawMessage {
            origin: Origin {
                broker: "b".into(),
                kind,
                destination: destination.into(),
                partition: None,
                offset: None,
            },
            body: Some(Bytes::from_static(b"body")),
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
        class: FailureClass::Malformed,
        reason: "no".into(),
        code: None,
        attempts: Vec::new(),
        first_failure_ms: 1,
        last_failure_ms: 2,
        trace_id: None,
        state: LetterState::Dead,
        reprocessed: 0,
    }
}

struct Stage {
    folder: tempfile::TempDir,
    store: SqliteStore,
    exports: Arc<Forgetful>,
    topic: Arc<Topic>,
    exporter: Arc<Exporter>,
}

impl Stage {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("store.db"), Arc::new(SystemClock))
            .await
            .unwrap();
        store.export(true, true);
        let topic = Arc::new(Topic::default());
        let exports = Arc::new(Forgetful {
            store: store.clone(),
            forgets: AtomicBool::new(false),
        });
        let exporter = Arc::new(Exporter {
            topics: Topics {
                tasks: Some("dlq.tasks".into()),
                events: Some("dlq.events".into()),
            },
            broker: "b".into(),
            publisher: Arc::clone(&topic) as Arc<dyn Publisher>,
            letters: Arc::new(store.clone()),
            exports: Arc::clone(&exports) as Arc<dyn Exports>,
            clock: Arc::new(SystemClock),
            metrics: Arc::new(Metrics::new().unwrap()),
            stop: CancellationToken::new(),
            idle: CancellationToken::new(),
        });
        Self {
            folder,
            store,
            exports,
            topic,
            exporter,
        }
    }

    async fn enter(&self, ids: &[&str]) {
        let letters = ids.iter().map(|id| letter(id, MessageKind::Task, "work"));
        self.store.enter(letters.collect()).await.unwrap();
    }

    async fn pending(&self) -> u64 {
        self.store.pending_exports().await.unwrap()
    }

    fn stored(&self) -> Vec<Vec<String>> {
        self.topic.stored.lock().unwrap().clone()
    }

    fn answer(&self, error: Option<PublishError>) {
        *self.topic.answer.lock().unwrap() = error;
    }

    async fn step(&self) -> bool {
        self.exporter.step(&mut lane()).await
    }
}

fn lane() -> Lane {
    Lane {
        kind: MessageKind::Task,
        topic: "dlq.tasks".into(),
        pauses: 0,
        until: None,
        said: false,
    }
}

#[tokio::test]
async fn what_is_confirmed_is_pending_no_more_and_the_oldest_go_first() {
    let stage = Stage::new().await;
    stage.enter(&["b", "a"]).await;
    stage.enter(&["c", "a"]).await;
    assert_eq!(stage.pending().await, 3, "a letter that is there is not new");
    assert!(stage.step().await);
    assert_eq!(stage.stored(), [["b", "a", "c"]]);
    assert_eq!(stage.pending().await, 0);
    assert!(!stage.step().await, "nothing to do");
}

#[tokio::test]
async fn while_its_broker_is_away_a_letter_stays_pending() {
    let stage = Stage::new().await;
    stage.enter(&["a", "b"]).await;
    for error in [
        PublishError::Unavailable("gone".into()),
        PublishError::Unknown("silent".into()),
        PublishError::UnknownTarget("dlq.tasks".into()),
    ] {
        stage.answer(Some(error));
        let mut lane = lane();
        assert!(!stage.exporter.step(&mut lane).await);
        assert!(lane.until.is_some(), "the next try is later");
        assert_eq!(stage.pending().await, 2);
    }
    stage.answer(None);
    assert!(stage.step().await);
    assert_eq!(stage.stored(), [["a", "b"]]);
    assert_eq!(stage.pending().await, 0);
}

#[tokio::test]
async fn what_its_broker_never_takes_holds_up_nobody() {
    let stage = Stage::new().await;
    stage.enter(&["a"]).await;
    stage.answer(Some(PublishError::TooLarge { limit: 1 }));
    assert!(stage.step().await);
    assert_eq!(stage.pending().await, 0);
    assert!(stage.store.get("a").await.unwrap().is_some(), "the letter stays");
}

#[tokio::test]
async fn a_host_that_dies_after_the_confirm_sends_the_same_once_more() {
    let stage = Stage::new().await;
    stage.enter(&["a", "b"]).await;
    stage.exports.forgets.store(true, Ordering::SeqCst);
    stage.exporter.stop.cancel();
    // The host stops before the store takes the note.
    let claimed = stage
        .store
        .claim_exports(MessageKind::Task, 10, LEASE)
        .await
        .unwrap();
    let mut batch = Batch::default();
    let mut chunk: Vec<_> = Vec::new();
    for export in claimed {
        let letter = stage.store.get(&export.letter).await.unwrap().unwrap();
        chunk.push((export, shape::replica(&letter)));
    }
    stage.exporter.publish(&lane(), &mut chunk, &mut batch).await;
    assert!(!stage.exporter.note(&batch).await, "not noted");
    assert_eq!(stage.pending().await, 2);
    let next = Exporter {
        stop: CancellationToken::new(),
        exports: Arc::new(stage.store.clone()),
        letters: Arc::new(stage.store.clone()),
        topics: stage.exporter.topics.clone(),
        broker: "b".into(),
        publisher: Arc::clone(&stage.topic) as Arc<dyn Publisher>,
        clock: Arc::new(SystemClock),
        metrics: Arc::new(Metrics::new().unwrap()),
        idle: CancellationToken::new(),
    };
    assert!(!next.step(&mut lane()).await, "the dead host has them");
    stage.store.reclaim().await.unwrap();
    assert!(next.step(&mut lane()).await);
    assert_eq!(stage.stored(), [["a", "b"], ["a", "b"]]);
    assert_eq!(stage.pending().await, 0);
}

#[tokio::test]
async fn a_copy_of_a_copy_is_not_sent() {
    let stage = Stage::new().await;
    let from_copies = letter("a", MessageKind::Event, "dlq.tasks");
    stage.store.enter(vec![from_copies]).await.unwrap();
    let mut lane = Lane {
        kind: MessageKind::Event,
        topic: "dlq.events".into(),
        ..lane()
    };
    assert!(stage.exporter.step(&mut lane).await);
    assert_eq!(stage.stored(), Vec::<Vec<String>>::new());
    assert_eq!(stage.pending().await, 0);
}

#[tokio::test]
async fn a_letter_that_cannot_be_read_holds_up_nobody() {
    let stage = Stage::new().await;
    stage.enter(&["a", "b"]).await;
    let file = stage.folder.path().join("store.db");
    let db = rusqlite::Connection::open(file).unwrap();
    db.execute("UPDATE dead_letters SET message = x'00' WHERE id = 'a'", [])
        .unwrap();
    assert!(stage.step().await);
    assert_eq!(stage.stored(), [["b"]]);
    assert!(!stage.step().await, "it is looked at again later");
    assert_eq!(stage.pending().await, 1);
}
