//! What does not end by itself, and what ends too often.

use std::time::Instant;

use super::*;

/// A debug build on shared cores; without a limit these would take an hour.
const SLACK: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_millis(300);

async fn ends_at_its_timeout(component: &[u8]) {
    let range = Range::with(component, |p| p.handles = 10_000).await;
    let started = Instant::now();
    let done = range.attack_for(LIMIT).await;
    let took = started.elapsed();
    assert_eq!(
        (done.outcome.label(), code(&done)),
        ("timeout", "timeout"),
        "{:?}",
        done.outcome
    );
    assert!(took >= LIMIT && took < LIMIT + SLACK, "{took:?}");
    range.stands().await;
}

#[tokio::test]
async fn an_endless_loop_ends_at_its_timeout() {
    ends_at_its_timeout(&attack("", "", "(loop $l (br $l)) unreachable")).await;
}

#[tokio::test]
async fn endless_mutual_tail_calls_end_at_their_timeout() {
    let data = "(func $a (result i32) (return_call $b)) (func $b (result i32) (return_call $a))";
    ends_at_its_timeout(&attack("", data, "(call $a)")).await;
}

#[tokio::test]
async fn a_sleep_of_an_hour_in_the_host_ends_at_its_timeout() {
    let code = "(call $block (call $subscribe (i64.const 3600000000000))) (i32.const 16)";
    ends_at_its_timeout(&wasi::attack(wasi::SLEEP, "", code)).await;
}

#[tokio::test]
async fn a_wait_for_five_thousand_things_that_never_happen_ends_at_its_timeout() {
    let code = "(drop (memory.grow (i32.const 1)))
        (loop $l
            (i32.store (i32.add (i32.const 16384) (i32.mul (local.get $i) (i32.const 4))) (call $subscribe (i64.const 3600000000000)))
            (local.set $i (i32.add (local.get $i) (i32.const 1)))
            (br_if $l (i32.lt_u (local.get $i) (i32.const 5000))))
        (call $poll (i32.const 16384) (i32.const 5000) (i32.const 12288))
        (i32.const 16)";
    let body = wat::with_code("task", &format!("(local $i i32) {UNLESS_EMPTY} {code}"));
    let imports = format!("{} {}", wasi::SLEEP, wasi::POLL);
    ends_at_its_timeout(&wasi::component(&imports, &body)).await;
}

#[tokio::test]
async fn a_call_of_exit_ends_the_call_and_not_the_host() {
    let component = wasi::attack(wasi::EXIT, "", "(call $exit (i32.const 1)) (i32.const 16)");
    let range = Range::with(&component, |_| {}).await;
    range.ends_as("trap", "trap.exit", "exit").await;
}

#[tokio::test]
async fn recursion_without_end_is_a_trap() {
    let data = "(func $down (result i32) (i32.add (call $down) (i32.const 1)))";
    let range = Range::with(&attack("", data, "(call $down)"), |_| {}).await;
    range.ends_as("trap", "trap.stack", "").await;
}

#[tokio::test]
async fn frames_of_ten_thousand_locals_overflow_nothing_but_their_own_stack() {
    // Each is read after the call, so that it has to be kept in the frame.
    let many = 10_000;
    let sum: String = (0..many)
        .map(|n| format!("(local.set {n} (i64.add (local.get {n}) (i64.const {n})))"))
        .collect();
    let fold: String = (0..many)
        .map(|n| format!("(global.set $sum (i64.xor (global.get $sum) (local.get {n})))"))
        .collect();
    let names = "(local i64) ".repeat(many);
    let data =
        format!("(global $sum (mut i64) (i64.const 0)) (func $wide {names} {sum} (call $wide) {fold})");
    let component = attack("", &data, "(call $wide) (i32.const 16)");
    let range = Range::with(&component, |_| {}).await;
    range.ends_as("trap", "trap.stack", "").await;
}

#[tokio::test]
async fn twenty_thousand_traps_cost_no_memory_and_no_file() {
    let range = Range::with(&attack("", "", "unreachable"), |_| {}).await;
    let trap = async |times: u32| {
        for n in 0..times {
            let done = range.attack().await;
            assert_eq!(code(&done), "trap.unreachable", "trap {n}");
        }
    };
    // What is allocated once is there after the first few hundred.
    trap(500).await;
    let (memory, files) = (status_kib("VmRSS:"), open_files());
    let started = Instant::now();
    trap(20_000).await;
    let took = started.elapsed();
    let (memory_after, files_after) = (status_kib("VmRSS:"), open_files());
    let grown = memory_after.saturating_sub(memory);
    eprintln!("20,000 traps: RSS {memory} -> {memory_after} KiB, {files} -> {files_after} files, {took:?}");
    // Other tests of this process run meanwhile. One KiB kept of each trap would be 20 MiB, one instance 128 KiB times as many.
    assert!(grown < 256 << 10, "RSS grew by {grown} KiB");
    assert!(files_after < files + 500, "{files} -> {files_after} files");
    range.stands().await;
}
