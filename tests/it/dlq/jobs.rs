//! Many dead letters at once: found by filter, grouped, sent again or discarded as jobs that outlive their host.

use std::collections::HashMap;
use std::time::Duration;

use helix_tests::{Host, until};
use serde_json::{Value, json};

use super::{broken, command, end, letter, repair, text, trail};
use crate::seen;

const JOBS: &str = "/v1/messaging/dlq/jobs";

/// So many tasks that failed.
async fn fail(host: &Host, count: u64, payload: &Value) {
    let before = host.letter_count().await;
    for _ in 0..count {
        host.send_task("work", "probe", payload.clone()).await;
    }
    until("all have failed", Duration::from_secs(120), || async {
        (host.letter_count().await == before + count).then_some(())
    })
    .await;
}

async fn make(host: &Host, body: &Value) -> Value {
    let (status, made) = host.post(JOBS, body).await;
    assert!(matches!(status, 201 | 202), "{status}: {made}");
    let id = made["id"].as_str().unwrap().to_owned();
    // On a busy machine its letters are written down after the answer.
    until(
        "its letters are written down",
        Duration::from_secs(60),
        || async {
            let job = job(host, &id).await;
            (job["state"] != "preparing").then_some(job)
        },
    )
    .await
}

async fn job(host: &Host, id: &str) -> Value {
    let (status, job) = host.get(&format!("{JOBS}/{id}")).await;
    assert_eq!(status, 200, "{job}");
    job
}

async fn wait_done(host: &Host, id: &str, count: u64) -> Value {
    until(
        &format!("{count} letters are done"),
        Duration::from_secs(120),
        || async {
            let job = job(host, id).await;
            (job["done"].as_u64().unwrap() >= count).then_some(job)
        },
    )
    .await
}

async fn wait_state(host: &Host, id: &str, state: &str) -> Value {
    until(
        &format!("the job is {state}"),
        Duration::from_secs(120),
        || async {
            let job = job(host, id).await;
            (job["state"] == state).then_some(job)
        },
    )
    .await
}

/// All pages.
async fn results(host: &Host, id: &str) -> Vec<Value> {
    let (mut all, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, page) = host.get(&format!("{JOBS}/{id}/results?limit=200{cursor}")).await;
        assert_eq!(status, 200, "{page}");
        all.extend(page["results"].as_array().unwrap().clone());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

async fn cancel(host: &Host, id: &str) -> (u16, Value) {
    let url = format!("{}{JOBS}/{id}", host.url());
    let answer = helix_tests::Client::default().delete(url).send().await.unwrap();
    (answer.status().as_u16(), answer.json().unwrap_or_default())
}

async fn count(host: &Host, query: &str) -> u64 {
    let (status, listing) = host.get(&format!("/v1/messaging/dlq?limit=1&{query}")).await;
    assert_eq!(status, 200, "{listing}");
    listing["count"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_host_is_killed_twice_gives_each_letter_one_result() {
    const LETTERS: u64 = 500;
    let (setup, host) = broken().await;
    fail(&host, LETTERS, &json!({ "do": "echo", "report": "handled" })).await;
    // What the filter does not mean stays where it is.
    host.send_task("work", "other.kind", json!({})).await;
    until("the other has failed", Duration::from_secs(30), || async {
        (host.letter_count().await == LETTERS + 1).then_some(())
    })
    .await;
    repair(&setup, &host).await;
    let filter = json!({ "route": "work", "type": "probe", "class": "rejected", "since": "-1h" });
    let dry = json!({ "action": "reprocess", "filter": filter, "dry_run": true });
    let (status, found) = host.post(JOBS, &dry).await;
    assert_eq!((status, &found["count"]), (200, &json!(LETTERS)), "{found}");
    assert!(!found["samples"].as_array().unwrap().is_empty());
    assert_eq!(
        host.get(JOBS).await.1["jobs"],
        json!([]),
        "a dry run changes nothing"
    );

    let asked =
        json!({ "action": "reprocess", "filter": filter, "rate": 100, "actor": "ann", "reason": "fixed" });
    let made = make(&host, &asked).await;
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(made["total"], LETTERS);
    wait_done(&host, &id, 50).await;
    host.kill();
    let host = setup.start().await;
    let second = wait_done(&host, &id, 200).await;
    assert_eq!(second["state"], "running", "killed in its middle");
    host.kill();
    let host = setup.start().await;
    let over = wait_state(&host, &id, "completed").await;
    assert_eq!(
        (&over["done"], &over["left"]),
        (&json!(LETTERS), &json!(0)),
        "{over}"
    );
    let results = results(&host, &id).await;
    assert_eq!(results.len() as u64, LETTERS);
    assert!(results.iter().all(|r| r["result"] == "sent"), "{results:?}");
    until("all are handled", Duration::from_secs(120), || async {
        let waiting = host
            .metric("messaging_queue_depth", &[("destination", "work")])
            .await;
        let flying = host
            .metric("messaging_in_flight", &[("destination", "work")])
            .await;
        (waiting + flying == 0.0).then_some(())
    })
    .await;
    assert_eq!(count(&host, "state=reprocessed").await, LETTERS);
    assert_eq!(count(&host, "").await, 1, "the other one");
    let mut again = 0;
    for result in &results {
        let shown = letter(&host, result["letter"].as_str().unwrap()).await;
        let sent = trail(&shown)
            .iter()
            .filter(|s| *s == "sent retrying>reprocessed")
            .count();
        assert_eq!(sent, 1, "{shown}");
        let begun = trail(&shown)
            .iter()
            .filter(|s| s.starts_with("reprocess "))
            .count();
        again += begun - 1;
    }
    // Those that were under way when the host was killed: no more than go at a time.
    assert!(again <= 2 * 128, "{again} were begun again");
    end(host).await;
    let mut handled: HashMap<String, u32> = HashMap::new();
    for report in seen::topic(&setup, "handled").await {
        *handled.entry(report.of().to_owned()).or_default() += 1;
    }
    assert_eq!(handled.len() as u64, LETTERS, "none is lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_a_cancel_is_answered_no_letter_is_begun_not_even_by_the_next_host() {
    let (setup, host) = broken().await;
    fail(&host, 40, &json!({ "report": "handled" })).await;
    repair(&setup, &host).await;
    let made = make(&host, &json!({ "action": "reprocess", "filter": {}, "rate": 4 })).await;
    let id = made["id"].as_str().unwrap().to_owned();
    wait_done(&host, &id, 2).await;
    let url = format!("{}{JOBS}/{id}", host.url());
    let actor = json!({ "actor": "ann" });
    let answer = helix_tests::Client::default()
        .delete(url)
        .json(&actor)
        .send()
        .await
        .unwrap();
    let cancelled: Value = answer.json().unwrap();
    assert_eq!(
        (answer.status().as_u16(), &cancelled["state"]),
        (200, &json!("cancelled")),
        "{cancelled}"
    );
    let begun = 40 - count(&host, "state=dead").await;
    host.wait_metric("messaging_dlq_jobs_active", &[], 0.0).await;
    assert_eq!(
        40 - count(&host, "state=dead").await,
        begun,
        "begun after the cancel"
    );
    let done = cancelled["done"].as_u64().unwrap();
    assert!(begun - done <= 1, "{begun} begun, {done} were done");
    let (status, again) = cancel(&host, &id).await;
    assert_eq!(
        (status, &again["cancelled_by"]),
        (200, &json!("ann")),
        "twice is once"
    );
    assert_eq!(cancel(&host, "nobody").await.0, 404);
    host.kill();
    let host = setup.start().await;
    host.ready().await;
    // Another job runs to its end meanwhile, so the first one had its chance.
    let ids: Vec<Value> = results(&host, &id)
        .await
        .iter()
        .rev()
        .take(1)
        .map(|r| r["letter"].clone())
        .collect();
    let other = make(
        &host,
        &json!({ "action": "discard", "ids": ids, "reason": "a test" }),
    )
    .await;
    let other = other["id"].as_str().unwrap();
    let over = wait_state(&host, other, "completed").await;
    assert_eq!(over["done"], 1, "{over}");
    let after = job(&host, &id).await;
    assert_eq!(
        (&after["state"], &after["cancelled_by"]),
        (&json!("cancelled"), &json!("ann")),
        "{after}"
    );
    let shown = text(&command(&setup, &host, &["dlq", "jobs", "show", &id]).stdout);
    assert!(shown.contains("cancelled by ann"), "{shown}");
    assert_eq!(count(&host, "state=dead").await, 40 - begun - 1);
    let (status, problem) = cancel(&host, other).await;
    assert_eq!(
        (status, &problem["state"]),
        (409, &json!("completed")),
        "{problem}"
    );
    end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_is_kept() {
    let (setup, host) = broken().await;
    fail(&host, 60, &json!({ "report": "handled" })).await;
    repair(&setup, &host).await;
    let made = make(&host, &json!({ "action": "reprocess", "filter": {}, "rate": 20 })).await;
    let id = made["id"].as_str().unwrap();
    let over = wait_state(&host, id, "completed").await;
    let per_second = over["per_second"].as_f64().unwrap();
    // 59 gaps of 50 ms, of which a quarter of a second may be made good: 60 letters in 2.7 s at the least.
    assert!(per_second <= 22.3, "{over}");
    end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_that_die_again_are_not_sent_again_by_their_job() {
    let (_setup, host) = broken().await;
    fail(&host, 20, &json!({ "do": "reject" })).await;
    let made = make(&host, &json!({ "action": "reprocess", "filter": {} })).await;
    let id = made["id"].as_str().unwrap();
    let over = wait_state(&host, id, "completed").await;
    assert_eq!(over["done"], 20, "{over}");
    until("all are dead again", Duration::from_secs(60), || async {
        (count(&host, "state=dead").await == 20).then_some(())
    })
    .await;
    for result in results(&host, id).await {
        assert_eq!(
            letter(&host, result["letter"].as_str().unwrap()).await["reprocessed"],
            1
        );
    }
    end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_alike_is_one_group_and_is_dealt_with_together() {
    let (setup, host) = broken().await;
    fail(&host, 5, &json!({ "report": "handled" })).await;
    host.send_event("events", "other.type", "k", json!({})).await;
    host.wait_letters(6).await;
    let (status, found) = host.get("/v1/messaging/dlq/groups").await;
    assert_eq!((status, &found["count"]), (200, &json!(2)), "{found}");
    let group = &found["groups"][0];
    assert_eq!((&group["count"], &group["route"]), (&json!(5), &json!("work")));
    assert_eq!(group["since_version"], true, "{group}");
    let id = group["id"].as_str().unwrap();
    let sample = group["sample"]["id"].as_str().unwrap();
    assert_eq!(letter(&host, sample).await["state"], "dead");
    assert_eq!(count(&host, &format!("group={id}")).await, 5);
    let (_, filtered) = host.get("/v1/messaging/dlq/groups?class=unrouted").await;
    assert_eq!(filtered["groups"][0]["count"], 1, "{filtered}");

    let why = json!({ "action": "discard", "filter": { "group": id } });
    let (status, problem) = host.post(JOBS, &why).await;
    assert_eq!(status, 400, "{problem}");
    let shown = text(&command(&setup, &host, &["dlq", "groups"]).stdout);
    assert!(shown.contains(id) && shown.contains("began with"), "{shown}");
    let dry = command(
        &setup,
        &host,
        &["dlq", "discard", "--group", id, "--reason", "a test", "--dry-run"],
    );
    assert!(
        text(&dry.stdout).contains("5 would be discarded"),
        "{}",
        text(&dry.stdout)
    );
    let asks = command(
        &setup,
        &host,
        &["dlq", "discard", "--group", id, "--reason", "a test"],
    );
    assert_eq!(asks.status.code(), Some(2), "nobody can answer");
    assert!(text(&asks.stderr).contains("--yes"));
    let arguments = ["dlq", "discard", "--group", id, "--reason", "a test", "--yes"];
    let done = command(&setup, &host, &arguments);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    assert!(
        text(&done.stdout).contains("completed: 5 of 5 discarded"),
        "{}",
        text(&done.stdout)
    );
    assert_eq!(count(&host, "state=discarded").await, 5);
    assert_eq!(host.get("/v1/messaging/dlq/groups").await.1["count"], 1);
    // An event that no route wants cannot be sent: said for it, and in the exit code.
    let failed = command(
        &setup,
        &host,
        &["dlq", "reprocess", "--all", "--yes", "-o", "json"],
    );
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed.stderr));
    let over: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!(
        (&over["failed"], &over["state"]),
        (&json!(1), &json!("completed")),
        "{over}"
    );
    let job = over["id"].as_str().unwrap();
    let why = text(
        &command(
            &setup,
            &host,
            &["dlq", "jobs", "results", job, "--result", "failed"],
        )
        .stdout,
    );
    assert!(why.contains("helix send"), "{why}");
    let jobs = text(&command(&setup, &host, &["dlq", "jobs"]).stdout);
    assert!(jobs.contains(job) && jobs.contains("completed"), "{jobs}");
    assert!(text(&command(&setup, &host, &["dlq", "jobs", "show", job]).stdout).contains("1 failed"));
    let labels = [("action", "discard"), ("result", "discarded")];
    assert_eq!(host.metric("messaging_dlq_job_letters_total", &labels).await, 5.0);
    until("the gauge counts one group", Duration::from_secs(20), || async {
        (host.metric("messaging_dlq_groups", &[]).await == 1.0).then_some(())
    })
    .await;
    end(host).await;
}

/// Jobs over nothing are over at once; there are more of them than a page has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_jobs_hold_each_once_while_new_ones_come() {
    let (setup, host) = broken().await;
    let nothing = json!({ "action": "reprocess", "filter": { "route": "none" } });
    let mut made = Vec::new();
    for _ in 0..7 {
        made.push(make(&host, &nothing).await["id"].as_str().unwrap().to_owned());
    }
    made.reverse();
    let ids = |page: &Value| -> Vec<String> {
        let jobs = page["jobs"].as_array().unwrap();
        jobs.iter()
            .map(|job| job["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, page) = host.get(&format!("{JOBS}?limit=3{cursor}")).await;
        assert_eq!(status, 200, "{page}");
        paged.extend(ids(&page));
        make(&host, &nothing).await;
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(paged, made);
    assert_eq!(
        host.get(&format!("{JOBS}?limit=10")).await.1["next"],
        Value::Null,
        "exactly a page"
    );
    assert_eq!(host.get(&format!("{JOBS}?cursor=x")).await.0, 400);
    let six = ids(&host.get(&format!("{JOBS}?limit=6")).await.1);
    let first = text(&command(&setup, &host, &["dlq", "jobs", "--limit", "3"]).stdout);
    let (_, next) = first.trim_end().rsplit_once("--cursor ").unwrap();
    let arguments = ["dlq", "jobs", "--limit", "3", "--cursor", next];
    let second = text(&command(&setup, &host, &arguments).stdout);
    for (n, id) in six.iter().enumerate() {
        let shown = (first.contains(id), second.contains(id));
        assert_eq!(shown, (n < 3, n >= 3), "{first}{second}");
    }
    end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_wrongly_says_what_and_where() {
    let (setup, host) = broken().await;
    for (query, says) in [
        ("limit=1000000000", "`limit`, at character 1"),
        ("limit=0", "`limit`, at character 1"),
        ("limit=5x", "`limit`, at character 2"),
        ("cursor=nonsense", "cursor"),
        ("since=yesterday", "`since`, at character 1"),
        ("since=-1hour", "`since`, at character 4"),
        ("class=rejecter", "`class`, at character 8"),
        ("state=gone", "`state`, at character 1"),
        ("route=a&route=b", "twice"),
        ("colour=red", "`colour`, at character 1"),
    ] {
        for path in ["/v1/messaging/dlq", "/v1/messaging/dlq/groups"] {
            let (status, problem) = host.get(&format!("{path}?{query}")).await;
            let detail = problem["detail"].as_str().unwrap_or_default();
            let cursor = query.starts_with("cursor");
            assert_eq!(
                (status, &problem["code"]),
                (400, &json!("HX0501")),
                "{query}: {problem}"
            );
            assert!(cursor || detail.contains(says), "{query}: {detail}");
        }
    }
    for body in [
        json!({ "action": "reprocess" }),
        json!({ "action": "reprocess", "filter": {}, "ids": ["a"] }),
        json!({ "action": "reprocess", "ids": [] }),
        json!({ "action": "reprocess", "ids": ["nobody"] }),
        json!({ "action": "burn", "filter": {} }),
        json!({ "action": "reprocess", "filter": { "since": "soon" } }),
        json!({ "action": "reprocess", "filter": { "state": "discarded" } }),
        json!({ "action": "reprocess", "filter": {}, "rate": 0 }),
        json!({ "action": "reprocess", "filter": {}, "colour": "red" }),
    ] {
        let (status, problem) = host.post(JOBS, &body).await;
        assert_eq!(
            (status, &problem["code"]),
            (400, &json!("HX0501")),
            "{body}: {problem}"
        );
    }
    assert_eq!(host.get(&format!("{JOBS}/nobody")).await.0, 404);
    assert_eq!(host.get(&format!("{JOBS}/nobody/results")).await.0, 404);
    assert_eq!(host.get(JOBS).await.1["jobs"], json!([]), "nothing was begun");
    for arguments in [
        &["dlq", "reprocess"][..],
        &["dlq", "reprocess", "an-id", "--all"],
        &["dlq", "discard", "--all"],
    ] {
        let code = command(&setup, &host, arguments).status.code();
        assert_eq!(code, Some(2), "{arguments:?}");
    }
    let wrong = command(&setup, &host, &["dlq", "ls", "--since", "-1hour"]);
    assert_eq!(wrong.status.code(), Some(3));
    assert!(
        text(&wrong.stderr).contains("`since`, at character 4"),
        "{}",
        text(&wrong.stderr)
    );
    end(host).await;
}
