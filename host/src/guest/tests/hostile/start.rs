//! Code that runs when an instance is made, before any message.

use std::time::Instant;

use super::*;

/// A module that runs this when it is instantiated, after all imports are there.
fn starts(imports: &str, code: &str) -> Vec<u8> {
    let initialize = format!(r#"(func (export "_initialize") {code})"#);
    wasi::attack(imports, &initialize, OK)
}

/// Refused with `HX0301`; what served goes on.
async fn refused(component: &[u8], part: &str) {
    let range = Range::with(&attack("", "", OK), |_| {}).await;
    let started = Instant::now();
    let error = range.load(component).await.expect("refused");
    let text = error.to_string();
    assert_eq!(error.code.0, 301, "{text}");
    assert!(text.contains("while it started") && text.contains(part), "{text}");
    assert!(started.elapsed() < Duration::from_secs(20));
    range.stands().await;
}

#[tokio::test]
async fn a_start_that_traps_is_refused() {
    refused(&starts("", "unreachable"), "unreachable").await;
}

#[tokio::test]
async fn a_start_that_never_ends_is_refused() {
    refused(&starts("", "(loop $l (br $l))"), "did not end within 5s").await;
}

#[tokio::test]
async fn a_start_that_sleeps_is_refused() {
    let code = "(call $block (call $subscribe (i64.const 3600000000000)))";
    refused(&starts(wasi::SLEEP, code), "did not end within 5s").await;
}

#[tokio::test]
async fn a_start_that_takes_all_memory_is_refused() {
    let code = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
    refused(&starts("", code), "memory limit").await;
}

#[tokio::test]
async fn a_start_that_floods_the_log_is_heard_in_part_and_serves() {
    let code = "(local $i i32) (loop $l
        (call $write (call $stdout) (i32.const 4096) (i32.const 32) (i32.const 12288))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $i) (i32.const 900))))";
    let range = Range::with(&starts(wasi::STDOUT, code), |p| p.log_lines = 1).await;
    range.stands().await;
}

/// Behaves while it is tried; after the settings gave it a variable, every new instance does this instead of starting.
async fn turns(code: &str, label: &str, expected: &str, part: &str) {
    let when =
        format!("(call $environment (i32.const 12288)) (if (i32.load (i32.const 12292)) (then {code}))");
    let range = Range::with(&starts(wasi::ENVIRONMENT, &when), |_| {}).await;
    range.stands().await;
    replaced(&range, |p| {
        p.env.insert("TURN".into(), "1".into());
    });
    for _ in 0..2 {
        let done = range.attack_for(Duration::from_millis(500)).await;
        assert_eq!(
            (done.outcome.label(), super::code(&done)),
            (label, expected),
            "{:?}",
            done.outcome
        );
        let reason = &done.outcome.failure().unwrap().reason;
        assert!(reason.contains(part), "{part} is not in {reason}");
        let neighbour = range.call("n", &[task("")], TIMEOUT).await.remove(0);
        assert_eq!(neighbour.outcome, Outcome::Done);
    }
    replaced(&range, |_| {});
    range.stands().await;
}

#[tokio::test]
async fn an_instance_that_traps_while_it_starts_costs_its_message_only() {
    turns("unreachable", "trap", "trap.unreachable", "while it started").await;
}

#[tokio::test]
async fn an_instance_that_never_starts_ends_in_time_and_says_so() {
    turns("(loop $l (br $l))", "timeout", "timeout", "start").await;
}
