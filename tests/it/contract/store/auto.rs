//! What the host does with letters by itself: only as long as a letter is as it was seen, and neither too early nor twice.

use std::time::Duration;

use futures::future::join_all;
use helix_host::model::{FailureClass, LetterState};
use helix_host::store::{
    Action, AutoLetters, Candidate, Change, Changed, DeadLetters, Decided, Jobs, LetterFilter, Mark, Members,
    NewJob, Page, Progress, Settled, Step, Turn,
};

use super::stage::{Engine, LEASE, Stage, Store, letter, note, parked, postgres, schema};

on_both! {
    a_letter_is_claimed_only_as_it_was_seen
    a_person_makes_the_host_begin_anew
    what_is_exhausted_waits_for_a_person
    what_no_policy_wants_is_out_of_the_way_until_policies_change
    letters_that_nobody_dealt_with_expire_but_not_what_somebody_waits_for
    closed_letters_are_deleted_with_their_trail_and_counts_agree
    what_fails_again_after_its_letter_was_deleted_is_a_new_letter
}

const EXHAUSTED: [FailureClass; 1] = [FailureClass::Exhausted];

fn so_far(attempts: u32, due_ms: u64) -> Progress {
    Progress { attempts, due_ms }
}

async fn turn(store: &dyn Store, id: &str, seen: Progress, next: Progress) -> Changed {
    let turn = Turn { seen, next };
    store
        .claim_turn(id, &turn, "h".into(), LEASE, note("reprocess"))
        .await
        .unwrap()
}

async fn change(store: &dyn Store, id: &str, change: Change) {
    let changed = store.change(id, change, note("test")).await.unwrap();
    assert!(matches!(changed, Changed::Done(_)), "{changed:?}");
}

async fn due(store: &dyn Store, now: u64) -> Vec<String> {
    let found = store.candidates(&EXHAUSTED, now, 100).await.unwrap();
    found.into_iter().map(|candidate| candidate.id).collect()
}

async fn known(store: &dyn Store, id: &str) -> Option<(Progress, Mark)> {
    let known = AutoLetters::progress(store, &[id.to_owned()]).await.unwrap();
    known
        .into_iter()
        .next()
        .map(|(_, progress, mark)| (progress, mark))
}

fn claim() -> Change {
    Change::Claim {
        holder: "ann".into(),
        lease: LEASE,
    }
}

fn give_back(holder: &str) -> Change {
    Change::GiveBack {
        holder: holder.into(),
    }
}

async fn settle(store: &dyn Store, id: &str, seen: Progress, step: Step) -> Settled {
    let letter = id.to_owned();
    store
        .settle("dlq.auto", vec![Decided { letter, seen, step }])
        .await
        .unwrap()
}

fn archive() -> Step {
    Step::Archive {
        why: "used up".into(),
    }
}

fn discard() -> Step {
    Step::Discard {
        why: "used up".into(),
    }
}

async fn a_letter_is_claimed_only_as_it_was_seen(stage: &Stage) {
    let store = stage.open().await;
    store.enter(vec![letter("a", 1), letter("b", 1)]).await.unwrap();
    assert_eq!(due(&*store, 0).await, ["a", "b"]);
    let fresh = Progress::default();
    let claimed = turn(&*store, "a", fresh, so_far(1, 500)).await;
    assert!(matches!(&claimed, Changed::Done(letter) if letter.state == LetterState::Retrying));
    // A second host that saw the same.
    let second = turn(&*store, "a", fresh, so_far(1, 500)).await;
    assert_eq!(second, Changed::Conflict(LetterState::Retrying));
    change(&*store, "a", give_back("h")).await;
    let late = turn(&*store, "a", fresh, so_far(1, 500)).await;
    assert_eq!(
        late,
        Changed::Conflict(LetterState::Dead),
        "it is not as it was seen"
    );
    assert_eq!(settle(&*store, "a", fresh, discard()).await, Settled::default());
    assert_eq!(
        (due(&*store, 499).await, due(&*store, 500).await),
        (vec!["b".into()], vec!["b".into(), "a".into()])
    );
    // Through a new start, and however it comes back.
    store.close().await;
    let store = stage.open().await;
    store.enter(vec![letter("a", 90)]).await.unwrap();
    assert_eq!(known(&*store, "a").await, Some((so_far(1, 500), Mark::Open)));
    assert_eq!(turn(&*store, "gone", fresh, fresh).await, Changed::Unknown);
    let trail = store.trail("a").await.unwrap();
    assert_eq!(trail.len(), 2, "those who came too late leave no trace");
}

async fn a_person_makes_the_host_begin_anew(stage: &Stage) {
    let store = stage.open().await;
    store.enter(vec![letter("a", 1)]).await.unwrap();
    turn(&*store, "a", Progress::default(), so_far(2, 500)).await;
    change(&*store, "a", give_back("h")).await;
    change(&*store, "a", claim()).await;
    change(&*store, "a", give_back("ann")).await;
    assert_eq!(known(&*store, "a").await, None);
    assert_eq!(due(&*store, 0).await, ["a"]);
    // What was decided before that is not done any more.
    assert_eq!(
        settle(&*store, "a", so_far(2, 500), discard()).await,
        Settled::default()
    );
    assert_eq!(store.get("a").await.unwrap().unwrap().state, LetterState::Dead);
}

async fn what_is_exhausted_waits_for_a_person(stage: &Stage) {
    let store = stage.open().await;
    store.enter(vec![letter("a", 1), letter("b", 1)]).await.unwrap();
    let fresh = Progress::default();
    let one = |archived, discarded| Settled { archived, discarded };
    assert_eq!(settle(&*store, "a", fresh, archive()).await, one(1, 0));
    assert_eq!(settle(&*store, "a", fresh, archive()).await, one(0, 0));
    assert_eq!(settle(&*store, "b", fresh, discard()).await, one(0, 1));
    assert_eq!(
        store.get("a").await.unwrap().unwrap().state,
        LetterState::Dead,
        "and visible"
    );
    assert_eq!(
        store.get("b").await.unwrap().unwrap().state,
        LetterState::Discarded
    );
    for (id, action) in [("a", "archive"), ("b", "discard")] {
        let trail = store.trail(id).await.unwrap();
        let [entry] = trail.as_slice() else {
            panic!("{trail:?}")
        };
        assert_eq!((&*entry.note.actor, &*entry.note.action), ("dlq.auto", action));
        assert_eq!(entry.note.reason.as_deref(), Some("used up"));
    }
    // Failing again changes nothing about it; a person does.
    store.enter(vec![letter("a", 9)]).await.unwrap();
    assert_eq!(due(&*store, u64::MAX / 2).await, Vec::<String>::new());
    assert_eq!(known(&*store, "a").await, Some((fresh, Mark::Exhausted)));
    assert_eq!(
        turn(&*store, "a", fresh, so_far(1, 1)).await,
        Changed::Conflict(LetterState::Dead)
    );
    change(&*store, "a", claim()).await;
    change(&*store, "a", give_back("ann")).await;
    assert_eq!(due(&*store, 0).await, ["a"]);
}

async fn what_no_policy_wants_is_out_of_the_way_until_policies_change(stage: &Stage) {
    let store = stage.open().await;
    let letters = ["a", "b", "c", "d"].map(|id| letter(id, 1));
    store.enter(letters.to_vec()).await.unwrap();
    let fresh = Progress::default();
    for (id, policies) in [("a", "p1"), ("b", "p2"), ("c", "p3")] {
        let policies = policies.to_owned();
        settle(&*store, id, fresh, Step::Leave { policies }).await;
    }
    settle(&*store, "d", fresh, archive()).await;
    assert_eq!(due(&*store, 9).await, Vec::<String>::new());
    assert_eq!(known(&*store, "a").await, Some((fresh, Mark::Left)));
    assert_eq!(store.reconsider("p2", 1).await.unwrap(), 1);
    assert_eq!(store.reconsider("p2", 9).await.unwrap(), 1);
    assert_eq!(store.reconsider("p2", 9).await.unwrap(), 0);
    assert_eq!(
        due(&*store, 9).await,
        ["a", "c"],
        "neither b nor what is exhausted"
    );
}

fn job(id: &str, letters: &[&str]) -> NewJob {
    NewJob {
        id: id.into(),
        action: Action::Reprocess,
        members: Members::Ids(letters.iter().map(|&id| id.to_owned()).collect()),
        filter: None,
        rate: None,
        force: false,
        reason: None,
        actor: "ann".into(),
    }
}

async fn letters_that_nobody_dealt_with_expire_but_not_what_somebody_waits_for(stage: &Stage) {
    let store = stage.open().await;
    let old = ["a", "b", "held", "job", "sent", "ended"].map(|id| letter(id, 100));
    store.enter(old.to_vec()).await.unwrap();
    store.enter(vec![letter("young", 101)]).await.unwrap();
    store
        .hold(parked("held", 5, Some(b"k")), letter("held", 100))
        .await
        .unwrap();
    store.create(job("one", &["job"])).await.unwrap();
    store.create(job("two", &["ended"])).await.unwrap();
    Jobs::cancel(&*store, "two", "ann").await.unwrap();
    change(&*store, "sent", claim()).await;
    assert_eq!(store.expire(99, "too old", 9).await.unwrap(), 0);
    assert_eq!(
        store.expire(100, "too old", 2).await.unwrap(),
        2,
        "no more than were asked for"
    );
    assert_eq!(store.expire(100, "too old", 9).await.unwrap(), 1);
    assert_eq!(store.expire(100, "too old", 9).await.unwrap(), 0);
    let state = async |id| store.get(id).await.unwrap().unwrap().state.as_str();
    for (id, expected) in [
        ("a", "expired"),
        ("b", "expired"),
        ("ended", "expired"),
        ("held", "dead"),
        ("job", "dead"),
        ("sent", "retrying"),
        ("young", "dead"),
    ] {
        assert_eq!(state(id).await, expected, "{id}");
    }
    let trail = store.trail("a").await.unwrap();
    let [entry] = trail.as_slice() else {
        panic!("{trail:?}")
    };
    assert_eq!(
        (&*entry.note.actor, entry.note.reason.as_deref()),
        ("host", Some("too old"))
    );
    let conflict = store.change("a", claim(), note("reprocess")).await.unwrap();
    assert_eq!(conflict, Changed::Conflict(LetterState::Expired));
    // Neither sent by the host while a job has it before it, nor one that is held by nobody's fault.
    assert_eq!(due(&*store, 9).await, ["held", "young"]);
}

async fn closed_letters_are_deleted_with_their_trail_and_counts_agree(stage: &Stage) {
    let store = stage.open().await;
    let all = ["discarded", "expired", "dead", "sent", "late"].map(|id| letter(id, 100));
    store.enter(all.to_vec()).await.unwrap();
    // At 1,000 by the clock of the store.
    change(&*store, "discarded", Change::Discard).await;
    change(&*store, "sent", claim()).await;
    let sent = Change::Sent {
        holder: "ann".into(),
        park: None,
    };
    change(&*store, "sent", sent).await;
    store.expire(100, "too old", 1).await.unwrap();
    stage.clock.forward(500);
    change(&*store, "late", Change::Discard).await;
    // It came back to life, and is not closed any more.
    store.enter(vec![letter("sent", 700)]).await.unwrap();
    assert_eq!(store.forget_closed(999, 9).await.unwrap(), 0);
    assert_eq!(store.forget_closed(1_000, 1).await.unwrap(), 1);
    assert_eq!(store.forget_closed(1_499, 9).await.unwrap(), 1);
    let left = store
        .list(&LetterFilter::default(), &Page::default())
        .await
        .unwrap();
    let mut ids: Vec<_> = left.letters.iter().map(|letter| letter.id.as_str()).collect();
    ids.sort_unstable();
    // By age, then by id: "dead" is the one that expired.
    assert_eq!((left.count, ids), (3, vec!["expired", "late", "sent"]));
    assert_eq!(store.depth().await.unwrap(), [("topic".to_owned(), 2)]);
    assert_eq!(store.trail("discarded").await.unwrap(), []);
    assert_eq!(store.trail("late").await.unwrap().len(), 1);
    let found = store.groups(&LetterFilter::default(), 9).await.unwrap();
    assert_eq!((found.count, found.groups[0].count), (1, 3));
    assert_eq!(store.forget_closed(u64::MAX, 9).await.unwrap(), 1);
}

async fn what_fails_again_after_its_letter_was_deleted_is_a_new_letter(stage: &Stage) {
    let store = stage.open().await;
    store.enter(vec![letter("a", 100)]).await.unwrap();
    change(&*store, "a", Change::Discard).await;
    assert_eq!(store.forget_closed(1_000, 9).await.unwrap(), 1);
    store.enter(vec![letter("a", 200)]).await.unwrap();
    assert_eq!(store.get("a").await.unwrap(), Some(letter("a", 200)));
    assert_eq!(store.trail("a").await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hosts_that_look_at_the_same_letters_one_sends_each() {
    let (clock, schema) = (super::stage::Hands::at(1_000), schema());
    let (one, two) = tokio::join!(postgres(&schema, "one", &clock), postgres(&schema, "two", &clock));
    let letters: Vec<_> = (0..200).map(|n| letter(&format!("n{n}"), n)).collect();
    one.enter(letters).await.unwrap();
    // Both have looked before either acts.
    let seen_by_one = one.candidates(&EXHAUSTED, 1_000, 1_000).await.unwrap();
    let seen_by_two = two.candidates(&EXHAUSTED, 1_000, 1_000).await.unwrap();
    assert_eq!((seen_by_one.len(), seen_by_two.len()), (200, 200));
    let send = async |store: &dyn Store, host: &str, seen: &[Candidate]| {
        let turns = seen.iter().map(async |candidate| {
            let turn = Turn {
                seen: candidate.progress,
                next: so_far(1, 5_000),
            };
            let claimed = store
                .claim_turn(
                    &candidate.id,
                    &turn,
                    host.to_owned(),
                    Duration::from_secs(9),
                    note("reprocess"),
                )
                .await
                .unwrap();
            usize::from(matches!(claimed, Changed::Done(_)))
        });
        join_all(turns).await.into_iter().sum::<usize>()
    };
    let (a, b) = tokio::join!(send(&one, "one", &seen_by_one), send(&two, "two", &seen_by_two));
    assert_eq!(a + b, 200);
    for n in 0..200 {
        assert_eq!(one.trail(&format!("n{n}")).await.unwrap().len(), 1);
    }
    // And both clear up at once.
    let expire = async |store: &dyn Store| {
        let mut all = 0;
        for _ in 0..40 {
            all += store.expire(u64::MAX / 2, "too old", 7).await.unwrap();
        }
        all
    };
    for n in 0..200 {
        let holder = if n % 2 == 0 { "one" } else { "two" };
        let _ = one
            .change(&format!("n{n}"), give_back(holder), note("test"))
            .await
            .unwrap();
        let other = if n % 2 == 0 { "two" } else { "one" };
        let _ = one
            .change(&format!("n{n}"), give_back(other), note("test"))
            .await
            .unwrap();
    }
    let (a, b) = tokio::join!(expire(&one), expire(&two));
    assert_eq!(a + b, 200, "each once");
    assert_eq!(one.depth().await.unwrap(), []);
}
