//! The life of a letter on a real file: of two at once one wins, every change is in the trail, and none is stuck or lost.

use proptest::prelude::*;

use super::*;
use crate::model::header;
use crate::store::{Change, Changed, Entry, Note};

fn claim(holder: &str) -> Change {
    Change::Claim {
        holder: holder.into(),
        lease: LEASE,
    }
}

fn sent(holder: &str, park: Option<Parked>) -> Change {
    Change::Sent {
        holder: holder.into(),
        park: park.map(Box::new),
    }
}

fn edited(holder: &str, park: Option<Parked>) -> Change {
    Change::Edited {
        holder: holder.into(),
        park: park.map(Box::new),
    }
}

fn give_back(holder: &str) -> Change {
    Change::GiveBack {
        holder: holder.into(),
    }
}

fn note(action: &'static str) -> Note {
    Note {
        actor: "ann".into(),
        action: action.into(),
        reason: Some("because".into()),
    }
}

async fn change(store: &SqliteStore, id: &str, change: Change) -> Changed {
    DeadLetters::change(store, id, change, note("test"))
        .await
        .unwrap()
}

fn done(changed: Changed) -> DeadLetter {
    match changed {
        Changed::Done(letter) => *letter,
        other => panic!("{other:?}"),
    }
}

/// From, to and actor of each entry.
fn steps(trail: &[Entry]) -> Vec<String> {
    trail
        .iter()
        .map(|e| format!("{} {}>{}", e.note.actor, e.from.as_str(), e.to.as_str()))
        .collect()
}

async fn state(store: &SqliteStore, id: &str) -> LetterState {
    store.get(id).await.unwrap().unwrap().state
}

/// The message of `original`, at another position, as its broker delivers it after it was sent again `times` times.
fn again(original: &DeadLetter, own_id: &str, times: u32, attempts: Vec<Attempt>) -> DeadLetter {
    let mut raw = original.raw.clone();
    raw.origin.offset = Some(4_711);
    raw.headers.push(header::LETTER, original.id.clone());
    raw.headers.push(header::REPROCESSED, times.to_string());
    raw.headers.push("x-broker", "1");
    DeadLetter {
        id: own_id.into(),
        raw,
        attempts,
        reprocessed: times,
        ..letter(own_id, 50)
    }
}

#[tokio::test]
async fn a_copy_is_parked_if_and_only_if_its_letter_says_so() {
    let (_folder, _path, _clock, store) = fresh().await;
    store.enter(vec![letter("a", 10)]).await.unwrap();
    done(change(&store, "a", claim("one")).await);
    let held = Changed::Conflict(LetterState::Retrying);
    assert_eq!(
        change(&store, "a", edited("two", Some(parked("copy", 1, None)))).await,
        held
    );
    assert_eq!(store.count().await.unwrap(), 0);
    let after = done(change(&store, "a", edited("one", Some(parked("copy", 1, None)))).await);
    assert_eq!(after.state, LetterState::Discarded);
    assert_eq!(store.count().await.unwrap(), 1);
    let again = change(&store, "a", edited("one", Some(parked("another", 1, None)))).await;
    assert_eq!(again, Changed::Conflict(LetterState::Discarded));
    assert_eq!(store.count().await.unwrap(), 1);
}

#[tokio::test]
async fn of_many_who_want_a_letter_at_once_exactly_one_gets_it() {
    let (_folder, _path, _clock, store) = fresh().await;
    store.enter(vec![letter("a", 10)]).await.unwrap();
    let names: Vec<String> = (0..20).map(|n| format!("h{n}")).collect();
    let claims = join_all(names.iter().map(|name| change(&store, "a", claim(name)))).await;
    let (won, lost): (Vec<_>, Vec<_>) = claims.into_iter().partition(|c| matches!(c, Changed::Done(_)));
    assert_eq!(won.len(), 1);
    assert!(
        lost.iter()
            .all(|c| *c == Changed::Conflict(LetterState::Retrying))
    );
    assert_eq!(
        steps(&store.trail("a").await.unwrap()),
        ["ann dead>retrying"],
        "losers leave no trace"
    );
    assert_eq!(change(&store, "nobody", claim("h")).await, Changed::Unknown);
}

#[tokio::test]
async fn only_the_holder_ends_what_it_began() {
    let (_folder, _path, clock, store) = fresh().await;
    store.enter(vec![letter("a", 10)]).await.unwrap();
    assert_eq!(
        done(change(&store, "a", claim("one")).await),
        DeadLetter {
            state: LetterState::Retrying,
            ..letter("a", 10)
        }
    );
    let held = Changed::Conflict(LetterState::Retrying);
    for wrong in [sent("two", None), give_back("two"), claim("two"), Change::Discard] {
        assert_eq!(change(&store, "a", wrong).await, held);
    }
    // Its lease ran out and somebody else has it: what the first one finished late counts no more.
    clock.set(1_000);
    assert_eq!(store.lapse().await.unwrap(), 1);
    done(change(&store, "a", claim("two")).await);
    assert_eq!(change(&store, "a", sent("one", None)).await, held);
    done(change(&store, "a", sent("two", None)).await);
    let reprocessed = Changed::Conflict(LetterState::Reprocessed);
    for late in [
        sent("two", None),
        give_back("two"),
        claim("three"),
        Change::Discard,
    ] {
        assert_eq!(change(&store, "a", late).await, reprocessed);
    }
}

#[tokio::test]
async fn every_change_is_in_the_trail_with_who_when_and_why() {
    let (folder, path, clock, store) = fresh().await;
    store.enter(vec![letter("a", 10), letter("b", 10)]).await.unwrap();
    clock.set(7);
    done(change(&store, "a", claim("h")).await);
    clock.set(8);
    done(change(&store, "a", give_back("h")).await);
    done(change(&store, "a", Change::Discard).await);
    assert_eq!(store.depth().await.unwrap(), [("topic".to_owned(), 1)]);
    let image = folder.path().join("image.db");
    crash_image(&path, &image);
    let after = open(&image, &clock).await;
    let trail = after.trail("a").await.unwrap();
    assert_eq!(
        steps(&trail),
        ["ann dead>retrying", "ann retrying>dead", "ann dead>discarded"]
    );
    assert_eq!(
        trail[0],
        Entry {
            at_ms: 7,
            from: LetterState::Dead,
            to: LetterState::Retrying,
            note: note("test"),
        }
    );
    assert_eq!(trail[2].at_ms, 8);
    assert_eq!(after.trail("b").await.unwrap(), []);
    // What was dealt with stays where it can be found, and out of the way.
    let count = async |filter: LetterFilter| -> u64 {
        let page = Page::default();
        after.list(&filter, &page).await.unwrap().count
    };
    let open = LetterFilter {
        open: true,
        ..LetterFilter::default()
    };
    let discarded = LetterFilter {
        state: Some(LetterState::Discarded),
        ..LetterFilter::default()
    };
    assert_eq!(
        (
            count(LetterFilter::default()).await,
            count(open).await,
            count(discarded).await
        ),
        (2, 1, 1)
    );
}

#[tokio::test]
async fn a_letter_whose_holder_is_gone_is_dead_again() {
    let (_folder, path, clock, store) = fresh().await;
    store.enter(vec![letter("a", 10), letter("b", 10)]).await.unwrap();
    done(change(&store, "a", claim("h")).await);
    clock.set(500);
    done(change(&store, "b", claim("h")).await);
    clock.set(999);
    assert_eq!(store.lapse().await.unwrap(), 0);
    clock.set(1_000);
    assert_eq!(store.lapse().await.unwrap(), 1);
    assert_eq!(state(&store, "a").await, LetterState::Dead);
    assert_eq!(state(&store, "b").await, LetterState::Retrying);
    assert_eq!(
        steps(&store.trail("a").await.unwrap()),
        ["ann dead>retrying", "host retrying>dead"]
    );
    // The next host on this file waits for nobody.
    store.close().await;
    let next = open(&path, &clock).await;
    next.park(vec![parked("p", 10, None)]).await.unwrap();
    assert_eq!(next.reclaim().await.unwrap(), 1);
    assert_eq!(state(&next, "b").await, LetterState::Dead);
    assert_eq!(
        steps(&next.trail("b").await.unwrap()),
        ["ann dead>retrying", "host retrying>dead"]
    );
}

#[tokio::test]
async fn a_message_is_parked_if_and_only_if_its_letter_says_that_it_was_sent() {
    let (_folder, path, _clock, store) = fresh().await;
    store.enter(vec![letter("a", 10)]).await.unwrap();
    done(change(&store, "a", claim("h")).await);
    let row = Parked {
        attempt: 1,
        history: Vec::new(),
        ..parked("a", 10, None)
    };
    let wrong = change(&store, "a", sent("other", Some(row.clone()))).await;
    assert_eq!(
        (wrong, store.count().await.unwrap()),
        (Changed::Conflict(LetterState::Retrying), 0)
    );
    let mut shell = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path))
        .await
        .unwrap();
    sqlx::raw_sql("CREATE TRIGGER stuck BEFORE INSERT ON parked BEGIN SELECT RAISE(ABORT, 'stuck'); END")
        .execute(&mut shell)
        .await
        .unwrap();
    let failed = DeadLetters::change(&store, "a", sent("h", Some(row.clone())), note("sent")).await;
    assert!(failed.is_err());
    assert_eq!(state(&store, "a").await, LetterState::Retrying);
    assert_eq!(store.trail("a").await.unwrap().len(), 1);
    sqlx::raw_sql("DROP TRIGGER stuck")
        .execute(&mut shell)
        .await
        .unwrap();
    done(change(&store, "a", sent("h", Some(row.clone()))).await);
    assert_eq!(store.claim_due(10, LEASE, 9).await.unwrap(), [row]);

    // Failing again it comes back to its row, with all it has been through.
    let failed = DeadLetter {
        attempts: vec![attempt(1)],
        reprocessed: 1,
        ..letter("a", 30)
    };
    assert_eq!(store.bury("a", failed).await.unwrap(), "a");
    let back = store.get("a").await.unwrap().unwrap();
    assert_eq!(back.attempts, [attempt(1), attempt(2), attempt(1)]);
    assert_eq!((back.state, back.reprocessed), (LetterState::Dead, 1));
    assert_eq!(back.raw, letter("a", 10).raw, "the message as it first came");
    assert_eq!(
        steps(&store.trail("a").await.unwrap()),
        [
            "ann dead>retrying",
            "ann retrying>reprocessed",
            "host reprocessed>dead"
        ]
    );
    assert_eq!(store.count().await.unwrap(), 0);
}

#[tokio::test]
async fn a_task_that_fails_again_has_one_letter_and_keeps_its_attempts() {
    let (_folder, _path, _clock, store) = fresh().await;
    let first = letter("a", 10);
    store.enter(vec![first.clone()]).await.unwrap();
    for times in 1..=2 {
        done(change(&store, "a", claim("h")).await);
        done(change(&store, "a", sent("h", None)).await);
        // A crash between writing and acknowledging enters it twice.
        for number in [7, 8] {
            let failed = again(&first, &format!("new{times}"), times, vec![attempt(number)]);
            assert_eq!(store.enter(vec![failed]).await.unwrap(), ["a"]);
        }
    }
    let all = store
        .list(&LetterFilter::default(), &Page::default())
        .await
        .unwrap();
    assert_eq!(all.count, 1);
    let back = &all.letters[0];
    assert_eq!(
        back.attempts,
        [attempt(1), attempt(2), attempt(8), attempt(8)],
        "one of each life after the first, though each was entered twice"
    );
    assert_eq!(
        (back.reprocessed, back.first_failure_ms, back.last_failure_ms),
        (2, 5, 50)
    );
    assert_eq!(back.raw, first.raw);
    assert_eq!(
        steps(&store.trail("a").await.unwrap())[2..],
        [
            "host reprocessed>dead",
            "ann dead>retrying",
            "ann retrying>reprocessed",
            "host reprocessed>dead"
        ]
    );
}

#[tokio::test]
async fn a_copy_whose_sending_was_never_recorded_still_comes_back_to_its_letter() {
    let (_folder, _path, clock, store) = fresh().await;
    let first = letter("a", 10);
    store.enter(vec![first.clone()]).await.unwrap();
    done(change(&store, "a", claim("h")).await);
    clock.set(1_000);
    store.lapse().await.unwrap();
    store
        .enter(vec![again(&first, "new", 1, vec![attempt(9)])])
        .await
        .unwrap();
    let back = store.get("a").await.unwrap().unwrap();
    assert_eq!(back.attempts, [attempt(1), attempt(2), attempt(9)]);
    assert_eq!(store.get("new").await.unwrap(), None);
}

#[tokio::test]
async fn a_header_that_lies_about_its_letter_changes_no_other_letter() {
    let (_folder, _path, _clock, store) = fresh().await;
    let first = letter("a", 10);
    store.enter(vec![first.clone()]).await.unwrap();
    let mut other_body = again(&first, "forged1", 1, vec![]);
    other_body.raw.body = Some(Bytes::from_static(b"something else"));
    let mut other_queue = again(&first, "forged2", 1, vec![]);
    other_queue.raw.origin.destination = "elsewhere".into();
    let mut other_broker = again(&first, "forged3", 1, vec![]);
    other_broker.raw.origin.broker = "elsewhere".into();
    let mut nobody = again(&first, "forged4", 1, vec![]);
    nobody.raw.headers.remove(header::LETTER);
    nobody.raw.headers.push(header::LETTER, "nobody");
    for forged in [other_body, other_queue, other_broker, nobody] {
        let id = forged.id.clone();
        assert_eq!(store.enter(vec![forged.clone()]).await.unwrap(), [id.as_str()]);
        assert_eq!(store.get(&id).await.unwrap(), Some(forged));
    }
    assert_eq!(store.get("a").await.unwrap(), Some(first));
}

#[tokio::test]
async fn the_attempts_of_a_letter_are_bounded() {
    let (_folder, _path, _clock, store) = fresh().await;
    let first = letter("a", 10);
    store.enter(vec![first.clone()]).await.unwrap();
    for times in 1..=60 {
        let attempts = (1..=4).map(|n| attempt(times * 10 + n)).collect();
        store
            .enter(vec![again(&first, "new", times, attempts)])
            .await
            .unwrap();
    }
    let back = store.get("a").await.unwrap().unwrap();
    assert_eq!(back.attempts.len(), 100);
    assert_eq!(back.attempts[99], attempt(604), "the latest stay");
}

#[tokio::test]
async fn letters_of_the_first_schema_are_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let create = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(true);
    let mut shell = SqliteConnection::connect_with(&create).await.unwrap();
    sqlx::raw_sql(include_str!("first_schema.sql"))
        .execute(&mut shell)
        .await
        .unwrap();
    sqlx::query(
        "INSERT INTO dead_letters (id, destination, class, reason, attempts, first_failure_ms, last_failure_ms, state, message)
         VALUES ('a', 'topic', 'rejected', 'no', '[]', 1, 2, 'dead', ?1)",
    )
    .bind(sql::codec::write(&message(b"a")))
    .execute(&mut shell)
    .await
    .unwrap();
    sqlx::raw_sql("PRAGMA user_version = 1")
        .execute(&mut shell)
        .await
        .unwrap();
    shell.close().await.unwrap();
    let store = open(&path, &Hands::at(0)).await;
    let old = store.get("a").await.unwrap().unwrap();
    assert_eq!(
        (old.raw, old.reprocessed, old.state),
        (message(b"a"), 0, LetterState::Dead)
    );
    done(change(&store, "a", claim("h")).await);
    done(change(&store, "a", sent("h", None)).await);
}

/// What may happen to a letter.
#[derive(Debug, Clone)]
enum Event {
    Claim(u8),
    Sent(u8),
    Edited(u8),
    GiveBack(u8),
    Discard,
    /// Its message fails again, having been sent.
    Fails,
    /// What failed before is delivered once more, and fails as it did.
    Redelivered,
    /// So much time goes by, and somebody looks for leases that ran out.
    Time(u64),
    /// The host dies, and the next one starts.
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..2u8).prop_map(Event::Claim),
        2 => (0..2u8).prop_map(Event::Sent),
        1 => (0..2u8).prop_map(Event::Edited),
        2 => (0..2u8).prop_map(Event::GiveBack),
        1 => Just(Event::Discard),
        1 => Just(Event::Fails),
        1 => Just(Event::Redelivered),
        2 => (1..1_500u64).prop_map(Event::Time),
        1 => Just(Event::Restart),
    ]
}

/// The same in a few lines.
#[derive(Default)]
struct Model {
    state: Option<(LetterState, Option<(u8, u64)>)>,
    now: u64,
    changes: usize,
    lives: u32,
}

impl Model {
    /// Whether it changes the letter.
    fn apply(&mut self, event: &Event) -> bool {
        use LetterState::{Dead, Discarded, Reprocessed, Retrying};
        let (state, held) = self.state.unwrap_or((Dead, None));
        let lease = u64::try_from(LEASE.as_millis()).unwrap();
        let holds = |holder: u8| held.is_some_and(|(by, _)| by == holder);
        self.lives += u32::from(matches!(event, Event::Fails));
        let next = match *event {
            Event::Claim(holder) if state == Dead => Some((Retrying, Some((holder, self.now + lease)))),
            Event::Sent(holder) if state == Retrying && holds(holder) => Some((Reprocessed, None)),
            Event::Edited(holder) if state == Retrying && holds(holder) => Some((Discarded, None)),
            Event::GiveBack(holder) if state == Retrying && holds(holder) => Some((Dead, None)),
            Event::Discard if state == Dead => Some((Discarded, None)),
            Event::Fails if state != Dead => Some((Dead, None)),
            // Who is sending it has it still.
            Event::Redelivered if matches!(state, Reprocessed | Discarded) => Some((Dead, None)),
            Event::Time(ms) => {
                self.now += ms;
                held.filter(|(_, until)| *until <= self.now).map(|_| (Dead, None))
            }
            Event::Restart if state == Retrying => Some((Dead, None)),
            _ => None,
        };
        self.changes += usize::from(next.is_some());
        self.state = next.or(Some((state, held)));
        next.is_some()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_letter_goes_the_ways_of_its_state_machine_and_no_other(events in prop::collection::vec(event(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_folder, path, clock, mut store) = fresh().await;
            store.enter(vec![letter("a", 10)]).await.unwrap();
            let mut model = Model::default();
            for event in &events {
                let changes = model.apply(event);
                let asked = match event {
                    Event::Claim(holder) => Some(claim(&holder.to_string())),
                    Event::Sent(holder) => Some(sent(&holder.to_string(), None)),
                    Event::Edited(holder) => Some(edited(&holder.to_string(), None)),
                    Event::GiveBack(holder) => Some(give_back(&holder.to_string())),
                    Event::Discard => Some(Change::Discard),
                    Event::Fails | Event::Redelivered => {
                        let letter = DeadLetter { reprocessed: model.lives, ..letter("a", 10) };
                        store.enter(vec![letter]).await.unwrap();
                        None
                    }
                    Event::Time(_) => {
                        clock.set(model.now);
                        assert_eq!(store.lapse().await.unwrap(), u64::from(changes));
                        None
                    }
                    Event::Restart => {
                        store.close().await;
                        store = open(&path, &clock).await;
                        store.reclaim().await.unwrap();
                        None
                    }
                };
                if let Some(asked) = asked {
                    assert!(asked.from().may_become(asked.to()));
                    let changed = change(&store, "a", asked).await;
                    assert_eq!(matches!(changed, Changed::Done(_)), changes, "{event:?}: {changed:?}");
                }
                let now = model.state.map(|(state, _)| state);
                assert_eq!(Some(state(&store, "a").await), now, "{event:?}");
                let dead = u64::from(now == Some(LetterState::Dead));
                assert_eq!(store.depth().await.unwrap().iter().map(|(_, n)| n).sum::<u64>(), dead);
            }
            let trail = store.trail("a").await.unwrap();
            assert_eq!(trail.len(), model.changes);
            let mut at = LetterState::Dead;
            for entry in &trail {
                assert_eq!(entry.from, at, "the trail has no gap");
                at = entry.to;
            }
            assert_eq!(at, state(&store, "a").await);
        });
    }
}
