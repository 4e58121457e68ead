//! Sending a letter again on a real store: one sender at a time, no letter stuck, none called sent that was not.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod edit;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::broker::Confirmed;
use crate::model::raw::Properties;
use crate::model::{FailureClass, MessageKind, Origin, Outgoing, SystemClock, UuidIds, header};
use crate::store::Retries;
use crate::store::sqlite::SqliteStore;

/// A queue that answers as it is told. What it stored can fail before the answer arrives, as a quick handler would let it.
struct Queue {
    store: SqliteStore,
    answer: Mutex<Result<(), PublishError>>,
    fails_at_once: AtomicBool,
    stored: AtomicUsize,
    last: Mutex<Option<RawMessage>>,
}

#[async_trait]
impl Publisher for Queue {
    async fn publish(&self, _: Vec<Outgoing>) -> Vec<Result<Confirmed, PublishError>> {
        panic!("a letter is not encoded anew")
    }

    async fn put_back(&self, message: RawMessage) -> Result<Confirmed, PublishError> {
        // Others get their turn in between.
        tokio::task::yield_now().await;
        self.answer.lock().unwrap().clone()?;
        self.stored.fetch_add(1, Ordering::SeqCst);
        *self.last.lock().unwrap() = Some(message.clone());
        if self.fails_at_once.load(Ordering::SeqCst) {
            let mut failed = letter(&message.origin.kind, "at-its-new-place", None);
            failed.reprocessed = message.reprocessed();
            failed.raw = message;
            assert_eq!(self.store.enter(vec![failed]).await.unwrap(), ["a"]);
        }
        Ok(Confirmed {
            partition: None,
            offset: None,
        })
    }
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Routes for Woken {
    fn has(&self, route: &str) -> bool {
        route == "there"
    }

    fn policy(&self, _: &str) -> Policy {
        Policy::Gone
    }

    fn parked(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn letter(kind: &MessageKind, id: &str, route: Option<&str>) -> DeadLetter {
    DeadLetter {
        id: id.into(),
        raw: RawMessage {
            origin: Origin {
                broker: "b".into(),
                kind: *kind,
                destination: "d".into(),
                partition: None,
                offset: Some(1),
            },
            body: Some(Bytes::from_static(b"body")),
            key: None,
            headers: crate::model::Headers::new(),
            props: Properties {
                message_type: Some("t".into()),
                ..Properties::default()
            },
            timestamp_ms: None,
            redelivered: false,
        },
        message_id: None,
        message_type: Some("t".into()),
        route: route.map(str::to_owned),
        plugin: None,
        digest: None,
        class: FailureClass::Rejected,
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
    _folder: tempfile::TempDir,
    store: SqliteStore,
    queue: Arc<Queue>,
    routes: Arc<Woken>,
    redrive: Arc<Redrive>,
}

impl Stage {
    async fn new(letter: DeadLetter) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("store.db"), Arc::new(SystemClock))
            .await
            .unwrap();
        store.enter(vec![letter]).await.unwrap();
        let queue = Arc::new(Queue {
            store: store.clone(),
            answer: Mutex::new(Ok(())),
            fails_at_once: AtomicBool::new(false),
            stored: AtomicUsize::new(0),
            last: Mutex::new(None),
        });
        let routes = Arc::new(Woken::default());
        let publisher: Arc<dyn Publisher> = Arc::clone(&queue) as Arc<dyn Publisher>;
        let redrive = Arc::new(Redrive {
            letters: Arc::new(store.clone()),
            jobs: Arc::new(store.clone()),
            auto: Arc::new(store.clone()),
            held: Arc::new(store.clone()),
            publishers: HashMap::from([("b".into(), publisher)]),
            routes: Arc::clone(&routes) as Arc<dyn Routes>,
            clock: Arc::new(SystemClock),
            ids: Arc::new(UuidIds),
            metrics: Arc::new(Metrics::new().unwrap()),
        });
        Self {
            _folder: folder,
            store,
            queue,
            routes,
            redrive,
        }
    }

    async fn task() -> Self {
        Self::new(letter(&MessageKind::Task, "a", Some("gone"))).await
    }

    fn answers(&self, error: PublishError) {
        *self.queue.answer.lock().unwrap() = Err(error);
    }

    fn stored(&self) -> usize {
        self.queue.stored.load(Ordering::SeqCst)
    }

    async fn state(&self) -> LetterState {
        self.store.get("a").await.unwrap().unwrap().state
    }

    /// Actor and action of each entry of the trail.
    async fn trail(&self) -> Vec<String> {
        let trail = self.store.trail("a").await.unwrap();
        trail
            .iter()
            .map(|e| format!("{} {}", e.note.actor, e.note.action))
            .collect()
    }

    fn counted(&self) -> u64 {
        self.redrive
            .metrics
            .dlq_reprocessed
            .with_label_values(&[DLQ])
            .get()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_send_a_letter_at_once_one_does() {
    let stage = Stage::task().await;
    let all = (0..20).map(|n| {
        let redrive = Arc::clone(&stage.redrive);
        tokio::spawn(async move { redrive.reprocess("a", &format!("p{n}")).await })
    });
    let results = futures::future::join_all(all).await;
    let sent = results
        .into_iter()
        .map(Result::unwrap)
        .filter(|result| match result {
            Ok(state) => {
                assert_eq!(*state, LetterState::Reprocessed);
                true
            }
            Err(Refused::Conflict(_)) => false,
            Err(other) => panic!("{other}"),
        });
    assert_eq!((sent.count(), stage.stored(), stage.counted()), (1, 1, 1));
    assert_eq!(stage.state().await, LetterState::Reprocessed);
    assert_eq!(stage.trail().await.len(), 2);
}

#[tokio::test]
async fn while_the_target_does_not_take_it_a_letter_stays_dead() {
    let stage = Stage::task().await;
    let answers = [
        PublishError::Unavailable("away".into()),
        PublishError::Unknown("no answer".into()),
        PublishError::Full("full".into()),
        PublishError::UnknownTarget("d".into()),
        PublishError::TooLarge { limit: 1 },
    ];
    let mut tries = 0;
    for answer in answers {
        stage.answers(answer.clone());
        let refused = stage.redrive.reprocess("a", "ann").await.unwrap_err();
        match refused {
            Refused::Away(error) => assert!(error == answer && error.is_transient()),
            Refused::Target(error) => assert!(error == answer && !error.is_transient()),
            other => panic!("{other}"),
        }
        tries += 1;
        assert_eq!(stage.state().await, LetterState::Dead, "{answer}");
        assert_eq!(stage.trail().await.len(), 2 * tries);
    }
    assert_eq!(stage.counted(), 0);
    assert_eq!(stage.trail().await[..2], ["ann reprocess", "ann not sent"]);
    *stage.queue.answer.lock().unwrap() = Ok(());
    assert_eq!(
        stage.redrive.reprocess("a", "ann").await.unwrap(),
        LetterState::Reprocessed
    );
}

#[tokio::test]
async fn one_that_fails_again_before_its_sending_is_recorded_is_dead_and_can_be_sent_again() {
    let stage = Stage::task().await;
    stage.queue.fails_at_once.store(true, Ordering::SeqCst);
    for times in 1..=3 {
        assert_eq!(
            stage.redrive.reprocess("a", "ann").await.unwrap(),
            LetterState::Dead
        );
        let letter = stage.store.get("a").await.unwrap().unwrap();
        assert_eq!((letter.state, letter.reprocessed), (LetterState::Dead, times));
    }
    assert_eq!((stage.stored(), stage.counted()), (3, 3));
    let all = stage
        .store
        .list(&Default::default(), &Default::default())
        .await
        .unwrap();
    assert_eq!(all.count, 1);
}

/// A job reads its letters some time before it sends them.
#[tokio::test]
async fn one_that_failed_again_since_it_was_read_goes_as_it_is_now() {
    let stage = Stage::task().await;
    stage.queue.fails_at_once.store(true, Ordering::SeqCst);
    let read = stage.store.get("a").await.unwrap().unwrap();
    stage.redrive.reprocess("a", "bob").await.unwrap();
    stage
        .redrive
        .send_again(&read, false, &Behalf::of("ann"))
        .await
        .unwrap();
    let last = stage.queue.last.lock().unwrap().take().unwrap();
    assert_eq!(last.reprocessed(), 2);
}

#[tokio::test]
async fn an_event_is_parked_for_its_route_and_given_to_no_publisher() {
    let stage = Stage::new(letter(&MessageKind::Event, "a", Some("there"))).await;
    assert_eq!(
        stage.redrive.reprocess("a", "ann").await.unwrap(),
        LetterState::Reprocessed
    );
    assert_eq!((stage.stored(), stage.counted()), (0, 1));
    assert_eq!(stage.routes.0.load(Ordering::SeqCst), 1, "somebody looks at once");
    let due = stage
        .store
        .claim_due(u64::MAX >> 1, Duration::from_secs(1), 9)
        .await
        .unwrap();
    let [row] = due.as_slice() else { panic!("{due:?}") };
    assert_eq!(
        (row.id.as_str(), row.route.as_str(), row.attempt),
        ("a", "there", 1)
    );
    assert_eq!(row.raw.headers.text(header::REPROCESSED), Some("1"));
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_and_leaves_no_trace() {
    for (kind, route, broker) in [
        (MessageKind::Event, None, "b"),
        (MessageKind::Event, Some("gone"), "b"),
        (MessageKind::Task, None, "no-such-broker"),
    ] {
        let mut letter = letter(&kind, "a", route);
        letter.raw.origin.broker = broker.into();
        let stage = Stage::new(letter).await;
        let refused = stage.redrive.reprocess("a", "ann").await.unwrap_err();
        assert!(
            matches!(refused, Refused::Refusal(_) | Refused::NoBroker(_)),
            "{refused}"
        );
        assert!(refused.to_string().contains("discard"), "{refused}");
        assert_eq!(stage.state().await, LetterState::Dead);
        assert_eq!(stage.trail().await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_was_discarded_stays_so() {
    let stage = Stage::task().await;
    let discard = async |id: &'static str| {
        let why = Some("a test".to_owned());
        let behalf = Behalf {
            why,
            ..Behalf::of("ann")
        };
        stage.redrive.discard(id, &behalf).await
    };
    assert!(matches!(discard("nobody").await, Err(Refused::Unknown)));
    assert!(matches!(
        stage.redrive.reprocess("nobody", "ann").await,
        Err(Refused::Unknown)
    ));
    assert_eq!(discard("a").await.unwrap(), LetterState::Discarded);
    let conflict = |result| matches!(result, Err(Refused::Conflict(LetterState::Discarded)));
    assert!(conflict(discard("a").await));
    assert!(conflict(stage.redrive.reprocess("a", "ann").await));
    assert_eq!((stage.stored(), stage.trail().await.len()), (0, 1));
    let trail = stage.store.trail("a").await.unwrap();
    assert_eq!(
        trail.first().and_then(|e| e.note.reason.as_deref()),
        Some("a test")
    );
}

#[tokio::test]
async fn it_is_sent_also_when_whoever_asked_goes_away() {
    let stage = Stage::task().await;
    {
        let mut asked = std::pin::pin!(stage.redrive.reprocess("a", "ann"));
        assert!(futures::poll!(&mut asked).is_pending());
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while stage.state().await != LetterState::Reprocessed {
        assert!(
            tokio::time::Instant::now() < deadline,
            "it stays {:?}",
            stage.state().await
        );
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.stored(), 1);
}
