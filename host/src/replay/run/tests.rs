//! One replay on a real store, with a topic and a target that fail as they are told.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::broker::{Bounds, Publisher};
use crate::model::raw::Properties;
use crate::model::replay::{Filter, Options, Plan, Progress, Stretch};
use crate::model::{Headers, MessageKind, Origin, Outgoing, SystemClock, UnixMs, UuidIds};
use crate::store::sqlite::SqliteStore;
use crate::store::{Replays, Submitted};
use crate::telemetry::Metrics;

const OFFSETS: u64 = 40;

/// The first reads fail.
struct Topic {
    failures: AtomicUsize,
}

#[async_trait]
impl Scan for Topic {
    async fn bounds(&self, _: &str) -> Result<Vec<Bounds>, Error> {
        panic!("the plan has the bounds")
    }

    async fn offset_at(&self, _: &str, _: u32, _: UnixMs) -> Result<u64, Error> {
        panic!("the plan has the offsets")
    }

    async fn read(&self, topic: &str, _: u32, from: u64, max: usize) -> Result<Vec<RawMessage>, Error> {
        let left = self.failures.load(Ordering::SeqCst);
        if left > 0 {
            self.failures.store(left - 1, Ordering::SeqCst);
            return Err(Error::Unreachable("away".to_owned()));
        }
        let messages = (from..OFFSETS).take(max).map(|offset| RawMessage {
            origin: Origin {
                broker: "k".into(),
                kind: MessageKind::Event,
                destination: topic.into(),
                partition: Some(0),
                offset: Some(offset),
            },
            body: Some(Bytes::from_static(b"{}")),
            key: None,
            headers: Headers::new(),
            props: Properties::default(),
            timestamp_ms: None,
            redelivered: false,
        });
        Ok(messages.collect())
    }
}

type Answer = Box<dyn Fn(usize, u64) -> Result<(), PublishError> + Send + Sync>;

/// Answers by (call, offset), and keeps what it confirmed.
struct Target {
    answer: Answer,
    calls: AtomicUsize,
    got: Mutex<Vec<u64>>,
    /// What people saw while it was away.
    seen: Mutex<Vec<String>>,
    store: SqliteStore,
}

#[async_trait]
impl Publisher for Target {
    async fn publish(&self, _: Vec<Outgoing>) -> Vec<Result<Confirmed, PublishError>> {
        panic!("copies are not encoded anew")
    }

    async fn copy(&self, _: &Arc<str>, batch: &[Replica]) -> Vec<Result<Confirmed, PublishError>> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let shown = self.store.find("r").await.unwrap().unwrap().progress.error;
        self.seen.lock().unwrap().extend(shown);
        let answer = |replica: &Replica| {
            let offset = replica.raw.origin.offset.unwrap();
            (self.answer)(call, offset)?;
            self.got.lock().unwrap().push(offset);
            Ok(Confirmed {
                partition: None,
                offset: None,
            })
        };
        batch.iter().map(answer).collect()
    }
}

struct Scene {
    _folder: tempfile::TempDir,
    store: SqliteStore,
    target: Arc<Target>,
    desk: Arc<Desk>,
    replay: Replay,
}

impl Scene {
    async fn new(failing_reads: usize, answer: Answer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("store.db"), Arc::new(SystemClock))
            .await
            .unwrap();
        let target = Arc::new(Target {
            answer,
            calls: AtomicUsize::new(0),
            got: Mutex::default(),
            seen: Mutex::default(),
            store: store.clone(),
        });
        let desk = Arc::new(Desk {
            store: Arc::new(store.clone()),
            scan: Some(Arc::new(Topic {
                failures: AtomicUsize::new(failing_reads),
            })),
            publisher: Arc::<Target>::clone(&target),
            topology: None,
            clock: Arc::new(SystemClock),
            ids: Arc::new(UuidIds),
            metrics: Arc::new(Metrics::new().unwrap()),
            wake: tokio::sync::Notify::new(),
        });
        let plan = Plan {
            topic: "t".into(),
            target: "t.replay".into(),
            target_partitions: Some(1),
            partitions: 1,
            stretches: vec![Stretch {
                partition: 0,
                from: 0,
                to: OFFSETS,
            }],
            from_ms: None,
            to_ms: None,
            filter: Filter::default(),
            options: Options {
                batch_size: 10,
                delay: Duration::ZERO,
                rate: None,
                dry_run: false,
                preserve_order: true,
                skip_duplicates: false,
            },
        };
        let replay = Replay {
            id: "r".into(),
            progress: Progress::at_start(&plan),
            plan,
            status: ReplayStatus::Pending,
            created_ms: 0,
            started_ms: None,
            ended_ms: None,
        };
        assert_eq!(store.submit(&replay).await.unwrap(), Submitted::Done);
        let replay = store.take("h", LEASE).await.unwrap().unwrap();
        Self {
            _folder: folder,
            store,
            target,
            desk,
            replay,
        }
    }

    async fn run(&self) -> Replay {
        let desk = Arc::clone(&self.desk);
        run_one(
            desk,
            self.replay.clone(),
            "h".to_owned(),
            CancellationToken::new(),
        )
        .await;
        assert_eq!(self.desk.metrics.replay_active.get(), 0);
        self.store.find("r").await.unwrap().unwrap()
    }

    fn got(&self) -> Vec<u64> {
        self.target.got.lock().unwrap().clone()
    }
}

fn away() -> Result<(), PublishError> {
    Err(PublishError::Unavailable("nobody answers".to_owned()))
}

#[tokio::test]
async fn a_broker_that_is_away_is_waited_for_and_told_of() {
    let scene = Scene::new(2, Box::new(|call, _| if call == 1 { away() } else { Ok(()) })).await;
    let ended = scene.run().await;
    assert_eq!(ended.status, ReplayStatus::Completed);
    assert_eq!((ended.progress.replayed, ended.progress.error), (OFFSETS, None));
    assert_eq!(scene.got(), (0..OFFSETS).collect::<Vec<_>>());
    let seen = scene.target.seen.lock().unwrap().clone();
    assert!(
        seen.iter().any(|error| error.contains("nobody answers")),
        "{seen:?}"
    );
}

#[tokio::test]
async fn behind_one_that_is_sent_again_everything_is_so_that_the_order_stays() {
    let answer = |call, offset| if call == 0 && offset == 4 { away() } else { Ok(()) };
    let scene = Scene::new(0, Box::new(answer)).await;
    let ended = scene.run().await;
    assert_eq!(ended.progress.replayed, OFFSETS, "counted once");
    let got = scene.got();
    assert_eq!(got[..9], [0, 1, 2, 3, 5, 6, 7, 8, 9]);
    assert_eq!(got[9..15], [4, 5, 6, 7, 8, 9]);
    assert_eq!(got[15..], (10..OFFSETS).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_the_target_refuses_fails_alone_and_a_target_that_is_gone_ends_it() {
    let large = || Err(PublishError::TooLarge { limit: 1 });
    let scene = Scene::new(
        0,
        Box::new(move |_, offset| if offset == 3 { large() } else { Ok(()) }),
    )
    .await;
    let ended = scene.run().await;
    assert_eq!(ended.status, ReplayStatus::Completed);
    assert_eq!((ended.progress.replayed, ended.progress.failed), (OFFSETS - 1, 1));
    assert!(ended.progress.error.unwrap().contains("larger than"));

    let gone = |call, _| match call {
        0 => Ok(()),
        _ => Err(PublishError::UnknownTarget("t.replay".to_owned())),
    };
    let ended = Scene::new(0, Box::new(gone)).await.run().await;
    assert_eq!(
        (ended.status, ended.progress.replayed),
        (ReplayStatus::Failed, 10)
    );
    assert!(ended.progress.error.unwrap().contains("`t.replay` is gone"));
}

#[tokio::test]
async fn after_a_cancel_and_after_the_loss_of_its_lease_no_batch_is_sent() {
    let scene = Scene::new(0, Box::new(|_, _| Ok(()))).await;
    scene.store.cancel("r").await.unwrap();
    // The batch that is under way when it is cancelled is counted.
    let ended = scene.run().await;
    assert_eq!(
        (ended.status, ended.progress.replayed),
        (ReplayStatus::Cancelled, 10)
    );
    assert_eq!(scene.got().len(), 10);

    let scene = Scene::new(0, Box::new(|_, _| Ok(()))).await;
    scene.store.give_back("r", "h").await.unwrap();
    scene.store.take("other", LEASE).await.unwrap().unwrap();
    let theirs = scene.run().await;
    assert_eq!(
        (theirs.status, theirs.progress.replayed),
        (ReplayStatus::Running, 0)
    );
    assert_eq!(scene.got().len(), 10);
}

#[tokio::test]
async fn a_host_that_stops_lets_go() {
    let scene = Scene::new(0, Box::new(|_, _| Ok(()))).await;
    let stop = CancellationToken::new();
    stop.cancel();
    let desk = Arc::clone(&scene.desk);
    run_one(desk, scene.replay.clone(), "h".to_owned(), stop).await;
    let found = scene.store.find("r").await.unwrap().unwrap();
    assert_eq!(found.status, ReplayStatus::Pending);
    assert!(scene.got().is_empty());
}
