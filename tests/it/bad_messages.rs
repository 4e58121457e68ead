//! Input that is no message, or none this host takes: each becomes a dead letter that holds it byte for byte, and what
//! stands behind it in the partition or queue is handled.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use helix_tests::{Host, Setup, brokers, unique, until};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};

/// Small, so that going over it costs nothing.
const LIMITS: &str = "[limits]\nmessage_size = \"64KiB\"\nheaders = 50\n";
const SIZE: usize = 64 << 10;

struct Bad {
    what: &'static str,
    content_type: Option<&'static str>,
    headers: Vec<(String, Vec<u8>)>,
    /// None is a Kafka null.
    body: Option<Vec<u8>>,
    class: &'static str,
    code: &'static str,
}

fn bad(what: &'static str, body: impl Into<Vec<u8>>, class: &'static str, code: &'static str) -> Bad {
    Bad {
        what,
        content_type: None,
        headers: Vec::new(),
        body: Some(body.into()),
        class,
        code,
    }
}

/// Everything of "Bad input" that a producer can put on a wire.
fn inputs() -> Vec<Bad> {
    // Binary, repeated and empty values: kept as they came.
    let headers = vec![
        ("tenant".to_owned(), b"acme".to_vec()),
        ("blob".to_owned(), vec![0xff, 0x00, 0xfe, 0x80]),
        ("looks-encoded".to_owned(), b"base64:AAAA".to_vec()),
        ("empty".to_owned(), Vec::new()),
    ];
    let cloud = Some("application/cloudevents+json; charset=utf-8");
    vec![
        Bad {
            headers: headers.clone(),
            ..bad(
                "bytes that are no envelope",
                [0xff, 0xfe, 0x00, 0x01, b'{', 0x80],
                "malformed",
                "type.missing",
            )
        },
        bad("an empty body", "", "malformed", "type.missing"),
        bad(
            "text that is no JSON object",
            "hello, world",
            "malformed",
            "type.missing",
        ),
        bad(
            "JSON that breaks off",
            r#"{"type":"probe","payload":{"#,
            "malformed",
            "json.syntax",
        ),
        bad(
            "JSON that is not UTF-8",
            b"{\"type\":\"probe\",\"payload\":\"\xff\xfe\"}".to_vec(),
            "malformed",
            "utf8.invalid",
        ),
        bad(
            "an object without a type",
            r#"{"id":"x-1","payload":{}}"#,
            "malformed",
            "type.missing",
        ),
        Bad {
            content_type: cloud,
            ..bad(
                "a CloudEvent without its id",
                r#"{"specversion":"1.0","source":"/t","type":"probe","data":{}}"#,
                "malformed",
                "cloudevents.attribute",
            )
        },
        Bad {
            content_type: cloud,
            ..bad(
                "a CloudEvent that is none",
                "not json",
                "malformed",
                "json.syntax",
            )
        },
        bad(
            "a type that is a number",
            r#"{"type":7,"payload":{}}"#,
            "malformed",
            "type.type",
        ),
        bad(
            "an id that is an object",
            r#"{"type":"probe","id":{},"payload":{}}"#,
            "malformed",
            "id.type",
        ),
        bad(
            "a priority that is a word",
            r#"{"type":"probe","priority":"high","payload":{}}"#,
            "malformed",
            "priority.type",
        ),
        bad(
            "headers that are a list",
            r#"{"type":"probe","headers":[],"payload":{}}"#,
            "malformed",
            "headers.type",
        ),
        bad(
            "a deadline that is true",
            r#"{"type":"probe","deadline":true,"payload":{}}"#,
            "malformed",
            "deadline.type",
        ),
        Bad {
            headers,
            ..bad(
                "a type nobody wants",
                r#"{"type":"no.such","id":"u-1","payload":{"a":1}}"#,
                "unrouted",
                "unrouted",
            )
        },
        bad(
            "a deadline long past",
            r#"{"type":"probe","id":"late","deadline":"2001-01-01T00:00:00Z","payload":{}}"#,
            "expired",
            "deadline",
        ),
        bad(
            "a payload over the limit",
            format!(
                r#"{{"type":"probe","id":"big","payload":"{}"}}"#,
                "x".repeat(SIZE)
            ),
            "too-large",
            "message.too-large",
        ),
        Bad {
            // As short as fits into one AMQP header frame of 128 KiB.
            headers: (0..10_000)
                .map(|n| (format!("h{n}"), vec![b'0' + (n % 10) as u8]))
                .collect(),
            ..bad(
                "10,000 headers",
                r#"{"type":"probe","id":"heads","payload":{}}"#,
                "malformed",
                "headers.too-many",
            )
        },
    ]
}

/// The message as a letter holds it: body and headers as bytes.
type Bytes = (Option<Vec<u8>>, Vec<(String, Vec<u8>)>);

fn original(letter: &Value) -> Bytes {
    let original = &letter["original"];
    let body = match (original["body"].as_str(), original["body_base64"].as_str()) {
        (Some(text), None) => Some(text.as_bytes().to_vec()),
        (None, Some(encoded)) => Some(STANDARD.decode(encoded).unwrap()),
        (None, None) => None,
        both => panic!("two bodies: {both:?}"),
    };
    assert_eq!(original["tombstone"], json!(body.is_none()));
    let headers = original["headers"].as_array().unwrap().iter().map(|pair| {
        let value = pair[1].as_str().unwrap();
        let bytes = match value.strip_prefix("base64:") {
            Some(encoded) => STANDARD.decode(encoded).unwrap(),
            None => value.as_bytes().to_vec(),
        };
        (pair[0].as_str().unwrap().to_owned(), bytes)
    });
    (body, headers.collect())
}

fn check(input: &Bad, letter: &Value, sorted: bool) {
    let what = input.what;
    assert_eq!(letter["class"], input.class, "{what}: {letter}");
    assert_eq!(letter["code"], input.code, "{what}: {letter}");
    assert!(
        letter["reason"].as_str().is_some_and(|reason| !reason.is_empty()),
        "{what}: {letter}"
    );
    assert_eq!(
        letter["state"],
        if input.class == "expired" {
            "expired"
        } else {
            "dead"
        },
        "{what}"
    );
    assert_eq!(letter["attempts"], 0, "{what}: no handler saw it");
    let (body, mut headers) = original(letter);
    assert_eq!(body, input.body, "{what}");
    let mut sent = input.headers.clone();
    if sorted {
        // An AMQP table has no order.
        headers.sort();
        sent.sort();
    }
    assert!(
        headers == sent,
        "{what}: {} headers came, {} were sent: {headers:.400?}",
        headers.len(),
        sent.len()
    );
    assert_eq!(
        letter["original"]["content_type"].as_str(),
        input.content_type.filter(|_| sorted),
        "{what}"
    );
}

fn good(n: usize) -> String {
    json!({ "type": "probe", "id": format!("good-{n}"), "payload": {} }).to_string()
}

#[tokio::test]
async fn bad_records_of_a_kafka_partition_become_letters_and_the_partition_goes_on() {
    let topic = unique("bad");
    let toml = format!(
        "{LIMITS}\n[messaging]\nevents = \"kafka\"\n{}\n[[routes]]\nname = \"bad\"\ntopic = \"{topic}\"\ntype = \"probe\"\nplugin = \"probe\"\n",
        brokers::kafka_toml(&topic)
    );
    let setup = Setup::new(&toml, &["probe"]).topology(&format!("[[topics]]\nname = \"{topic}\"\n"));
    let host = setup.start().await;
    host.ready().await;
    let producer: FutureProducer = kafka().create().unwrap();
    let mut inputs = inputs();
    inputs.push(Bad {
        body: None,
        ..bad("a null value without a type", "", "malformed", "type.missing")
    });
    let mut places = Vec::new();
    for (n, input) in inputs.iter().enumerate() {
        let mut headers = OwnedHeaders::new();
        if let Some(content_type) = input.content_type {
            headers = headers.insert(Header {
                key: "content-type",
                value: Some(content_type),
            });
        }
        for (key, value) in &input.headers {
            headers = headers.insert(Header {
                key,
                value: Some(value),
            });
        }
        let mut record = FutureRecord::<[u8], [u8]>::to(&topic).headers(headers);
        record.payload = input.body.as_deref();
        let at = producer.send(record, Duration::from_secs(10)).await.unwrap();
        places.push(format!("kafka/{topic}[{}]@{}", at.partition, at.offset));
        let text = good(n);
        producer
            .send(
                FutureRecord::<[u8], _>::to(&topic).payload(text.as_bytes()),
                Duration::from_secs(10),
            )
            .await
            .unwrap();
    }
    let letters = host.wait_letters(inputs.len()).await;
    handled(&host, inputs.len()).await;
    assert_eq!(letters.len(), inputs.len(), "{letters:#?}");
    for (input, place) in inputs.iter().zip(&places) {
        let letter = letters
            .iter()
            .find(|l| l["origin"] == **place)
            .unwrap_or_else(|| panic!("{}: no letter at {place}", input.what));
        let mut sent = Bad {
            headers: input.headers.clone(),
            body: input.body.clone(),
            ..*input
        };
        if let Some(content_type) = input.content_type {
            sent.headers
                .insert(0, ("content-type".to_owned(), content_type.as_bytes().to_vec()));
        }
        check(&sent, letter, false);
    }
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    // Acknowledged, all of them: nothing of it comes again.
    let group: BaseConsumer = kafka().set("group.id", &topic).create().unwrap();
    let mut asked = TopicPartitionList::new();
    asked.add_partition(&topic, 0);
    let committed = group.committed_offsets(asked, Duration::from_secs(10)).unwrap();
    let end = i64::try_from(2 * inputs.len()).unwrap();
    assert_eq!(
        committed.find_partition(&topic, 0).unwrap().offset(),
        Offset::Offset(end)
    );
    let admin: AdminClient<DefaultClientContext> = kafka().create().unwrap();
    admin
        .delete_topics(&[&topic], &AdminOptions::new())
        .await
        .unwrap();
}

#[tokio::test]
async fn bad_messages_of_a_rabbitmq_queue_become_letters_and_the_queue_goes_on() {
    let queue = unique("bad");
    let toml = format!(
        "{LIMITS}\n[messaging]\ntasks = \"rabbitmq\"\n{}\n[[routes]]\nname = \"bad\"\nqueue = \"{queue}\"\ntype = \"probe\"\nplugin = \"probe\"\n",
        brokers::rabbitmq_toml()
    );
    let setup = Setup::new(&toml, &["probe"]).topology(&format!("[[queues]]\nname = \"{queue}\"\n"));
    let host = setup.start().await;
    host.ready().await;
    let uri = format!(
        "amqp://{}:{}@{}:{}/%2f",
        helix_tests::variable("HELIX_TEST_RABBITMQ_USER"),
        helix_tests::variable("HELIX_TEST_RABBITMQ_PASSWORD"),
        helix_tests::variable("HELIX_TEST_RABBITMQ_HOST"),
        helix_tests::variable("HELIX_TEST_RABBITMQ_PORT"),
    );
    let connection = Connection::connect(&uri, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    let publish = async |properties: BasicProperties, body: &[u8]| {
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let sent = channel
            .basic_publish("".into(), queue.as_str().into(), options, body, properties)
            .await
            .unwrap();
        let confirmation = sent.await.unwrap();
        assert!(confirmation.is_ack(), "{confirmation:?}");
    };
    let inputs = inputs();
    for (n, input) in inputs.iter().enumerate() {
        let mut table = FieldTable::default();
        for (name, value) in &input.headers {
            table.insert(
                name.as_str().into(),
                AMQPValue::LongString(LongString::from(value.clone())),
            );
        }
        let mut properties = BasicProperties::default().with_headers(table);
        if let Some(content_type) = input.content_type {
            properties = properties.with_content_type(content_type.into());
        }
        publish(properties, input.body.as_deref().unwrap()).await;
        publish(BasicProperties::default(), good(n).as_bytes()).await;
    }
    let letters = host.wait_letters(inputs.len()).await;
    handled(&host, inputs.len()).await;
    assert_eq!(letters.len(), inputs.len(), "{letters:#?}");
    for input in &inputs {
        // A queue has no positions; every body is different.
        let letter = letters
            .iter()
            .find(|l| original(l).0 == input.body)
            .unwrap_or_else(|| panic!("{}: no letter", input.what));
        assert_eq!(letter["destination"], queue.as_str());
        check(input, letter, true);
    }
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let left = channel
        .queue_declare(queue.as_str().into(), passive, FieldTable::default())
        .await
        .unwrap();
    assert_eq!(left.message_count(), 0, "all of them are acknowledged");
    channel
        .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn what_http_accepts_but_nobody_can_handle_is_visible_and_what_it_cannot_accept_is_refused() {
    let toml = format!(
        "{LIMITS}\n[[routes]]\nname = \"bad\"\nqueue = \"work\"\ntype = \"probe\"\nplugin = \"probe\"\nretry = {{ max_retries = 0 }}\n"
    );
    let setup = Setup::new(&toml, &["probe"]).topology("[[queues]]\nname = \"work\"\n");
    let host = setup.start().await;
    host.ready().await;
    let path = "/v1/messaging/tasks/work";
    for (what, body, status, code) in [
        ("no type", json!({ "payload": {} }), 400, "HX0501"),
        (
            "an empty type",
            json!({ "type": "", "payload": {} }),
            400,
            "HX0501",
        ),
        (
            "a type that is a number",
            json!({ "type": 7, "payload": {} }),
            400,
            "HX0501",
        ),
        ("no payload", json!({ "type": "probe" }), 400, "HX0501"),
        (
            "a priority out of range",
            json!({ "type": "probe", "payload": {}, "priority": 11 }),
            400,
            "HX0501",
        ),
        (
            "an unknown field",
            json!({ "type": "probe", "payload": {}, "prio": 1 }),
            400,
            "HX0501",
        ),
        ("no JSON at all", json!("x"), 400, "HX0501"),
        (
            "broken base64",
            json!({ "type": "probe", "payload_base64": "%%" }),
            400,
            "HX0501",
        ),
        (
            "a payload over the limit",
            json!({ "type": "probe", "payload": "x".repeat(SIZE) }),
            413,
            "HX0503",
        ),
        (
            "a body far over the limit",
            json!({ "type": "probe", "payload": "x".repeat(4 * SIZE) }),
            413,
            "HX0503",
        ),
    ] {
        let (got, problem) = host.post(path, &body).await;
        assert_eq!(
            (got, problem["code"].as_str()),
            (status, Some(code)),
            "{what}: {problem}"
        );
    }
    let refused = helix_tests::Client::default()
        .post(format!("{}{path}", host.url()))
        .json(&json!({ "type": "probe", "payload": "x".repeat(4 * SIZE) }))
        .send()
        .await
        .unwrap();
    assert_eq!(
        refused.headers().get("connection").map(|v| v.as_bytes()),
        Some(&b"close"[..]),
        "a connection whose request was not read to its end is not used again"
    );
    let (status, problem) = host
        .post(
            "/v1/messaging/tasks/no-such",
            &json!({ "type": "probe", "payload": {} }),
        )
        .await;
    assert_eq!(
        (status, problem["code"].as_str()),
        (404, Some("HX0502")),
        "{problem}"
    );
    assert_eq!(host.letter_count().await, 0, "what was refused was not taken");

    let many: serde_json::Map<String, Value> = (0..10_000).map(|n| (format!("h{n}"), json!("v"))).collect();
    let accepted = [
        (
            json!({ "id": "a", "type": "no.such", "payload": { "x": 1 } }),
            "unrouted",
            "unrouted",
        ),
        (
            json!({ "id": "b", "type": "probe", "payload": {}, "deadline_ms": 1000 }),
            "expired",
            "deadline",
        ),
        (
            json!({ "id": "c", "type": "probe", "payload": {}, "headers": many }),
            "malformed",
            "headers.too-many",
        ),
        // The handler's own contract: a number where it wants a text.
        (
            json!({ "id": "d", "type": "probe", "payload": { "do": 5 } }),
            "rejected",
            "",
        ),
    ];
    for (body, _, _) in &accepted {
        let (status, answer) = host.post(path, body).await;
        assert_eq!(status, 202, "{answer}");
        host.send_task("work", "probe", json!({})).await;
    }
    let letters = host.wait_letters(accepted.len()).await;
    handled(&host, accepted.len()).await;
    for (body, class, code) in &accepted {
        let letter = letters
            .iter()
            .find(|l| l["message_id"] == body["id"])
            .unwrap_or_else(|| panic!("no letter for {} in {letters:.2000?}", body["id"]));
        assert_eq!(letter["class"], *class, "{letter:.1000}");
        if !code.is_empty() {
            assert_eq!(letter["code"], *code, "{letter:.1000}");
        }
    }
    let count = letters
        .iter()
        .filter(|l| l["code"] == "headers.too-many")
        .map(|l| {
            original(l)
                .1
                .iter()
                .filter(|(n, _)| n.starts_with('h') && n != "helix")
                .count()
        })
        .sum::<usize>();
    assert!(count >= 10_000, "{count} headers were kept");
    // The same through the command people use.
    let listed = setup.helix(&["dlq", "ls", "--url", host.url(), "-o", "json"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for class in ["unrouted", "expired", "malformed", "rejected"] {
        assert!(listed.contains(class), "{class} is not in {listed}");
    }
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
}

#[tokio::test]
async fn a_message_without_an_id_is_handled_under_one_the_host_made() {
    let topic = unique("noid");
    let toml = format!(
        "[messaging]\nevents = \"kafka\"\n{}\n[[routes]]\ntopic = \"{topic}\"\nplugin = \"probe\"\nretry = {{ max_retries = 1, delay = \"10ms\" }}\n",
        brokers::kafka_toml(&topic)
    );
    let setup = Setup::new(&toml, &["probe"]).topology(&format!("[[topics]]\nname = \"{topic}\"\n"));
    let host = setup.start().await;
    host.ready().await;
    let producer: FutureProducer = kafka().create().unwrap();
    let body = json!({ "type": "probe", "payload": { "do": "retry" } }).to_string();
    let at = producer
        .send(
            FutureRecord::<[u8], _>::to(&topic).payload(body.as_bytes()),
            Duration::from_secs(10),
        )
        .await
        .unwrap();
    let letters = host.wait_letters(1).await;
    // The position is the identity, and it stayed the same over the attempts.
    let id = format!("{topic}/{}/{}", at.partition, at.offset);
    assert_eq!(letters[0]["message_id"], id, "{letters:?}");
    assert_eq!(letters[0]["history"].as_array().map(Vec::len), Some(2));
    drop(host);
    let admin: AdminClient<DefaultClientContext> = kafka().create().unwrap();
    admin
        .delete_topics(&[&topic], &AdminOptions::new())
        .await
        .unwrap();
}

fn kafka() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set(
        "bootstrap.servers",
        helix_tests::variable("HELIX_TEST_KAFKA_BOOTSTRAP"),
    );
    config
}

/// The good ones behind the bad ones, each of them once.
async fn handled(host: &Host, count: usize) {
    let labels = [("route", "bad"), ("outcome", "done")];
    let count = count as f64;
    until(
        &format!("{count} good messages are handled"),
        Duration::from_secs(30),
        || async { (host.metric("messaging_outcomes_total", &labels).await >= count).then_some(()) },
    )
    .await;
    assert!((host.metric("messaging_outcomes_total", &labels).await - count).abs() < f64::EPSILON);
}
