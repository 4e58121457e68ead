//! What a handler hands back, at the level of the ABI.

use super::*;

/// A task result "retry" at 1024 whose reason is at `place` and has `length` bytes. Without a code.
fn retry(place: u32, length: u32) -> String {
    format!(
        "(i32.store8 (i32.const 1024) (i32.const 1))
        (i32.store (i32.const 1040) (i32.const {}))
        (i32.store (i32.const 1044) (i32.const {}))
        (i32.const 1024)",
        place.cast_signed(),
        length.cast_signed()
    )
}

/// The same as [`retry`] with a code.
fn retry_coded(code: u32, length: u32) -> String {
    format!(
        "(i32.store8 (i32.const 1048) (i32.const 1))
        (i32.store (i32.const 1052) (i32.const {code}))
        (i32.store (i32.const 1056) (i32.const {length}))
        {}",
        retry(2048, 4)
    )
}

async fn ends(code: &str, expected: &str, part: &str) {
    let range = Range::with(&attack("", "", code), |_| {}).await;
    range.ends_as("trap", expected, part).await;
}

#[tokio::test]
async fn a_result_outside_of_memory_is_a_trap() {
    ends("(i32.const 0xfffffff0)", "trap.host", "pointer").await;
}

#[tokio::test]
async fn a_result_that_is_not_aligned_is_a_trap() {
    ends("(i32.const 17)", "trap.host", "aligned").await;
}

#[tokio::test]
async fn a_result_of_a_kind_that_does_not_exist_is_a_trap() {
    ends(
        "(i32.store8 (i32.const 1024) (i32.const 7)) (i32.const 1024)",
        "trap.host",
        "",
    )
    .await;
}

#[tokio::test]
async fn a_failure_of_a_kind_that_does_not_exist_is_a_trap() {
    let code = "(i32.store8 (i32.const 1024) (i32.const 1)) (i32.store8 (i32.const 1032) (i32.const 9)) (i32.const 1024)";
    ends(code, "trap.host", "").await;
}

#[tokio::test]
async fn a_reason_of_4_gib_is_a_trap() {
    ends(&retry(2048, u32::MAX), "trap.host", "out of bounds").await;
}

#[tokio::test]
async fn a_reason_outside_of_memory_is_a_trap() {
    ends(&retry(0xffff_0000, 16), "trap.host", "out of bounds").await;
}

#[tokio::test]
async fn a_reason_that_ends_one_byte_behind_memory_is_a_trap() {
    ends(&retry(131_072 - 15, 16), "trap.host", "out of bounds").await;
}

#[tokio::test]
async fn a_reason_that_is_no_text_is_a_trap() {
    let code = format!(
        "(i32.store (i32.const 2048) (i32.const 0xc0fffe80)) {}",
        retry(2048, 4)
    );
    ends(&code, "trap.host", "utf-8").await;
}

#[tokio::test]
async fn a_code_of_a_megabyte_is_cut() {
    // Memory is two pages; the code may be one of them.
    let code = format!(
        "(drop (memory.grow (i32.const 20))) (memory.fill (i32.const 131072) (i32.const 120) (i32.const 1048576)) {}",
        retry_coded(131_072, 1_048_576)
    );
    let range = Range::with(&attack("", "", &code), |_| {}).await;
    let done = range.attack().await;
    assert_eq!(done.outcome.label(), "retry");
    let code = super::code(&done);
    assert!(
        code.starts_with("xxxx") && code.len() <= 255 + '…'.len_utf8(),
        "{} bytes of code are kept in every attempt",
        code.len()
    );
    range.stands().await;
}

#[tokio::test]
async fn control_characters_in_a_code_are_shown_not_kept() {
    let code = format!(
        "(i32.store (i32.const 2052) (i32.const 0x4a325b1b)) {}",
        retry_coded(2052, 4)
    );
    let range = Range::with(&attack("", "", &code), |_| {}).await;
    let done = range.attack().await;
    assert_eq!(super::code(&done), "\\u{1b}[2J");
    range.stands().await;
}

/// A batch handler that answers so many results, wherever they are.
fn batch(count: &str) -> Vec<u8> {
    let body = format!(
        r#"(func (export "helix:messaging/event-batch-handler@0.1.0#handle") (param $at i32) (param $n i32) (result i32)
            (if (i32.eqz (i32.load offset=44 (local.get $at)))
                (then (i32.store (i32.const 1024) (i32.const 2048)) (i32.store (i32.const 1028) (local.get $n)) (return (i32.const 1024))))
            (i32.store (i32.const 1024) (i32.const 2048))
            (i32.store (i32.const 1028) {count})
            (i32.const 1024))"#
    );
    wat::component("event-batch-worker", "", &body)
}

async fn counted(count: &str, expected: &str) {
    let range = Range::with(&batch(count), |_| {}).await;
    let done = range.call("p", &[event("e1"), event("e2")], TIMEOUT).await;
    assert_eq!(done.len(), 2, "one completion each whatever was said");
    for one in &done {
        assert_eq!(
            (one.outcome.label(), code(one)),
            ("trap", expected),
            "{:?}",
            one.outcome
        );
    }
    let mut quiet = event("e3");
    quiet.payload = Bytes::new();
    assert_eq!(range.call("p", &[quiet], TIMEOUT).await[0].outcome, Outcome::Done);
    let neighbour = range.call("n", &[task("")], TIMEOUT).await.remove(0);
    assert_eq!(neighbour.outcome, Outcome::Done);
}

#[tokio::test]
async fn no_results_at_all_are_a_trap() {
    counted("(i32.const 0)", "trap.results").await;
}

#[tokio::test]
async fn too_many_results_are_a_trap() {
    counted("(i32.const 1000)", "trap.results").await;
}

#[tokio::test]
async fn four_billion_results_are_a_trap() {
    counted("(i32.const -1)", "trap.host").await;
}

/// What a component does after its result was read.
async fn after(code: &str, timeout: Duration, label: &str, expected: &str) {
    // The parameter is the result's place: the good message has its own.
    let body = format!(
        r#"{} (func (export "cabi_post_helix:messaging/task-handler@0.1.0#handle") (param i32)
            (if (i32.eq (local.get 0) (i32.const 16)) (then return)) {code})"#,
        body("", "(i32.const 1024)")
    );
    let range = Range::with(&wat::component("task-worker", wat::PUBLISH, &body), |_| {}).await;
    let done = range.attack_for(timeout).await;
    assert_eq!(
        (done.outcome.label(), super::code(&done)),
        (label, expected),
        "{:?}",
        done.outcome
    );
    range.stands().await;
}

#[tokio::test]
async fn a_trap_while_its_result_is_freed_is_a_trap() {
    after("unreachable", TIMEOUT, "trap", "trap.unreachable").await;
}

#[tokio::test]
async fn a_loop_while_its_result_is_freed_ends_at_the_timeout() {
    after(
        "(loop $l (br $l))",
        Duration::from_millis(300),
        "timeout",
        "timeout",
    )
    .await;
}

#[tokio::test]
async fn a_publish_while_its_result_is_freed_is_a_trap() {
    after(
        "(call $publish (i32.const 4096) (i32.const 12288))",
        TIMEOUT,
        "trap",
        "trap.wasm",
    )
    .await;
}
