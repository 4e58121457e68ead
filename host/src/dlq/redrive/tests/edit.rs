//! A changed copy in a letter's place: one of many sends it, and the letter says what was sent.

use super::super::super::edit::{Edit, Edited, Fault};
use super::*;

fn body(text: &'static str) -> Edit {
    Edit {
        body: Some(Bytes::from_static(text.as_bytes())),
        ..Edit::default()
    }
}

async fn edit(stage: &Stage, edit: Edit) -> Result<Edited, Refused> {
    stage.redrive.edit("a", "ann", "a typo".into(), edit).await
}

#[tokio::test]
async fn the_copy_of_a_task_goes_to_its_queue_and_the_letter_says_which() {
    let stage = Stage::task().await;
    let edited = edit(&stage, body("right")).await.unwrap();
    assert_eq!(edited.state, LetterState::Discarded);
    let sent = stage.queue.last.lock().unwrap().clone().unwrap();
    assert_eq!(sent.body.as_deref(), Some(&b"right"[..]));
    assert_eq!(sent.props.message_id, Some(edited.message_id.clone()));
    assert_eq!(sent.headers.text(header::EDITED), Some("a"));
    // A life of its own: failing, it is no second life of the letter.
    assert_eq!(sent.headers.text(header::LETTER), None);
    assert_eq!(sent.headers.text(header::REPROCESSED), None);
    assert_eq!(stage.trail().await, ["ann edit", "ann edited"]);
    let trail = stage.store.trail("a").await.unwrap();
    let reasons: Vec<_> = trail.iter().filter_map(|e| e.note.reason.as_deref()).collect();
    let said = format!("edited, sent as {}: a typo", edited.message_id);
    assert_eq!(reasons, ["a typo", said.as_str()]);
    let kept = stage.store.get("a").await.unwrap().unwrap();
    assert_eq!(
        kept.raw.body.as_deref(),
        Some(&b"body"[..]),
        "the letter stays as it was"
    );
}

#[tokio::test]
async fn the_copy_of_an_event_is_parked_under_an_id_of_its_own() {
    let stage = Stage::new(letter(&MessageKind::Event, "a", Some("there"))).await;
    let edited = edit(&stage, body("right")).await.unwrap();
    assert_eq!((stage.stored(), stage.routes.0.load(Ordering::SeqCst)), (0, 1));
    let due = stage
        .store
        .claim_due(u64::MAX >> 1, Duration::from_secs(1), 9)
        .await
        .unwrap();
    let [row] = due.as_slice() else { panic!("{due:?}") };
    assert_eq!(
        (row.id.as_str(), row.route.as_str(), row.attempt),
        (edited.message_id.as_str(), "there", 1)
    );
    assert_eq!(row.raw.headers.text(header::EDITED), Some("a"));
    assert_eq!(stage.state().await, LetterState::Discarded);
    // It fails for good: another letter, and the first one stays what it is.
    let mut failed = letter(&MessageKind::Event, &row.id, Some("there"));
    failed.raw = row.raw.clone();
    stage.store.bury(&row.id, failed).await.unwrap();
    assert_eq!(stage.state().await, LetterState::Discarded);
    let new = stage.store.get(&edited.message_id).await.unwrap().unwrap();
    assert_eq!(new.state, LetterState::Dead);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_edit_a_letter_at_once_one_sends_a_copy() {
    let stage = Stage::task().await;
    let all = (0..12).map(|n| {
        let redrive = Arc::clone(&stage.redrive);
        tokio::spawn(async move {
            redrive
                .edit("a", &format!("p{n}"), "why".into(), body("right"))
                .await
        })
    });
    let results = futures::future::join_all(all).await;
    let sent = results
        .into_iter()
        .map(Result::unwrap)
        .filter(|result| match result {
            Ok(_) => true,
            Err(Refused::Conflict(_)) => false,
            Err(other) => panic!("{other}"),
        });
    assert_eq!((sent.count(), stage.stored()), (1, 1));
    assert_eq!(stage.trail().await.len(), 2);
}

#[tokio::test]
async fn while_nobody_takes_the_copy_the_letter_stays_dead() {
    let stage = Stage::task().await;
    stage.answers(PublishError::Unavailable("away".into()));
    assert!(matches!(edit(&stage, body("right")).await, Err(Refused::Away(_))));
    assert_eq!((stage.state().await, stage.stored()), (LetterState::Dead, 0));
    assert_eq!(stage.trail().await, ["ann edit", "ann not sent"]);
}

#[tokio::test]
async fn what_is_no_change_leaves_no_trace() {
    let stage = Stage::task().await;
    let refused = edit(&stage, body("body")).await.unwrap_err();
    assert!(matches!(refused, Refused::Edit(Fault::Nothing)), "{refused}");
    assert_eq!(stage.state().await, LetterState::Dead);
    assert_eq!(stage.trail().await, Vec::<String>::new());
}
