//! A store of each kind for one test, and what is put into it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use helix_host::model::outcome::Failure;
use helix_host::model::raw::Properties;
use helix_host::model::{
    Attempt, Clock, DeadLetter, FailureClass, LetterState, MessageKind, Origin, Outcome, RawMessage, UnixMs,
};
use helix_host::store::postgres::{Options, PostgresStore};
use helix_host::store::sqlite::SqliteStore;
use helix_host::store::{
    Audit, AutoLetters, DeadLetters, Error, Exports, HeldKeys, Jobs, KeepLetters, Note, Parked, Replays,
    Retries,
};
use helix_tests::{unique, variable};

pub const LEASE: Duration = Duration::from_secs(1);

/// Set by hand.
pub struct Hands(AtomicU64);

impl Hands {
    pub fn at(ms: UnixMs) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(ms)))
    }

    pub fn forward(&self, ms: UnixMs) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for Hands {
    fn now_ms(&self) -> UnixMs {
        self.0.load(Ordering::SeqCst)
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// All that a store does.
#[async_trait]
pub trait Store:
    Retries + DeadLetters + HeldKeys + AutoLetters + KeepLetters + Audit + Jobs + Exports + Replays
{
    async fn reclaim(&self) -> Result<u64, Error>;
    async fn close(&self);
}

#[async_trait]
impl Store for SqliteStore {
    async fn reclaim(&self) -> Result<u64, Error> {
        SqliteStore::reclaim(self).await
    }

    async fn close(&self) {
        SqliteStore::close(self).await;
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn reclaim(&self) -> Result<u64, Error> {
        PostgresStore::reclaim(self).await
    }

    async fn close(&self) {
        PostgresStore::close(self).await;
    }
}

#[derive(Clone, Copy)]
pub enum Engine {
    Sqlite,
    Postgres,
}

/// Where a store lies that can be opened again.
pub struct Stage {
    pub engine: Engine,
    pub clock: Arc<Hands>,
    folder: tempfile::TempDir,
    schema: String,
}

impl Stage {
    pub fn new(engine: Engine) -> Self {
        Self::with_clock(engine, Hands::at(1_000))
    }

    pub fn with_clock(engine: Engine, clock: Arc<Hands>) -> Self {
        Self {
            engine,
            clock,
            folder: tempfile::tempdir().unwrap(),
            schema: schema(),
        }
    }

    pub async fn open(&self) -> Arc<dyn Store> {
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        match self.engine {
            Engine::Sqlite => {
                let path = self.folder.path().join("store.db");
                Arc::new(SqliteStore::open(&path, clock).await.unwrap())
            }
            Engine::Postgres => Arc::new(postgres(&self.schema, "host", &self.clock).await),
        }
    }
}

/// Of no other test.
pub fn schema() -> String {
    unique("t").replace('-', "_")
}

pub fn options(url: &str, schema: &str, host: &str) -> Options {
    Options {
        url: url.to_owned().into(),
        schema: schema.to_owned(),
        host: host.into(),
    }
}

pub async fn postgres(schema: &str, host: &str, clock: &Arc<Hands>) -> PostgresStore {
    let options = options(&variable("HELIX_TEST_POSTGRES_URL"), schema, host);
    PostgresStore::open(&options, Arc::clone(clock) as Arc<dyn Clock>)
        .await
        .unwrap()
}

pub fn message(body: &[u8]) -> RawMessage {
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
            .map(|(name, value)| (name, Bytes::from_static(value)))
            .collect(),
        props: Properties::default(),
        timestamp_ms: Some(9),
        redelivered: false,
    }
}

pub fn attempt(number: u32) -> Attempt {
    Attempt {
        number,
        started_ms: 5,
        duration_us: u64::MAX,
        outcome: Outcome::Retry {
            failure: Failure::coded("c", "why \0"),
            after: Some(Duration::from_millis(1_500)),
        },
        digest: Some("sha256:0".into()),
        log: vec!["line".into()],
    }
}

pub fn parked(id: &str, due_ms: UnixMs, lane: Option<&[u8]>) -> Parked {
    Parked {
        id: id.into(),
        route: "r".into(),
        raw: message(id.as_bytes()),
        attempt: 2,
        due_ms,
        lane: lane.map(<[u8]>::to_vec),
        history: vec![attempt(1)],
        first_failure_ms: 5,
    }
}

pub fn letter(id: &str, last_failure_ms: UnixMs) -> DeadLetter {
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

pub fn note(action: &'static str) -> Note {
    Note {
        actor: "ann".into(),
        action: action.into(),
        reason: Some("because".into()),
    }
}

pub fn ids(rows: &[Parked]) -> Vec<&str> {
    rows.iter().map(|row| row.id.as_str()).collect()
}
