//! Dead letters that the host sends again by itself.

use std::time::Duration;

use helix_tests::brokers::Postgres;
use helix_tests::{Host, Setup, brokers, unique, until, variable};
use serde_json::{Value, json};

use super::{
    CONFIG, TOPOLOGY, command, discard, end, id_of, install, letter, reprocess, text, trail, wait_done,
};
use crate::seen;

const LIMIT: Duration = Duration::from_secs(60);
const QUICK: &str = "[dlq.auto]\nenabled = true\ndelay = \"50ms\"\npoll_interval = \"50ms\"\n";

/// Each failure is final at once.
fn config(auto: &str) -> String {
    format!("{CONFIG}{auto}").replace("max_retries = 1, delay = \"10ms\"", "max_retries = 0")
}

async fn start(auto: &str) -> (Setup, Host) {
    let setup = Setup::new(&config(auto), &[]).topology(TOPOLOGY);
    install(&setup, "probe");
    let host = setup.start().await;
    host.ready().await;
    (setup, host)
}

fn time(text: &Value) -> jiff::Timestamp {
    text.as_str().unwrap().parse().unwrap()
}

/// When the host began with it by itself, each time.
fn begun(letter: &Value) -> Vec<jiff::Timestamp> {
    letter["trail"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|entry| entry["actor"] == "dlq.auto" && entry["action"] == "reprocess")
        .map(|entry| time(&entry["time"]))
        .collect()
}

/// When its handler began to fail after each time it was sent again. The rest counts from the failure itself; the trail has
/// the moment at which that was written down, which is later on a busy machine.
fn failed(letter: &Value) -> Vec<jiff::Timestamp> {
    letter["history"]
        .as_array()
        .into_iter()
        .flatten()
        .skip(1)
        .map(|attempt| jiff::Timestamp::from_millisecond(attempt["started_ms"].as_i64().unwrap()).unwrap())
        .collect()
}

async fn counted(host: &Host, what: &str) -> f64 {
    let name = format!("messaging_dlq_auto_{what}_total");
    host.metric(&name, &[("queue", "helixagent.dlq")]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_fails_twice_passes_by_itself() {
    let (setup, host) = start(QUICK).await;
    let order = json!({ "do": "retry", "lives": 2, "report": "handled" });
    let task = host.send_task("work", "probe", order.clone()).await;
    let event = host.send_event("events", "probe", "k", order).await;
    wait_done(&host, 2.0).await;
    let listed = host.get("/v1/messaging/dlq?state=reprocessed").await.1;
    assert_eq!(listed["count"], 2, "{listed}");
    for summary in listed["messages"].as_array().unwrap() {
        let letter = letter(&host, &id_of(summary)).await;
        let (begun, failed) = (begun(&letter), failed(&letter));
        assert_eq!((begun.len(), failed.len()), (2, 1), "{letter}");
        // The second attempt waits twice as long.
        let rest = begun[1].duration_since(failed[0]);
        assert!(rest.as_millis() >= 100, "{rest:?}: {letter}");
        assert_eq!(letter["auto"]["attempts"], 2, "{letter}");
        assert_eq!(letter["history"].as_array().map(Vec::len), Some(2), "{letter}");
    }
    until("the counters follow", LIMIT, || async {
        let counts = (counted(&host, "processed").await, counted(&host, "retried").await);
        (counts == (4.0, 2.0)).then_some(())
    })
    .await;
    assert_eq!(host.letter_count().await, 0);
    assert_eq!(
        host.unexpected_lines(&["dead letter; look"]),
        Vec::<String>::new()
    );
    end(host).await;
    let mut handled: Vec<_> = seen::topic(&setup, "handled")
        .await
        .iter()
        .map(|r| r.of().to_owned())
        .collect();
    handled.sort_unstable();
    let mut sent = vec![task, event];
    sent.sort_unstable();
    assert_eq!(handled, sent, "each once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_used_up_is_archived_or_discarded_as_its_type_says() {
    let types = "max_retries = 1\n\
                 [[dlq.auto.types]]\ntype = \"drop.*\"\nmax_retries = 2\non_exhausted = \"discard\"\n\
                 [[dlq.auto.types]]\ntype = \"never\"\nnever = true\n";
    let (setup, host) = start(&format!("{QUICK}{types}")).await;
    let order = json!({ "do": "retry" });
    for message_type in ["probe", "drop.this", "never"] {
        host.send_task("work", message_type, order.clone()).await;
    }
    // A handler said that it is never any good.
    host.send_task("work", "probe", json!({ "do": "reject" })).await;
    let all = until("all have come to an end", LIMIT, || async {
        let listed = host.get("/v1/messaging/dlq?state=all").await.1;
        let letters = listed["messages"].as_array().cloned().unwrap();
        let of = |class: &str, message_type: &str| {
            let found = letters
                .iter()
                .find(|l| l["class"] == class && l["type"] == message_type);
            found.cloned().unwrap_or_default()
        };
        let (kept, dropped) = (of("exhausted", "probe"), of("exhausted", "drop.this"));
        let (never, rejected) = (of("exhausted", "never"), of("rejected", "probe"));
        let over = kept["auto"]["state"] == "exhausted"
            && dropped["state"] == "discarded"
            && never["auto"]["state"] == "left"
            && !rejected.is_null();
        over.then_some([kept, dropped, never, rejected])
    })
    .await;
    let [kept, dropped, never, rejected] = &all;
    assert_eq!(
        (&kept["state"], &kept["auto"]["attempts"]),
        (&json!("dead"), &json!(1)),
        "{kept}"
    );
    assert_eq!(
        (&never["state"], begun(&letter(&host, &id_of(never)).await).len()),
        (&json!("dead"), 0)
    );
    assert_eq!(letter(&host, &id_of(rejected)).await["trail"], Value::Null);
    let dropped = letter(&host, &id_of(dropped)).await;
    let last = dropped["trail"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&last["actor"], &last["action"]),
        (&json!("dlq.auto"), &json!("discard")),
        "{last}"
    );
    assert!(
        last["reason"].as_str().is_some_and(|why| why.contains("2 times")),
        "{last}"
    );
    assert_eq!(begun(&dropped).len(), 2);
    assert_eq!(
        (
            counted(&host, "archived").await,
            counted(&host, "discarded").await
        ),
        (1.0, 1.0)
    );
    let id = id_of(kept);
    let shown = text(&command(&setup, &host, &["dlq", "show", &id]).stdout);
    assert!(
        shown.contains("exhausted after 1 attempts") && shown.contains("archive by dlq.auto"),
        "{shown}"
    );
    let listed = text(&command(&setup, &host, &["dlq", "ls"]).stdout);
    assert!(
        listed.contains("dead, auto: exhausted") && listed.contains("dead, auto: left"),
        "{listed}"
    );
    // It waits for a person. Failing once more, the host begins anew with it.
    assert_eq!(reprocess(&host, &id).await.0, 202);
    until("it is archived again", LIMIT, || async {
        let letter = letter(&host, &id).await;
        (begun(&letter).len() == 2 && letter["auto"]["state"] == "exhausted").then_some(())
    })
    .await;
    end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_neither_forgets_an_attempt_nor_sends_sooner() {
    let auto = "[dlq.auto]\nenabled = true\ndelay = \"100ms\"\nmultiplier = 60.0\npoll_interval = \"50ms\"\nmax_retries = 2\n";
    let (setup, host) = start(auto).await;
    host.send_task("work", "probe", json!({ "do": "retry" })).await;
    let id = until("it failed again after the first attempt", LIMIT, || async {
        let letters = host.letters().await;
        let letter = letters.first()?;
        (failed(letter).len() == 1 && letter["state"] == "dead").then(|| id_of(letter))
    })
    .await;
    host.kill();
    let host = setup.start().await;
    host.ready().await;
    let waiting = letter(&host, &id).await;
    assert_eq!(
        (&waiting["state"], &waiting["auto"]["attempts"]),
        (&json!("dead"), &json!(1)),
        "{waiting}"
    );
    let over = until("it is used up", LIMIT, || async {
        let letter = letter(&host, &id).await;
        (letter["auto"]["state"] == "exhausted").then_some(letter)
    })
    .await;
    let (begun, failed) = (begun(&over), failed(&over));
    assert_eq!((begun.len(), failed.len()), (2, 2), "{over}");
    let rest = begun[1].duration_since(failed[0]);
    assert!((6_000..20_000).contains(&rest.as_millis()), "{rest:?}: {over}");
    end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_person_discards_meanwhile_is_not_sent() {
    let auto = "[dlq.auto]\nenabled = true\ndelay = \"3s\"\npoll_interval = \"50ms\"\n";
    let (_setup, host) = start(auto).await;
    let order = json!({ "do": "retry", "lives": 1 });
    host.send_task("work", "probe", order.clone()).await;
    let theirs = id_of(&host.wait_letters(1).await[0]);
    let because = json!({ "reason": "not wanted", "actor": "ann" });
    assert_eq!(discard(&host, &theirs, Some(because)).await.0, 200);
    // It fails later, so that it is due later.
    host.send_task("work", "probe", order).await;
    wait_done(&host, 1.0).await;
    let letter = letter(&host, &theirs).await;
    assert_eq!(
        (&letter["state"], trail(&letter)),
        (&json!("discarded"), vec!["discard dead>discarded".to_owned()])
    );
    end(host).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_is_switched_on_and_off_while_the_host_runs() {
    let (setup, host) = start("").await;
    let order = json!({ "do": "retry", "lives": 1 });
    host.send_task("work", "probe", order.clone()).await;
    let id = id_of(&host.wait_letters(1).await[0]);
    assert_eq!(
        letter(&host, &id).await["trail"],
        Value::Null,
        "off unless it is asked for"
    );
    setup.configure(&config(QUICK));
    wait_done(&host, 1.0).await;
    setup.configure(&config("[dlq.auto]\nenabled = false\n"));
    host.wait_metric("messaging_config_generation", &[], 2.0).await;
    host.send_task("work", "probe", order).await;
    let left = host.wait_letters(1).await;
    assert_eq!(begun(&left[0]).len(), 0);
    end(host).await;
}

fn shared(auto: &str, schema: &str, more: &str) -> String {
    format!(
        "{}[store]\nurl = \"env:HELIX_STORE_URL\"\nschema = \"{schema}\"\n{more}",
        config(auto)
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_on_one_database_send_each_letter_once() {
    const LETTERS: u64 = 300;
    let queue = unique("auto");
    let schema = unique("auto").replace('-', "_");
    let rabbit = format!("[messaging]\ntasks = \"rabbitmq\"\n{}", brokers::rabbitmq_toml());
    // Both look at the same moment, again and again.
    let auto = format!("{QUICK}batch_size = 5\n");
    let text = |auto: &str| {
        shared(auto, &schema, &rabbit).replace("queue = \"work\"", &format!("queue = \"{queue}\""))
    };
    let topology = TOPOLOGY.replace(
        "name = \"work\"\nmax_priority = 10",
        &format!("name = \"{queue}\""),
    );
    let mut setups = Vec::new();
    let mut hosts = Vec::new();
    for _ in 0..2 {
        let setup = Setup::new(&text(""), &[])
            .topology(&topology)
            .env("HELIX_STORE_URL", &variable("HELIX_TEST_POSTGRES_URL"));
        install(&setup, "probe");
        hosts.push(setup.start().await);
        setups.push(setup);
    }
    for host in &hosts {
        host.ready().await;
    }
    for _ in 0..LETTERS {
        hosts[0]
            .send_task(&queue, "probe", json!({ "do": "retry", "lives": 1 }))
            .await;
    }
    until("all failed", LIMIT, || async {
        (hosts[0].letter_count().await == LETTERS).then_some(())
    })
    .await;
    for setup in &setups {
        setup.configure(&text(&auto));
    }
    until("all are sent", LIMIT, || async {
        let sent = hosts[0]
            .get("/v1/messaging/dlq?state=reprocessed&limit=1")
            .await
            .1;
        let done = [
            hosts[0]
                .metric("messaging_outcomes_total", &[("outcome", "done")])
                .await,
            hosts[1]
                .metric("messaging_outcomes_total", &[("outcome", "done")])
                .await,
        ];
        (sent["count"] == LETTERS && done[0] + done[1] >= LETTERS as f64).then_some(())
    })
    .await;
    let listed = hosts[1].get("/v1/messaging/dlq?state=all&limit=1000").await.1;
    for summary in listed["messages"].as_array().unwrap() {
        let letter = letter(&hosts[1], &id_of(summary)).await;
        assert_eq!(begun(&letter).len(), 1, "{letter}");
        assert_eq!(letter["auto"]["attempts"], 1, "{letter}");
    }
    let by = [
        counted(&hosts[0], "processed").await,
        counted(&hosts[1], "processed").await,
    ];
    assert_eq!(by[0] + by[1], LETTERS as f64, "{by:?}");
    let mut done = 0.0;
    for host in &hosts {
        done += host
            .metric("messaging_outcomes_total", &[("outcome", "done")])
            .await;
        assert_eq!(
            host.unexpected_lines(&["dead letter; look"]),
            Vec::<String>::new()
        );
    }
    assert_eq!(done, LETTERS as f64, "each was handled once");
    for host in hosts {
        end(host).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_its_store_is_away_it_waits_says_so_once_and_goes_on() {
    let server = Postgres::start();
    let auto = "[dlq.auto]\nenabled = true\ndelay = \"4s\"\npoll_interval = \"50ms\"\n";
    let setup = Setup::new(&shared(auto, "helix", ""), &[])
        .topology(TOPOLOGY)
        .env("HELIX_STORE_URL", &server.url);
    install(&setup, "probe");
    let host = setup.start().await;
    host.ready().await;
    host.send_task("work", "probe", json!({ "do": "retry", "lives": 1 }))
        .await;
    let id = id_of(&host.wait_letters(1).await[0]);
    server.control("kill");
    let said = || {
        let lines = host.log_lines();
        let about = lines
            .iter()
            .filter(|line| line.to_string().contains("by itself waits for the store"));
        about.count()
    };
    until("it says what it waits for", LIMIT, || async {
        (said() > 0).then_some(())
    })
    .await;
    // Until it has looked again: another task of the host has asked the store several times meanwhile.
    until("the host is not ready", LIMIT, || async {
        (host.get("/readyz").await.0 == 503).then_some(())
    })
    .await;
    server.control("restart");
    host.ready().await;
    wait_done(&host, 1.0).await;
    let letter = until("it is recorded", LIMIT, || async {
        let letter = letter(&host, &id).await;
        (letter["state"] == "reprocessed").then_some(letter)
    })
    .await;
    assert_eq!(said(), 1, "{}", host.log_text());
    assert_eq!(begun(&letter).len(), 1, "{letter}");
    end(host).await;
}
