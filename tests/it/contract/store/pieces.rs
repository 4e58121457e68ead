//! A job over many letters is made at once and its letters are written down in pieces: nobody waits for it, and it is the same
//! whoever does it, how often, and where a host dies in between.

use std::sync::Arc;

use helix_host::model::DeadLetter;
use helix_host::store::{
    Action, Change, Changed, Job, JobState, Jobs, LetterFilter, Member, Members, NewJob, Page,
};

use super::stage::{Engine, LEASE, Stage, Store, letter, note};

on_both! {
    a_large_job_is_made_at_once_and_has_the_letters_of_then
    a_job_goes_on_being_prepared_where_a_host_died
    a_job_that_is_cancelled_while_it_is_prepared_begins_nothing
    of_two_that_prepare_a_job_at_once_each_letter_is_in_it_once
}

const LETTERS: usize = 5_000;
/// Of the letters, those that the job is not for.
const OTHERS: usize = 7;

fn new(id: &str, filter: LetterFilter) -> NewJob {
    NewJob {
        id: id.to_owned(),
        action: Action::Reprocess,
        members: Members::Matching(filter),
        filter: None,
        rate: None,
        force: false,
        reason: None,
        actor: "ann".to_owned(),
    }
}

fn of_route() -> LetterFilter {
    LetterFilter {
        route: Some("r".to_owned()),
        ..LetterFilter::default()
    }
}

/// Letters whose first failures are the other way round than their ids.
async fn filled(stage: &Stage) -> Arc<dyn Store> {
    let store = stage.open().await;
    let of = |number: usize| DeadLetter {
        first_failure_ms: (LETTERS - number) as u64 / 3,
        route: Some(
            if number % (LETTERS / OTHERS) == 5 {
                "other"
            } else {
                "r"
            }
            .to_owned(),
        ),
        ..letter(&format!("l{number:04}"), 900_000)
    };
    let letters: Vec<DeadLetter> = (0..LETTERS).map(of).collect();
    for some in letters.chunks(500) {
        store.enter(some.to_vec()).await.unwrap();
    }
    store
}

async fn wanted(store: &dyn Store) -> Vec<String> {
    let (mut all, mut cursor) = (Vec::new(), None);
    loop {
        let page = Page {
            limit: 1_000,
            cursor,
            ..Page::default()
        };
        let found = store.list(&of_route(), &page).await.unwrap();
        all.extend(
            found
                .letters
                .into_iter()
                .map(|letter| (letter.first_failure_ms, letter.id)),
        );
        cursor = found.next;
        if cursor.is_none() {
            all.sort();
            return all.into_iter().map(|(_, id)| id).collect();
        }
    }
}

async fn members(store: &dyn Store, job: &Job) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let results = store.results(job.number, after, None, 1_000).await.unwrap();
        let Some(last) = results.last() else { return all };
        after = Some(last.place);
        assert_eq!(results[0].place, all.len() as u64 + 1, "places follow each other");
        all.extend(results.into_iter().map(|result| result.letter));
    }
}

async fn prepared(store: &dyn Store, job: &Job) -> Job {
    loop {
        let job = store.prepare(job.number).await.unwrap().unwrap();
        if job.state != JobState::Preparing {
            return job;
        }
    }
}

async fn a_large_job_is_made_at_once_and_has_the_letters_of_then(stage: &Stage) {
    let store = filled(stage).await;
    let want = wanted(&*store).await;
    assert_eq!(want.len(), LETTERS - OTHERS);
    let made = store.create(new("j", of_route())).await.unwrap();
    assert_eq!(made.state, JobState::Preparing);
    assert!(made.total > 0 && made.total <= 2_000, "{}", made.total);
    // Before the others in its order, and too late.
    let late = DeadLetter {
        first_failure_ms: LETTERS as u64 / 3 - 1,
        ..letter("late", 900_001)
    };
    store.enter(vec![late]).await.unwrap();
    // Dealt with before its turn came.
    let gone = want.last().unwrap().clone();
    store
        .change(&gone, Change::Discard, note("discard"))
        .await
        .unwrap();
    // Whoever runs jobs has it as it is, and nothing of it is begun.
    let taken = Jobs::take(&*store, "h", LEASE).await.unwrap().unwrap();
    assert_eq!((taken.state, taken.started_ms), (JobState::Preparing, None));
    assert!(Jobs::take(&*store, "other", LEASE).await.unwrap().is_none());
    assert!(store.renew(made.number, "h", LEASE, None).await.unwrap());
    let member = Member {
        job: made.number,
        place: 1,
        holder: "h".to_owned(),
    };
    let claim = Change::Claim {
        holder: "c".to_owned(),
        lease: LEASE,
    };
    let begun = store
        .change_member(&member, &want[0], claim, note("reprocess"))
        .await;
    assert_eq!(begun.unwrap(), Changed::Stopped);

    let ready = prepared(&*store, &made).await;
    assert_eq!(
        (ready.state, ready.total),
        (JobState::Pending, want.len() as u64 - 1)
    );
    let mut had = want.clone();
    had.pop();
    assert_eq!(members(&*store, &made).await, had);
    assert_eq!(
        store.prepare(made.number).await.unwrap(),
        Some(ready),
        "there is no more to do"
    );
    let running = Jobs::take(&*store, "other", LEASE).await.unwrap().unwrap();
    assert_eq!(
        (running.state, running.started_ms),
        (JobState::Running, Some(1_000))
    );

    // The same by words.
    let by_words = LetterFilter {
        text: Some("brok top".to_owned()),
        ..of_route()
    };
    let made = store.create(new("k", by_words)).await.unwrap();
    assert_eq!(made.state, JobState::Preparing);
    let ready = prepared(&*store, &made).await;
    assert_eq!(
        ready.total,
        want.len() as u64,
        "with the late one, without the one that is gone"
    );
    // Few of many are there at once.
    let few = LetterFilter {
        route: Some("other".to_owned()),
        ..LetterFilter::default()
    };
    let made = store.create(new("l", few)).await.unwrap();
    assert_eq!((made.state, made.total), (JobState::Pending, OTHERS as u64));
    assert!(
        members(&*store, &made).await.is_sorted_by(|a, b| a > b),
        "by first failure"
    );
}

async fn a_job_goes_on_being_prepared_where_a_host_died(stage: &Stage) {
    let store = filled(stage).await;
    let want = wanted(&*store).await;
    let made = store.create(new("j", of_route())).await.unwrap();
    Jobs::take(&*store, "h", LEASE).await.unwrap().unwrap();
    drop(store);
    let store = stage.open().await;
    store.reclaim().await.unwrap();
    let taken = Jobs::take(&*store, "next", LEASE).await.unwrap().unwrap();
    assert_eq!((taken.state, taken.total), (JobState::Preparing, made.total));
    let ready = prepared(&*store, &made).await;
    assert_eq!(ready.total, want.len() as u64);
    assert_eq!(members(&*store, &made).await, want);
    assert!(
        Jobs::take(&*store, "next", LEASE).await.unwrap().is_some(),
        "anybody may run it"
    );
}

async fn a_job_that_is_cancelled_while_it_is_prepared_begins_nothing(stage: &Stage) {
    let store = filled(stage).await;
    let made = store.create(new("j", of_route())).await.unwrap();
    let cancelled = Jobs::cancel(&*store, "j", "ann").await.unwrap().unwrap();
    assert_eq!(cancelled.state, JobState::Cancelled);
    assert_eq!(store.prepare(made.number).await.unwrap(), Some(cancelled.clone()));
    assert_eq!(members(&*store, &made).await.len() as u64, cancelled.total);
    assert!(Jobs::take(&*store, "h", LEASE).await.unwrap().is_none());
}

async fn of_two_that_prepare_a_job_at_once_each_letter_is_in_it_once(stage: &Stage) {
    let store = filled(stage).await;
    let want = wanted(&*store).await;
    let made = store.create(new("j", of_route())).await.unwrap();
    let one = prepared(&*store, &made);
    let other = prepared(&*store, &made);
    let (one, other) = tokio::join!(one, other);
    assert_eq!((one.total, other.total), (want.len() as u64, want.len() as u64));
    assert_eq!(members(&*store, &made).await, want);
}
