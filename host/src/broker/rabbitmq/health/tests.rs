#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use super::*;

fn down() -> LinkHealth {
    LinkHealth::Down(Failure {
        refused: true,
        text: "certificate refused".into(),
    })
}

#[test]
fn the_worst_is_reported() {
    let board = Board::default();
    assert_eq!(board.health(&[LinkHealth::Idle, LinkHealth::Up]), Health::Up);
    board.source(1, &"q".into(), Some("no such queue".into()));
    let blocked = LinkHealth::Blocked("low on disk".into());
    let Health::Degraded { reason } = board.health(&[LinkHealth::Up, blocked.clone()]) else {
        panic!()
    };
    assert!(
        reason.contains("low on disk") && reason.contains("queue `q`") && reason.contains("no such queue")
    );
    assert_eq!(
        board.health(&[blocked, down()]),
        Health::Down {
            reason: "HX0202: certificate refused".to_owned()
        }
    );
}

#[test]
fn a_source_that_consumes_or_has_gone_is_no_trouble() {
    let board = Board::default();
    board.source(1, &"q".into(), Some("x".into()));
    board.source(2, &"r".into(), Some("x".into()));
    board.source(1, &"q".into(), None);
    board.source_gone(2);
    assert_eq!(board.health(&[LinkHealth::Up]), Health::Up);
}

#[test]
fn a_complaint_is_repeated_after_30_s_only() {
    let (board, now) = (Board::default(), Instant::now());
    let text: Arc<str> = "no route to host".into();
    assert!(board.complain(&text, now));
    assert!(!board.complain(&text, now + Duration::from_secs(29)));
    assert!(board.complain(&"another".into(), now));
    assert!(board.complain(&text, now + Duration::from_secs(30)));
}

#[test]
fn complaints_are_bounded() {
    let (board, now) = (Board::default(), Instant::now());
    let said = (0..100)
        .filter(|n| board.complain(&format!("{n}").into(), now))
        .count();
    assert_eq!(said, REMEMBERED);
}
