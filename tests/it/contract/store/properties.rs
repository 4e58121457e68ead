//! What neither engine does by itself.

use helix_host::model::DeadLetter;
use helix_host::store::{Change, Changed, LetterFilter, Note, Page, Parked};

use super::stage::{Engine, LEASE, Stage, ids, letter, note, parked};

on_both! {
    every_text_is_kept
    a_lane_may_be_as_long_as_a_message
    what_was_confirmed_is_there_after_opening_again
    a_host_that_starts_again_takes_back_what_it_had_claimed
    a_row_that_waits_for_its_letter_is_not_due_because_somebody_comes_too_late
}

/// Postgres has no U+0000 in text, and handlers may write one wherever they write.
async fn every_text_is_kept(stage: &Stage) {
    let store = stage.open().await;
    for odd in [
        "\0",
        "a\0b",
        "\u{fdd0}",
        "\u{fdd0}\u{fdd1}\0",
        "\\",
        "\u{1f980}'\"",
        "%_",
    ] {
        let row = Parked {
            route: format!("route {odd}"),
            lane: Some(odd.as_bytes().to_vec()),
            ..parked(&format!("parked {odd}"), 10, None)
        };
        store.park(vec![row.clone()]).await.unwrap();
        assert_eq!(
            store.lanes().await.unwrap(),
            [(row.route.clone(), odd.as_bytes().to_vec())]
        );
        assert!(!store.lane_is_empty(&row.route, odd.as_bytes()).await.unwrap());
        assert_eq!(
            store.claim_due(10, LEASE, 9).await.unwrap(),
            std::slice::from_ref(&row),
            "{odd:?}"
        );
        store.reschedule(row.clone()).await.unwrap();
        store.release(&row.id).await.unwrap();

        let mut full = DeadLetter {
            message_id: Some(format!("message {odd}")),
            message_type: Some(format!("type {odd}")),
            route: Some(format!("route {odd}")),
            plugin: Some(odd.into()),
            digest: Some(odd.into()),
            reason: format!("reason {odd} more"),
            code: Some(odd.into()),
            trace_id: Some(odd.into()),
            ..letter(&format!("letter {odd}"), 20)
        };
        full.raw.origin.destination = format!("destination {odd}").into();
        assert_eq!(
            store.bury(&row.id, full.clone()).await.unwrap(),
            full.id,
            "{odd:?}"
        );
        assert_eq!(store.count().await.unwrap(), 0);
        assert_eq!(store.get(&full.id).await.unwrap().as_ref(), Some(&full));
        assert_eq!(
            store.depth().await.unwrap(),
            [(full.raw.origin.destination.to_string(), 1)]
        );
        let by_route = LetterFilter {
            route: full.route.clone(),
            message_type: full.message_type.clone(),
            text: Some(format!("REASON {odd}")),
            ..LetterFilter::default()
        };
        let found = store.list(&by_route, &Page::default()).await.unwrap();
        assert_eq!((found.count, &found.letters), (1, &vec![full.clone()]), "{odd:?}");
        let why = Note {
            actor: odd.into(),
            action: odd.to_owned().into(),
            reason: Some(odd.into()),
        };
        let claim = Change::Claim {
            holder: odd.into(),
            lease: LEASE,
        };
        let given = Change::GiveBack { holder: odd.into() };
        for change in [claim, given, Change::Discard] {
            let changed = store.change(&full.id, change, why.clone()).await.unwrap();
            assert!(matches!(changed, Changed::Done(_)), "{odd:?}: {changed:?}");
        }
        let trail = store.trail(&full.id).await.unwrap();
        assert_eq!(trail.len(), 3);
        assert!(trail.iter().all(|entry| entry.note == why), "{trail:?}");
    }
    assert_eq!(store.get("letter a").await.unwrap(), None);
}

/// A key may be, and an index of Postgres has no room for it.
async fn a_lane_may_be_as_long_as_a_message(stage: &Stage) {
    let store = stage.open().await;
    // Nothing in it that compresses.
    let mut state = 1_u64;
    let long: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(100_000)
    .collect();
    let mut other = long.clone();
    other[99_999] ^= 1;
    for (id, lane) in [("1", &long), ("2", &long), ("3", &other)] {
        store.park(vec![parked(id, 10, Some(lane))]).await.unwrap();
    }
    assert_eq!(ids(&store.claim_due(10, LEASE, 9).await.unwrap()), ["1", "3"]);
    store.complete("1").await.unwrap();
    assert_eq!(ids(&store.claim_due(10, LEASE, 9).await.unwrap()), ["2"]);
    store.complete("2").await.unwrap();
    assert!(store.lane_is_empty("r", &long).await.unwrap());
    assert!(!store.lane_is_empty("r", &other).await.unwrap());
}

async fn what_was_confirmed_is_there_after_opening_again(stage: &Stage) {
    let store = stage.open().await;
    store.park(vec![parked("a", 10, Some(b"l"))]).await.unwrap();
    store.enter(vec![letter("x", 1)]).await.unwrap();
    store.close().await;
    let refused = store.complete("a").await.unwrap_err().to_string();
    assert!(refused.contains("closed"), "{refused}");
    let again = stage.open().await;
    assert_eq!(
        again.claim_due(10, LEASE, 9).await.unwrap(),
        [parked("a", 10, Some(b"l"))]
    );
    assert_eq!(again.get("x").await.unwrap(), Some(letter("x", 1)));
}

async fn a_host_that_starts_again_takes_back_what_it_had_claimed(stage: &Stage) {
    let store = stage.open().await;
    store
        .park(vec![parked("a", 10, None), parked("b", 10, None)])
        .await
        .unwrap();
    store.enter(vec![letter("x", 1)]).await.unwrap();
    assert_eq!(ids(&store.claim_due(10, LEASE, 1).await.unwrap()), ["a"]);
    let claim = Change::Claim {
        holder: "h".into(),
        lease: LEASE,
    };
    let claimed = store.change("x", claim.clone(), note("reprocess")).await.unwrap();
    assert!(matches!(claimed, Changed::Done(_)));
    drop(store);
    let again = stage.open().await;
    assert_eq!(again.reclaim().await.unwrap(), 2);
    let rows = again.claim_due(10, LEASE, 9).await.unwrap();
    assert_eq!(ids(&rows), ["a", "b"]);
    assert_eq!(
        rows.iter().map(|row| row.raw.redelivered).collect::<Vec<_>>(),
        [true, false]
    );
    let trail = again.trail("x").await.unwrap();
    assert_eq!(
        trail.last().map(|entry| &*entry.note.action),
        Some("lease ran out")
    );
    let changed = again.change("x", claim, note("reprocess")).await.unwrap();
    assert!(matches!(changed, Changed::Done(_)));
}

/// Its lease ran out, another host had the row and failed it for good.
async fn a_row_that_waits_for_its_letter_is_not_due_because_somebody_comes_too_late(stage: &Stage) {
    let store = stage.open().await;
    let row = parked("a", 10, Some(b"l"));
    store.park(vec![row.clone()]).await.unwrap();
    store.hold(row.clone(), letter("a", 20)).await.unwrap();
    store.reschedule(Parked { due_ms: 30, ..row }).await.unwrap();
    assert_eq!(store.claim_due(1_000, LEASE, 9).await.unwrap(), []);
    assert_eq!(store.held_by("a").await.unwrap().unwrap().letter, "a");
}
