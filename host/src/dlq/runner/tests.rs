//! Jobs on a real store before a broker that is told what to answer.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::broker::{Confirmed, PublishError, Publisher};
use crate::dlq::parked::Policy;
use crate::dlq::redrive::Routes;
use crate::model::raw::Properties;
use crate::model::{
    FailureClass, Headers, LetterState, MessageKind, Origin, Outgoing, RawMessage, SystemClock, UuidIds,
};
use crate::store::sqlite::SqliteStore;
use crate::store::{Action, DeadLetters, Ending, JobState, LetterFilter, Members, NewJob};

#[derive(Default)]
struct Queue {
    /// What it answers instead of a confirm.
    error: Mutex<Option<PublishError>>,
    /// Bodies and keys, as they came.
    stored: Mutex<Vec<String>>,
    /// Keys of what is being stored right now, and how many of one key that were at the most.
    now: Mutex<Vec<Option<Bytes>>>,
    at_once: Mutex<usize>,
    slow: Mutex<Duration>,
}

#[async_trait]
impl Publisher for Queue {
    async fn publish(&self, _: Vec<Outgoing>) -> Vec<Result<Confirmed, PublishError>> {
        panic!("a letter is not encoded anew")
    }

    async fn put_back(&self, message: RawMessage) -> Result<Confirmed, PublishError> {
        let same = {
            let mut now = self.now.lock().unwrap();
            now.push(message.key.clone());
            now.iter()
                .filter(|key| key.is_some() && **key == message.key)
                .count()
        };
        let slow = *self.slow.lock().unwrap();
        tokio::time::sleep(slow).await;
        let mut at_once = self.at_once.lock().unwrap();
        *at_once = same.max(*at_once);
        let mut now = self.now.lock().unwrap();
        let at = now.iter().position(|key| *key == message.key).unwrap();
        now.remove(at);
        if let Some(error) = self.error.lock().unwrap().clone() {
            return Err(error);
        }
        let body = message.body.unwrap_or_default();
        self.stored
            .lock()
            .unwrap()
            .push(String::from_utf8(body.to_vec()).unwrap());
        Ok(Confirmed {
            partition: None,
            offset: None,
        })
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

fn letter(n: u64, key: Option<&str>) -> DeadLetter {
    DeadLetter {
        id: format!("l{n:03}"),
        raw: RawMessage {
            origin: Origin {
                broker: "b".into(),
                kind: MessageKind::Task,
                destination: "d".into(),
                partition: None,
                offset: Some(n),
            },
            body: Some(n.to_string().into()),
            key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
            headers: Headers::new(),
            props: Properties {
                message_type: Some("t".into()),
                ..Properties::default()
            },
            timestamp_ms: None,
            redelivered: false,
        },
        message_id: None,
        message_type: Some("t".into()),
        route: Some("r".into()),
        plugin: None,
        digest: None,
        class: FailureClass::Rejected,
        reason: "no".into(),
        code: None,
        attempts: Vec::new(),
        first_failure_ms: n,
        last_failure_ms: n,
        trace_id: None,
        state: LetterState::Dead,
        reprocessed: 0,
    }
}

struct Stage {
    _folder: tempfile::TempDir,
    store: SqliteStore,
    queue: Arc<Queue>,
    redrive: Arc<Redrive>,
}

impl Stage {
    async fn new(letters: Vec<DeadLetter>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("store.db"), Arc::new(SystemClock))
            .await
            .unwrap();
        store.enter(letters).await.unwrap();
        let queue = Arc::new(Queue::default());
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
            _folder: folder,
            store,
            queue,
            redrive,
        }
    }

    /// Another host, or this one after a new start: its stop, and its end.
    fn host(&self) -> (CancellationToken, tokio::task::JoinHandle<Result<(), String>>) {
        let stop = CancellationToken::new();
        let runner = Runner {
            jobs: Arc::new(self.store.clone()),
            redrive: Arc::clone(&self.redrive),
            clock: Arc::new(SystemClock),
            ids: Arc::new(UuidIds),
            metrics: Arc::clone(&self.redrive.metrics),
            nudge: Arc::new(Notify::new()),
            stop: stop.clone(),
            idle: CancellationToken::new(),
        };
        (stop, tokio::spawn(runner.run()))
    }

    async fn job(&self, rate: Option<u32>, force: bool) -> Job {
        self.store
            .create(NewJob {
                id: "j".into(),
                action: Action::Reprocess,
                members: Members::Matching(LetterFilter::default()),
                filter: None,
                rate,
                force,
                reason: None,
                actor: "ann".into(),
            })
            .await
            .unwrap()
    }

    async fn until(&self, what: impl Fn(&Job) -> bool) -> Job {
        for _ in 0..6_000 {
            let job = self.store.job("j").await.unwrap().unwrap();
            if what(&job) {
                return job;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", self.store.job("j").await);
    }

    async fn results(&self) -> Vec<(Option<Ending>, String)> {
        let job = self.store.job("j").await.unwrap().unwrap();
        let results = self.store.results(job.number, None, None, 1000).await.unwrap();
        results
            .into_iter()
            .map(|r| (r.ending, r.why.unwrap_or_default()))
            .collect()
    }

    fn stored(&self) -> Vec<u64> {
        self.queue
            .stored
            .lock()
            .unwrap()
            .iter()
            .map(|body| body.parse().unwrap())
            .collect()
    }
}

fn completed(job: &Job) -> bool {
    job.state == JobState::Completed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_its_broker_is_away_a_job_waits_says_so_and_goes_on() {
    let stage = Stage::new((0..40).map(|n| letter(n, None)).collect()).await;
    *stage.queue.error.lock().unwrap() = Some(PublishError::Unavailable("down".into()));
    stage.job(None, false).await;
    let (stop, host) = stage.host();
    let waits = stage.until(|job| job.trouble.is_some()).await;
    assert!(waits.trouble.unwrap().contains("down"));
    assert_eq!((waits.state, waits.done, waits.failed), (JobState::Running, 0, 0));
    assert!(stage.results().await.iter().all(|(ending, _)| ending.is_none()));
    *stage.queue.error.lock().unwrap() = None;
    let over = stage.until(completed).await;
    assert_eq!((over.done, over.trouble), (40, None));
    let mut stored = stage.stored();
    stored.sort_unstable();
    assert_eq!(stored, (0..40).collect::<Vec<_>>(), "each once");
    stop.cancel();
    host.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_stops_ends_what_is_under_way_and_another_goes_on() {
    let stage = Stage::new((0..60).map(|n| letter(n, None)).collect()).await;
    *stage.queue.slow.lock().unwrap() = Duration::from_millis(50);
    stage.job(Some(50), false).await;
    let (stop, host) = stage.host();
    stage.until(|job| job.done >= 5).await;
    stop.cancel();
    host.await.unwrap().unwrap();
    let stopped = stage.until(|job| job.state == JobState::Running).await;
    assert_eq!(
        stopped.done as usize,
        stage.stored().len(),
        "what it had begun it ended"
    );
    let retrying = LetterFilter {
        state: Some(LetterState::Retrying),
        ..LetterFilter::default()
    };
    let none = stage
        .store
        .list(&retrying, &crate::store::Page::default())
        .await
        .unwrap();
    assert_eq!(none.count, 0);
    // Its lease was given back: nobody waits for its end.
    let (stop, host) = stage.host();
    stage.until(completed).await;
    let mut stored = stage.stored();
    stored.sort_unstable();
    assert_eq!(stored, (0..60).collect::<Vec<_>>(), "each once");
    stop.cancel();
    host.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_one_key_go_one_after_another_in_the_order_of_their_failures() {
    let keys = ["a", "b", "c"];
    let letters = (0..90).map(|n| letter(n, Some(keys[n as usize % 3])));
    let stage = Stage::new(letters.collect()).await;
    *stage.queue.slow.lock().unwrap() = Duration::from_millis(2);
    stage.job(None, false).await;
    let (stop, host) = stage.host();
    stage.until(completed).await;
    assert_eq!(*stage.queue.at_once.lock().unwrap(), 1);
    let stored = stage.stored();
    for key in 0..3 {
        let of: Vec<u64> = stored.iter().copied().filter(|n| n % 3 == key).collect();
        assert_eq!(of.len(), 30);
        assert!(of.is_sorted(), "{of:?}");
    }
    stop.cancel();
    host.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_or_need_not_be_sent_says_why_and_stops_nobody() {
    let tired = DeadLetter {
        reprocessed: 10,
        ..letter(1, None)
    };
    let mut homeless = letter(2, None);
    homeless.raw.origin.broker = "gone".into();
    let stage = Stage::new(vec![tired, homeless, letter(3, None), letter(4, None)]).await;
    stage.job(None, false).await;
    let behalf = crate::dlq::Behalf::of("bob");
    stage.redrive.discard("l003", &behalf).await.unwrap();
    let (stop, host) = stage.host();
    let over = stage.until(completed).await;
    assert_eq!((over.done, over.skipped, over.failed), (1, 2, 1));
    let results = stage.results().await;
    let endings: Vec<_> = results.iter().map(|(ending, _)| ending.unwrap()).collect();
    assert_eq!(
        endings,
        [Ending::Skipped, Ending::Failed, Ending::Skipped, Ending::Sent]
    );
    for (at, says) in [(0, "sent again 10 times"), (1, "`gone`"), (2, "discarded")] {
        assert!(results[at].1.contains(says), "{results:?}");
    }
    assert_eq!(stage.stored(), [4]);
    stop.cancel();
    host.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_insists_sends_a_letter_that_failed_each_time() {
    let tired = DeadLetter {
        reprocessed: 10,
        ..letter(1, None)
    };
    let stage = Stage::new(vec![tired]).await;
    stage.job(None, true).await;
    let (stop, host) = stage.host();
    assert_eq!(stage.until(completed).await.done, 1);
    stop.cancel();
    host.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_send_each_letter_once() {
    let stage = Stage::new((0..200).map(|n| letter(n, None)).collect()).await;
    stage.job(None, false).await;
    let hosts = [stage.host(), stage.host()];
    stage.until(completed).await;
    for (stop, host) in hosts {
        stop.cancel();
        host.await.unwrap().unwrap();
    }
    let mut stored = stage.stored();
    stored.sort_unstable();
    assert_eq!(stored, (0..200).collect::<Vec<_>>());
}
