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
pub(super) fn fetches(url: &str, status: u16) -> Vec<u8> {
    let body = format!(
        r#"(data (i32.const 4096) "GET") (data (i32.const 8192) "{url}")
        {}"#,
        wat::with_code(
            "task",
            &format!(
                r"(call $send (i32.const 4096) (i32.const 3) (i32.const 8192) (i32.const {length}) (i32.const 0) (i32.const 0)
                (i32.const 0) (i32.const 0) (i32.const 0) (i64.const 0) (i32.const 12288))
            (if (i32.load8_u (i32.const 12288)) (then unreachable))
            (if (i32.ne (i32.load16_u (i32.const 12296)) (i32.const {status})) (then unreachable))
            (i32.const 16)",
                length = url.len()
            )
        ),
    );
    wat::component("task-worker", FETCH, &body)
}

/// Answers every connection with a redirect to itself, counting them.
pub(super) async fn server() -> (
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

#[tokio::test]
async fn in_a_batch_only_what_belongs_to_a_done_message_is_sent() {
    // Publishes for both events of a batch; says ok to the first and retry to the second.
    let body = format!(
        r#"(data (i32.const 4096) "\00\20\00\00\09\00\00\00") (data (i32.const 4232) "\01") (data (i32.const 8192) "test.todo")
        (data (i32.const 1024) "\01\01\00\00\02\00\00\00\00\01\ff\ff\ff\ff\ff\ff\ff\ff\01\00\00\00x\ff\ff\ff\ff")
        (func $for (param $input i32)
            (i32.store (i32.const 4236) (local.get $input))
            (call $publish (i32.const 4096) (i32.const 12288))
            (if (i32.load8_u (i32.const 12288)) (then unreachable)))
        (func (export "helix:messaging/packed-handler@0.1.0#handle") (param i32 i32) (result i32)
            (call $for (i32.const 1)) (call $for (i32.const 0)) (call $for (i32.const 1))
            (i32.store (i32.const 2048) (i32.const 1024))
            (i32.store (i32.const 2052) (i32.const 27))
            (i32.const 2048))
        {}"#,
        wat::with_code("event", "unreachable")
    );
    let bench = Bench::with(&wat::component("packed-worker", PUBLISH, &body), |p| {
        p.publish = grants(&["out"]);
    })
    .await;
    let batch = ["a", "b"].map(|id| super::message(crate::model::MessageKind::Event, id));
    let done = bench.call(&batch).await;
    let seen: Vec<_> = done
        .iter()
        .map(|c| {
            (
                c.outcome.label(),
                c.outputs.iter().map(|o| o.id.as_str()).collect::<Vec<_>>(),
            )
        })
        .collect();
    assert_eq!(seen, [("done", vec!["a/0"]), ("retry", vec![])]);
}

mod checks {
    //! The rules of `publisher`, asked natively.

    use std::sync::Arc;
    use std::time::Instant;

    use crate::config::valid::Plugin;
    use crate::guest::bindings::helix::messaging::messages::{NewEvent, NewTask};
    use crate::guest::bindings::helix::messaging::publisher::{Host, PublishError};
    use crate::guest::fetch::Client;
    use crate::guest::log::Gate;
    use crate::guest::sandbox::{Input, Sandbox, Services};
    use crate::guest::tests::{Topology, grants, message, plugin};
    use crate::model::{Digest, MessageKind, SystemClock};

    fn sandbox(batch: bool, inputs: &[&str], change: impl FnOnce(&mut Plugin)) -> Sandbox {
        let mut p = plugin("p");
        p.publish = grants(&["*"]);
        p.output_bytes = 400;
        change(&mut p);
        let services = Services {
            clock: Arc::new(SystemClock),
            targets: Arc::new(Topology),
            fetch: Client::new(),
            max_message_bytes: 300,
        };
        let gate = Arc::new(Gate::new("p", 1));
        let mut sandbox = Sandbox::new(Arc::new(p), Digest::new([7; 32]), Arc::new(services), gate);
        let inputs = inputs
            .iter()
            .map(|id| Input::of(&message(MessageKind::Event, id)))
            .collect();
        sandbox.begin(Instant::now(), batch, inputs);
        sandbox
    }

    fn task() -> NewTask {
        NewTask {
            message_type: "test.todo".into(),
            queue: None,
            payload: Vec::new(),
            content_type: None,
            schema: None,
            priority: None,
            key: None,
            delay_ms: None,
            deadline_ms: None,
            correlation_id: None,
            reply_to: None,
            headers: Vec::new(),
            input: None,
        }
    }

    fn event() -> NewEvent {
        NewEvent {
            message_type: "test.done".into(),
            topic: Some("facts".into()),
            subject: None,
            data: Vec::new(),
            tombstone: false,
            content_type: None,
            schema: None,
            key: None,
            correlation_id: None,
            headers: Vec::new(),
            input: None,
        }
    }

    fn said(result: Result<String, PublishError>) -> String {
        match result {
            Ok(id) => id,
            Err(PublishError::Invalid(_)) => "invalid".into(),
            Err(PublishError::UnknownTarget(_)) => "unknown-target".into(),
            Err(PublishError::TooLarge(n)) => format!("too-large {n}"),
            Err(PublishError::TooMany(n)) => format!("too-many {n}"),
            Err(other) => format!("{other:?}"),
        }
    }

    #[test]
    fn one_rule_each() {
        let ask_task = |t| said(sandbox(false, &["i"], |_| {}).publish_task(t));
        let ask_event = |e| said(sandbox(false, &["i"], |_| {}).publish_event(e));
        assert_eq!(ask_task(task()), "i/0");
        assert_eq!(
            ask_task(NewTask {
                priority: Some(10),
                ..task()
            }),
            "i/0"
        );
        assert_eq!(
            ask_task(NewTask {
                priority: Some(11),
                ..task()
            }),
            "invalid"
        );
        assert_eq!(
            ask_task(NewTask {
                message_type: String::new(),
                ..task()
            }),
            "invalid"
        );
        assert_eq!(
            ask_task(NewTask {
                message_type: "a\nb".into(),
                ..task()
            }),
            "invalid"
        );
        assert_eq!(
            ask_task(NewTask {
                message_type: "unknown".into(),
                ..task()
            }),
            "unknown-target"
        );
        assert_eq!(
            ask_task(NewTask {
                queue: Some("nowhere".into()),
                ..task()
            }),
            "unknown-target"
        );
        assert_eq!(
            ask_task(NewTask {
                payload: vec![0; 301],
                ..task()
            }),
            "too-large 300"
        );
        assert_eq!(
            ask_task(NewTask {
                headers: vec![(String::new(), vec![])],
                ..task()
            }),
            "invalid"
        );
        let many = (0..257).map(|n| (n.to_string(), vec![])).collect();
        assert_eq!(
            ask_task(NewTask {
                headers: many,
                ..task()
            }),
            "invalid"
        );
        assert_eq!(ask_event(event()), "i/0");
        assert_eq!(
            ask_event(NewEvent {
                tombstone: true,
                ..event()
            }),
            "invalid"
        );
        assert_eq!(
            ask_event(NewEvent {
                tombstone: true,
                key: Some(vec![1]),
                ..event()
            }),
            "i/0"
        );
        assert_eq!(
            ask_event(NewEvent {
                tombstone: true,
                key: Some(vec![1]),
                data: vec![1],
                ..event()
            }),
            "invalid"
        );
    }

    #[test]
    fn each_input_has_its_own_outputs_and_bounds() {
        let mut sandbox = sandbox(true, &["a", "b"], |_| {});
        assert_eq!(
            said(sandbox.publish_task(task())),
            "invalid",
            "a batch needs `input`"
        );
        assert_eq!(
            said(sandbox.publish_task(NewTask {
                input: Some(2),
                ..task()
            })),
            "invalid"
        );
        let mut to = |input, size: usize| {
            said(sandbox.publish_task(NewTask {
                input: Some(input),
                payload: vec![0; size],
                ..task()
            }))
        };
        assert_eq!(to(1, 290), "b/0");
        assert_eq!(to(0, 1), "a/0");
        assert_eq!(to(1, 290), "too-large 400");
        assert_eq!(to(1, 1), "b/1");
        assert_eq!(to(1, 1), "too-many 2");
        assert_eq!(to(0, 1), "a/1");
        let staged: Vec<_> = sandbox
            .call
            .staged
            .iter()
            .map(|(place, o)| (*place, o.id.as_str()))
            .collect();
        assert_eq!(staged, [(1, "b/0"), (0, "a/0"), (1, "b/1"), (0, "a/1")]);
    }

    #[test]
    fn headers_of_the_host_cannot_be_forged() {
        let mut sandbox = sandbox(false, &["i"], |_| {});
        let forged = |name: &str| (name.to_owned(), b"forged".to_vec());
        let headers = vec![
            forged("Helix-Source"),
            forged("helix-input-id"),
            forged("helix"),
            forged("x-mine"),
        ];
        assert_eq!(
            said(sandbox.publish_task(NewTask {
                headers,
                correlation_id: Some("own".into()),
                ..task()
            })),
            "i/0"
        );
        let sent = &sandbox.call.staged[0].1;
        let names: Vec<_> = sent.headers.iter().map(|(n, _)| n.to_owned()).collect();
        assert_eq!(
            names,
            [
                "helix",
                "x-mine",
                "helix-source",
                "helix-plugin",
                "helix-input-id"
            ]
        );
        assert_eq!(sent.headers.text("helix-source"), Some("p"));
        assert_eq!(sent.correlation_id.as_deref(), Some("own"));
        assert_eq!(sent.content_type.as_deref(), Some("application/octet-stream"));
    }
}
