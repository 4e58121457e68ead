//! What grows: memory, tables, handles, instances, sockets, and what the host copies out of a guest.

use super::*;
use crate::guest::tests::grants;

#[tokio::test]
async fn growing_memory_without_end_is_told_its_limit() {
    let bomb = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
    let range = Range::with(&attack("", "", bomb), |_| {}).await;
    range.ends_as("trap", "trap.memory", "memory limit").await;
}

#[tokio::test]
async fn growing_past_its_own_maximum_uses_nothing_up() {
    // The module allows itself three pages. Asking for ten more a thousand times is no use of memory.
    let code = "(loop $l (drop (memory.grow (i32.const 10)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $i) (i32.const 1000))))
        (if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then unreachable))
        (i32.const 16)";
    let body = wat::with_code("task", &format!("(local $i i32) {UNLESS_EMPTY} {code}"));
    let component = wat::task_with_memory(r#"(memory (export "memory") 2 3)"#, &body);
    let range = Range::with(&component, |_| {}).await;
    let done = range.attack().await;
    assert_eq!(done.outcome, Outcome::Done);
    range.stands().await;
}

#[tokio::test]
async fn a_table_grows_to_its_limit_and_no_further() {
    let code = "(loop $l (br_if $l (i32.ne (table.grow $t (ref.null func) (i32.const 100)) (i32.const -1))))
        (if (i32.gt_u (table.size $t) (i32.const 20000)) (then unreachable))
        (if (i32.lt_u (table.size $t) (i32.const 19000)) (then unreachable))
        (i32.const 16)";
    let component = attack("", "(table $t 1 funcref)", code);
    let range = Range::with(&component, |_| {}).await;
    let done = range.attack().await;
    assert_eq!(done.outcome, Outcome::Done, "it was told no, and no more");
    range.stands().await;
}

/// What is too large from the start is refused when it is loaded; the version before serves.
async fn refused_at_load(component: &[u8], part: &str) {
    let range = Range::with(&attack("", "", OK), |_| {}).await;
    let served = range.runtime.list().pop().unwrap().digest;
    let error = range.load(component).await.expect("refused");
    let text = error.to_string();
    assert!((301..=307).contains(&error.code.0), "{text}");
    assert!(text.contains(part), "{part} is not in {text}");
    assert_eq!(range.runtime.list().pop().unwrap().digest, served);
    range.stands().await;
}

#[tokio::test]
async fn a_table_too_large_from_the_start_is_refused() {
    refused_at_load(&attack("", "(table $t 30000 funcref)", OK), "table").await;
}

#[tokio::test]
async fn a_memory_too_large_from_the_start_is_refused() {
    // 9 MiB where 8 are allowed.
    let component = wat::task_with_memory(r#"(memory (export "memory") 144)"#, &wat::with_code("task", OK));
    refused_at_load(&component, "memory").await;
}

#[tokio::test]
async fn too_many_memories_are_refused() {
    refused_at_load(&attack("", &"(memory 0) ".repeat(20), OK), "memories").await;
}

#[tokio::test]
async fn too_many_tables_are_refused() {
    refused_at_load(&attack("", &"(table 0 funcref) ".repeat(80), OK), "tables").await;
}

#[tokio::test]
async fn a_tree_of_too_many_instances_is_refused() {
    let instances = "(core instance (instantiate 0)) ".repeat(200);
    let text = format!("(component (core module) {instances})");
    refused_at_load(&::wat::parse_str(text).unwrap(), "").await;
}

#[tokio::test]
async fn a_hundred_thousand_handles_are_a_trap_at_the_thousandth() {
    let code = "(loop $l (drop (call $subscribe (i64.const 3600000000000)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $i) (i32.const 100000))))
        (i32.const 16)";
    let body = wat::with_code("task", &format!("(local $i i32) {UNLESS_EMPTY} {code}"));
    let range = Range::with(&wasi::component(wasi::SLEEP, &body), |_| {}).await;
    let before = open_files();
    range.ends_as("trap", "trap.host", "").await;
    assert!(open_files() <= before + 2, "{before} -> {}", open_files());
}

#[tokio::test]
async fn sockets_are_refused_before_they_cost_the_host_a_file() {
    // Ends ok only if every one of ten thousand was refused.
    let code = "(loop $l (call $socket (i32.const 0) (i32.const 12288))
            (if (i32.eqz (i32.load8_u (i32.const 12288))) (then unreachable))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $i) (i32.const 10000))))
        (i32.const 16)";
    let body = wat::with_code("task", &format!("(local $i i32) {UNLESS_EMPTY} {code}"));
    let range = Range::with(&wasi::component(wasi::SOCKET, &body), |_| {}).await;
    let done = range.attack().await;
    assert_eq!(done.outcome, Outcome::Done, "a socket was made");
    range.stands().await;
}

#[tokio::test]
async fn random_bytes_without_end_are_a_trap() {
    let code = "(call $random (i64.const -1) (i32.const 12288)) (i32.const 16)";
    let range = Range::with(&wasi::attack(wasi::RANDOM, "", code), |_| {}).await;
    range.ends_as("trap", "trap.host", "").await;
}

/// A task to publish: headers at 128, see `new-task`.
const RECORD: &str =
    r#"(data (i32.const 4096) "\00\20\00\00\09\00\00\00") (data (i32.const 8192) "test.todo")"#;

#[tokio::test]
async fn one_megabyte_named_by_a_hundred_thousand_headers_is_not_copied() {
    // Each header's value is the same MiB of the guest: 100 GiB if the host believed it.
    let code = "(drop (memory.grow (i32.const 64)))
        (i32.store (i32.const 4224) (i32.const 2097152))
        (i32.store (i32.const 4228) (i32.const 100000))
        (loop $l
            (i32.store (local.get $at) (i32.const 8192))
            (i32.store offset=4 (local.get $at) (i32.const 1))
            (i32.store offset=8 (local.get $at) (i32.const 65536))
            (i32.store offset=12 (local.get $at) (i32.const 1048576))
            (local.set $at (i32.add (local.get $at) (i32.const 16)))
            (br_if $l (i32.lt_u (local.get $at) (i32.const 3697152))))
        (call $publish (i32.const 4096) (i32.const 12288))
        (i32.const 16)";
    let body = format!(
        "{RECORD} {}",
        wat::with_code(
            "task",
            &format!("(local $at i32) {UNLESS_EMPTY} (local.set $at (i32.const 2097152)) {code}")
        )
    );
    let range = Range::with(&wat::component("task-worker", wat::PUBLISH, &body), |p| {
        p.publish = grants(&["out"]);
    })
    .await;
    range.ends_as("trap", "trap.too-large", "").await;
}
