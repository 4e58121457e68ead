use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::wat::{self, OK};
use super::{Bench, plugin};
use crate::error::Code;
use crate::guest::{Plugins, Version, inspect};
use crate::model::Outcome;

async fn refusal(bench: &Bench) -> (Code, String) {
    let error = bench.runtime.reload("p").await.error.expect("refused");
    (error.code, error.to_string())
}

#[tokio::test]
async fn files_that_are_no_plugin_say_why_and_the_last_good_one_serves() {
    let good = wat::task(OK);
    let bench = Bench::with(&good, |_| {}).await;
    let served = bench.runtime.list_one().digest;

    let empty_world = {
        let wit = tempfile::TempDir::new().unwrap();
        fs::write(
            wit.path().join("w.wit"),
            "package a:b; interface handler { run: func(); } world w { export handler; }",
        )
        .unwrap();
        wat::component_of(wit.path(), "w", "", r#"(func (export "a:b/handler#run"))"#)
    };
    let other_shape = {
        let wit = tempfile::TempDir::new().unwrap();
        fs::write(wit.path().join("w.wit"), "package helix:messaging@0.1.0; interface task-handler { handle: func(task: string) -> u32; } world w { export task-handler; }").unwrap();
        wat::component_of(
            wit.path(),
            "w",
            "",
            r#"(func (export "helix:messaging/task-handler@0.1.0#handle") (param i32 i32) (result i32) (i32.const 0))"#,
        )
    };
    let other_version = {
        let wit = tempfile::TempDir::new().unwrap();
        fs::write(wit.path().join("w.wit"), "package helix:messaging@0.2.0; interface task-handler { handle: func(); } world w { export task-handler; }").unwrap();
        wat::component_of(
            wit.path(),
            "w",
            "",
            r#"(func (export "helix:messaging/task-handler@0.2.0#handle"))"#,
        )
    };
    let trap_at_start = wat::component(
        "task-worker",
        "",
        &format!("(func $s unreachable) (start $s) {}", wat::with_code("task", OK)),
    );
    let cases: Vec<(&str, Vec<u8>, u16, &str)> = vec![
        ("empty", vec![], 301, "empty"),
        ("text", b"hello".to_vec(), 301, "no WebAssembly"),
        ("core module", wat::core("", ""), 301, "wasm32-wasip2"),
        ("cut off", good[..good.len() / 2].to_vec(), 301, "cut off"),
        ("header only", good[..8].to_vec(), 302, "exports nothing"),
        ("too large", vec![0; (1 << 20) + 1], 303, "limits.wasm_size"),
        ("another world", empty_world, 302, "a:b/handler"),
        (
            "another shape",
            other_shape,
            307,
            "built for a different helix:messaging 0.1.0",
        ),
        (
            "another version",
            other_version,
            307,
            "helix:messaging/task-handler@0.2.0",
        ),
        ("trap at start", trap_at_start, 301, "while it started"),
    ];
    for (n, (what, bytes, expected, part)) in cases.into_iter().enumerate() {
        bench.put(&bytes);
        let (code, text) = refusal(&bench).await;
        assert_eq!(code.0, expected, "{what}: {text}");
        assert!(text.contains(part), "{what}: {text}");
        let status = bench.runtime.list_one();
        assert_eq!(
            (status.digest.as_ref(), status.stale, status.failed_reloads),
            (served.as_ref(), Some(text), n as u64 + 1),
            "{what}"
        );
        assert_eq!(bench.task().await.outcome, Outcome::Done, "{what}");
    }
    bench.put(&good);
    assert_eq!(bench.runtime.reload("p").await.error, None);
    assert_eq!(bench.runtime.list_one().stale, None);
}

#[tokio::test]
async fn a_link_out_of_the_folder_a_pipe_and_a_wrong_pin_are_refused() {
    let bench = Bench::new(|_| {});
    assert_eq!(refusal(&bench).await.0.0, 308);
    let outside = bench.folder.path().join("outside.wasm");
    fs::write(&outside, wat::task(OK)).unwrap();
    symlink(&outside, bench.file()).unwrap();
    assert_eq!(refusal(&bench).await.0.0, 304);

    fs::remove_file(bench.file()).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(bench.file())
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(refusal(&bench).await.0.0, 301);

    fs::remove_file(bench.file()).unwrap();
    let pinned = Bench::new(|p| p.digest = Some("sha256:00".into()));
    pinned.put(&wat::task(OK));
    assert_eq!(refusal(&pinned).await.0.0, 306);
}

#[tokio::test]
async fn compiled_code_is_cached_privately_and_checked() {
    let good = wat::task(OK);
    let bench = Bench::with(&good, |_| {}).await;
    let folder = bench.folder.path().join("cache");
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let cached = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();

    // One flipped bit: compiled again instead of run.
    let mut bytes = fs::read(&cached).unwrap();
    let whole = bytes.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&cached, &bytes).unwrap();
    let again = super::start(&bench.folder, {
        let mut p = plugin("p");
        p.file = bench.file();
        p
    });
    assert_eq!(again.reload("p").await.error, None);
    assert!(fs::read(&cached).unwrap() != bytes, "written anew");
    assert_eq!(fs::read(&cached).unwrap().len(), whole.len());

    // Compiled code in the plugins folder is not run.
    bench.put(&whole[32..]);
    let (code, text) = refusal(&bench).await;
    assert_eq!(code.0, 301);
    assert!(text.contains("machine code"), "{text}");
}

#[tokio::test]
async fn calls_in_flight_end_on_the_version_they_began_with() {
    let bench = Bench::with(&wat::task(OK), |_| {}).await;
    let old: Arc<dyn Version> = bench.runtime.current("p").unwrap();
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = events.clone();
    bench.runtime.on_reload(move |event| {
        seen.lock()
            .unwrap()
            .push((event.old, event.new, event.error.clone()));
    });
    bench.put(&wat::task("unreachable"));
    let report = bench.runtime.reload("p").await;
    assert!(report.swapped());
    assert!(!bench.runtime.reload("p").await.swapped());
    let new = bench.runtime.current("p").unwrap();
    assert_eq!(
        events.lock().unwrap().as_slice(),
        &[(Some(old.digest()), Some(new.digest()), None)]
    );
    assert_eq!(bench.task().await.outcome.label(), "trap");
    let envelope = super::message(crate::model::MessageKind::Task, "t");
    let invocation = crate::guest::Invocation {
        envelope: &envelope,
        attempt: 1,
        max_attempts: 1,
        timeout: Duration::from_secs(5),
        headers: None,
        fresh: false,
    };
    assert_eq!(old.call(&[invocation]).await[0].outcome, Outcome::Done);
}

/// Waits for a condition with a deadline.
async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_watch_follows_the_file() {
    let bench = Bench::new(|_| {});
    let stop = CancellationToken::new();
    let watch = bench.runtime.watch(stop.clone());
    bench.put(&wat::task(OK));
    until("a new file is loaded", || bench.runtime.current("p").is_some()).await;
    let first = bench.runtime.list_one().digest;

    // Written in place, in slices.
    let next = wat::task("unreachable");
    let mut file = fs::File::create(bench.file()).unwrap();
    for slice in next.chunks(next.len() / 3) {
        std::io::Write::write_all(&mut file, slice).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(file);
    until("a changed file is loaded", || {
        bench.runtime.list_one().digest != first
    })
    .await;
    until("and is sound", || bench.runtime.list_one().stale.is_none()).await;

    fs::remove_file(bench.file()).unwrap();
    until("a removed file is reported", || {
        bench
            .runtime
            .list_one()
            .stale
            .is_some_and(|s| s.contains("removed"))
    })
    .await;
    assert!(bench.runtime.current("p").is_some(), "and its version serves");
    stop.cancel();
    watch.await.unwrap();
}

#[tokio::test]
async fn inspect_tells_without_serving() {
    let folder = tempfile::TempDir::new().unwrap();
    let status = inspect(wat::task(OK), plugin("x"), &folder.path().join("cache"))
        .await
        .unwrap();
    assert!(status.exports.task);
    assert!(
        inspect(b"no".to_vec(), plugin("x"), &folder.path().join("cache"))
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swaps_under_load_fail_no_message() {
    let versions = [wat::task(OK), wat::task("(i32.add (i32.const 8) (i32.const 8))")];
    let bench = Arc::new(Bench::with(&versions[0], |_| {}).await);
    let stop = CancellationToken::new();
    let mut callers = Vec::new();
    for _ in 0..4 {
        let (bench, stop) = (bench.clone(), stop.clone());
        callers.push(tokio::spawn(async move {
            let mut calls = 0u32;
            while !stop.is_cancelled() {
                let done = bench.task().await;
                assert_eq!(done.outcome, Outcome::Done);
                calls += 1;
                tokio::task::yield_now().await;
            }
            calls
        }));
    }
    for n in 0..100 {
        bench.put(&versions[(n + 1) % 2]);
        let report = bench.runtime.reload("p").await;
        assert!(report.swapped() && report.error.is_none(), "{report:?}");
    }
    stop.cancel();
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
    assert_eq!(bench.runtime.list_one().reloads, 100);
}
