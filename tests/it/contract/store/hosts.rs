//! Several hosts on one Postgres: each row to one of them, each letter to one of them, each lane with one head.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex};

use futures::future::join_all;
use helix_host::model::{DeadLetter, LetterState};
use helix_host::store::postgres::PostgresStore;
use helix_host::store::{Change, Changed, DeadLetters, LetterFilter, Page, Parked, Retries};

use super::stage::{Hands, LEASE, ids, letter, note, parked, postgres, schema};

async fn two() -> (Arc<Hands>, PostgresStore, PostgresStore) {
    let (clock, schema) = (Hands::at(1_000), schema());
    let (one, two) = tokio::join!(postgres(&schema, "one", &clock), postgres(&schema, "two", &clock));
    (clock, one, two)
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_that_start_at_once_share_one_schema() {
    let (clock, schema) = (Hands::at(1_000), schema());
    let names: Vec<String> = (0..8).map(|n| format!("host {n}")).collect();
    let stores = join_all(names.iter().map(|name| postgres(&schema, name, &clock))).await;
    stores[0].park(vec![parked("a", 10, None)]).await.unwrap();
    for store in &stores {
        assert_eq!(store.count().await.unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_due_goes_to_one_host() {
    let (_clock, one, two) = two().await;
    let rows = (0..600).map(|n| parked(&format!("n{n}"), n, None)).collect();
    one.park(rows).await.unwrap();
    let claims = (0..60).map(|n| {
        let store = if n % 2 == 0 { &one } else { &two };
        store.claim_due(1_000, LEASE, 11)
    });
    let claims = join_all(claims).await;
    let claimed: Vec<String> = claims
        .into_iter()
        .flat_map(Result::unwrap)
        .map(|row| row.id)
        .collect();
    assert_eq!(
        claimed.iter().collect::<HashSet<_>>().len(),
        claimed.len(),
        "twice"
    );
    assert_eq!(
        claimed.len(),
        600,
        "what another host is just claiming is passed over, not waited for"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_hosts_that_want_a_letter_one_gets_it() {
    let (_clock, one, two) = two().await;
    let letters: Vec<_> = (0..200).map(|n| letter(&format!("n{n}"), n)).collect();
    one.enter(letters.clone()).await.unwrap();
    let attempt = async |store: &PostgresStore, id: &str, holder: &str| {
        let claim = Change::Claim {
            holder: holder.into(),
            lease: LEASE,
        };
        store.change(id, claim, note("test")).await.unwrap()
    };
    let outcomes =
        join_all(letters.iter().map(async |letter| {
            tokio::join!(attempt(&one, &letter.id, "1"), attempt(&two, &letter.id, "2"))
        }))
        .await;
    for (letter, outcome) in letters.iter().zip(outcomes) {
        assert!(
            matches!(
                outcome,
                (Changed::Done(_), Changed::Conflict(_)) | (Changed::Conflict(_), Changed::Done(_))
            ),
            "{}: {outcome:?}",
            letter.id
        );
        assert_eq!(one.trail(&letter.id).await.unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_two_hosts_give_up_on_is_one_letter() {
    let (_clock, one, two) = two().await;
    for round in 0..40 {
        let id = format!("n{round}");
        let (a, b) = tokio::join!(
            one.enter(vec![letter("other", 1), letter(&id, 1)]),
            two.enter(vec![letter(&id, 2)]),
        );
        assert_eq!(
            (a.unwrap(), b.unwrap()),
            (vec!["other".to_owned(), id.clone()], vec![id.clone()])
        );
        let found = one.get(&id).await.unwrap().unwrap();
        assert_eq!((found.first_failure_ms, found.last_failure_ms), (5, 2));
    }
    let all = one
        .list(&LetterFilter::default(), &Page::default())
        .await
        .unwrap();
    assert_eq!(all.count, 41);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_starts_again_leaves_the_leases_of_the_others() {
    let (_clock, one, two) = two().await;
    let rows = ["a", "b"].map(|id| parked(id, 10, None)).to_vec();
    one.park(rows).await.unwrap();
    one.enter(vec![letter("x", 1), letter("y", 1)]).await.unwrap();
    assert_eq!(ids(&one.claim_due(10, LEASE, 1).await.unwrap()), ["a"]);
    assert_eq!(ids(&two.claim_due(10, LEASE, 1).await.unwrap()), ["b"]);
    for (store, id) in [(&one, "x"), (&two, "y")] {
        let claim = Change::Claim {
            holder: id.into(),
            lease: LEASE,
        };
        let changed = store.change(id, claim, note("test")).await.unwrap();
        assert!(matches!(changed, Changed::Done(_)));
    }
    // A lease that is not ours any more is not let go either.
    one.release("b").await.unwrap();
    assert_eq!(one.reclaim().await.unwrap(), 2);
    assert_eq!(ids(&two.claim_due(10, LEASE, 9).await.unwrap()), ["a"]);
    let state = async |id| two.get(id).await.unwrap().unwrap().state.as_str();
    assert_eq!((state("x").await, state("y").await), ("dead", "retrying"));
}

/// Which rows of a lane were handed out, in order, and whether one is out just now.
#[derive(Default)]
struct Seen {
    order: BTreeMap<Vec<u8>, Vec<String>>,
    out: HashSet<Vec<u8>>,
}

const LANES: u8 = 5;
const ROWS: usize = 60;

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_has_one_head_and_its_order_whoever_parks_and_completes() {
    let (_clock, one, two) = two().await;
    let seen = Mutex::new(Seen::default());
    let park = async |store: &PostgresStore, name: &str| {
        for n in 0..ROWS {
            // Many lanes in one batch, by each host in another order.
            let mut rows: Vec<Parked> = (0..LANES)
                .map(|lane| parked(&format!("{name}{n:03}-{lane}"), 1, Some(&[lane])))
                .collect();
            if name == "b" {
                rows.reverse();
            }
            store.park(rows).await.unwrap();
        }
    };
    let run = async |store: &PostgresStore| {
        let total = 2 * ROWS * usize::from(LANES);
        loop {
            let rows = store.claim_due(1_000, LEASE * 1_000, 3).await.unwrap();
            for row in &rows {
                let lane = row.lane.clone().unwrap();
                let mut seen = seen.lock().unwrap();
                assert!(seen.out.insert(lane.clone()), "two rows of lane {lane:?} at once");
                seen.order.entry(lane).or_default().push(row.id.clone());
            }
            let done = rows.iter().map(async |row| {
                // Before it is told: once it is committed the other host may have the next one.
                seen.lock().unwrap().out.remove(row.lane.as_deref().unwrap());
                store.complete(&row.id).await.unwrap();
            });
            join_all(done).await;
            if seen.lock().unwrap().order.values().map(Vec::len).sum::<usize>() == total {
                return;
            }
            if rows.is_empty() {
                tokio::task::yield_now().await;
            }
        }
    };
    let work = async { tokio::join!(park(&one, "a"), park(&two, "b"), run(&one), run(&two)) };
    if tokio::time::timeout(std::time::Duration::from_secs(120), work)
        .await
        .is_err()
    {
        panic!(
            "a lane is stuck: {} rows left, heads {:?}",
            one.count().await.unwrap(),
            one.lanes().await.unwrap()
        );
    }
    assert_eq!(one.count().await.unwrap(), 0);
    for (lane, order) in &seen.lock().unwrap().order {
        for host in ["a", "b"] {
            let own: Vec<&String> = order.iter().filter(|id| id.starts_with(host)).collect();
            assert_eq!(own.len(), ROWS);
            assert!(own.is_sorted(), "lane {lane:?} out of order: {own:?}");
        }
    }
}

/// The letters that a killed host had fail again on another, which enters them in an order of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_starts_is_not_in_the_way_of_one_that_enters_its_letters() {
    let (_clock, one, two) = two().await;
    let failing: Vec<_> = (0..100).map(|n| letter(&format!("n{n:03}"), n)).collect();
    one.enter(failing.clone()).await.unwrap();
    for round in 0..20 {
        let claims = failing.iter().map(|letter| {
            let claim = Change::Claim {
                holder: "h".into(),
                lease: LEASE,
            };
            one.change(&letter.id, claim, note("reprocess"))
        });
        for claimed in join_all(claims).await {
            assert!(
                matches!(claimed, Ok(Changed::Done(_))),
                "round {round}: {claimed:?}"
            );
        }
        let again = |letter: &DeadLetter| DeadLetter {
            reprocessed: round + 1,
            ..letter.clone()
        };
        let backwards = failing.iter().rev().map(again).collect();
        let (entered, reclaimed) = tokio::join!(two.enter(backwards), one.reclaim());
        assert_eq!(entered.unwrap().len(), failing.len(), "round {round}");
        reclaimed.unwrap_or_else(|error| panic!("round {round}: {error}"));
        let dead = LetterFilter {
            state: Some(LetterState::Dead),
            ..LetterFilter::default()
        };
        let page = one.list(&dead, &Page::default()).await.unwrap();
        assert_eq!(page.count, 100, "round {round}");
    }
}
