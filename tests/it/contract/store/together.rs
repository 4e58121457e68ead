//! What a job changes at once, in few statements, is what it would change one by one.

use std::sync::Arc;

use futures::future::join_all;
use helix_host::model::LetterState;
use helix_host::store::{
    Action, Change, Changed, Ending, Entry, Job, Jobs, LetterFilter, Member, Members, NewJob, Page, Parked,
};

use super::stage::{Engine, LEASE, Stage, Store, letter, note, parked};

on_both! {
    changes_of_a_job_are_the_same_at_once_as_one_by_one
    what_a_job_sent_and_came_back_has_its_result
}

const LETTERS: usize = 150;

fn id(n: usize) -> String {
    format!("l{n:03}")
}

/// What befell a letter before the job comes to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Dead,
    Discarded,
    Claimed,
    /// The job is done with it.
    Recorded,
    /// A key waits behind it.
    Holding,
    /// Whoever claims it for the job is not who sends it.
    Foreign,
}

fn fate(n: usize) -> Fate {
    match n % 10 {
        1 => Fate::Discarded,
        2 => Fate::Claimed,
        3 => Fate::Recorded,
        4 | 9 => Fate::Holding,
        5 => Fate::Foreign,
        _ => Fate::Dead,
    }
}

async fn prepared(stage: &Stage) -> (Arc<dyn Store>, Job) {
    let store = stage.open().await;
    for n in 0..LETTERS {
        let letter = letter(&id(n), n as u64);
        if fate(n) == Fate::Holding {
            let row = parked(&format!("h{n}"), 1, Some(format!("key-{n}").as_bytes()));
            store.hold(row, letter).await.unwrap();
        } else {
            store.enter(vec![letter]).await.unwrap();
        }
    }
    let job = NewJob {
        id: "job".to_owned(),
        action: Action::Reprocess,
        members: Members::Ids((0..LETTERS).map(id).collect()),
        filter: None,
        rate: None,
        force: false,
        reason: None,
        actor: "ann".to_owned(),
    };
    store.create(job).await.unwrap();
    let job = Jobs::take(&*store, "h", LEASE).await.unwrap().unwrap();
    for n in 0..LETTERS {
        match fate(n) {
            Fate::Discarded => drop(
                store
                    .change(&id(n), Change::Discard, note("discard"))
                    .await
                    .unwrap(),
            ),
            Fate::Claimed => drop(
                store
                    .change(&id(n), claim("other"), note("reprocess"))
                    .await
                    .unwrap(),
            ),
            Fate::Recorded => {
                let had = Jobs::record(&*store, &member(&job, n), Ending::Skipped, None).await;
                assert!(had.unwrap());
            }
            Fate::Dead | Fate::Holding | Fate::Foreign => {}
        }
    }
    (store, job)
}

fn claim(holder: &str) -> Change {
    Change::Claim {
        holder: holder.to_owned(),
        lease: LEASE,
    }
}

/// Tasks and events by turns, events of three keys.
fn sent(n: usize) -> Change {
    let lane = format!("lane-{}", n % 3);
    let row = |n: usize| parked(&format!("p{n}"), 7, Some(lane.as_bytes()));
    Change::Sent {
        holder: if fate(n) == Fate::Foreign {
            "nobody".to_owned()
        } else {
            id(n)
        },
        park: (n % 2 == 1).then(|| Box::new(row(n))),
    }
}

fn member(job: &Job, n: usize) -> Member {
    Member {
        job: job.number,
        place: n as u64 + 1,
        holder: "h".to_owned(),
    }
}

/// All that can be seen of a store.
#[derive(Debug, PartialEq)]
struct Seen {
    letters: Vec<helix_host::model::DeadLetter>,
    trails: Vec<Vec<Entry>>,
    results: Vec<(u64, Option<Ending>)>,
    done: (u64, u64, u64),
    depth: Vec<(String, u64)>,
    due: Vec<Parked>,
    held: usize,
}

async fn seen(store: &dyn Store, job: &Job) -> Seen {
    let page = Page {
        limit: 1_000,
        ..Page::default()
    };
    let letters = store.list(&LetterFilter::default(), &page).await.unwrap().letters;
    let mut trails = Vec::new();
    for n in 0..LETTERS {
        trails.push(store.trail(&id(n)).await.unwrap());
    }
    let results = store.results(job.number, None, None, 1_000).await.unwrap();
    let now = store.job("job").await.unwrap().unwrap();
    Seen {
        letters,
        trails,
        results: results
            .into_iter()
            .map(|result| (result.place, result.ending))
            .collect(),
        done: (now.done, now.failed, now.skipped),
        depth: store.depth().await.unwrap(),
        due: store.claim_due(10_000, LEASE, 1_000).await.unwrap(),
        held: store.held(&Default::default()).await.unwrap().keys.len(),
    }
}

/// The host that sends it is killed before it writes that down, or hears no confirm: the job must not send it once more.
async fn what_a_job_sent_and_came_back_has_its_result(stage: &Stage) {
    let (store, job) = prepared(stage).await;
    let dead: Vec<usize> = (0..LETTERS).filter(|n| fate(*n) == Fate::Dead).take(4).collect();
    let [back, before, given_back, other] = dead[..] else {
        panic!("{dead:?}")
    };
    let by_job = async |n: usize| {
        store
            .change_member(&member(&job, n), &id(n), claim("x"), note("reprocess"))
            .await
            .unwrap()
    };
    let fails = async |n: usize, reprocessed| {
        let letter = helix_host::model::DeadLetter {
            reprocessed,
            ..letter(&id(n), 9_000)
        };
        store.enter(vec![letter]).await.unwrap();
    };
    for n in [back, before, given_back] {
        assert!(matches!(by_job(n).await, Changed::Done(_)), "{n}");
    }
    fails(back, 1).await;
    // The message that failed first, delivered a second time: of what the job sends that says nothing.
    fails(before, 0).await;
    let change = Change::GiveBack {
        holder: "x".to_owned(),
    };
    store
        .change_member(
            &member(&job, given_back),
            &id(given_back),
            change,
            note("not sent"),
        )
        .await
        .unwrap();
    // Somebody else sends these two.
    for n in [given_back, other] {
        let claimed = store.change(&id(n), claim("y"), note("reprocess")).await.unwrap();
        assert!(matches!(claimed, Changed::Done(_)), "{n}");
        fails(n, 1).await;
    }
    let results = store.results(job.number, None, None, 1_000).await.unwrap();
    let of = |n: usize| {
        results
            .iter()
            .find(|result| result.place == n as u64 + 1)
            .unwrap()
    };
    assert_eq!(of(back).ending, Some(Ending::Sent));
    for n in [before, given_back, other] {
        assert_eq!(of(n).ending, None, "{n}");
    }
    assert_eq!(store.job("job").await.unwrap().unwrap().done, 1);
    assert_eq!(by_job(back).await, Changed::Ended);
    let state = async |n: usize| store.get(&id(n)).await.unwrap().unwrap().state;
    assert_eq!(state(back).await, LetterState::Dead, "it is there to be seen");
    // Whoever is sending the other has it still.
    assert_eq!(state(before).await, LetterState::Retrying);
    assert_eq!(by_job(before).await, Changed::Conflict(LetterState::Retrying));
    let sent = Change::Sent {
        holder: "x".to_owned(),
        park: None,
    };
    let sent = store
        .change_member(&member(&job, before), &id(before), sent, note("sent"))
        .await;
    assert!(matches!(sent.unwrap(), Changed::Done(_)));
    // And one of a life before that does not take a life away: it would be sent under the same number again.
    fails(back, 0).await;
    assert_eq!(store.get(&id(back)).await.unwrap().unwrap().reprocessed, 1);
}

async fn changes_of_a_job_are_the_same_at_once_as_one_by_one(stage: &Stage) {
    let other = Stage::new(stage.engine);
    let (slow, job) = prepared(stage).await;
    let (quick, same) = prepared(&other).await;
    let mut said = Vec::new();
    for step in 0..2 {
        let change = |n: usize| if step == 0 { claim(&id(n)) } else { sent(n) };
        for n in 0..LETTERS {
            let changed = slow
                .change_member(&member(&job, n), &id(n), change(n), note("reprocess"))
                .await;
            said.push(changed.unwrap());
        }
        let all = (0..LETTERS).map(|n| {
            let quick = Arc::clone(&quick);
            let (member, change) = (member(&same, n), change(n));
            async move {
                let changed = quick
                    .change_member(&member, &id(n), change, note("reprocess"))
                    .await;
                changed.unwrap()
            }
        });
        assert_eq!(
            join_all(all).await,
            said.split_off(said.len() - LETTERS),
            "step {step}"
        );
    }
    let (one_by_one, at_once) = (seen(&*slow, &job).await, seen(&*quick, &same).await);
    assert_eq!(one_by_one, at_once);
    // They are what they should be, and not only alike.
    let states = |state| {
        at_once
            .letters
            .iter()
            .filter(|letter| letter.state == state)
            .count()
    };
    assert_eq!(states(LetterState::Discarded), LETTERS / 10);
    assert_eq!(
        states(LetterState::Dead),
        LETTERS / 10,
        "those that the job was done with"
    );
    assert_eq!(
        states(LetterState::Retrying),
        LETTERS / 5,
        "claimed by somebody else"
    );
    assert_eq!(states(LetterState::Reprocessed), LETTERS * 6 / 10);
    // With those that another claimed: their queue has them now.
    assert_eq!(at_once.done, (LETTERS as u64 * 7 / 10, 0, LETTERS as u64 / 10));
    assert_eq!(at_once.held, 0);
    let again = quick
        .change_member(&member(&same, 0), &id(0), claim("x"), note("reprocess"))
        .await;
    assert_eq!(again.unwrap(), Changed::Ended);
}
