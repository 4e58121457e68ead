//! The walk over letters on a real store, with a stage that says what it is told.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use super::*;
use crate::model::raw::Properties;
use crate::model::{Headers, MessageKind, Origin, SystemClock, header};
use crate::store::sqlite::SqliteStore;

/// The body of a message says what becomes of it.
#[derive(Default)]
struct Told {
    seen: Mutex<Vec<RawMessage>>,
    closing: AtomicBool,
    /// Closes after so many.
    closes_after: Option<usize>,
}

#[async_trait]
impl Stage for Told {
    fn has_route(&self, route: &str) -> bool {
        route == "there"
    }

    async fn perform(&self, message: RawMessage, route: Option<&str>, _: Duration) -> Performed {
        assert_eq!(route.is_some(), message.origin.kind == MessageKind::Event);
        // Others get their turn, so that results could come out of order.
        for _ in 0..message.origin.offset.unwrap_or(0) % 3 {
            tokio::task::yield_now().await;
        }
        let fails = |code: &str| End::Fails {
            class: FailureClass::Rejected,
            failure: Failure::coded(code, "no"),
        };
        let end = match message.body.as_deref() {
            Some(b"same") => fails("was"),
            Some(b"new") => fails("is"),
            Some(b"open") => End::Open("needs fetch host x:80".into()),
            Some(b"other") => End::OtherPlugin("q".into()),
            _ => End::Passes,
        };
        let mut seen = self.seen.lock().unwrap();
        seen.push(message);
        if self.closes_after == Some(seen.len()) {
            self.closing.store(true, Ordering::SeqCst);
        }
        Performed {
            publishes: if end == End::Passes {
                vec![("out".into(), 2)]
            } else {
                Vec::new()
            },
            end,
            attempts: 1,
        }
    }

    fn closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }
}

fn letter(n: u64, kind: MessageKind, body: &'static str, route: Option<&str>) -> DeadLetter {
    DeadLetter {
        id: format!("l{n:05}"),
        raw: RawMessage {
            origin: Origin {
                broker: "b".into(),
                kind,
                destination: "d".into(),
                partition: None,
                offset: Some(n),
            },
            body: Some(Bytes::from_static(body.as_bytes())),
            key: None,
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
        route: route.map(str::to_owned),
        plugin: None,
        digest: None,
        class: FailureClass::Rejected,
        reason: "no".into(),
        code: Some("was".into()),
        attempts: Vec::new(),
        first_failure_ms: 1,
        last_failure_ms: 1_000 + n,
        trace_id: None,
        state: LetterState::Dead,
        reprocessed: 0,
    }
}

async fn store(letters: Vec<DeadLetter>) -> (tempfile::TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(&folder.path().join("store.db"), Arc::new(SystemClock))
        .await
        .unwrap();
    store.enter(letters).await.unwrap();
    (folder, store)
}

async fn walk(store: &SqliteStore, stage: &Told, wanted: Wanted) -> Result<Walked, Error> {
    Rehearsal {
        letters: store,
        stage,
        clock: &SystemClock,
    }
    .walk(wanted)
    .await
}

fn all() -> Wanted {
    Wanted {
        limit: MAX_LIMIT,
        ..Wanted::default()
    }
}

#[tokio::test]
async fn every_letter_gets_its_prediction_and_none_is_changed() {
    let mut letters: Vec<DeadLetter> = ["pass", "same", "new", "open", "other"]
        .into_iter()
        .zip(0..)
        .map(|(body, n)| letter(n, MessageKind::Task, body, Some("r")))
        .collect();
    letters.push(letter(5, MessageKind::Event, "pass", Some("there")));
    letters.push(letter(6, MessageKind::Event, "pass", Some("gone")));
    let mut sent = letter(7, MessageKind::Task, "pass", Some("r"));
    sent.state = LetterState::Discarded;
    letters.push(sent);
    let (_folder, store) = store(letters).await;
    let before = store
        .list(&LetterFilter::default(), &Page::default())
        .await
        .unwrap();
    let stage = Told::default();
    let walked = walk(&store, &stage, all()).await.unwrap();
    let said: Vec<(&str, Prediction)> = walked
        .lines
        .iter()
        .map(|l| (l.id.as_str(), l.prediction))
        .collect();
    assert_eq!(
        said,
        [
            ("l00006", Prediction::NotSendable),
            ("l00005", Prediction::Pass),
            ("l00004", Prediction::OtherPlugin),
            ("l00003", Prediction::Uncertain),
            ("l00002", Prediction::NewFailure),
            ("l00001", Prediction::SameFailure),
            ("l00000", Prediction::Pass),
        ],
        "newest first, and only those that are dead"
    );
    assert_eq!((walked.matched, walked.next), (7, None));
    // As sending it again would make it.
    for message in stage.seen.lock().unwrap().iter() {
        assert_eq!(message.headers.text(header::REPROCESSED), Some("1"));
    }
    let after = store
        .list(&LetterFilter::default(), &Page::default())
        .await
        .unwrap();
    assert_eq!(before.letters, after.letters);
    assert_eq!(store.trail("l00000").await.unwrap(), Vec::new());

    let groups = groups(&walked.lines);
    assert_eq!(groups.len(), 3, "{groups:?}");
    assert_eq!(groups[0].route.as_deref(), Some("r"));
    assert_eq!(
        groups[0].counts,
        Counts {
            rehearsed: 5,
            would_pass: 1,
            same_failure: 1,
            new_failure: 1,
            uncertain: 1,
            other_plugin: 1,
            ..Counts::default()
        }
    );
    assert_eq!(groups[0].samples.len(), 4);
    assert_eq!(Counts::of(&walked.lines).not_sendable, 1);
}

#[tokio::test]
async fn pages_come_to_each_letter_once() {
    let (_folder, store) = store(
        (0..173)
            .map(|n| letter(n, MessageKind::Task, "pass", None))
            .collect(),
    )
    .await;
    for limit in [1, 7, 50, 51, 173, 500] {
        let stage = Told::default();
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let wanted = Wanted {
                limit,
                cursor,
                ..Wanted::default()
            };
            let page = walk(&store, &stage, wanted).await.unwrap();
            assert!(page.lines.len() <= limit);
            assert_eq!(page.matched, 173);
            seen.extend(page.lines.into_iter().map(|line| line.id));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        let expected: Vec<String> = (0..173).rev().map(|n| format!("l{n:05}")).collect();
        assert_eq!(seen, expected, "limit {limit}");
    }
}

#[tokio::test]
async fn one_that_ends_early_says_where_to_go_on() {
    let (_folder, store) = store(
        (0..120)
            .map(|n| letter(n, MessageKind::Task, "pass", None))
            .collect(),
    )
    .await;
    let stage = Told {
        closes_after: Some(60),
        ..Told::default()
    };
    let first = walk(&store, &stage, all()).await.unwrap();
    assert!((60..=61).contains(&first.lines.len()), "{}", first.lines.len());
    stage.closing.store(false, Ordering::SeqCst);
    let wanted = Wanted {
        cursor: first.next,
        ..all()
    };
    let rest = walk(&store, &stage, wanted).await.unwrap();
    assert_eq!(rest.next, None);
    let ids: HashSet<String> = first
        .lines
        .iter()
        .chain(&rest.lines)
        .map(|line| line.id.clone())
        .collect();
    assert_eq!((ids.len(), first.lines.len() + rest.lines.len()), (120, 120));
}

#[tokio::test]
async fn since_and_ids_choose() {
    let (_folder, store) = store(
        (0..120)
            .map(|n| letter(n, MessageKind::Task, "pass", None))
            .collect(),
    )
    .await;
    let stage = Told::default();
    let wanted = Wanted {
        filter: LetterFilter {
            since_ms: Some(1_000 + 55),
            ..LetterFilter::default()
        },
        ..all()
    };
    let walked = walk(&store, &stage, wanted).await.unwrap();
    assert_eq!(walked.lines.len(), 65);
    assert_eq!((walked.lines[64].id.as_str(), walked.next), ("l00055", None));

    let ids: Vec<String> = ["l00003", "nobody", "l00119"].map(str::to_owned).into();
    let mut wanted = Wanted {
        ids,
        limit: 2,
        ..Wanted::default()
    };
    let walked = walk(&store, &stage, wanted.clone()).await.unwrap();
    assert_eq!(walked.lines[1].prediction, Prediction::NotSendable);
    wanted.cursor = walked.next;
    let rest = walk(&store, &stage, wanted.clone()).await.unwrap();
    assert_eq!((rest.lines.len(), rest.lines[0].id.as_str()), (1, "l00119"));
    assert_eq!(rest.next, None);
    wanted.cursor = Some("x".into());
    assert!(matches!(
        walk(&store, &stage, wanted).await,
        Err(Error::Invalid(_))
    ));
}

#[test]
fn a_failure_is_the_same_when_its_code_is_or_its_words_are() {
    let cases = [
        (Some("stock"), "no 1", Some("stock"), "something else", true),
        (Some("stock"), "no", Some("price"), "no", false),
        (Some("stock"), "no", None, "no", false),
        (None, "row 17 is bad", None, "row 18 is bad", true),
        (None, "row 17 is bad", None, "row 17 is worse", false),
        (
            Some("trap.panic"),
            "at src/lib.rs:3:5: a",
            Some("trap.panic"),
            "at src/lib.rs:14:9: a",
            true,
        ),
        (
            Some("trap.panic"),
            "at 0xdeadbeef: a",
            Some("trap.panic"),
            "at 0x12: b",
            false,
        ),
        (
            Some("trap.panic"),
            "at 0xdeadbeef: a",
            Some("trap.panic"),
            "at 0x12: a",
            true,
        ),
    ];
    for (code, reason, new_code, new_reason, same) in cases {
        let mut letter = letter(1, MessageKind::Task, "x", None);
        letter.code = code.map(str::to_owned);
        letter.reason = reason.to_owned();
        let failure = Failure {
            code: new_code.map(str::to_owned),
            reason: new_reason.to_owned(),
        };
        let performed = |class| Performed {
            end: End::Fails {
                class,
                failure: failure.clone(),
            },
            attempts: 1,
            publishes: Vec::new(),
        };
        let wanted = if same {
            Prediction::SameFailure
        } else {
            Prediction::NewFailure
        };
        let line = Line::of(&letter, performed(FailureClass::Rejected));
        assert_eq!(line.prediction, wanted, "{reason} / {new_reason}");
        let line = Line::of(&letter, performed(FailureClass::Exhausted));
        assert_eq!(line.prediction, Prediction::NewFailure, "another class");
    }
}

#[tokio::test]
async fn one_rehearsal_at_a_time() {
    let turn = Turn::default();
    let held = turn.take(Duration::ZERO).await;
    assert!(held.is_some());
    assert!(turn.take(Duration::from_millis(1)).await.is_none());
    drop(held);
    assert!(turn.take(Duration::from_millis(1)).await.is_some());
}
