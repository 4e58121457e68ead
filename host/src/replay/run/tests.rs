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

use super::super::desk::Refused;
use super::super::routes::{Order, Routes, Waits};
use super::*;
use crate::broker::{Bounds, Comparison, Destination, Publisher, Topology};
use crate::model::raw::Properties;
use crate::model::replay::{Failed, Fate, Filter, Options, Plan, Progress, RouteTarget, Stretch};
use crate::model::{Headers, MessageKind, Origin, Outgoing, SystemClock, UnixMs, UuidIds};
use crate::store::sqlite::SqliteStore;
use crate::store::{Replays, Submitted};
use crate::telemetry::Metrics;

const OFFSETS: u64 = 40;

/// The first reads fail.
struct Topic {
    failures: AtomicUsize,
    with: fn(&str) -> Error,
}

fn unreachable(_: &str) -> Error {
    Error::Unreachable("away".to_owned())
}

fn unknown(topic: &str) -> Error {
    Error::UnknownDestination(topic.to_owned())
}

#[async_trait]
impl Scan for Topic {
    async fn bounds(&self, topic: &str) -> Result<Vec<Bounds>, Error> {
        let there = Bounds {
            partition: 0,
            first: 0,
            end: OFFSETS,
        };
        let fails = |left: usize| left.checked_sub(1);
        let failed = self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails);
        failed.map_or(Ok(vec![there]), |_| Err((self.with)(topic)))
    }

    async fn offset_at(&self, _: &str, _: u32, _: UnixMs) -> Result<u64, Error> {
        panic!("the plan has the offsets")
    }

    async fn read(&self, topic: &str, _: u32, from: u64, max: usize) -> Result<Vec<RawMessage>, Error> {
        let left = self.failures.load(Ordering::SeqCst);
        if left > 0 {
            self.failures.store(left - 1, Ordering::SeqCst);
            return Err((self.with)(topic));
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

/// There is nothing to make.
struct NoTopology;

#[async_trait]
impl Topology for NoTopology {
    async fn compare(&self, _: &Destination) -> Result<Comparison, Error> {
        panic!("the target is there")
    }

    async fn create(&self, _: &Destination) -> Result<(), Error> {
        panic!("the target is there")
    }

    async fn depth(&self, _: MessageKind, _: &str) -> Result<u64, Error> {
        panic!("nobody asks")
    }
}

/// What a route does with one message.
enum Does {
    Says(Fate),
    /// Goes on until it is told to stop.
    WaitsForTheEnd,
}

type Handler = Box<dyn Fn(u64) -> Result<Does, Waits> + Send + Sync>;

/// A route whose handler does as it is told, by offset; keeps what it was given.
struct Handlers {
    handler: Handler,
    got: Mutex<Vec<u64>>,
}

#[async_trait]
impl Routes for Handlers {
    fn kind(&self, _: &str) -> Option<MessageKind> {
        Some(MessageKind::Event)
    }

    async fn hand_over(&self, order: &Order, batch: Vec<RawMessage>) -> Result<Vec<Option<Fate>>, Waits> {
        let mut fates = Vec::new();
        for raw in &batch {
            assert_eq!(raw.headers.text("helix-replay"), Some("r"));
            assert_eq!(raw.headers.text("helix-replay-effects"), Some("denied"));
            let offset = raw.origin.offset.unwrap();
            match (self.handler)(offset)? {
                Does::Says(fate) => fates.push(Some(fate)),
                Does::WaitsForTheEnd => {
                    self.got.lock().unwrap().push(offset);
                    order.stop.cancelled().await;
                    fates.push(None);
                    continue;
                }
            }
            self.got.lock().unwrap().push(offset);
        }
        Ok(fates)
    }
}

fn failed(offset: u64) -> Does {
    Does::Says(Fate::Failed(Failed {
        partition: 0,
        offset,
        id: Some(offset.to_string()),
        class: "rejected".to_owned(),
        code: None,
        reason: format!("no {offset}"),
        letter: Some(format!("letter {offset}")),
    }))
}

struct Scene {
    _folder: tempfile::TempDir,
    store: SqliteStore,
    target: Arc<Target>,
    routes: Arc<Handlers>,
    desk: Arc<Desk>,
    replay: Replay,
}

impl Scene {
    async fn new(failing_reads: usize, answer: Answer) -> Self {
        let never: Handler = Box::new(|_| panic!("a topic is the target"));
        Self::with((failing_reads, unreachable), answer, None, never).await
    }

    async fn at_a_route(handler: Handler) -> Self {
        let route = RouteTarget {
            name: "work".to_owned(),
            side_effects: false,
        };
        let never: Answer = Box::new(|_, _| panic!("a route is the target"));
        Self::with((0, unreachable), never, Some(route), handler).await
    }

    async fn with(
        (failing_reads, with): (usize, fn(&str) -> Error),
        answer: Answer,
        route: Option<RouteTarget>,
        handler: Handler,
    ) -> Self {
        let routes = Arc::new(Handlers {
            handler,
            got: Mutex::default(),
        });
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
            places: vec![Place {
                broker: "k".into(),
                scan: Arc::new(Topic {
                    failures: AtomicUsize::new(failing_reads),
                    with,
                }),
                publisher: Arc::<Target>::clone(&target),
                topology: Arc::new(NoTopology),
            }],
            routes: Arc::<Handlers>::clone(&routes),
            clock: Arc::new(SystemClock),
            ids: Arc::new(UuidIds),
            metrics: Arc::new(Metrics::new().unwrap()),
            wake: tokio::sync::Notify::new(),
        });
        let plan = Plan {
            topic: "t".into(),
            broker: None,
            route,
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
            routes,
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

/// A broker that just started says so as well, until it has read which topics it has.
#[tokio::test]
async fn a_source_is_gone_when_its_broker_says_so_for_a_while() {
    for (failing_reads, end) in [(2, ReplayStatus::Completed), (usize::MAX, ReplayStatus::Failed)] {
        let never: Handler = Box::new(|_| panic!("a topic is the target"));
        let scene = Scene::with((failing_reads, unknown), Box::new(|_, _| Ok(())), None, never).await;
        let ended = scene.run().await;
        assert_eq!(ended.status, end, "{failing_reads}");
        let gone = ended
            .progress
            .error
            .is_some_and(|why| why.contains("the source is gone"));
        assert_eq!(gone, end == ReplayStatus::Failed, "{failing_reads}");
    }
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

#[tokio::test]
async fn what_a_route_gives_up_on_counts_as_failed_with_its_result_and_the_rest_goes_on() {
    let scene = Scene::at_a_route(Box::new(|offset| {
        Ok(if offset % 3 == 0 {
            failed(offset)
        } else {
            Does::Says(Fate::Done)
        })
    }))
    .await;
    let ended = scene.run().await;
    assert_eq!(ended.status, ReplayStatus::Completed);
    let progress = &ended.progress;
    assert_eq!((progress.replayed, progress.failed), (26, 14));
    let last: Vec<u64> = progress.failures.iter().map(|failed| failed.offset).collect();
    assert_eq!(
        last,
        (12..OFFSETS).filter(|n| n % 3 == 0).collect::<Vec<_>>(),
        "the last ten"
    );
    assert!(progress.error.as_ref().unwrap().contains("no 39"), "{progress:?}");
    assert_eq!(
        *scene.routes.got.lock().unwrap(),
        (0..OFFSETS).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn without_its_route_it_is_let_go_of_and_says_what_it_waits_for() {
    let gone = AtomicUsize::new(1);
    let scene = Scene::at_a_route(Box::new(move |_| {
        match gone.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) {
            Ok(_) => Err(Waits("no route `work`".to_owned())),
            Err(_) => Ok(Does::Says(Fate::Done)),
        }
    }))
    .await;
    let waits = scene.run().await;
    assert_eq!(
        (waits.status, waits.progress.replayed),
        (ReplayStatus::Running, 0)
    );
    assert_eq!(waits.progress.error.as_deref(), Some("no route `work`"));
    // Whoever looks takes it when the short lease is over, long before an ordinary one would be.
    let deadline = Instant::now() + LEASE / 2;
    let again = loop {
        assert!(Instant::now() < deadline, "it is still held");
        match scene.store.take("next", LEASE).await.unwrap() {
            Some(replay) => break replay,
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let desk = Arc::clone(&scene.desk);
    run_one(desk, again, "next".to_owned(), CancellationToken::new()).await;
    let ended = scene.store.find("r").await.unwrap().unwrap();
    assert_eq!(
        (ended.status, ended.progress.replayed),
        (ReplayStatus::Completed, OFFSETS)
    );
    assert_eq!(ended.progress.error, None, "what is over is not told any more");
}

/// Offsets 0 to 13 end, 14 does not, 15 and later do.
fn hangs_at_14() -> Handler {
    Box::new(|offset| {
        Ok(if offset == 14 {
            Does::WaitsForTheEnd
        } else {
            Does::Says(Fate::Done)
        })
    })
}

#[tokio::test]
async fn a_host_that_stops_records_what_ended_before_the_first_that_did_not() {
    let scene = Scene::at_a_route(hangs_at_14()).await;
    let stop = CancellationToken::new();
    let work = tokio::spawn(run_one(
        Arc::clone(&scene.desk),
        scene.replay.clone(),
        "h".to_owned(),
        stop.clone(),
    ));
    while !scene.routes.got.lock().unwrap().contains(&14) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    work.await.unwrap();
    let found = scene.store.find("r").await.unwrap().unwrap();
    assert_eq!(
        (found.status, found.progress.replayed, found.progress.next),
        (ReplayStatus::Pending, 14, vec![14])
    );
}

#[tokio::test]
async fn a_cancel_ends_a_batch_whose_handlers_take_their_time_and_counts_those_that_ended() {
    let scene = Scene::at_a_route(hangs_at_14()).await;
    let work = tokio::spawn(run_one(
        Arc::clone(&scene.desk),
        scene.replay.clone(),
        "h".to_owned(),
        CancellationToken::new(),
    ));
    while !scene.routes.got.lock().unwrap().contains(&14) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    scene.store.cancel("r").await.unwrap();
    tokio::time::timeout(LEASE / 2, work)
        .await
        .expect("it ends by itself")
        .unwrap();
    let found = scene.store.find("r").await.unwrap().unwrap();
    assert_eq!(
        (found.status, found.progress.replayed),
        (ReplayStatus::Cancelled, 19)
    );
    assert_eq!(*scene.routes.got.lock().unwrap(), (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_topic_is_unknown_when_its_broker_has_said_so_for_a_while() {
    let request = |id: &str| super::super::request::Request {
        id: Some(id.to_owned()),
        topic: "t".to_owned(),
        from_offsets: Some([(0, 0)].into()),
        ..Default::default()
    };
    let all: fn() -> Answer = || Box::new(|_, _| Ok(()));
    let never: fn() -> Handler = || Box::new(|_| panic!("a topic is the target"));
    let scene = Scene::with((2, unknown), all(), None, never()).await;
    let made = scene.desk.submit(request("a")).await.unwrap();
    assert_eq!((made.total(), made.status), (OFFSETS, ReplayStatus::Pending));
    let scene = Scene::with((usize::MAX, unknown), all(), None, never()).await;
    let refused = scene.desk.submit(request("b")).await.unwrap_err();
    assert!(
        matches!(&refused, Refused::UnknownTopic(topic) if topic == "t"),
        "{refused}"
    );
    let scene = Scene::with((1, unreachable), all(), None, never()).await;
    let refused = scene.desk.submit(request("c")).await.unwrap_err();
    assert!(matches!(refused, Refused::Broker(_)), "{refused}");
}
