//! What a guest hands to `publisher`: how much, how often, and where to.

use super::*;
use crate::guest::tests::grants;

/// Type at 0, queue at 8, payload at 20 of the record at 4096, see `new-task`.
const RECORD: &str = r#"(data (i32.const 4096) "\00\20\00\00\09\00\00\00") (data (i32.const 4116) "\00\20\00\00\04\00\00\00") (data (i32.const 8192) "test.todo")"#;

/// Calls `publish-task` so often; whether it was taken is not looked at. `before` fills in the record.
fn publishes(times: u32, before: &str) -> Vec<u8> {
    let code = format!(
        "{before} (loop $l
            (call $publish (i32.const 4096) (i32.const 12288))
            ;; What the host answers is put at the same place again.
            (global.set $next (i32.const 65536))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $i) (i32.const {times}))))
        (i32.const 16)"
    );
    let body = format!(
        "{RECORD} {}",
        wat::with_code("task", &format!("(local $i i32) {UNLESS_EMPTY} {code}"))
    );
    wat::component("task-worker", wat::PUBLISH, &body)
}

#[tokio::test]
async fn of_a_million_publishes_as_many_as_allowed_are_kept() {
    let range = Range::with(&publishes(1_000_000, ""), |p| {
        p.publish = grants(&["out"]);
        p.outputs = 10;
    })
    .await;
    let before = status_kib("VmRSS:");
    let done = range.attack_for(Duration::from_secs(120)).await;
    let grown = status_kib("VmRSS:").saturating_sub(before);
    eprintln!(
        "1,000,000 publishes: {} kept, RSS +{grown} KiB, {:?}",
        done.outputs.len(),
        done.duration
    );
    // Done in time or stopped at the timeout; more than ten are kept in no case.
    assert!(
        matches!(done.outcome, Outcome::Done | Outcome::Timeout { .. }),
        "{:?}",
        done.outcome
    );
    let kept = if done.outcome == Outcome::Done { 10 } else { 0 };
    assert_eq!(done.outputs.len(), kept);
    // Kept messages have some 500 bytes: a million would be 500 MiB.
    assert!(grown < 200 << 10, "{grown} KiB");
    range.stands().await;
}

#[tokio::test]
async fn of_a_hundred_thousand_forbidden_publishes_one_is_remembered() {
    let range = Range::with(&publishes(100_000, ""), |p| p.publish = grants(&["elsewhere"])).await;
    let done = range.attack_for(Duration::from_secs(120)).await;
    assert!(
        matches!(done.outcome, Outcome::Done | Outcome::Timeout { .. }),
        "{:?}",
        done.outcome
    );
    assert!(done.outputs.is_empty());
    let told: Vec<_> = done.log.iter().filter(|l| l.contains("refused")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    range.stands().await;
}

/// Puts a text of so many bytes, all `x`, into the optional field at `place` of the record.
fn field(place: u32, bytes: u32) -> String {
    format!(
        "(drop (memory.grow (i32.const 20)))
        (memory.fill (i32.const 131072) (i32.const 120) (i32.const {bytes}))
        (i32.store8 (i32.const {place}) (i32.const 1))
        (i32.store (i32.const {}) (i32.const 131072))
        (i32.store (i32.const {}) (i32.const {bytes}))",
        place + 4,
        place + 8
    )
}

#[tokio::test]
async fn every_text_of_a_message_counts_towards_its_size() {
    // content-type, schema, correlation-id, reply-to: a megabyte in each of a hundred outputs.
    for (what, place) in [
        ("content-type", 4096 + 28),
        ("schema", 4096 + 40),
        ("correlation-id", 4096 + 104),
        ("reply-to", 4096 + 116),
    ] {
        let component = publishes(100, &field(place, 1_000_000));
        let range = Range::with(&component, |p| {
            p.publish = grants(&["out"]);
            p.outputs = 100;
            p.output_bytes = 1 << 20;
        })
        .await;
        let done = range.attack().await;
        let held: usize = done
            .outputs
            .iter()
            .map(|o| {
                let texts = [&o.content_type, &o.schema, &o.correlation_id, &o.reply_to];
                texts.into_iter().flatten().map(String::len).sum::<usize>() + o.payload.len()
            })
            .sum();
        assert!(held <= 1 << 20, "{what}: {held} bytes are held for one message");
        range.stands().await;
    }
}

#[tokio::test]
async fn the_name_of_a_forbidden_target_is_not_repeated_at_any_length() {
    let component = publishes(1, &field(4096 + 8, 1_000_000));
    let range = Range::with(&component, |p| p.publish = grants(&["out"])).await;
    let done = range.attack().await;
    let longest = done.log.iter().map(String::len).max().unwrap_or(0);
    assert!(
        (1..=8 << 10).contains(&longest),
        "a line of {longest} bytes in the attempt's log"
    );
    range.stands().await;
}

#[tokio::test]
async fn control_characters_in_the_name_of_a_target_are_shown_not_kept() {
    // "\x1b[2J"
    let name = format!(
        "{} (i32.store (i32.const 131072) (i32.const 0x4a325b1b))",
        field(4096 + 8, 4)
    );
    let range = Range::with(&publishes(1, &name), |p| p.publish = grants(&["out"])).await;
    let done = range.attack().await;
    assert!(
        done.log.iter().any(|l| l.contains("\\u{1b}[2J")) && !done.log.concat().contains('\u{1b}'),
        "{:?}",
        done.log
    );
    range.stands().await;
}
