//! Keys that wait behind a dead letter, on a real file: nothing overtakes the one that failed, and nothing is lost with it.

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::store::{
    Action, Change, Changed, Ending, HeldFilter, HeldKey, HeldKeys, HeldRoute, Jobs, Member, Members, NewJob,
    Note,
};

/// As late as a store can tell.
const NEVER: UnixMs = i64::MAX as UnixMs - 1;
/// Everything that waits for no letter is due, and no lease has ended.
const LATER: UnixMs = 100;

async fn change(store: &SqliteStore, id: &str, change: Change) -> Changed {
    let note = Note {
        actor: "ann".into(),
        action: "test".into(),
        reason: None,
    };
    DeadLetters::change(store, id, change, note).await.unwrap()
}

fn is_done(changed: &Changed) -> bool {
    matches!(changed, Changed::Done(_))
}

fn claim_change() -> Change {
    Change::Claim {
        holder: "h".into(),
        lease: LEASE,
    }
}

fn resume(row: Parked) -> Change {
    Change::Resume {
        holder: "h".into(),
        row: Box::new(row),
    }
}

async fn claimed(store: &SqliteStore) -> Vec<String> {
    let rows = store.claim_due(LATER, LEASE, 99).await.unwrap();
    rows.into_iter().map(|row| row.id).collect()
}

/// The first of lane `x` failed for good, two more came behind it, and one of another lane.
async fn held(store: &SqliteStore) {
    let row = parked("1", 10, Some("x"));
    assert_eq!(store.hold(row, letter("1", 10)).await.unwrap(), "1");
    for (id, lane) in [("2", "x"), ("3", "x"), ("4", "y")] {
        store.park(vec![parked(id, 10, Some(lane))]).await.unwrap();
    }
}

fn key(waiting: u64) -> HeldKey {
    HeldKey {
        route: "r".into(),
        lane: b"x".to_vec(),
        letter: "1".into(),
        since_ms: 7,
        waiting,
    }
}

#[tokio::test]
async fn a_key_waits_behind_its_letter_also_after_a_crash_and_others_do_not() {
    let (folder, path, clock, store) = fresh().await;
    clock.set(7);
    held(&store).await;
    assert_eq!(store.get("1").await.unwrap(), Some(letter("1", 10)));
    let image = folder.path().join("image.db");
    crash_image(&path, &image);
    let after = open(&image, &clock).await;
    after.reclaim().await.unwrap();
    assert_eq!(ids(&after.claim_due(NEVER, LEASE, 9).await.unwrap()), ["4"]);
    assert_eq!(
        after.lanes().await.unwrap().len(),
        2,
        "arrivals queue up behind it"
    );
    assert_eq!(after.held_by("1").await.unwrap(), Some(key(2)));
    assert_eq!(after.held_by("4").await.unwrap(), None);
    let page = after.held(&HeldFilter::default()).await.unwrap();
    assert_eq!((page.count, page.keys, page.next), (1, vec![key(2)], None));
    let routes = after.held_routes().await.unwrap();
    let route = HeldRoute {
        route: "r".into(),
        keys: 1,
        since_ms: 7,
    };
    assert_eq!(routes, [route]);
    assert_eq!(after.waiting().await.unwrap(), [("r".to_owned(), 2)]);
    // Delivered again because the crash took its acknowledgement: it is the same row, and it waits.
    after.park(vec![parked("1", 10, Some("x"))]).await.unwrap();
    assert_eq!(after.held_by("1").await.unwrap(), Some(key(2)));
}

#[tokio::test]
async fn a_row_that_fails_for_good_keeps_its_place() {
    let (_folder, _path, _clock, store) = fresh().await;
    for id in ["1", "2"] {
        store.park(vec![parked(id, 10, Some("x"))]).await.unwrap();
    }
    assert_eq!(claimed(&store).await, ["1"]);
    let failed = Parked {
        attempt: 4,
        ..parked("1", 10, Some("x"))
    };
    store.hold(failed, letter("1", 10)).await.unwrap();
    assert!(claimed(&store).await.is_empty());
    assert_eq!(store.held_by("1").await.unwrap().unwrap().waiting, 1);
}

#[tokio::test]
async fn sent_again_it_runs_in_its_place_and_failing_again_it_is_the_same_letter() {
    let (_folder, _path, clock, store) = fresh().await;
    held(&store).await;
    let again = |attempts: Vec<Attempt>| DeadLetter {
        attempts,
        reprocessed: 1,
        ..letter("1", 20)
    };
    let row = Parked {
        attempt: 1,
        history: Vec::new(),
        raw: message(b"stamped"),
        ..parked("other", 30, Some("x"))
    };
    let refused = change(&store, "1", resume(row.clone())).await;
    assert_eq!(refused, Changed::Conflict(LetterState::Dead), "nobody claimed it");
    assert!(is_done(&change(&store, "1", claim_change()).await));
    for wrong in [Change::Release, Change::Discard] {
        let conflict = Changed::Conflict(LetterState::Retrying);
        assert_eq!(change(&store, "1", wrong).await, conflict);
    }
    assert!(is_done(&change(&store, "1", resume(row.clone())).await));
    assert_eq!(store.held_by("1").await.unwrap(), None);
    clock.set(30);
    let due = store.claim_due(30, LEASE, 9).await.unwrap();
    assert_eq!(ids(&due), ["4", "1"], "2 and 3 wait behind it");
    assert_eq!(
        due[1],
        Parked {
            id: "1".into(),
            ..row.clone()
        }
    );
    let failed = Parked {
        id: "1".into(),
        ..row.clone()
    };
    store.hold(failed, again(vec![attempt(1)])).await.unwrap();
    let dead = store.get("1").await.unwrap().unwrap();
    assert_eq!((dead.state, dead.attempts.len()), (LetterState::Dead, 3));
    assert_eq!(store.held_by("1").await.unwrap().unwrap().waiting, 2);
    assert!(is_done(&change(&store, "1", claim_change()).await));
    assert!(is_done(&change(&store, "1", resume(row)).await));
    for id in ["1", "2", "3"] {
        assert_eq!(claimed(&store).await, [id]);
        store.complete(id).await.unwrap();
    }
    assert!(store.lane_is_empty("r", b"x").await.unwrap());
}

#[tokio::test]
async fn released_or_discarded_its_followers_go_on_and_it_does_not_run() {
    for (act, state) in [
        (Change::Release, LetterState::Dead),
        (Change::Discard, LetterState::Discarded),
    ] {
        let (_folder, _path, _clock, store) = fresh().await;
        held(&store).await;
        assert!(is_done(&change(&store, "1", act).await));
        assert_eq!(store.get("1").await.unwrap().unwrap().state, state);
        assert_eq!(store.trail("1").await.unwrap().len(), 1);
        assert_eq!(claimed(&store).await, ["2", "4"]);
        store.complete("2").await.unwrap();
        assert_eq!(claimed(&store).await, ["3"]);
        let again = change(&store, "1", Change::Release).await;
        assert_eq!(
            again,
            Changed::Conflict(state),
            "nothing waits behind it any more"
        );
    }
    let (_folder, _path, _clock, store) = fresh().await;
    assert_eq!(change(&store, "no", Change::Release).await, Changed::Unknown);
}

#[tokio::test]
async fn a_letter_and_the_key_behind_it_change_together_or_not_at_all() {
    let (_folder, path, _clock, store) = fresh().await;
    let mut shell = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path))
        .await
        .unwrap();
    let stuck = async |shell: &mut SqliteConnection, when: &str| {
        let trigger =
            format!("CREATE TRIGGER stuck BEFORE {when} ON parked BEGIN SELECT RAISE(ABORT, 'stuck'); END");
        sqlx::raw_sql(sqlx::AssertSqlSafe(trigger))
            .execute(shell)
            .await
            .unwrap();
    };
    let free = async |shell: &mut SqliteConnection| {
        sqlx::raw_sql("DROP TRIGGER stuck").execute(shell).await.unwrap();
    };
    stuck(&mut shell, "UPDATE").await;
    let row = parked("1", 10, Some("x"));
    assert!(store.hold(row.clone(), letter("1", 10)).await.is_err());
    assert_eq!(store.get("1").await.unwrap(), None);
    assert!(store.lane_is_empty("r", b"x").await.unwrap());
    free(&mut shell).await;
    held(&store).await;
    change(&store, "1", claim_change()).await;
    stuck(&mut shell, "UPDATE").await;
    let note = || Note {
        actor: "ann".into(),
        action: "test".into(),
        reason: None,
    };
    assert!(
        DeadLetters::change(&store, "1", resume(row), note())
            .await
            .is_err()
    );
    assert_eq!(
        store.get("1").await.unwrap().unwrap().state,
        LetterState::Retrying
    );
    free(&mut shell).await;
    let holder = "h".to_owned();
    change(&store, "1", Change::GiveBack { holder }).await;
    stuck(&mut shell, "DELETE").await;
    for act in [Change::Release, Change::Discard] {
        assert!(DeadLetters::change(&store, "1", act, note()).await.is_err());
        assert_eq!(store.get("1").await.unwrap().unwrap().state, LetterState::Dead);
        assert!(store.held_by("1").await.unwrap().is_some());
    }
}

#[tokio::test]
async fn sent_by_somebody_who_did_not_know_of_its_key_it_runs_in_its_place_all_the_same() {
    let own = parked("1", 10, None);
    for park in [Some(Box::new(own)), None] {
        let (_folder, _path, clock, store) = fresh().await;
        held(&store).await;
        change(&store, "1", claim_change()).await;
        clock.set(10);
        let holder = "h".to_owned();
        assert!(is_done(&change(&store, "1", Change::Sent { holder, park }).await));
        assert_eq!(store.held_by("1").await.unwrap(), None);
        let due = store.claim_due(10, LEASE, 9).await.unwrap();
        assert!(ids(&due).contains(&"1") && !ids(&due).contains(&"2"), "{due:?}");
    }
}

#[tokio::test]
async fn an_edited_copy_runs_in_its_place_and_sent_elsewhere_its_followers_go_on() {
    let copy = Parked {
        raw: message(b"copy"),
        ..parked("copy", 30, Some("x"))
    };
    for (park, due) in [(Some(Box::new(copy.clone())), ["4", "copy"]), (None, ["2", "4"])] {
        let (_folder, _path, clock, store) = fresh().await;
        held(&store).await;
        change(&store, "1", claim_change()).await;
        clock.set(30);
        let holder = "h".to_owned();
        let in_place = park.is_some();
        assert!(is_done(
            &change(&store, "1", Change::Edited { holder, park }).await
        ));
        assert_eq!(store.held_by("1").await.unwrap(), None);
        let rows = store.claim_due(30, LEASE, 9).await.unwrap();
        assert_eq!(ids(&rows), due);
        if in_place {
            assert_eq!(rows[1], copy);
            store.complete("copy").await.unwrap();
            assert_eq!(claimed(&store).await, ["2"]);
        }
    }
}

#[tokio::test]
async fn a_job_takes_the_key_behind_a_letter_along() {
    for (act, result, due) in [
        (Change::Discard, Ending::Discarded, "2"),
        (resume(parked("1", 10, Some("x"))), Ending::Sent, "1"),
    ] {
        let (_folder, _path, _clock, store) = fresh().await;
        held(&store).await;
        let job = NewJob {
            id: "j".into(),
            action: Action::Reprocess,
            members: Members::Matching(LetterFilter::default()),
            filter: None,
            rate: None,
            force: false,
            reason: None,
            actor: "ann".into(),
        };
        store.create(job).await.unwrap();
        let job = store.take("host", LEASE).await.unwrap().unwrap();
        let member = Member {
            job: job.number,
            place: 1,
            holder: "host".into(),
        };
        let standing = store.standing(job.number, None, 9).await.unwrap();
        assert!(standing.iter().all(|letter| letter.holds), "{standing:?}");
        let note = || Note {
            actor: "ann".into(),
            action: "test".into(),
            reason: None,
        };
        if act.from() == LetterState::Retrying {
            let claim = store.change_member(&member, "1", claim_change(), note()).await;
            assert!(is_done(&claim.unwrap()));
        }
        assert!(is_done(
            &store.change_member(&member, "1", act, note()).await.unwrap()
        ));
        let results = store.results(job.number, None, None, 9).await.unwrap();
        assert_eq!(results[0].ending, Some(result));
        assert_eq!(claimed(&store).await, [due, "4"]);
    }
}

#[tokio::test]
async fn only_a_held_lane_has_a_bound() {
    let (_folder, _path, _clock, store) = fresh().await;
    held(&store).await;
    assert_eq!(store.room("r", b"x", 5).await.unwrap(), Some(2));
    assert_eq!(store.room("r", b"x", 2).await.unwrap(), Some(0));
    assert_eq!(
        store.room("r", b"y", 1).await.unwrap(),
        None,
        "it waits for a retry"
    );
    assert_eq!(store.room("q", b"x", 1).await.unwrap(), None);
}

#[tokio::test]
async fn held_keys_come_in_pages_by_route_and_age() {
    let (_folder, _path, clock, store) = fresh().await;
    for n in 0..5u64 {
        clock.set(n);
        let id = n.to_string();
        let row = Parked {
            route: if n < 3 { "r" } else { "q" }.into(),
            ..parked(&id, 10, Some(&id))
        };
        store.hold(row, letter(&id, 10)).await.unwrap();
    }
    let mut filter = HeldFilter {
        route: Some("r".into()),
        limit: 2,
        ..HeldFilter::default()
    };
    let first = store.held(&filter).await.unwrap();
    assert_eq!((first.count, first.keys.len()), (3, 2));
    filter.cursor = first.next;
    let second = store.held(&filter).await.unwrap();
    assert_eq!((second.keys[0].letter.as_str(), second.next), ("2", None));
    filter.cursor = Some("x".into());
    assert!(matches!(store.held(&filter).await, Err(Error::Invalid(_))));
    let old = HeldFilter {
        until_ms: Some(3),
        ..HeldFilter::default()
    };
    assert_eq!(store.held(&old).await.unwrap().count, 4);
    let routes = store.held_routes().await.unwrap();
    let keys: Vec<_> = routes
        .iter()
        .map(|r| (r.route.as_str(), r.keys, r.since_ms))
        .collect();
    assert_eq!(keys, [("q", 2, 3), ("r", 3, 0)]);
}

#[derive(Debug, Clone)]
enum Step {
    Park(u8),
    Claim,
    Complete(Index),
    /// What was claimed fails for good.
    Fail(Index),
    /// A message that is not in the store fails for good; only where its lane is empty there.
    FailFromMemory(u8),
    Resume(Index),
    Release(Index),
    Discard(Index),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let pick = any::<Index>;
    prop_oneof![
        4 => (0..2u8).prop_map(Step::Park),
        3 => Just(Step::Claim),
        2 => pick().prop_map(Step::Complete),
        2 => pick().prop_map(Step::Fail),
        1 => (0..2u8).prop_map(Step::FailFromMemory),
        1 => pick().prop_map(Step::Resume),
        1 => pick().prop_map(Step::Release),
        1 => pick().prop_map(Step::Discard),
        1 => Just(Step::Restart),
    ]
}

/// A lane is a queue; its head may be claimed, or held.
#[derive(Debug, Default)]
struct Model {
    lanes: [VecDeque<String>; 2],
    claimed: Vec<String>,
    held: Vec<String>,
    next: usize,
}

impl Model {
    fn name(&mut self) -> String {
        self.next += 1;
        format!("m{}", self.next)
    }

    fn due(&self) -> Vec<String> {
        let heads = self.lanes.iter().filter_map(VecDeque::front);
        let free = heads.filter(|id| !self.claimed.contains(*id) && !self.held.contains(*id));
        free.cloned().collect()
    }

    fn remove(&mut self, id: &str) {
        self.lanes
            .iter_mut()
            .for_each(|lane| lane.retain(|row| row != id));
    }

    fn lane_of(&self, id: &str) -> u8 {
        u8::from(self.lanes[1].iter().any(|row| row == id))
    }
}

fn row(id: &str, lane: u8) -> Parked {
    parked(id, 10, Some(if lane == 0 { "x" } else { "y" }))
}

fn pick(from: &mut Vec<String>, index: Index) -> Option<String> {
    (!from.is_empty()).then(|| from.swap_remove(index.index(from.len())))
}

async fn run(store: &SqliteStore, model: &mut Model, step: Step) {
    match step {
        Step::Park(lane) => {
            let id = model.name();
            store.park(vec![row(&id, lane)]).await.unwrap();
            model.lanes[usize::from(lane)].push_back(id);
        }
        Step::Claim => {
            let mut rows = claimed(store).await;
            let mut expected = model.due();
            rows.sort_unstable();
            expected.sort_unstable();
            assert_eq!(rows, expected);
            model.claimed.extend(rows);
        }
        Step::Complete(index) => {
            if let Some(id) = pick(&mut model.claimed, index) {
                store.complete(&id).await.unwrap();
                model.remove(&id);
            }
        }
        Step::Fail(index) => {
            if let Some(id) = pick(&mut model.claimed, index) {
                let row = row(&id, model.lane_of(&id));
                store.hold(row, letter(&id, 10)).await.unwrap();
                model.held.push(id);
            }
        }
        Step::FailFromMemory(lane) => {
            if model.lanes[usize::from(lane)].is_empty() {
                let id = model.name();
                store.hold(row(&id, lane), letter(&id, 10)).await.unwrap();
                model.lanes[usize::from(lane)].push_back(id.clone());
                model.held.push(id);
            }
        }
        Step::Resume(index) => {
            if let Some(id) = pick(&mut model.held, index) {
                let lane = model.lane_of(&id);
                assert!(is_done(&change(store, &id, claim_change()).await));
                assert!(is_done(&change(store, &id, resume(row(&id, lane))).await));
            }
        }
        Step::Release(index) => {
            if let Some(id) = pick(&mut model.held, index) {
                assert!(is_done(&change(store, &id, Change::Release).await));
                model.remove(&id);
            }
        }
        Step::Discard(index) => {
            if let Some(id) = pick(&mut model.held, index) {
                assert!(is_done(&change(store, &id, Change::Discard).await));
                model.remove(&id);
            }
        }
        Step::Restart => {
            store.reclaim().await.unwrap();
            model.claimed.clear();
        }
    }
    let mut shown: Vec<String> = Vec::new();
    for key in store.held(&HeldFilter::default()).await.unwrap().keys {
        let lane = usize::from(model.lane_of(&key.letter));
        assert_eq!(key.waiting as usize, model.lanes[lane].len() - 1);
        shown.push(key.letter);
    }
    shown.sort_unstable();
    let mut expected = model.held.clone();
    expected.sort_unstable();
    assert_eq!(shown, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn lanes_with_letters_are_queues_of_which_nothing_passes_a_held_head(
        steps in prop::collection::vec(step(), 1..40)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_folder, _path, _clock, store) = fresh().await;
            let mut model = Model::default();
            for step in steps {
                run(&store, &mut model, step).await;
            }
            store.close().await;
        });
    }
}
