//! Letters that are to be exported on a real file: pending with the letter or not at all, and one holder at a time.

use super::*;
use crate::store::{Export, Exports};

fn of(kind: MessageKind, id: &str) -> DeadLetter {
    let mut letter = letter(id, 1);
    letter.raw.origin.kind = kind;
    letter
}

async fn claim(store: &SqliteStore, kind: MessageKind, limit: usize) -> Vec<String> {
    let claimed = store.claim_exports(kind, limit, LEASE).await.unwrap();
    claimed.into_iter().map(|export| export.letter).collect()
}

#[tokio::test]
async fn only_what_is_new_and_wanted_is_pending() {
    let (_folder, _, _, store) = fresh().await;
    store.enter(vec![of(MessageKind::Task, "before")]).await.unwrap();
    store.export(true, false);
    let letters = ["before", "a", "b"].map(|id| of(MessageKind::Task, id));
    store.enter(letters.to_vec()).await.unwrap();
    store
        .enter(vec![of(MessageKind::Event, "e"), of(MessageKind::Task, "a")])
        .await
        .unwrap();
    assert_eq!(store.pending_exports().await.unwrap(), 2);
    assert_eq!(claim(&store, MessageKind::Task, 10).await, ["a", "b"]);
    assert_eq!(claim(&store, MessageKind::Event, 10).await, Vec::<String>::new());
}

#[tokio::test]
async fn what_is_claimed_is_nobody_elses_until_the_lease_ends_or_it_is_given_back() {
    let (_folder, _, clock, store) = fresh().await;
    store.export(true, true);
    let letters = ["a", "b", "c"].map(|id| of(MessageKind::Task, id));
    store.enter(letters.to_vec()).await.unwrap();
    let first = store.claim_exports(MessageKind::Task, 2, LEASE).await.unwrap();
    assert_eq!(first.len(), 2);
    assert_eq!(claim(&store, MessageKind::Task, 10).await, ["c"]);
    assert_eq!(claim(&store, MessageKind::Task, 10).await, Vec::<String>::new());
    store.give_back_exports(vec![first[1].clone()]).await.unwrap();
    assert_eq!(claim(&store, MessageKind::Task, 10).await, ["b"]);
    clock.set(1_000);
    assert_eq!(claim(&store, MessageKind::Task, 10).await, ["a", "b", "c"]);
    store.reclaim().await.unwrap();
    assert_eq!(claim(&store, MessageKind::Task, 1).await, ["a"]);
}

#[tokio::test]
async fn noted_twice_takes_away_no_other() {
    let (_folder, _, _, store) = fresh().await;
    store.export(true, true);
    store.enter(vec![of(MessageKind::Task, "a")]).await.unwrap();
    let done: Vec<Export> = store.claim_exports(MessageKind::Task, 1, LEASE).await.unwrap();
    store.exported(done.clone()).await.unwrap();
    // In the place of the one that is gone.
    store.enter(vec![of(MessageKind::Task, "b")]).await.unwrap();
    store.exported(done).await.unwrap();
    assert_eq!(claim(&store, MessageKind::Task, 1).await, ["b"]);
}

#[tokio::test]
async fn pending_survives_a_start() {
    let (_folder, path, clock, store) = fresh().await;
    store.export(true, true);
    store.enter(vec![of(MessageKind::Event, "e")]).await.unwrap();
    store.close().await;
    let store = open(&path, &clock).await;
    assert_eq!(claim(&store, MessageKind::Event, 1).await, ["e"]);
}
