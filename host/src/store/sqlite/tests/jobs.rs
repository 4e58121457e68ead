//! Jobs on a real file: who belongs to one is fixed, one host has it at a time, each letter gets one result, and after a
//! cancel none is begun.

use super::*;
use crate::store::{Action, Change, Changed, Ending, Job, JobState, Jobs, Member, Members, NewJob, Note};

fn new(id: &str, members: Members) -> NewJob {
    NewJob {
        id: id.into(),
        action: Action::Reprocess,
        members,
        filter: Some("{}".into()),
        rate: Some(5),
        force: false,
        reason: Some("fixed".into()),
        actor: "ann".into(),
    }
}

fn everything() -> Members {
    Members::Matching(LetterFilter::default())
}

fn note() -> Note {
    Note {
        actor: "ann".into(),
        action: "test".into(),
        reason: None,
    }
}

fn claim() -> Change {
    Change::Claim {
        holder: "claim".into(),
        lease: LEASE,
    }
}

fn sent() -> Change {
    Change::Sent {
        holder: "claim".into(),
        park: None,
    }
}

fn member(job: &Job, place: u64, holder: &str) -> Member {
    Member {
        job: job.number,
        place,
        holder: holder.into(),
    }
}

async fn take(store: &SqliteStore, holder: &str) -> Option<Job> {
    store.take(holder, LEASE).await.unwrap()
}

async fn job_of(store: &SqliteStore, id: &str) -> Job {
    store.job(id).await.unwrap().unwrap()
}

/// Three letters that failed first in the order c, a, b.
async fn three() -> (tempfile::TempDir, PathBuf, Arc<Hands>, SqliteStore) {
    let (folder, path, clock, store) = fresh().await;
    let first = |id: &str, at| DeadLetter {
        first_failure_ms: at,
        ..letter(id, 100)
    };
    store
        .enter(vec![first("a", 20), first("b", 30), first("c", 10)])
        .await
        .unwrap();
    (folder, path, clock, store)
}

async fn letters(store: &SqliteStore, job: &Job) -> Vec<String> {
    let results = store.results(job.number, None, None, 100).await.unwrap();
    results.into_iter().map(|r| r.letter).collect()
}

#[tokio::test]
async fn who_belongs_to_a_job_is_fixed_when_it_is_made() {
    let (folder, path, clock, store) = three().await;
    clock.set(7);
    DeadLetters::change(&store, "b", Change::Discard, note())
        .await
        .unwrap();
    let made = store.create(new("j", everything())).await.unwrap();
    assert_eq!(
        (made.state, made.total, made.created_ms),
        (JobState::Pending, 2, 7)
    );
    store.enter(vec![letter("later", 200)]).await.unwrap();
    assert_eq!(letters(&store, &made).await, ["c", "a"], "by first failure");
    let ids = ["b", "a", "a", "c"].map(String::from).to_vec();
    let by_id = store.create(new("k", Members::Ids(ids))).await.unwrap();
    assert_eq!(letters(&store, &by_id).await, ["c", "a", "b"]);
    let unknown = store
        .create(new("l", Members::Ids(vec!["a".into(), "nobody".into()])))
        .await;
    assert!(matches!(unknown, Err(Error::Invalid(why)) if why.contains("nobody")));
    assert_eq!(store.job("l").await.unwrap(), None, "all or nothing");
    let nothing = LetterFilter {
        route: Some("none".into()),
        ..LetterFilter::default()
    };
    let empty = store.create(new("m", Members::Matching(nothing))).await.unwrap();
    assert_eq!((empty.state, empty.total), (JobState::Completed, 0));
    let newest: Vec<String> = store
        .jobs(None, 2)
        .await
        .unwrap()
        .into_iter()
        .map(|j| j.id)
        .collect();
    assert_eq!(newest, ["m", "k"]);
    let next = store.jobs(Some(by_id.number), 2).await.unwrap();
    assert_eq!(next, [job_of(&store, "j").await], "from behind it on");
    let image = folder.path().join("image.db");
    crash_image(&path, &image);
    let after = open(&image, &clock).await;
    assert_eq!(job_of(&after, "j").await, made);
    assert_eq!(letters(&after, &made).await, ["c", "a"]);
}

#[tokio::test]
async fn one_host_at_a_time_has_a_job_and_another_goes_on_when_its_lease_ends() {
    let (_folder, _path, clock, store) = three().await;
    store.create(new("j", everything())).await.unwrap();
    let holders: Vec<String> = (0..8).map(|n| format!("h{n}")).collect();
    let taken = join_all(holders.iter().map(|h| take(&store, h))).await;
    assert_eq!(taken.iter().flatten().count(), 1);
    let one = holders[taken.iter().position(Option::is_some).unwrap()].clone();
    let job = taken.into_iter().flatten().next().unwrap();
    assert_eq!((job.state, job.started_ms), (JobState::Running, Some(0)));
    clock.set(900);
    assert!(
        store
            .renew(job.number, &one, LEASE, Some("waits".into()))
            .await
            .unwrap()
    );
    assert_eq!(job_of(&store, "j").await.trouble.as_deref(), Some("waits"));
    assert!(!store.renew(job.number, "other", LEASE, None).await.unwrap());
    clock.set(1_899);
    assert!(take(&store, "two").await.is_none());
    clock.set(1_900);
    assert_eq!(take(&store, "two").await.unwrap().started_ms, Some(0));
    // Whoever had it can begin and end nothing any more.
    assert!(!store.renew(job.number, &one, LEASE, None).await.unwrap());
    assert!(!store.end(job.number, &one, None).await.unwrap());
    let stale = store
        .change_member(&member(&job, 1, &one), "c", claim(), note())
        .await;
    assert_eq!(stale.unwrap(), Changed::Stopped);
    store.let_go(job.number, &one).await.unwrap();
    assert!(
        take(&store, "three").await.is_none(),
        "it is not the first one's to let go"
    );
    store.let_go(job.number, "two").await.unwrap();
    assert!(take(&store, "three").await.is_some());
    // A start of the host that owns the file does not wait for leases of its last run.
    store.reclaim().await.unwrap();
    assert!(take(&store, "four").await.is_some());
    assert!(store.end(job.number, "four", None).await.unwrap());
    assert_eq!(job_of(&store, "j").await.state, JobState::Completed);
    clock.set(99_999);
    assert!(take(&store, "five").await.is_none());
}

#[tokio::test]
async fn a_result_comes_with_the_change_of_its_letter_and_once() {
    let (folder, path, clock, store) = three().await;
    store.create(new("j", everything())).await.unwrap();
    let job = take(&store, "h").await.unwrap();
    let at = |place| member(&job, place, "h");
    let claimed = store.change_member(&at(1), "c", claim(), note()).await.unwrap();
    assert!(matches!(claimed, Changed::Done(_)));
    assert_eq!(job_of(&store, "j").await.done, 0);
    store.change_member(&at(1), "c", sent(), note()).await.unwrap();
    // Its message failed again, and it is not sent a second time.
    store
        .enter(vec![DeadLetter {
            reprocessed: 1,
            ..letter("c", 300)
        }])
        .await
        .unwrap();
    let again = store.change_member(&at(1), "c", claim(), note()).await.unwrap();
    assert_eq!(again, Changed::Ended);
    assert!(!store.record(&at(1), Ending::Failed, None).await.unwrap());
    // So quick that its letter was dead again before it was written down that it was sent.
    store.change_member(&at(2), "a", claim(), note()).await.unwrap();
    store
        .enter(vec![DeadLetter {
            reprocessed: 1,
            ..letter("a", 300)
        }])
        .await
        .unwrap();
    let quick = store.change_member(&at(2), "a", sent(), note()).await.unwrap();
    assert_eq!(quick, Changed::Conflict(LetterState::Dead));
    assert!(
        store
            .record(&at(3), Ending::Skipped, Some("why".into()))
            .await
            .unwrap()
    );
    assert!(!store.record(&at(3), Ending::Failed, None).await.unwrap());

    let image = folder.path().join("image.db");
    crash_image(&path, &image);
    for store in [store, open(&image, &clock).await] {
        let job = job_of(&store, "j").await;
        assert_eq!((job.done, job.skipped, job.failed), (2, 1, 0));
        assert!(store.standing(job.number, None, 10).await.unwrap().is_empty());
        let results = store.results(job.number, None, None, 10).await.unwrap();
        let endings: Vec<_> = results.iter().map(|r| r.ending.unwrap()).collect();
        assert_eq!(endings, [Ending::Sent, Ending::Sent, Ending::Skipped]);
        let skipped = store
            .results(job.number, Some(1), Some(Ending::Skipped), 10)
            .await
            .unwrap();
        assert_eq!((skipped.len(), skipped[0].why.as_deref()), (1, Some("why")));
    }
}

#[tokio::test]
async fn what_failed_for_the_moment_has_no_result() {
    let (_folder, _path, _clock, store) = three().await;
    store.create(new("j", everything())).await.unwrap();
    let job = take(&store, "h").await.unwrap();
    store
        .change_member(&member(&job, 1, "h"), "c", claim(), note())
        .await
        .unwrap();
    let give_back = Change::GiveBack {
        holder: "claim".into(),
    };
    store
        .change_member(&member(&job, 1, "h"), "c", give_back, note())
        .await
        .unwrap();
    let standing = store.standing(job.number, None, 2).await.unwrap();
    let places: Vec<_> = standing.iter().map(|s| (s.place, s.id.as_str())).collect();
    assert_eq!(places, [(1, "c"), (2, "a")]);
    assert_eq!(standing[0].letter.as_ref().unwrap().state, LetterState::Dead);
    assert_eq!(store.standing(job.number, Some(2), 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn after_a_cancel_no_letter_is_begun_and_those_under_way_end() {
    let (folder, path, clock, store) = three().await;
    store.create(new("j", everything())).await.unwrap();
    let job = take(&store, "h").await.unwrap();
    let at = |place| member(&job, place, "h");
    store.change_member(&at(1), "c", claim(), note()).await.unwrap();
    clock.set(50);
    let cancelled = store.cancel("j", "ann").await.unwrap().unwrap();
    assert_eq!(
        (
            cancelled.state,
            cancelled.ended_ms,
            cancelled.cancelled_by.as_deref()
        ),
        (JobState::Cancelled, Some(50), Some("ann"))
    );
    let image = folder.path().join("image.db");
    crash_image(&path, &image);
    for store in [store, open(&image, &clock).await] {
        for (place, id, change) in [(2, "a", claim()), (3, "b", Change::Discard)] {
            let begun = store.change_member(&at(place), id, change, note()).await.unwrap();
            assert_eq!(begun, Changed::Stopped, "{id}");
        }
        assert_eq!(store.get("a").await.unwrap().unwrap().state, LetterState::Dead);
        assert!(!store.renew(job.number, "h", LEASE, None).await.unwrap());
        assert!(take(&store, "other").await.is_none());
        store.change_member(&at(1), "c", sent(), note()).await.unwrap();
        let after = job_of(&store, "j").await;
        assert_eq!((after.state, after.done), (JobState::Cancelled, 1));
        let again = store.cancel("j", "bob").await.unwrap().unwrap();
        assert_eq!(again, after, "twice is once, by the first");
    }
}

#[tokio::test]
async fn old_jobs_go_with_their_results() {
    let (_folder, _path, _clock, store) = three().await;
    let first = store.create(new("first", everything())).await.unwrap();
    store.cancel("first", "ann").await.unwrap();
    let waits = store.create(new("waits", everything())).await.unwrap();
    for n in 0..120 {
        let none = Members::Ids(vec!["a".into()]);
        store.create(new(&format!("n{n}"), none)).await.unwrap();
        store.cancel(&format!("n{n}"), "ann").await.unwrap();
    }
    assert_eq!(store.job("first").await.unwrap(), None);
    assert!(letters(&store, &first).await.is_empty());
    assert_eq!(letters(&store, &waits).await.len(), 3, "what has not ended stays");
    assert_eq!(store.jobs(None, 1000).await.unwrap().len(), 101);
}
