//! On a real store: what was acknowledged is a letter, and what comes again is the same one.

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
use crate::broker::{Capabilities, Health, Publisher, Scan, Settle, Token, Topology};
use crate::model::raw::Properties;
use crate::model::{Headers, Origin, RawMessage, SystemClock, UuidIds};
use crate::store::sqlite::SqliteStore;

/// Stands where a broker would; deliveries are handed over by the test.
struct Nobody;

#[async_trait]
impl Broker for Nobody {
    fn name(&self) -> Arc<str> {
        "rabbitmq".into()
    }
    fn capabilities(&self) -> Capabilities {
        panic!("not asked")
    }
    async fn subscribe(&self, _: Subscription) -> Result<Box<dyn Source>, broker::Error> {
        panic!("not asked")
    }
    fn publisher(&self) -> Arc<dyn Publisher> {
        panic!("not asked")
    }
    fn topology(&self) -> Arc<dyn Topology> {
        panic!("not asked")
    }
    fn scan(&self) -> Option<Arc<dyn Scan>> {
        None
    }
    fn health(&self) -> Health {
        Health::Up
    }
    async fn close(&self) {}
}

/// Remembers what was acknowledged.
#[derive(Default)]
struct Desk(Mutex<Vec<u64>>);

impl Settle for Desk {
    fn begin(&self, _: Token) -> bool {
        true
    }
    fn ack(&self, token: Token) {
        self.0.lock().unwrap().push(token.position);
    }
    fn release(&self, _: Token) {}
}

struct Stage {
    _folder: tempfile::TempDir,
    store: SqliteStore,
    desk: Arc<Desk>,
}

impl Stage {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("store.db"), Arc::new(SystemClock))
            .await
            .unwrap();
        Self {
            _folder: folder,
            store,
            desk: Arc::default(),
        }
    }

    /// As a host does after its start.
    fn intake(&self) -> Intake {
        Intake {
            broker: Arc::new(Nobody),
            place: Place {
                queue: "dlq".into(),
                events: "kafka".into(),
            },
            letters: Arc::new(self.store.clone()),
            clock: Arc::new(SystemClock),
            ids: Arc::new(UuidIds),
            metrics: Arc::new(Metrics::new().unwrap()),
            stop: CancellationToken::new(),
            idle: CancellationToken::new(),
        }
    }

    fn deliveries(&self, messages: &[RawMessage]) -> Vec<Delivery> {
        let settle: Arc<dyn Settle> = Arc::<Desk>::clone(&self.desk);
        let numbered = messages.iter().zip(0..);
        numbered
            .map(|(raw, position)| Delivery {
                raw: raw.clone(),
                receipt: Receipt::new(
                    Arc::clone(&settle),
                    Token {
                        epoch: 1,
                        lane: 0,
                        position,
                    },
                ),
            })
            .collect()
    }

    async fn take(&self, messages: &[RawMessage]) {
        let mut again = HashSet::new();
        self.intake().take(self.deliveries(messages), &mut again).await;
        assert_eq!(
            self.desk.0.lock().unwrap().len(),
            messages.len(),
            "all acknowledged"
        );
        self.desk.0.lock().unwrap().clear();
    }

    async fn letters(&self) -> u64 {
        let (filter, page) = (LetterFilter::default(), Page::default());
        self.store.list(&filter, &page).await.unwrap().count
    }
}

fn died(body: &[u8], redelivered: bool) -> RawMessage {
    let mut headers = Headers::new();
    let death = r#"[{"queue":"work","reason":"expired","exchange":"","count":1,"time":1764000000}]"#;
    headers.push("x-death", death);
    RawMessage {
        origin: Origin {
            broker: "rabbitmq".into(),
            kind: MessageKind::Task,
            destination: "dlq".into(),
            partition: None,
            offset: None,
        },
        body: Some(Bytes::copy_from_slice(body)),
        key: None,
        headers,
        props: Properties::default(),
        timestamp_ms: None,
        redelivered,
    }
}

const NAMED: &[u8] = br#"{"type":"t","id":"1","payload":1}"#;
const NAMELESS: &[u8] = br#"{"type":"t","payload":1}"#;
const GARBAGE: &[u8] = b"\xff";

#[tokio::test]
async fn what_is_delivered_again_gets_no_second_letter() {
    let stage = Stage::new().await;
    for body in [NAMED, NAMELESS, GARBAGE] {
        let before = stage.letters().await;
        stage.take(&[died(body, false)]).await;
        assert_eq!(stage.letters().await, before + 1);
        for _ in 0..2 {
            stage.take(&[died(body, true)]).await;
            assert_eq!(stage.letters().await, before + 1, "the same letter");
        }
    }
}

#[tokio::test]
async fn messages_that_are_alike_in_every_byte_are_as_many_letters() {
    let stage = Stage::new().await;
    stage.take(&vec![died(NAMELESS, false); 3]).await;
    stage.take(&[died(NAMELESS, false)]).await;
    assert_eq!(stage.letters().await, 4);
    // Of those that come again nobody knows which they are: rather too many than too few.
    stage.take(&vec![died(NAMELESS, true); 2]).await;
    assert_eq!(stage.letters().await, 6);
}

#[tokio::test]
async fn two_that_come_again_are_not_one() {
    let stage = Stage::new().await;
    stage.take(&[died(NAMELESS, false)]).await;
    stage.take(&vec![died(NAMELESS, true); 2]).await;
    assert_eq!(stage.letters().await, 2);
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_written() {
    let stage = Stage::new().await;
    let intake = stage.intake();
    stage.store.close().await;
    let deliveries = stage.deliveries(&[died(NAMED, false)]);
    let stop = intake.stop.clone();
    let mut taking = tokio::spawn(async move { intake.take(deliveries, &mut HashSet::new()).await });
    let tried = tokio::time::timeout(Duration::from_millis(300), &mut taking).await;
    assert!(tried.is_err(), "it tries on");
    assert_eq!(*stage.desk.0.lock().unwrap(), [0_u64; 0]);
    stop.cancel();
    taking.await.unwrap();
    assert_eq!(*stage.desk.0.lock().unwrap(), [0_u64; 0]);
}

#[tokio::test]
async fn a_copy_that_the_host_made_itself_is_not_adopted_and_one_that_says_so_is() {
    let stage = Stage::new().await;
    stage.take(&[died(NAMED, false)]).await;
    let page = stage
        .store
        .list(&LetterFilter::default(), &Page::default())
        .await
        .unwrap();
    let copy = export::shape::replica(&page.letters[0]).raw;
    let mut found = died(&[], false);
    found.body.clone_from(&copy.body);
    found.headers = copy.headers.clone();
    stage.take(std::slice::from_ref(&found)).await;
    assert_eq!(stage.letters().await, 1);
    // Of another message under that letter's name.
    let text = String::from_utf8(copy.body.unwrap().to_vec()).unwrap();
    found.body = Some(text.replace("\"id\":\"1\"", "\"id\":\"2\"").into());
    stage.take(&[found]).await;
    assert_eq!(stage.letters().await, 2);
}
