//! Counts and groups say what the letters say, whatever happens to these.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::{AutoLetters, Change, Changed, Decided, Group, KeepLetters, Note, Progress, Step, Turn};

fn failing(id: &str, at: UnixMs, reason: &str, digest: Option<&str>) -> DeadLetter {
    DeadLetter {
        reason: reason.into(),
        digest: digest.map(Into::into),
        attempts: vec![Attempt {
            started_ms: at,
            digest: digest.map(Into::into),
            ..attempt(1)
        }],
        first_failure_ms: at,
        ..letter(id, at)
    }
}

async fn groups(store: &SqliteStore, filter: &LetterFilter) -> Vec<Group> {
    let found = store.groups(filter, 1000).await.unwrap();
    assert_eq!(found.count as usize, found.groups.len());
    found.groups
}

fn note() -> Note {
    Note {
        actor: "ann".into(),
        action: "test".into(),
        reason: None,
    }
}

async fn change(store: &SqliteStore, id: &str, change: Change) {
    let changed = DeadLetters::change(store, id, change, note()).await.unwrap();
    assert!(matches!(changed, Changed::Done(_)), "{changed:?}");
}

#[tokio::test]
async fn letters_that_failed_alike_are_one_group_with_the_version_it_began_with() {
    let (folder, path, clock, store) = fresh().await;
    let v1 = Some("sha256:1");
    let v2 = Some("sha256:2");
    store
        .enter(vec![
            failing("a", 10, "no user 17", v1),
            failing("b", 30, "no user 18", v1),
            failing("c", 40, "no user 19", v2),
            failing("d", 50, "out of paper", v2),
        ])
        .await
        .unwrap();
    let found = groups(&store, &open_filter()).await;
    let said: Vec<_> = found
        .iter()
        .map(|g| (g.message.as_deref().unwrap(), g.digest.as_deref(), g.count))
        .collect();
    assert_eq!(said[0], ("no user #", v1, 2));
    let of = |message: &str, digest: Option<&str>| {
        let found = found
            .iter()
            .find(|g| g.message.as_deref() == Some(message) && g.digest.as_deref() == digest);
        found.unwrap().clone()
    };
    let old = of("no user #", v1);
    assert_eq!((old.first_ms, old.last_ms, old.previous_digest), (10, 30, None));
    assert_eq!(old.sample, Some(("b".into(), "no user 18".into())), "the newest");
    assert_eq!(of("no user #", v2).previous_digest.as_deref(), v1);
    assert_eq!(
        of("out of paper", v2).previous_digest,
        None,
        "it began with this version"
    );
    assert_eq!(store.dead_groups().await.unwrap(), 3);

    // Dealt with, they are out of the way; in a group that has more, another one is shown.
    change(&store, "b", Change::Discard).await;
    change(&store, "d", Change::Discard).await;
    let left = groups(&store, &open_filter()).await;
    assert_eq!(left.iter().map(|g| g.count).collect::<Vec<_>>(), [1, 1]);
    assert!(left.iter().any(|g| g.sample.as_ref().is_some_and(|s| s.0 == "a")));
    assert_eq!(store.dead_groups().await.unwrap(), 2);
    // One that fails otherwise goes over to its new group.
    store
        .enter(vec![failing("a", 60, "out of paper", v2)])
        .await
        .unwrap();
    let moved = groups(&store, &open_filter()).await;
    assert!(moved.iter().all(|g| g.digest.as_deref() == v2), "{moved:?}");
    let only = LetterFilter {
        group: Some(moved[0].id.clone()),
        ..open_filter()
    };
    let page = store.list(&only, &Page::default()).await.unwrap();
    assert_eq!((page.count, page.letters.len()), (1, 1));

    let image = folder.path().join("image.db");
    crash_image(&path, &image);
    let after = open(&image, &clock).await;
    assert_eq!(groups(&after, &open_filter()).await, moved);
}

#[tokio::test]
async fn letters_from_before_there_were_groups_are_grouped_by_what_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    // The file as the version before left it.
    let mut shell = SqliteConnection::connect_with(
        &SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true),
    )
    .await
    .unwrap();
    for migration in [
        include_str!("../../sql/migrations/0001_init.sql"),
        include_str!("../../sql/migrations/0002_letter_trail.sql"),
    ] {
        let migration = migration
            .replace("{serial}", engine::SERIAL)
            .replace("{bytes}", engine::BYTES)
            .replace("{key}", engine::KEY)
            .replace("{lane}", engine::LANE)
            .replace("{type}", engine::TYPE);
        sqlx::raw_sql(sqlx::AssertSqlSafe(migration))
            .execute(&mut shell)
            .await
            .unwrap();
    }
    let message = super::sql::codec::write(&message(b"x"));
    for (id, route, state) in [
        ("a", Some("r"), "dead"),
        ("b", Some("r"), "dead"),
        ("c", None, "dead"),
        ("d", Some("r"), "discarded"),
    ] {
        sqlx::query(
            "INSERT INTO dead_letters (id, destination, message_type, route, class, reason, attempts,
                 first_failure_ms, last_failure_ms, state, message)
             VALUES ($1, 'topic', 't', $2, 'rejected', 'no user ' || $1, '[]', 1, 2, $3, $4)",
        )
        .bind(id)
        .bind(route)
        .bind(state)
        .bind(&message)
        .execute(&mut shell)
        .await
        .unwrap();
    }
    sqlx::raw_sql("PRAGMA user_version = 2")
        .execute(&mut shell)
        .await
        .unwrap();
    shell.close().await.unwrap();

    let store = open(&path, &Hands::at(0)).await;
    let found = groups(&store, &open_filter()).await;
    let said: Vec<_> = found
        .iter()
        .map(|g| (g.route.as_deref(), g.count, g.message.is_none()))
        .collect();
    assert_eq!(said, [(Some("r"), 2, true), (None, 1, true)]);
    assert_eq!(store.depth().await.unwrap(), [("topic".to_owned(), 3)]);
    change(&store, "a", Change::Discard).await;
    assert_eq!(store.depth().await.unwrap(), [("topic".to_owned(), 2)]);
    agree(&store).await;
}

fn open_filter() -> LetterFilter {
    LetterFilter {
        open: true,
        ..LetterFilter::default()
    }
}

/// Every filter finds in the counts what is found by counting.
async fn agree(store: &SqliteStore) {
    let all = store
        .list(
            &LetterFilter::default(),
            &Page {
                limit: 1000,
                ..Page::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(all.count as usize, all.letters.len());
    let mut depth: BTreeMap<String, u64> = BTreeMap::new();
    for letter in all.letters.iter().filter(|l| l.state == LetterState::Dead) {
        *depth
            .entry(letter.raw.origin.destination.to_string())
            .or_default() += 1;
    }
    assert_eq!(
        store.depth().await.unwrap(),
        depth.into_iter().collect::<Vec<_>>()
    );
    let mut filters = vec![open_filter()];
    for letter in &all.letters {
        filters.push(LetterFilter {
            state: Some(letter.state),
            message_type: letter.message_type.clone(),
            digest: letter.digest.clone(),
            ..LetterFilter::default()
        });
    }
    for filter in filters {
        let counted = store.list(&filter, &Page::default()).await.unwrap();
        // A bound that holds for all makes the store count for itself.
        let by_hand = LetterFilter {
            since_ms: Some(0),
            ..filter.clone()
        };
        let scanned = store.list(&by_hand, &Page::default()).await.unwrap();
        assert_eq!(counted.count, scanned.count, "{filter:?}");
        assert_eq!(
            store.groups(&filter, 1000).await.unwrap(),
            store.groups(&by_hand, 1000).await.unwrap(),
            "{filter:?}"
        );
    }
}

/// What can happen to one of a few letters.
#[derive(Debug, Clone)]
enum Event {
    Enter {
        reason: usize,
        digest: usize,
        again: bool,
        expired: bool,
    },
    Claim,
    Sent,
    GiveBack,
    Discard,
    Lapse,
    /// The host's own turn.
    Turn,
    /// The host is done with it by itself.
    End {
        discard: bool,
    },
    Expire {
        limit: usize,
    },
    Forget {
        limit: usize,
    },
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0_usize..3, 0_usize..3, any::<bool>(), any::<bool>())
            .prop_map(|(reason, digest, again, expired)| Event::Enter { reason, digest, again, expired }),
        2 => Just(Event::Claim),
        2 => Just(Event::Sent),
        1 => Just(Event::GiveBack),
        1 => Just(Event::Discard),
        1 => Just(Event::Lapse),
        1 => Just(Event::Turn),
        1 => any::<bool>().prop_map(|discard| Event::End { discard }),
        1 => (1_usize..4).prop_map(|limit| Event::Expire { limit }),
        1 => (1_usize..4).prop_map(|limit| Event::Forget { limit }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn counts_agree_with_the_letters_whatever_happens(
        events in prop::collection::vec((0_usize..4, event()), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_folder, _path, clock, store) = fresh().await;
            for (at, (which, event)) in events.into_iter().enumerate() {
                let at = at as u64 * 10;
                clock.set(at);
                let id = format!("l{which}");
                let holder = "h".to_owned();
                match event {
                    Event::Enter { reason, digest, again, expired } => {
                        let reason = ["no user 1", "no user 2", "out of paper"][reason];
                        let digest = [None, Some("sha256:1"), Some("sha256:2")][digest];
                        let state = if expired { LetterState::Expired } else { LetterState::Dead };
                        let long = "t".repeat(300);
                        let entered = DeadLetter {
                            state,
                            reprocessed: u32::from(again),
                            message_type: [Some("t".into()), Some(long), None, Some("u".into())][which].clone(),
                            ..failing(&id, at, reason, digest)
                        };
                        store.enter(vec![entered]).await.unwrap();
                    }
                    Event::Claim => {
                        let lease = Duration::from_millis(25);
                        DeadLetters::change(&store, &id, Change::Claim { holder, lease }, note()).await.unwrap();
                    }
                    Event::Sent => {
                        DeadLetters::change(&store, &id, Change::Sent { holder, park: None }, note()).await.unwrap();
                    }
                    Event::GiveBack => {
                        DeadLetters::change(&store, &id, Change::GiveBack { holder }, note()).await.unwrap();
                    }
                    Event::Discard => {
                        DeadLetters::change(&store, &id, Change::Discard, note()).await.unwrap();
                    }
                    Event::Lapse => {
                        store.lapse().await.unwrap();
                    }
                    Event::Turn => {
                        let turn = Turn { seen: Progress::default(), next: Progress { attempts: 1, due_ms: at } };
                        store.claim_turn(&id, &turn, holder, Duration::from_millis(25), note()).await.unwrap();
                    }
                    Event::End { discard } => {
                        let why = "used up".to_owned();
                        let step = if discard { Step::Discard { why } } else { Step::Archive { why } };
                        let decided = Decided { letter: id, seen: Progress::default(), step };
                        store.settle("host", vec![decided]).await.unwrap();
                    }
                    Event::Expire { limit } => {
                        store.expire(at.saturating_sub(60), "too old", limit).await.unwrap();
                    }
                    Event::Forget { limit } => {
                        store.forget_closed(at.saturating_sub(60), limit).await.unwrap();
                    }
                }
            }
            agree(&store).await;
        });
    }
}
