use std::cell::Cell;
use std::time::{Duration, Instant};

use super::wat::{self, OK};
use super::{Bench, code, message};
use crate::model::{MessageKind, Outcome};

#[tokio::test]
async fn a_task_is_done_and_its_instance_serves_again() {
    let bench = Bench::with(&wat::task(OK), |_| {}).await;
    for _ in 0..3 {
        let done = bench.task().await;
        assert_eq!(done.outcome, Outcome::Done);
    }
    let status = bench.runtime.list_one();
    assert!(status.exports.task && !status.exports.event);
    assert_eq!(status.stale, None);
}

#[tokio::test]
async fn retry_and_reject_arrive_with_reason_code_and_delay() {
    let retry = r#"(i32.const 1024)"#;
    let data = r#"(data (i32.const 1024) "\01\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\00\08\00\00\04\00\00\00\01\00\00\00\04\08\00\00\03\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\dc\05\00\00\00\00\00\00")
        (data (i32.const 2048) "busybsy")"#;
    let guest = wat::component(
        "task-worker",
        "",
        &format!("{data} {}", wat::with_code("task", retry)),
    );
    let bench = Bench::with(&guest, |_| {}).await;
    let Outcome::Retry { failure, after } = bench.task().await.outcome else {
        panic!("no retry")
    };
    assert_eq!(
        (failure.reason.as_str(), failure.code.as_deref()),
        ("busy", Some("bsy"))
    );
    assert_eq!(after, Some(Duration::from_millis(1500)));
}

#[tokio::test]
async fn a_trap_is_an_outcome_and_the_next_message_gets_a_new_instance() {
    // Traps on every second call of one instance: a second failure in a row would mean that the dead one was used again.
    let guest = wat::component(
        "task-worker",
        "",
        &format!(
            "(global $calls (mut i32) (i32.const 0)) {}",
            wat::with_code(
                "task",
                r"
            (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
            (if (i32.eq (global.get $calls) (i32.const 2)) (then unreachable))
            (i32.const 16)"
            )
        ),
    );
    let bench = Bench::with(&guest, |p| p.instances = 1).await;
    let labels: Vec<_> = [
        bench.task().await,
        bench.task().await,
        bench.task().await,
        bench.task().await,
    ]
    .iter()
    .map(|c| c.outcome.label())
    .collect();
    assert_eq!(labels, ["done", "trap", "done", "trap"]);
}

#[tokio::test]
async fn an_endless_loop_is_stopped_in_time_and_others_go_on() {
    let bench = Bench::with(&wat::task("(loop $l (br $l)) unreachable"), |_| {}).await;
    let started = Instant::now();
    let timeout = Duration::from_secs(1);
    let envelopes = [message(MessageKind::Task, "t1")];
    let ended = Cell::new(false);
    // One thread: the loop has to give way for the others to go on.
    let call = async {
        let completions = bench.call_with(&envelopes, timeout, false).await;
        ended.set(true);
        completions
    };
    let others = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!ended.get(), "the loop held the thread");
    };
    let (completions, ()) = tokio::join!(call, others);
    assert!(
        matches!(completions[0].outcome, Outcome::Timeout { limit, .. } if limit == timeout),
        "{:?}",
        completions[0].outcome
    );
    assert_eq!(code(&completions[0]), "timeout");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn memory_has_an_end() {
    let bomb = r"(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
    let bench = Bench::with(&wat::task(bomb), |_| {}).await;
    let done = bench.task().await;
    assert_eq!(code(&done), "trap.memory", "{:?}", done.outcome);
}

#[tokio::test]
async fn deep_recursion_is_a_trap() {
    let guest = wat::component(
        "task-worker",
        "",
        &format!(
            "(func $down (param i32) (result i32) (i32.add (call $down (i32.add (local.get 0) (i32.const 1))) (i32.const 1))) {}",
            wat::with_code("task", "(call $down (i32.const 0))")
        ),
    );
    let bench = Bench::with(&guest, |_| {}).await;
    assert_eq!(code(&bench.task().await), "trap.stack");
}

#[tokio::test]
async fn a_fresh_instance_remembers_nothing() {
    let guest = wat::component(
        "task-worker",
        "",
        &format!(
            "(global $calls (mut i32) (i32.const 0)) {}",
            wat::with_code(
                "task",
                r"
            (if (global.get $calls) (then unreachable))
            (global.set $calls (i32.const 1))
            (i32.const 16)"
            )
        ),
    );
    let bench = Bench::with(&guest, |_| {}).await;
    let batch = [message(MessageKind::Task, "a"), message(MessageKind::Task, "b")];
    let fresh = bench.call_with(&batch, Duration::from_secs(5), true).await;
    assert!(fresh.iter().all(|c| c.outcome == Outcome::Done), "{fresh:?}");
    let warm = bench.call_with(&batch, Duration::from_secs(5), false).await;
    assert_eq!(warm[1].outcome.label(), "trap");
}

#[tokio::test]
async fn instances_are_retired_after_their_calls() {
    let guest = wat::component(
        "task-worker",
        "",
        &format!(
            "(global $calls (mut i32) (i32.const 0)) {}",
            wat::with_code(
                "task",
                r"
            (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
            (if (i32.gt_u (global.get $calls) (i32.const 3)) (then unreachable))
            (i32.const 16)"
            )
        ),
    );
    let bench = Bench::with(&guest, |p| p.calls_per_instance = 3).await;
    for n in 0..10 {
        assert_eq!(bench.task().await.outcome, Outcome::Done, "call {n}");
    }
}

#[tokio::test]
async fn the_wrong_kind_is_refused() {
    let bench = Bench::with(&wat::task(OK), |_| {}).await;
    let done = bench.call(&[message(MessageKind::Event, "e1")]).await;
    assert_eq!((done[0].outcome.label(), code(&done[0])), ("refused", "HX0302"));
}

/// Packed: the guest answers with `count` times ok, whatever came in; it traps when the batch has more than `most`.
fn packed(count: &str, most: u32) -> Vec<u8> {
    let body = format!(
        r#"(data (i32.const 1024) "\01\01\00\00")
        (func (export "helix:messaging/packed-handler@0.1.0#handle") (param $at i32) (param $len i32) (result i32) (local $n i32)
            (local.set $n (i32.load offset=4 (local.get $at)))
            (if (i32.gt_u (local.get $n) (i32.const {most})) (then unreachable))
            (i32.store (i32.const 1028) {count})
            (i32.store (i32.const 2048) (i32.const 1024))
            (i32.store (i32.const 2052) (i32.add (i32.const 8) {count}))
            (i32.const 2048))
        {}"#,
        wat::with_code("event", "unreachable")
    );
    wat::component("packed-worker", "", &body)
}

fn events(n: usize) -> Vec<crate::model::Envelope> {
    (0..n)
        .map(|i| message(MessageKind::Event, &format!("e{i}")))
        .collect()
}

#[tokio::test]
async fn small_events_go_through_the_packed_handler_and_large_ones_do_not() {
    let bench = Bench::with(&packed("(local.get $n)", 1000), |_| {}).await;
    for n in [1, 7] {
        let done = bench.call(&events(n)).await;
        assert_eq!(done.len(), n);
        assert!(done.iter().all(|c| c.outcome == Outcome::Done), "{done:?}");
    }
    let mut large = events(1);
    large[0].payload = vec![0; 17 << 10].into();
    // The typed handler of this guest traps, which shows that it was the one called.
    assert_eq!(code(&bench.call(&large).await[0]), "trap.unreachable");
}

#[tokio::test]
async fn a_batch_that_traps_runs_again_one_by_one() {
    let bench = Bench::with(&packed("(local.get $n)", 1), |_| {}).await;
    let done = bench.call(&events(3)).await;
    assert!(done.iter().all(|c| c.outcome == Outcome::Done), "{done:?}");
}

#[tokio::test]
async fn a_wrong_number_of_results_is_a_trap() {
    let bench = Bench::with(&packed("(i32.const 2)", 1000), |_| {}).await;
    let done = bench.call(&events(1)).await;
    assert_eq!(code(&done[0]), "trap.results", "{:?}", done[0].outcome);
}

#[tokio::test]
async fn more_instances_are_lent_once_the_settings_say_so() {
    // Loops while the payload is not empty.
    let guest = "(loop $l (br_if $l (i32.load offset=28 (local.get $in)))) (i32.const 16)";
    let bench = Bench::with(&wat::task(guest), |p| p.instances = 1).await;
    let slow = [message(MessageKind::Task, "slow")];
    let mut quick = slow.clone();
    quick[0].payload = bytes::Bytes::new();

    let at_work = bench.call_with(&slow, Duration::from_secs(600), false);
    tokio::pin!(at_work);
    let quick_beside = async {
        let waits = bench.call(&quick);
        assert!(
            tokio::time::timeout(Duration::from_millis(100), waits)
                .await
                .is_err(),
            "the only instance is at work"
        );
        let mut more = super::plugin("p");
        more.file = bench.file();
        more.instances = 2;
        bench.runtime.replace_plugins([("p".to_owned(), more)].into());
        bench.call(&quick).await.remove(0).outcome
    };
    tokio::select! {
        // The slow one first, so that it has the instance.
        biased;
        done = &mut at_work => panic!("{done:?}"),
        outcome = quick_beside => assert_eq!(outcome, Outcome::Done),
    }
    // The slow call is dropped here: a host that stops does not wait for it.
}

#[tokio::test]
async fn a_huge_result_is_not_copied() {
    // 4.5 MiB of reason, when one message may have 1 MiB.
    let code = r"(drop (memory.grow (i32.const 80)))
        (i32.store8 (i32.const 1024) (i32.const 1))
        (i32.store8 (i32.const 1032) (i32.const 1))
        (i32.store (i32.const 1040) (i32.const 65536))
        (i32.store (i32.const 1044) (i32.const 4718592))
        (i32.const 1024)";
    let bench = Bench::with(&wat::task(code), |p| p.memory_bytes = 64 << 20).await;
    let done = bench.task().await;
    assert_eq!(super::code(&done), "trap.too-large", "{:?}", done.outcome);
}
