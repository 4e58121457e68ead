//! The end of a walk: nothing may be left in a lane that nobody gets out, and what is old is forgotten.

use helix_host::model::{Replay, UnixMs};
use helix_host::store::{Change, Changed, HeldFilter, Submitted};

use super::super::stage::{LEASE, Store, note};
use super::dice::Dice;

/// How long replays that ended are kept.
pub const MONTH_MS: u64 = 30 * 24 * 3_600_000;

/// All that a store has said to the end.
pub async fn drained(store: &dyn Store, now: UnixMs, seed: u64) -> Vec<String> {
    let mut said = Vec::new();
    // Whoever has a letter is gone: it is dead, and can be released or discarded.
    store.reclaim().await.unwrap();
    let mut held = keys(store).await;
    while let Some(key) = held.pop() {
        let change = if said.len() % 2 == 0 {
            Change::Release
        } else {
            Change::Discard
        };
        let changed = store.change(&key, change, note("end")).await.unwrap();
        assert!(
            matches!(changed, Changed::Done(_)),
            "seed {seed}: the key behind {key:?} waits for ever: {changed:?}"
        );
        said.push(format!("{changed:?}"));
        // A letter may hold two.
        held = keys(store).await;
    }
    assert_eq!(store.held_routes().await.unwrap(), []);
    assert_eq!(store.waiting().await.unwrap(), []);
    let mut left = store.count().await.unwrap();
    while left > 0 {
        let rows = store.claim_due(now, LEASE, 100).await.unwrap();
        assert!(!rows.is_empty(), "seed {seed}: {left} rows are never due");
        for row in rows {
            store.complete(&row.id).await.unwrap();
            said.push(row.id);
        }
        left = store.count().await.unwrap();
    }
    assert_eq!(store.lanes().await.unwrap(), []);
    said
}

async fn keys(store: &dyn Store) -> Vec<String> {
    let mut filter = HeldFilter {
        limit: 3,
        ..HeldFilter::default()
    };
    let mut keys = Vec::new();
    loop {
        let page = store.held(&filter).await.unwrap();
        keys.extend(page.keys.into_iter().map(|key| key.letter));
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            return keys;
        }
    }
}

/// Replays that are left when one comes long after all others; of those that ended in the meantime the oldest are forgotten.
pub async fn remembered(store: &dyn Store, now: UnixMs) -> Vec<String> {
    let last = Replay {
        id: "the last".to_owned(),
        ..Dice(0).replay(now)
    };
    assert_eq!(store.submit(&last).await.unwrap(), Submitted::Done);
    let all = store.newest(10_000).await.unwrap();
    all.into_iter().map(|replay| format!("{replay:?}")).collect()
}
