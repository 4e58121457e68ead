//! The host's own turns on a real store, with a broker that answers as it is told.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::broker::{Confirmed, Publisher};
use crate::config::valid::{AutoPolicy, OnExhausted, Pattern, RetryPolicy};
use crate::dlq::parked::Policy;
use crate::dlq::redrive::Routes;
use crate::model::raw::Properties;
use crate::model::{Clock, FailureClass, Headers, Origin, Outgoing, RawMessage, SystemClock, UuidIds};
use crate::store::sqlite::SqliteStore;
use crate::store::{Change, DeadLetters, Mark, Note};
use crate::telemetry::Metrics;

enum Answer {
    Stored,
    /// And fails before anybody is told that it was sent.
    Fails,
    Refused(PublishError),
    /// Never.
    Silence,
}

struct Queue {
    store: SqliteStore,
    answer: Mutex<Answer>,
    /// Keys of what it was given, in order.
    given: Mutex<Vec<String>>,
    under_way: AtomicUsize,
    most: AtomicUsize,
}

#[async_trait]
impl Publisher for Queue {
    async fn publish(&self, _: Vec<Outgoing>) -> Vec<Result<Confirmed, PublishError>> {
        panic!("a letter is not encoded anew")
    }

    async fn put_back(&self, message: RawMessage) -> Result<Confirmed, PublishError> {
        let id = message
            .headers
            .text(crate::model::header::LETTER)
            .unwrap()
            .to_owned();
        self.given.lock().unwrap().push(id.clone());
        let many = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(many, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let (fails, silence, refused) = match &*self.answer.lock().unwrap() {
            Answer::Stored => (false, false, None),
            Answer::Fails => (true, false, None),
            Answer::Refused(error) => (false, false, Some(error.clone())),
            Answer::Silence => (false, true, None),
        };
        if silence {
            std::future::pending::<()>().await;
        }
        if fails {
            let failed = DeadLetter {
                reprocessed: message.reprocessed(),
                last_failure_ms: SystemClock.now_ms(),
                raw: message,
                ..letter(&id, None)
            };
            self.store.enter(vec![failed]).await.unwrap();
        }
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        match refused {
            Some(error) => Err(error),
            None => Ok(Confirmed {
                partition: None,
                offset: None,
            }),
        }
    }
}

struct NoRoutes;

impl Routes for NoRoutes {
    fn has(&self, _: &str) -> bool {
        false
    }

    fn policy(&self, _: &str) -> Policy {
        Policy::Gone
    }

    fn parked(&self) {}
}

struct Up(AtomicBool);

impl Reach for Up {
    fn is_up(&self, _: &str) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

fn letter(id: &str, key: Option<&str>) -> DeadLetter {
    DeadLetter {
        id: id.into(),
        raw: RawMessage {
            origin: Origin {
                broker: "b".into(),
                kind: MessageKind::Task,
                destination: "d".into(),
                partition: None,
                offset: None,
            },
            body: Some(Bytes::from_static(b"{}")),
            key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
            headers: Headers::new(),
            props: Properties::default(),
            timestamp_ms: None,
            redelivered: false,
        },
        message_id: None,
        message_type: Some("t".into()),
        route: Some("r".into()),
        plugin: None,
        digest: None,
        class: FailureClass::Exhausted,
        reason: "no".into(),
        code: None,
        attempts: Vec::new(),
        first_failure_ms: 1,
        last_failure_ms: 1,
        trace_id: None,
        state: LetterState::Dead,
        reprocessed: 0,
    }
}

fn settings() -> DlqAuto {
    DlqAuto {
        classes: vec![FailureClass::Exhausted],
        policy: AutoPolicy {
            retry: RetryPolicy {
                max_retries: 3,
                delay: Duration::from_millis(1),
                multiplier: 1.0,
                max_delay: Duration::from_millis(1),
                jitter: 0.0,
            },
            on_exhausted: OnExhausted::Archive,
        },
        types: Vec::new(),
        processing_timeout: Duration::from_secs(30),
        batch_size: 10,
        poll_interval: Duration::from_millis(5),
    }
}

struct Stage {
    folder: tempfile::TempDir,
    store: SqliteStore,
    queue: Arc<Queue>,
    up: Arc<Up>,
    redrive: Arc<Redrive>,
    switch: watch::Sender<Option<Arc<DlqAuto>>>,
}

impl Stage {
    async fn new(letters: Vec<DeadLetter>, answer: Answer) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("store.db"), Arc::new(SystemClock))
            .await
            .unwrap();
        store.enter(letters).await.unwrap();
        let queue = Arc::new(Queue {
            store: store.clone(),
            answer: Mutex::new(answer),
            given: Mutex::default(),
            under_way: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        });
        let publisher: Arc<dyn Publisher> = Arc::clone(&queue) as Arc<dyn Publisher>;
        let redrive = Arc::new(Redrive {
            letters: Arc::new(store.clone()),
            held: Arc::new(store.clone()),
            jobs: Arc::new(store.clone()),
            auto: Arc::new(store.clone()),
            publishers: HashMap::from([("b".into(), publisher)]),
            routes: Arc::new(NoRoutes),
            clock: Arc::new(SystemClock),
            ids: Arc::new(UuidIds),
            metrics: Arc::new(Metrics::new().unwrap()),
        });
        Self {
            folder,
            store,
            queue,
            up: Arc::new(Up(AtomicBool::new(true))),
            redrive,
            switch: watch::Sender::new(None),
        }
    }

    fn host(&self) -> (CancellationToken, tokio::task::JoinHandle<Result<(), String>>) {
        let stop = CancellationToken::new();
        let auto = Auto {
            letters: Arc::new(self.store.clone()),
            redrive: Arc::clone(&self.redrive),
            reach: Arc::clone(&self.up) as Arc<dyn Reach>,
            settings: self.switch.subscribe(),
            stop: stop.clone(),
            idle: CancellationToken::new(),
        };
        (stop, tokio::spawn(auto.run()))
    }

    fn set(&self, settings: DlqAuto) {
        self.switch.send_replace(Some(Arc::new(settings)));
    }

    fn answers(&self, answer: Answer) {
        *self.queue.answer.lock().unwrap() = answer;
    }

    fn given(&self) -> Vec<String> {
        self.queue.given.lock().unwrap().clone()
    }

    async fn state(&self, id: &str) -> LetterState {
        self.store.get(id).await.unwrap().unwrap().state
    }

    async fn known(&self, id: &str) -> Option<(u32, Mark)> {
        let known = self.store.progress(&[id.to_owned()]).await.unwrap();
        known
            .first()
            .map(|(_, progress, mark)| (progress.attempts, *mark))
    }

    async fn until(&self, what: &str, holds: impl AsyncFn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !holds(self).await {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.given());
            tokio::time::sleep(Duration::from_millis(5)).await; // the pace of polling
        }
    }

    async fn trail(&self, id: &str) -> Vec<String> {
        let trail = self.store.trail(id).await.unwrap();
        let said = trail
            .iter()
            .map(|e| format!("{} {}", e.note.actor, e.note.action));
        said.collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_fails_each_time_is_tried_as_often_as_its_policy_says_and_then_waits_for_a_person() {
    let stage = Stage::new(vec![letter("a", None)], Answer::Fails).await;
    let (stop, host) = stage.host();
    stage.set(settings());
    stage
        .until("it is archived", async |stage| {
            stage.known("a").await == Some((3, Mark::Exhausted))
        })
        .await;
    assert_eq!(stage.given(), ["a", "a", "a"]);
    assert_eq!(stage.state("a").await, LetterState::Dead);
    let trail = stage.trail("a").await;
    let own = trail.iter().filter(|entry| *entry == "dlq.auto reprocess");
    assert_eq!(
        (own.count(), trail.last().unwrap().as_str()),
        (3, "dlq.auto archive")
    );
    let metrics = &stage.redrive.metrics;
    let count = |counter: &prometheus::IntCounterVec| counter.with_label_values(&[DLQ]).get();
    assert_eq!(
        [
            &metrics.dlq_auto_processed,
            &metrics.dlq_auto_retried,
            &metrics.dlq_auto_archived
        ]
        .map(count),
        [3, 2, 1]
    );
    // A person sends it, it fails, and the host begins anew.
    stage.redrive.reprocess("a", "ann").await.unwrap();
    stage
        .until("it is archived again", async |stage| {
            stage.given().len() == 7 && stage.known("a").await == Some((3, Mark::Exhausted))
        })
        .await;
    // Ten times in all: no policy goes beyond. A person does, and the host leaves it at that.
    for in_all in [10, 11] {
        stage.redrive.reprocess("a", "ann").await.unwrap();
        stage
            .until("it is left at that", async |stage| {
                let exhausted = stage
                    .known("a")
                    .await
                    .is_some_and(|(_, mark)| mark == Mark::Exhausted);
                exhausted && stage.given().len() == in_all
            })
            .await;
    }
    stop.cancel();
    host.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_the_policy_says_so_it_is_discarded_with_a_reason() {
    let stage = Stage::new(vec![letter("a", None)], Answer::Fails).await;
    let (stop, host) = stage.host();
    let mut discard = settings();
    discard.policy.on_exhausted = OnExhausted::Discard;
    stage.set(discard);
    stage
        .until("it is discarded", async |stage| {
            stage.state("a").await == LetterState::Discarded
        })
        .await;
    let trail = stage.store.trail("a").await.unwrap();
    let last = trail.last().unwrap();
    assert_eq!((last.note.actor.as_str(), &*last.note.action), (ACTOR, "discard"));
    assert!(
        last.note.reason.as_deref().unwrap().contains("3 times"),
        "{last:?}"
    );
    assert_eq!(stage.given().len(), 3);
    stop.cancel();
    host.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_costs_no_attempt_and_is_asked_less_and_less() {
    let letters: Vec<_> = (0..40).map(|n| letter(&format!("n{n:02}"), None)).collect();
    let away = Answer::Refused(PublishError::Unavailable("away".into()));
    let stage = Stage::new(letters, away).await;
    let (stop, host) = stage.host();
    stage.set(settings());
    stage
        .until("it was asked", async |stage| !stage.given().is_empty())
        .await;
    stage
        .until("all wait", async |stage| {
            let now = SystemClock.now_ms();
            stage
                .store
                .candidates(&[FailureClass::Exhausted], now, 99)
                .await
                .unwrap()
                .is_empty()
        })
        .await;
    assert!(
        stage.given().len() <= 30,
        "only what was under way together: {:?}",
        stage.given()
    );
    for n in 0..40 {
        let known = stage.known(&format!("n{n:02}")).await;
        assert!(known.is_none_or(|(attempts, _)| attempts == 0), "{known:?}");
    }
    stage.answers(Answer::Stored);
    stage
        .until("all are sent", async |stage| {
            let metrics = &stage.redrive.metrics.dlq_auto_processed;
            metrics.with_label_values(&[DLQ]).get() == 40
        })
        .await;
    // One that says of itself that it is away is not asked at all.
    stage.up.0.store(false, Ordering::SeqCst);
    let asked = stage.given().len();
    stage.store.enter(vec![letter("more", None)]).await.unwrap();
    stage
        .until("it waits", async |stage| {
            let now = SystemClock.now_ms();
            stage
                .store
                .candidates(&[FailureClass::Exhausted], now, 9)
                .await
                .unwrap()
                .is_empty()
        })
        .await;
    assert_eq!((stage.given().len(), stage.trail("more").await.len()), (asked, 0));
    stage.up.0.store(true, Ordering::SeqCst);
    stage
        .until("it is sent", async |stage| {
            stage.state("more").await == LetterState::Reprocessed
        })
        .await;
    stop.cancel();
    host.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_send_without_a_confirm_is_released_counted_and_tried_again() {
    let stage = Stage::new(vec![letter("a", None)], Answer::Silence).await;
    let (stop, host) = stage.host();
    stage.set(DlqAuto {
        processing_timeout: Duration::from_millis(20),
        ..settings()
    });
    stage
        .until("it is used up", async |stage| {
            stage.known("a").await == Some((3, Mark::Exhausted))
        })
        .await;
    assert_eq!(
        (stage.given().len(), stage.state("a").await),
        (3, LetterState::Dead)
    );
    let trail = stage.trail("a").await;
    assert_eq!(
        trail.iter().filter(|entry| *entry == "dlq.auto not sent").count(),
        3,
        "{trail:?}"
    );
    stop.cancel();
    host.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_stops_leaves_no_letter_claimed() {
    let letters = vec![letter("a", Some("k")), letter("b", Some("k")), letter("c", None)];
    let stage = Stage::new(letters, Answer::Silence).await;
    let (stop, host) = stage.host();
    stage.set(settings());
    stage
        .until("two are under way, one of each key", async |stage| {
            stage.given().len() == 2
        })
        .await;
    let begun = Instant::now();
    stop.cancel();
    host.await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    for id in ["a", "b", "c"] {
        assert_eq!(stage.state(id).await, LetterState::Dead, "{id}");
    }
    assert_eq!(stage.given().len(), 2, "nothing was begun after the stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_are_under_way_than_a_batch_and_of_a_key_they_go_in_order() {
    let key = |n: usize| if n < 6 { Some("k") } else { None };
    let letters: Vec<_> = (0..30).map(|n| letter(&format!("n{n:02}"), key(n))).collect();
    let stage = Stage::new(letters, Answer::Stored).await;
    let (stop, host) = stage.host();
    stage.set(DlqAuto {
        batch_size: 4,
        ..settings()
    });
    stage
        .until("all are sent", async |stage| stage.given().len() == 30)
        .await;
    let keyed: Vec<_> = stage
        .given()
        .into_iter()
        .filter(|id| id.as_str() < "n06")
        .collect();
    assert!(keyed.is_sorted(), "{keyed:?}");
    assert!(stage.queue.most.load(Ordering::SeqCst) <= 4);
    stop.cancel();
    host.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_meant_is_left_alone_until_the_configuration_says_otherwise() {
    let rejected = DeadLetter {
        class: FailureClass::Rejected,
        ..letter("rejected", None)
    };
    let never = DeadLetter {
        message_type: Some("never.this".into()),
        ..letter("never", None)
    };
    let stage = Stage::new(vec![rejected, never, letter("a", None)], Answer::Stored).await;
    let (stop, host) = stage.host();
    stage.set(DlqAuto {
        types: vec![(Pattern::new("never.*"), None)],
        ..settings()
    });
    stage
        .until("one is sent, and one set aside", async |stage| {
            stage.given().len() == 1 && stage.known("never").await == Some((0, Mark::Left))
        })
        .await;
    assert_eq!(stage.given(), ["a"]);
    assert_eq!(stage.known("rejected").await, None);
    stage.set(DlqAuto {
        classes: vec![FailureClass::Rejected, FailureClass::Exhausted],
        poll_interval: Duration::from_secs(3_600),
        ..settings()
    });
    stage
        .until("all are sent", async |stage| stage.given().len() == 3)
        .await;
    stop.cancel();
    host.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_sent_or_read_is_given_up_on_and_holds_up_nobody() {
    let mut elsewhere = letter("elsewhere", None);
    elsewhere.raw.origin.broker = "gone".into();
    let letters = vec![letter("broken", None), elsewhere, letter("c", None)];
    let stage = Stage::new(letters, Answer::Stored).await;
    let shell = rusqlite::Connection::open(stage.folder.path().join("store.db")).unwrap();
    shell.busy_timeout(Duration::from_secs(10)).unwrap();
    shell
        .execute("UPDATE dead_letters SET message = x'00' WHERE id = 'broken'", [])
        .unwrap();
    let (stop, host) = stage.host();
    stage.set(DlqAuto {
        batch_size: 1,
        ..settings()
    });
    stage
        .until("both are used up", async |stage| {
            stage.known("broken").await == Some((3, Mark::Exhausted))
                && stage.known("elsewhere").await == Some((3, Mark::Exhausted))
                && stage.state("c").await == LetterState::Reprocessed
        })
        .await;
    assert_eq!(stage.trail("elsewhere").await, ["dlq.auto archive"]);
    stop.cancel();
    host.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_does_meanwhile_stands() {
    let stage = Stage::new(vec![letter("a", None)], Answer::Stored).await;
    let seen = stage
        .store
        .candidates(&[FailureClass::Exhausted], 1, 9)
        .await
        .unwrap();
    let discarded = stage
        .store
        .change(
            "a",
            Change::Discard,
            Note {
                actor: "ann".into(),
                action: "discard".into(),
                reason: None,
            },
        )
        .await;
    assert!(matches!(discarded, Ok(crate::store::Changed::Done(_))));
    let behalf = Behalf {
        unasked: Some(Unasked {
            turn: Turn {
                seen: seen[0].progress,
                next: Progress::default(),
            },
            confirm: Duration::from_secs(1),
            stop: CancellationToken::new(),
        }),
        ..Behalf::of(ACTOR)
    };
    let late = stage.redrive.send_again(&letter("a", None), true, &behalf).await;
    assert!(
        matches!(late, Err(Refused::Conflict(LetterState::Discarded))),
        "{late:?}"
    );
    assert_eq!((stage.given().len(), stage.trail("a").await.len()), (0, 1));
}
