//! Dead letters of RabbitMQ and of other programs become letters of the host.

pub mod queues;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use helix_tests::brokers::{self, Postgres};
use helix_tests::{Host, Setup, unique, until, variable};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString};
use serde_json::{Value, json};

use self::queues::{Muzzle, Queues};

/// Everything in the queue is taken over.
const EXPECTED: [&str; 1] = ["dead letters of the broker were adopted"];

/// A host on RabbitMQ that adopts from `dlq`; `more` is further configuration, with a route for `work` if there is one.
fn setup(dlq: &str, work: &str, more: &str) -> Setup {
    setup_at(&brokers::rabbitmq_toml(), dlq, work, more)
}

fn setup_at(broker: &str, dlq: &str, work: &str, more: &str) -> Setup {
    let toml = format!(
        "[messaging]\ntasks = \"rabbitmq\"\n{broker}\n[dlq]\nadopt = \"{dlq}\"\n{more}\n[[routes]]\nname = \"work\"\nqueue = \"{work}\"\nplugin = \"probe\"\nretry = {{ max_retries = 0 }}\n"
    );
    let topology = format!("[[queues]]\nname = \"{dlq}\"\n[[queues]]\nname = \"{work}\"\n");
    Setup::new(&toml, &["probe"]).topology(&topology)
}

fn names() -> (String, String) {
    (unique("dlq"), unique("work"))
}

fn task(id: &str) -> Vec<u8> {
    json!({ "type": "probe", "id": id, "payload": {} })
        .to_string()
        .into_bytes()
}

fn body(letter: &Value) -> Vec<u8> {
    match letter["original"]["body_base64"].as_str() {
        Some(encoded) => STANDARD.decode(encoded).unwrap(),
        None => letter["original"]["body"].as_str().unwrap_or_default().into(),
    }
}

/// Counts of class, code and the queue it came from.
fn kinds(letters: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut kinds: Vec<String> = letters
        .iter()
        .map(|l| format!("{} {}", text(&l["class"]), text(&l["code"])))
        .collect();
    kinds.sort();
    kinds
}

async fn reprocess(host: &Host, id: &str) -> (u16, Value) {
    host.post(&format!("/v1/messaging/dlq/{id}/reprocess"), &json!({}))
        .await
}

async fn end(host: Host) {
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
}

fn milliseconds(ms: i32) -> AMQPValue {
    AMQPValue::LongInt(ms)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rabbitmq_gives_up_on_becomes_letters_with_what_happened_to_it() {
    let (dlq, work) = names();
    let mut queues = Queues::new().await;
    let (stale, full, refused, often) = (unique("stale"), unique("full"), unique("ref"), unique("often"));
    queues.make(&dlq, "", &[]).await;
    queues.make(&work, "", &[]).await;
    queues
        .make(&stale, &dlq, &[("x-message-ttl", milliseconds(50))])
        .await;
    queues
        .make(&full, &dlq, &[("x-max-length", AMQPValue::LongInt(1))])
        .await;
    queues.make(&refused, &dlq, &[]).await;
    let quorum = AMQPValue::LongString(LongString::from("quorum"));
    queues
        .make(
            &often,
            &dlq,
            &[
                ("x-queue-type", quorum),
                ("x-delivery-limit", AMQPValue::LongInt(1)),
            ],
        )
        .await;
    let setup = setup(&dlq, &work, "");
    let host = setup.start().await;
    host.ready().await;

    let mut headers = FieldTable::default();
    headers.insert(
        "x-mine".into(),
        AMQPValue::LongString(LongString::from("a value")),
    );
    let properties = BasicProperties::default().with_headers(headers).with_priority(3);
    queues.send_with(&stale, &task("s-1"), properties).await;
    queues.send(&stale, b"\xff\x00 no message").await;
    for n in 0..3 {
        queues.send(&full, &task(&format!("f-{n}"))).await;
    }
    queues.send(&refused, &task("r-1")).await;
    queues.refuse(&refused, false).await;
    queues.send(&often, &task("o-1")).await;
    for _ in 0..2 {
        until("it is there again", Duration::from_secs(20), || async {
            (queues.waiting(&often).await == 1).then_some(())
        })
        .await;
        queues.refuse(&often, true).await;
    }
    queues.send(&dlq, &task("put")).await;
    queues.send(&dlq, b"\xfe").await;

    let letters = host.wait_letters(8).await;
    assert_eq!(
        kinds(&letters),
        [
            "broker broker.delivery-limit",
            "broker broker.maxlen",
            "broker broker.maxlen",
            "expired broker.expired",
            "expired broker.expired",
            "foreign -",
            "malformed type.missing",
            "rejected broker.rejected",
        ],
        "{letters:#?}"
    );
    let of = |id: &str| letters.iter().find(|l| l["message_id"] == id).unwrap();
    for (id, queue) in [
        ("s-1", &stale),
        ("f-0", &full),
        ("f-1", &full),
        ("r-1", &refused),
        ("o-1", &often),
    ] {
        let letter = of(id);
        assert_eq!(letter["destination"], **queue, "{letter}");
        assert_eq!(letter["state"], "dead", "{letter}");
        assert_eq!(letter["type"], "probe");
        assert_eq!(body(letter), task(id));
        let death = &letter["deaths"][0];
        assert_eq!(death["queue"], **queue, "{letter}");
        assert_eq!(
            (&death["count"], &death["exchange"], &death["routing_keys"]),
            (&json!(1), &json!(""), &json!([queue]))
        );
        assert!(death["time"].as_str().unwrap().starts_with("20"), "{death}");
    }
    assert_eq!(of("s-1")["deaths"][0]["reason"], "expired");
    let headers = of("s-1")["original"]["headers"].to_string();
    assert!(headers.contains(r#"["x-mine","a value"]"#), "{headers}");
    assert!(headers.contains("x-death"), "{headers}");
    assert_eq!(of("put")["found_in"], dlq);
    let garbage = letters
        .iter()
        .find(|l| body(l) == b"\xff\x00 no message")
        .unwrap();
    assert_eq!(garbage["destination"], stale, "{garbage}");
    assert_eq!(garbage["type"], Value::Null);

    // The command line says it too, and its filter knows the classes.
    let id = of("o-1")["id"].as_str().unwrap();
    let run = |arguments: &[&str]| {
        let output = setup.helix(&[&["--url", host.url()], arguments].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = run(&["dlq", "show", id]);
    assert!(
        shown.contains(&format!(
            "delivery_limit in {often}, 1×, from the default exchange"
        )),
        "{shown}"
    );
    let listed = run(&["dlq", "ls", "--class", "broker", "-o", "json"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(listed["count"], 3);
    for (reason, count) in [
        ("expired", 2.0),
        ("maxlen", 2.0),
        ("rejected", 1.0),
        ("delivery-limit", 1.0),
        ("foreign", 2.0),
    ] {
        let labels = [("reason", reason)];
        let adopted = host.metric("messaging_dlq_adopted_total", &labels).await;
        assert!((adopted - count).abs() < 0.1, "{reason}: {adopted}");
    }
    assert_eq!(host.unexpected_lines(&EXPECTED), Vec::<String>::new());
    end(host).await;
    assert_eq!(queues.waiting(&dlq).await, 0, "all of them are acknowledged");
    queues.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_manuals_dead_letter_of_another_program_is_its_message() {
    let (dlq, work) = names();
    let mut queues = Queues::new().await;
    queues.make(&dlq, "", &[]).await;
    queues.make(&work, "", &[]).await;
    let entry = |queue: &str, topic: &str, message: Value| {
        json!({
            "id": "dlq-1", "original_queue": queue, "original_topic": topic, "original_message": message,
            "failure_reason": "no backend", "failure_details": { "attempted": "b-7" }, "retry_count": 3,
            "first_failure": "2024-11-20T10:00:00Z", "last_failure": "2024-11-20T10:01:00Z",
            "next_retry": "0001-01-01T00:00:00Z", "status": "pending",
        })
        .to_string()
        .into_bytes()
    };
    let inner = json!({ "type": "probe", "id": "m-1", "payload": {} });
    let broken = entry(&work, "", json!("no message"));
    queues.send(&dlq, &entry(&work, "", inner)).await;
    queues
        .send(
            &dlq,
            &entry("", "events", json!({ "type": "probe", "id": "e-1", "data": 1 })),
        )
        .await;
    queues.send(&dlq, &broken).await;
    let setup = setup(&dlq, &work, "");
    let host = setup.start().await;
    host.ready().await;
    let letters = host.wait_letters(3).await;
    let of = |id: &str| letters.iter().find(|l| l["message_id"] == id).unwrap();
    let task = of("m-1");
    assert_eq!(
        (&task["class"], &task["destination"]),
        (&json!("foreign"), &json!(work))
    );
    assert_eq!(task["first_failure"], "2024-11-20T10:00:00Z");
    let reason = task["reason"].as_str().unwrap();
    assert!(reason.starts_with("no backend; retried 3 times"), "{reason}");
    assert_eq!(of("e-1")["origin"], "embedded/events");
    let malformed = letters.iter().find(|l| l["class"] == "malformed").unwrap();
    assert_eq!(body(malformed), broken);
    assert_eq!(malformed["found_in"], dlq);

    // Only what has a queue can be sent again; the others say why not.
    let id = |letter: &Value| letter["id"].as_str().unwrap().to_owned();
    let (status, problem) = reprocess(&host, &id(of("e-1"))).await;
    assert_eq!(status, 409, "{problem}");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("no route has handled"),
        "{problem}"
    );
    let (status, problem) = reprocess(&host, &id(malformed)).await;
    assert_eq!(status, 409, "{problem}");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("nothing says which queue"),
        "{problem}"
    );
    assert_eq!(reprocess(&host, &id(task)).await.0, 202);
    host.wait_metric("messaging_outcomes_total", &[("outcome", "done")], 1.0)
        .await;
    end(host).await;
    assert_eq!(queues.waiting(&dlq).await, 0);
    queues.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adopted_letter_is_sent_again_to_the_queue_it_died_in_and_handled() {
    let (dlq, work) = names();
    let lonely = unique("lonely");
    let mut queues = Queues::new().await;
    queues.make(&dlq, "", &[]).await;
    let ttl = [("x-message-ttl", milliseconds(300))];
    queues.make(&work, &dlq, &ttl).await;
    queues.make(&lonely, &dlq, &ttl).await;
    queues.send(&work, &task("w-1")).await;
    queues.send(&lonely, &task("l-1")).await;
    until("both have expired", Duration::from_secs(30), || async {
        (queues.waiting(&dlq).await == 2).then_some(())
    })
    .await;
    let setup = setup(&dlq, &work, "");
    let host = setup.start().await;
    host.ready().await;
    let letters = host.wait_letters(2).await;
    let id = |message: &str| {
        let letter = letters.iter().find(|l| l["message_id"] == message).unwrap();
        letter["id"].as_str().unwrap().to_owned()
    };
    assert_eq!(reprocess(&host, &id("w-1")).await.0, 202);
    host.wait_metric("messaging_outcomes_total", &[("outcome", "done")], 1.0)
        .await;
    let path = format!("/v1/messaging/dlq/{}", id("w-1"));
    assert_eq!(host.get(&path).await.1["state"], "reprocessed");

    // Nobody takes it there, so it expires once more: the same letter.
    assert_eq!(reprocess(&host, &id("l-1")).await.0, 202);
    let path = format!("/v1/messaging/dlq/{}", id("l-1"));
    let letter = until("it has died again", Duration::from_secs(30), || async {
        let letter = host.get(&path).await.1;
        (letter["state"] == "dead" && letter["reprocessed"] == 1).then_some(letter)
    })
    .await;
    assert_eq!(letter["class"], "expired", "{letter}");
    assert!(letter["trail"].to_string().contains("failed again"), "{letter}");
    let (_, all) = host.get("/v1/messaging/dlq?state=all").await;
    assert_eq!(all["count"], 2, "{all}");
    end(host).await;
    queues.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_store_is_away_dead_letters_stay_with_their_broker() {
    const MESSAGES: usize = 150;
    let (dlq, work) = names();
    let server = Postgres::start();
    let mut queues = Queues::new().await;
    queues.make(&dlq, "", &[]).await;
    queues.make(&work, "", &[]).await;
    let setup =
        setup(&dlq, &work, "[store]\nurl = \"env:HELIX_STORE_URL\"\n").env("HELIX_STORE_URL", &server.url);
    let host = setup.start().await;
    host.ready().await;
    queues.send(&dlq, &task("first")).await;
    host.wait_letters(1).await;
    server.control("kill");
    for n in 0..MESSAGES {
        queues.send(&dlq, &task(&format!("m-{n}"))).await;
    }
    let log = until(
        "it says that it cannot write",
        Duration::from_secs(60),
        || async {
            let log = host.log_text();
            log.contains("they stay unacknowledged").then_some(log)
        },
    )
    .await;
    assert_eq!(log.matches("they stay unacknowledged").count(), 1, "said once");
    // A bounded number is in hand.
    until("the window is full", Duration::from_secs(30), || async {
        (queues.waiting(&dlq).await as usize == MESSAGES - 64).then_some(())
    })
    .await;
    let adopted = host.metric("messaging_dlq_adopted_total", &[]).await;
    assert!(adopted < 1.5, "{adopted} are adopted");
    server.control("restart");
    let letters = host.wait_letters(MESSAGES + 1).await;
    assert_eq!(letters.len(), MESSAGES + 1);
    end(host).await;
    assert_eq!(queues.waiting(&dlq).await, 0);
    queues.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_killed_after_the_commit_makes_no_second_letter() {
    let (dlq, work) = names();
    let stale = unique("stale");
    let mut queues = Queues::new().await;
    queues.make(&dlq, "", &[]).await;
    queues.make(&work, "", &[]).await;
    queues
        .make(&stale, &dlq, &[("x-message-ttl", milliseconds(20))])
        .await;
    let muzzle = Muzzle::new().await;
    let broker = format!(
        "[brokers.rabbitmq]\nkind = \"rabbitmq\"\nhost = \"127.0.0.1\"\nport = {}\nuser = \"{}\"\npassword = \"env:HELIX_TEST_RABBITMQ_PASSWORD\"\n",
        muzzle.port,
        variable("HELIX_TEST_RABBITMQ_USER"),
    );
    let setup = setup_at(&broker, &dlq, &work, "");
    let host = setup.start().await;
    host.ready().await;
    queues.send(&dlq, &task("first")).await;
    host.wait_letters(1).await;
    until("it is consumed", Duration::from_secs(30), || async {
        host.log_text()
            .contains("dead letters of the broker are adopted")
            .then_some(())
    })
    .await;

    // From here on no acknowledgement gets through.
    muzzle.muzzle(true);
    for n in 0..10 {
        queues.send(&stale, &task(&format!("named-{n}"))).await;
        let nameless = json!({ "type": "probe", "payload": n }).to_string();
        queues.send(&stale, nameless.as_bytes()).await;
        queues.send(&stale, &[0xff, n]).await;
        queues.send(&dlq, &task(&format!("put-{n}"))).await;
    }
    let before = host.wait_letters(41).await;
    assert_eq!(before.len(), 41);
    host.kill();
    muzzle.cut();
    until("all of them are given back", Duration::from_secs(60), || async {
        (queues.waiting(&dlq).await >= 40).then_some(())
    })
    .await;

    muzzle.muzzle(false);
    let host = setup.start().await;
    host.ready().await;
    host.wait_metric("messaging_dlq_adopted_total", &[], 40.0).await;
    let ids = |letters: Vec<Value>| {
        let mut ids: Vec<String> = letters
            .iter()
            .map(|l| l["id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(host.letters().await), ids(before), "the same letters");
    end(host).await;
    assert_eq!(queues.waiting(&dlq).await, 0);
    queues.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_share_a_queue_of_dead_letters() {
    const MESSAGES: usize = 400;
    let (dlq, work) = names();
    let mut queues = Queues::new().await;
    queues.make(&dlq, "", &[]).await;
    queues.make(&work, "", &[]).await;
    let store = format!(
        "[store]\nurl = \"env:HELIX_STORE_URL\"\nschema = \"{}\"\n",
        unique("adopt").replace('-', "_")
    );
    let setups = [0, 1]
        .map(|_| setup(&dlq, &work, &store).env("HELIX_STORE_URL", &variable("HELIX_TEST_POSTGRES_URL")));
    let first = setups[0].start().await;
    let second = setups[1].start().await;
    first.ready().await;
    second.ready().await;
    for n in 0..MESSAGES {
        // Without an id, and a few alike in every byte.
        let body = json!({ "type": "probe", "payload": n / 4 }).to_string();
        queues.send(&dlq, body.as_bytes()).await;
    }
    until("all are adopted", Duration::from_secs(60), || async {
        let adopted = first.metric("messaging_dlq_adopted_total", &[]).await
            + second.metric("messaging_dlq_adopted_total", &[]).await;
        (adopted >= 400.0).then_some(())
    })
    .await;
    assert_eq!(first.letter_count().await, MESSAGES as u64);
    end(first).await;
    end(second).await;
    assert_eq!(queues.waiting(&dlq).await, 0);
    queues.delete().await;
}
