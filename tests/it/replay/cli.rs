//! `helix replay …` beside a running host.

use std::process::{Output, Stdio};

use helix_tests::{Host, until};
use serde_json::Value;

use super::stage::Stage;
use super::{LIMIT, show};
use crate::contract::brokers::Place;

fn replay(stage: &Stage, host: &Host, arguments: &[&str]) -> Output {
    stage
        .setup
        .helix(&[&["--url", host.url(), "replay"], arguments].concat())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_ls_show_and_cancel() {
    let stage = Stage::alone(Place::EmbeddedTopics);
    stage.fill(0, 400).await;
    let host = stage.host().await;
    let topic = stage.topic.as_str();

    let out = replay(&stage, &host, &["ls"]);
    assert_eq!(text(&out.stdout).trim(), "no replays");
    let out = replay(
        &stage,
        &host,
        &["start", topic, "--from", "1h", "--type", "rare", "--dry-run"],
    );
    let said = text(&out.stdout);
    assert!(out.status.success(), "{}", text(&out.stderr));
    for wanted in [
        "status    completed",
        "matching  80",
        "skipped   320",
        "(dry run)",
    ] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }

    let out = replay(
        &stage,
        &host,
        &[
            "start", topic, "--from", "1h", "--id", "mine", "--delay", "0s", "-o", "json",
        ],
    );
    let view: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!(
        (&view["status"], &view["replayed_count"]),
        (&"completed".into(), &400.into())
    );
    let out = replay(&stage, &host, &["show", "mine"]);
    assert!(
        text(&out.stdout).contains("done      400 of 400"),
        "{}",
        text(&out.stdout)
    );
    let out = replay(&stage, &host, &["ls"]);
    assert!(text(&out.stdout).contains("mine"), "{}", text(&out.stdout));

    let out = replay(
        &stage,
        &host,
        &["start", topic, "--from", "1h", "--target", topic],
    );
    assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("HX0701"), "{}", text(&out.stderr));
    let out = replay(&stage, &host, &["cancel", "mine"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));

    let out = replay(
        &stage,
        &host,
        &[
            "start", topic, "--from", "1h", "--id", "slow", "--rate", "10", "--detach",
        ],
    );
    assert!(out.status.success(), "{}", text(&out.stderr));
    let out = replay(&stage, &host, &["cancel", "slow"]);
    assert_eq!(text(&out.stdout).trim(), "slow cancelled");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupt_ends_the_showing_and_not_the_replay() {
    let stage = Stage::alone(Place::EmbeddedTopics);
    stage.fill(0, 400).await;
    let host = stage.host().await;
    let topic = stage.topic.as_str();
    let arguments = [
        "--url",
        host.url(),
        "replay",
        "start",
        topic,
        "--from",
        "1h",
        "--id",
        "slow",
        "--rate",
        "20",
    ];
    let child = stage
        .setup
        .command(&arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("it runs", LIMIT, || async {
        let (status, view) = host.get("/v1/messaging/replay/slow").await;
        (status == 200 && view["replayed_count"].as_u64() > Some(10)).then_some(())
    })
    .await;
    // SAFETY: kill(2) with the pid of our own child, which was not waited for.
    let sent = unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGINT) };
    assert_eq!(sent, 0, "SIGINT");
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(
        text(&out.stderr).contains("the replay goes on"),
        "{}",
        text(&out.stderr)
    );
    assert_eq!(show(&host, "slow").await["status"], "running");
}
