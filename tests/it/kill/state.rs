//! The state folder of a host that has left, read in this process.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use helix_host::broker::Broker;
use helix_host::broker::embedded::Embedded;
use helix_host::config::valid;
use helix_host::model::MessageKind;
use helix_host::model::clock::SystemClock;
use helix_host::store::sqlite::SqliteStore;
use helix_host::store::{DeadLetters, LetterFilter, Page, Retries};
use helix_tests::Setup;

use super::verdict::Report;

pub struct State {
    folder: PathBuf,
    store: SqliteStore,
}

impl State {
    pub async fn open(setup: &Setup) -> Self {
        let folder = setup.path().join("state");
        let store = SqliteStore::open(&folder.join("store.db"), Arc::new(SystemClock))
            .await
            .expect("the store opens");
        Self { folder, store }
    }

    pub async fn close(self) {
        self.store.close().await;
    }

    pub async fn retries(&self) -> u64 {
        self.store.count().await.expect("retries are counted")
    }

    /// Message id and class of each dead letter.
    pub async fn letters(&self) -> Vec<(String, String)> {
        let mut letters = Vec::new();
        let mut cursor = None;
        loop {
            let page = Page {
                limit: 500,
                offset: 0,
                cursor,
            };
            let found = self
                .store
                .list(&LetterFilter::default(), &page)
                .await
                .expect("letters are listed");
            letters.extend(found.letters.into_iter().map(|letter| {
                (
                    letter.message_id.unwrap_or(letter.id),
                    letter.class.as_str().to_owned(),
                )
            }));
            cursor = found.next;
            if cursor.is_none() {
                return letters;
            }
        }
    }

    fn broker(folder: &Path) -> Embedded {
        let options = valid::Embedded {
            path: folder.join("broker.db"),
            group: "observer".into(),
        };
        Embedded::open(
            "embedded",
            &options,
            valid::Formats::default(),
            Arc::new(SystemClock),
        )
        .expect("the broker opens")
    }

    /// Messages that wait in a queue of the embedded broker.
    pub async fn depth(setup: &Setup, queue: &str) -> u64 {
        let broker = Self::broker(&setup.path().join("state"));
        let depth = broker
            .topology()
            .depth(MessageKind::Task, queue)
            .await
            .expect("the queue exists");
        broker.close().await;
        depth
    }

    /// All of a topic of the embedded broker.
    pub async fn reports(&self, topic: &str) -> Vec<Report> {
        let broker = Self::broker(&self.folder);
        let scan = broker.scan().expect("the embedded broker can scan");
        let mut reports = Vec::new();
        for bounds in scan.bounds(topic).await.expect("the topic exists") {
            let mut next = bounds.first;
            while next < bounds.end {
                let read = scan
                    .read(topic, bounds.partition, next, 1000)
                    .await
                    .expect("the topic is read");
                next = read
                    .last()
                    .and_then(|raw| raw.origin.offset)
                    .expect("there is more")
                    + 1;
                reports.extend(
                    read.iter()
                        .map(|raw| Report::parse(raw.body.as_deref().unwrap_or_default())),
                );
            }
        }
        broker.close().await;
        reports
    }
}
