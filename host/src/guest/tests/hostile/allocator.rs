//! `cabi_realloc` is the guest's own code, and the host calls it whenever it hands something in.

use super::*;
use crate::guest::tests::grants;

/// Run when the host wants room for exactly 13 bytes, as for the id [`UNLUCKY`].
fn guest(first: &str) -> Vec<u8> {
    let first = format!("(if (i32.eq (local.get 3) (i32.const 13)) (then {first}))");
    wat::component_with_realloc("task-worker", wat::PUBLISH, &first, &wat::with_code("task", OK))
}

const UNLUCKY: &str = "unlucky-13-ab";

async fn ends(first: &str, timeout: Duration, label: &str, expected: &str) {
    let range = Range::with(&guest(first), |_| {}).await;
    let envelope = message(MessageKind::Task, UNLUCKY);
    let done = range.call("p", &[envelope], timeout).await.remove(0);
    assert_eq!(
        (done.outcome.label(), code(&done)),
        (label, expected),
        "{:?}",
        done.outcome
    );
    range.stands().await;
}

#[tokio::test]
async fn an_allocator_that_calls_itself_without_end_is_a_trap() {
    let call = "(return (call $alloc (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 13)))";
    ends(call, TIMEOUT, "trap", "trap.stack").await;
}

#[tokio::test]
async fn an_allocator_that_calls_an_import_is_a_trap() {
    ends(
        "(call $publish (i32.const 4096) (i32.const 12288))",
        TIMEOUT,
        "trap",
        "trap.wasm",
    )
    .await;
}

#[tokio::test]
async fn an_allocator_that_never_returns_ends_at_the_timeout() {
    ends(
        "(loop $l (br $l))",
        Duration::from_millis(300),
        "timeout",
        "timeout",
    )
    .await;
}

#[tokio::test]
async fn an_allocator_that_answers_a_place_outside_of_memory_is_a_trap() {
    ends("(return (i32.const 0xfffffff0))", TIMEOUT, "trap", "trap.host").await;
}

#[tokio::test]
async fn an_allocator_that_answers_a_place_that_is_not_aligned_is_a_trap() {
    // For the record itself, the only room with an alignment above one.
    let first = "(if (i32.ne (local.get 2) (i32.const 1)) (then (if (i32.gt_u (local.get 3) (i32.const 100)) (then (return (i32.const 4097))))))";
    let component = wat::component_with_realloc("task-worker", "", first, &wat::with_code("task", OK));
    let range = Range::with(&component, |_| {}).await;
    let done = range.attack().await;
    assert_eq!(
        (done.outcome.label(), code(&done)),
        ("trap", "trap.host"),
        "{:?}",
        done.outcome
    );
    let neighbour = range.call("n", &[task("")], TIMEOUT).await.remove(0);
    assert_eq!(neighbour.outcome, Outcome::Done);
}

#[tokio::test]
async fn an_allocator_that_traps_is_a_trap() {
    ends("unreachable", TIMEOUT, "trap", "trap.unreachable").await;
}

#[tokio::test]
async fn an_allocator_that_takes_all_memory_is_told_its_limit() {
    ends(
        "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable",
        TIMEOUT,
        "trap",
        "trap.memory",
    )
    .await;
}

#[tokio::test]
async fn an_allocator_that_gives_everything_the_same_place_hurts_its_own_message_only() {
    let range = Range::with(&guest("(return (i32.const 0))"), |_| {}).await;
    let envelope = message(MessageKind::Task, UNLUCKY);
    // Its own data is garbled, which is its own affair; nothing else is.
    let done = range.call("p", &[envelope], TIMEOUT).await.remove(0);
    assert_eq!(done.outcome, Outcome::Done);
    range.stands().await;
}

#[tokio::test]
async fn stack_used_up_before_and_inside_a_call_of_the_host_is_a_trap() {
    // Goes down so many frames, publishes from there, and the host's answer (an id) makes the allocator go down as well:
    // two stacks of the guest and the host's own frames lie on one fiber.
    let record = r#"(data (i32.const 4096) "\00\20\00\00\09\00\00\00") (data (i32.const 4116) "\00\20\00\00\04\00\00\00") (data (i32.const 8192) "test.todo")"#;
    let down = r"(func $down (param i32) (result i32)
        (if (i32.eqz (local.get 0)) (then (call $publish (i32.const 4096) (i32.const 12288)) (return (i32.const 0))))
        (i32.add (call $down (i32.sub (local.get 0) (i32.const 1))) (i32.const 1)))
      (func $deeper (result i32) (i32.add (call $deeper) (i32.const 1)))
      (global $armed (mut i32) (i32.const 0))";
    let mut reached = 0;
    // The deepest that still publishes lies near the end of the guest's stack, wherever that is.
    for frames in [
        1, 1000, 4000, 8000, 12_000, 16_000, 20_000, 24_000, 32_000, 64_000,
    ] {
        let code = format!(
            "(global.set $armed (i32.const 1)) (drop (call $down (i32.const {frames}))) (i32.const 16)"
        );
        let component = wat::component_with_realloc(
            "task-worker",
            wat::PUBLISH,
            "(if (global.get $armed) (then (return (call $deeper))))",
            &format!("{record} {down} {}", body("", &code)),
        );
        let range = Range::with(&component, |p| p.publish = grants(&["out"])).await;
        let done = range.attack().await;
        assert_eq!(
            (done.outcome.label(), code_of(&done)),
            ("trap", "trap.stack"),
            "{frames}: {:?}",
            done.outcome
        );
        reached += 1;
        range.stands().await;
    }
    assert_eq!(reached, 10);
}

fn code_of(done: &Completion) -> &str {
    code(done)
}
