//! Versions that serve nobody: the grants of their plugin, nothing carried out, and what serves is not touched.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::publish::{fetches, server};
use super::wat::{self, OK};
use super::{Bench, code, message};
use crate::error::{PLUGIN_INVALID, PLUGIN_MISSING, PLUGIN_TOO_LARGE};
use crate::guest::{Candidates, Completion, Invocation, Plugins, Version};
use crate::model::MessageKind;

async fn run(version: &dyn Version) -> Completion {
    let envelope = message(MessageKind::Task, "t1");
    let invocation = Invocation {
        envelope: &envelope,
        attempt: 1,
        max_attempts: 1,
        timeout: Duration::from_secs(10),
        headers: None,
        fresh: false,
    };
    version.call(&[invocation]).await.remove(0)
}

#[tokio::test]
async fn a_candidate_runs_beside_what_serves_and_leaves_it_alone() {
    let bench = Bench::with(&wat::task(OK), |_| {}).await;
    let before = bench.runtime.list_one();
    let bad = wat::task("unreachable");
    let candidate = bench.runtime.candidate("p", Some(bad)).await.unwrap();
    assert_eq!(code(&run(&*candidate).await), "trap.unreachable");
    assert_eq!(
        run(&*bench.runtime.current("p").unwrap()).await.outcome.label(),
        "done"
    );
    let after = bench.runtime.list_one();
    assert_eq!(before.digest, after.digest);
    assert_ne!(before.digest, Some(candidate.digest().to_string()));
    assert_eq!((after.reloads, after.failed_reloads, after.stale), (0, 0, None));
    // Without a component it is a twin of what serves.
    let twin = bench.runtime.candidate("p", None).await.unwrap();
    assert_eq!(before.digest, Some(twin.digest().to_string()));
    assert_eq!(run(&*twin).await.outcome.label(), "done");
}

#[tokio::test]
async fn what_is_no_plugin_is_refused_as_a_file_would_be() {
    let bench = Bench::new(|_| {});
    let refused = async |plugin: &str, bytes: Option<Vec<u8>>| {
        let error = bench.runtime.candidate(plugin, bytes).await.err().unwrap();
        error.code
    };
    assert_eq!(refused("p", Some(b"hello".to_vec())).await, PLUGIN_INVALID);
    assert_eq!(refused("p", Some(vec![0; (1 << 20) + 1])).await, PLUGIN_TOO_LARGE);
    assert_eq!(refused("nobody", Some(wat::task(OK))).await, PLUGIN_MISSING);
    assert_eq!(refused("p", None).await, PLUGIN_MISSING, "no version serves yet");
}

#[tokio::test]
async fn a_candidate_fetches_nothing_and_says_what_it_wanted() {
    let (address, hits) = server().await;
    let hits: &AtomicUsize = &hits;
    let here = format!("127.0.0.1:{}", address.port());
    let component = fetches(&format!("http://{here}/"), 302);
    let bench = Bench::with(&component, |p| {
        p.fetch = vec![here.clone()];
        p.fetch_private = true;
    })
    .await;
    for bytes in [Some(component.clone()), None] {
        let candidate = bench.runtime.candidate("p", bytes).await.unwrap();
        let done = run(&*candidate).await;
        assert_eq!(done.withheld.as_deref(), Some(here.as_str()));
        assert_eq!(
            done.outcome.label(),
            "trap",
            "the guest is told that there was no answer"
        );
        // Of one call only.
        assert_eq!(run(&*candidate).await.withheld.as_deref(), Some(here.as_str()));
    }
    assert_eq!(hits.load(Ordering::SeqCst), 0);
    // The one that serves does fetch.
    let served = run(&*bench.runtime.current("p").unwrap()).await;
    assert_eq!((served.outcome.label(), served.withheld), ("done", None));
    assert_eq!(hits.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_is_not_granted_is_denied_and_not_withheld() {
    let bench = Bench::with(&wat::task(OK), |_| {}).await;
    let component = fetches("http://192.0.2.1/", 200);
    let candidate = bench.runtime.candidate("p", Some(component)).await.unwrap();
    let done = run(&*candidate).await;
    assert_eq!((code(&done), done.withheld.clone()), ("denied.fetch", None));
}
