use std::time::Duration;

use super::wat::{self, FETCH, OK, PUBLISH};
use super::{Bench, code, grants};
use crate::guest::Plugins;
use crate::model::Outcome;

/// Publishes a task of type `test.todo` so many times, then says ok, traps when a publish was refused.
fn publishes(times: u32, after: &str) -> Vec<u8> {
    // The record: message-type at 0, payload at 20.
    let body = format!(
        r#"(data (i32.const 4096) "\00\20\00\00\09\00\00\00") (data (i32.const 4116) "\00\20\00\00\04\00\00\00") (data (i32.const 8192) "test.todo")
        {}"#,
        wat::with_code(
            "task",
            &format!(
                r"(local $i i32)
            (loop $again
                (call $publish (i32.const 4096) (i32.const 12288))
                (if (i32.load8_u (i32.const 12288)) (then unreachable))
                (local.set $i (i32.add (local.get $i) (i32.const 1)))
                (br_if $again (i32.lt_u (local.get $i) (i32.const {times}))))
            {after}"
            )
        ),
    );
    wat::component("task-worker", PUBLISH, &body)
}

#[tokio::test]
async fn outputs_are_stamped_and_named_after_their_input() {
    let bench = Bench::with(&publishes(2, OK), |p| p.publish = grants(&["out"])).await;
    for _ in 0..2 {
        let done = bench.task().await;
        assert_eq!(done.outcome, Outcome::Done);
        let ids: Vec<_> = done.outputs.iter().map(|o| o.id.as_str()).collect();
        assert_eq!(ids, ["t1/0", "t1/1"], "the same in every attempt");
        let first = &done.outputs[0];
        assert_eq!(
            (&*first.destination, first.message_type.as_str()),
            ("out", "test.todo")
        );
        assert_eq!(&first.payload[..], b"test");
        assert_eq!(first.correlation_id.as_deref(), Some("c-1"));
        assert_eq!(first.headers.text("helix-source"), Some("p"));
        assert_eq!(first.headers.text("helix-input-id"), Some("t1"));
        assert_eq!(
            first.headers.text("helix-plugin").map(str::to_owned),
            bench.runtime.list()[0].digest
        );
    }
}

#[tokio::test]
async fn a_failed_handler_publishes_nothing_and_leaves_nothing_behind() {
    // Traps at its second publish: `too-many` comes back for the third output.
    let bench = Bench::with(&publishes(3, OK), |p| p.publish = grants(&["*"])).await;
    let failed = bench.task().await;
    assert_eq!((failed.outcome.label(), failed.outputs.len()), ("trap", 0));
}

#[tokio::test]
async fn what_is_not_granted_is_refused_with_the_line_that_would_grant_it() {
    let bench = Bench::with(&publishes(1, OK), |p| p.publish = grants(&["elsewhere"])).await;
    let failed = bench.task().await;
    assert_eq!(
        (failed.outcome.label(), code(&failed)),
        ("trap", "denied.publish")
    );
    let reason = &failed.outcome.failure().unwrap().reason;
    for part in ["publish = [\"out\"]", "[plugins.p]", "config/helix.toml:12"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    assert!(failed.log.iter().any(|l| l.contains("refused")));
    let import = &bench.runtime.list()[0].imports[0];
    assert_eq!(import.interface, "helix:messaging/publisher@0.1.0");
}

#[tokio::test]
async fn new_grants_hold_for_new_calls() {
    let bench = Bench::with(&publishes(1, OK), |_| {}).await;
    assert_eq!(bench.task().await.outcome.label(), "trap");
    let mut granted = super::plugin("p");
    granted.file = bench.file();
    granted.publish = grants(&["out"]);
    bench.runtime.replace_plugins([("p".to_owned(), granted)].into());
    let done = bench.task().await;
    assert_eq!((done.outcome.label(), done.outputs.len()), ("done", 1));
}

/// Fetches a URL; ends ok when there was an answer with this status, traps otherwise.
fn fetches(url: &str, status: u16) -> Vec<u8> {
    let body = format!(
        r#"(data (i32.const 4096) "GET") (data (i32.const 8192) "{url}")
        {}"#,
        wat::with_code(
            "task",
            &format!(
                r"(call $send (i32.const 4096) (i32.const 3) (i32.const 8192) (i32.const {length}) (i32.const 0) (i32.const 0)
                (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 12288))
            (if (i32.load8_u (i32.const 12288)) (then unreachable))
            (if (i32.ne (i32.load16_u (i32.const 12292)) (i32.const {status})) (then unreachable))
            (i32.const 16)",
                length = url.len()
            )
        ),
    );
    wat::component("task-worker", FETCH, &body)
}

/// Answers every connection with a redirect to itself, counting them.
async fn server() -> (
    std::net::SocketAddr,
    std::sync::Arc<std::sync::atomic::AtomicUsize>,
) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hits = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = hits.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let answer = format!(
                "HTTP/1.1 302 Found\r\nlocation: http://{address}/again\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, hits)
}

#[tokio::test]
async fn fetch_needs_the_host_and_the_address_granted() {
    let (address, hits) = server().await;
    let port = address.port();
    let asked = |url: String, fetch: Vec<String>, private: bool| async move {
        let bench = Bench::with(&fetches(&url, 302), |p| {
            p.fetch = fetch;
            p.fetch_private = private;
        })
        .await;
        let done = bench.task().await;
        (
            done.outcome.label(),
            done.outcome
                .failure()
                .map(|f| f.reason.clone())
                .unwrap_or_default(),
            code(&done).to_owned(),
        )
    };
    let here = format!("127.0.0.1:{port}");

    let (label, reason, code) = asked(format!("http://127.0.0.1:{port}/"), vec![], true).await;
    assert_eq!((label, code.as_str()), ("trap", "denied.fetch"));
    assert!(reason.contains(&format!("fetch = [\"{here}\"]")), "{reason}");

    // Granted by name, private all the same; written as one number, and by a name that resolves there.
    for url in [
        format!("http://127.0.0.1:{port}/"),
        format!("http://2130706433:{port}/"),
        format!("http://0x7f.1:{port}/"),
        format!("http://localhost:{port}/"),
        format!("http://[::ffff:127.0.0.1]:{port}/"),
    ] {
        let all = vec![here.clone(), "localhost".into(), "::ffff:7f00:1".into()];
        let (label, reason, code) = asked(url.clone(), all, false).await;
        assert_eq!((label, code.as_str()), ("trap", "denied.fetch"), "{url} {reason}");
        assert!(
            reason.contains("loopback") && reason.contains("fetch_private"),
            "{url}: {reason}"
        );
    }
    assert_eq!(
        hits.load(std::sync::atomic::Ordering::SeqCst),
        0,
        "nothing was connected to"
    );

    // Granted in full: the redirect is handed out, not followed.
    let (label, reason, _) = asked(
        format!("http://localhost:{port}/"),
        vec!["localhost".into()],
        true,
    )
    .await;
    assert_eq!(label, "done", "{reason}");
    assert_eq!(hits.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_fetch_that_hangs_ends_with_its_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let started = std::time::Instant::now();
    let bench = Bench::with(&fetches(&format!("http://127.0.0.1:{port}/"), 200), |p| {
        p.fetch = vec!["127.0.0.1".into()];
        p.fetch_private = true;
        p.fetch_timeout = Duration::from_millis(100);
    })
    .await;
    // `timeout` comes back to the guest, which traps.
    assert_eq!(code(&bench.task().await), "trap.unreachable");
    assert!(started.elapsed() < Duration::from_secs(8));
}
