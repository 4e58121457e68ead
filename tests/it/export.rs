//! Copies of dead letters in topics, for others to read.

use std::collections::BTreeSet;
use std::time::Duration;

use helix_tests::{Host, Setup, brokers, unique, until};
use serde_json::{Value, json};

use crate::{kafka_client, seen};

/// One that the handler rejects.
fn bad() -> Value {
    json!({ "do": "reject", "reason": "no such user", "code": "user.unknown" })
}

struct Names {
    tasks: String,
    events: String,
}

impl Names {
    fn new() -> Self {
        Self {
            tasks: unique("dlq-tasks"),
            events: unique("dlq-events"),
        }
    }

    fn setup(&self, broker: &str) -> Setup {
        let (tasks, events) = (&self.tasks, &self.events);
        let toml = format!(
            "{broker}\n[dlq]\nexport = true\nexport_tasks = \"{tasks}\"\nexport_events = \"{events}\"\n\
             [[routes]]\nname = \"work\"\nqueue = \"work\"\nplugin = \"probe\"\nretry = {{ max_retries = 0 }}\n"
        );
        let topology = format!(
            "[[queues]]\nname = \"work\"\n[[topics]]\nname = \"{tasks}\"\n[[topics]]\nname = \"{events}\"\n"
        );
        Setup::new(&toml, &["probe"]).topology(&topology)
    }
}

fn kafka() -> String {
    format!(
        "[messaging]\nevents = \"kafka\"\n{}",
        brokers::kafka_toml(&unique("export"))
    )
}

async fn pending(host: &Host, n: f64) {
    let what = format!("{n} letters wait for their export");
    until(&what, Duration::from_secs(60), || async {
        (host.series("messaging_dlq_export_pending", &[]).await == Some(n)).then_some(())
    })
    .await;
}

async fn end(host: Host) {
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
}

fn documents(bodies: Vec<Vec<u8>>) -> Vec<Value> {
    bodies
        .iter()
        .map(|body| serde_json::from_slice(body).unwrap())
        .collect()
}

fn check(document: &Value, letter: &Value, id: &str) {
    assert_eq!(document["id"], letter["id"]);
    assert_eq!(document["original_queue"], "work");
    assert_eq!(document["original_topic"], "");
    assert_eq!(document["original_message"]["id"], id);
    assert_eq!(document["original_message"]["payload"], bad());
    assert_eq!(document["failure_reason"], "no such user");
    assert_eq!(document["failure_details"]["code"], "user.unknown");
    assert_eq!(document["retry_count"], 0);
    assert_eq!(document["first_failure"], letter["first_failure"]);
    assert_eq!(document["status"], "pending");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_letter_is_copied_into_a_topic_of_the_embedded_broker() {
    let names = Names::new();
    let setup = names.setup("");
    let host = setup.start().await;
    host.ready().await;
    let mut sent = Vec::new();
    for _ in 0..5 {
        sent.push(host.send_task("work", "probe", bad()).await);
    }
    let letters = host.wait_letters(5).await;
    let labels = [("destination", names.tasks.as_str()), ("result", "sent")];
    host.wait_metric("messaging_dlq_exported_total", &labels, 5.0)
        .await;
    pending(&host, 0.0).await;
    let known = ["dead letter; look"];
    assert_eq!(host.unexpected_lines(&known), Vec::<String>::new());
    end(host).await;
    let copies = seen::topic(&setup, &names.tasks).await;
    assert_eq!(copies.len(), 5);
    for copy in &copies {
        let letter = letters.iter().find(|l| l["id"] == copy.id.as_str()).unwrap();
        check(&copy.body, letter, letter["message_id"].as_str().unwrap());
    }
    let copied: BTreeSet<_> = copies
        .iter()
        .map(|copy| copy.body["original_message"]["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(copied, sent.into_iter().collect());
    assert_eq!(seen::topic(&setup, &names.events).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_wait_for_a_topic_that_is_missing_also_over_a_kill_and_are_copied_in_order() {
    let names = Names::new();
    let setup = names.setup(&kafka());
    let host = setup.start().await;
    host.ready().await;
    let mut ids = Vec::new();
    for n in 1..=5 {
        host.send_task("work", "probe", bad()).await;
        let letters = host.wait_letters(n).await;
        let new = letters
            .iter()
            .map(|l| l["id"].clone())
            .find(|id| !ids.contains(id));
        ids.push(new.unwrap());
    }
    pending(&host, 5.0).await;
    let log = until("it says what is missing", Duration::from_secs(60), || async {
        let log = host.log_text();
        log.contains("there is no topic").then_some(log)
    })
    .await;
    assert!(log.contains("helix topology apply"), "{log}");
    host.kill();

    let host = setup.start().await;
    host.ready().await;
    pending(&host, 5.0).await;
    kafka_client::create(&[&names.tasks], 1).await;
    pending(&host, 0.0).await;
    let complaints = host.log_text().matches("letters wait for their export").count();
    assert!(complaints <= 1, "said {complaints} times");
    let copies = documents(kafka_client::read(&names.tasks, 1));
    let copied: Vec<Value> = copies.iter().map(|copy| copy["id"].clone()).collect();
    assert_eq!(copied, ids);
    let letters = host.letters().await;
    for copy in &copies {
        let letter = letters.iter().find(|l| l["id"] == copy["id"]).unwrap();
        check(copy, letter, letter["message_id"].as_str().unwrap());
    }
    end(host).await;
    kafka_client::delete(&[&names.tasks]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_that_are_killed_while_they_export_lose_none() {
    const LETTERS: usize = 300;
    let names = Names::new();
    let setup = names.setup(&kafka());
    let host = setup.start().await;
    host.ready().await;
    for _ in 0..LETTERS {
        host.send_task("work", "probe", bad()).await;
    }
    until("all of them are letters", Duration::from_secs(60), || async {
        (host.letter_count().await == LETTERS as u64).then_some(())
    })
    .await;
    host.kill();
    kafka_client::create(&[&names.tasks], 1).await;
    for copies in [1, LETTERS / 3, LETTERS / 2] {
        let host = setup.start().await;
        until("some are copied", Duration::from_secs(60), || async {
            (kafka_client::read(&names.tasks, 1).len() >= copies).then_some(())
        })
        .await;
        host.kill();
    }
    let host = setup.start().await;
    host.ready().await;
    pending(&host, 0.0).await;
    let copies = documents(kafka_client::read(&names.tasks, 1));
    let ids: BTreeSet<&str> = copies.iter().map(|copy| copy["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), LETTERS, "of {} copies", copies.len());
    let letters: Vec<Value> = host.letters().await;
    let expected: BTreeSet<&str> = letters.iter().map(|l| l["id"].as_str().unwrap()).collect();
    assert_eq!(ids, expected);
    end(host).await;
    kafka_client::delete(&[&names.tasks]).await;
}
