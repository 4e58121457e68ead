//! TLS and SASL: the round trip works, and what does not fit is refused with one line that helps.

use std::sync::Arc;
use std::time::{Duration, Instant};

use helix_host::broker::kafka::Kafka;
use helix_host::broker::rabbitmq::RabbitMq;
use helix_host::broker::{Broker, Error, Health, PublishError, Subscription};
use helix_host::config::valid::{self, SaslMechanism};
use helix_tests::{unique, until, variable};

use super::brokers::{self, Place, as_it_is};
use super::stage::{PATIENCE, Stage, acknowledge, create, ids, send};

fn rabbitmq(options: &valid::RabbitMq) -> Arc<dyn Broker> {
    Arc::new(RabbitMq::new("rabbitmq", options, as_it_is()).unwrap())
}

fn kafka(options: &valid::Kafka) -> Arc<dyn Broker> {
    Arc::new(Kafka::new("kafka", options, as_it_is()).unwrap())
}

/// Create, publish, consume, acknowledge: every kind of connection is used once.
async fn round_trip(place: Place, broker: Arc<dyn Broker>) {
    let stage = Stage::new(place, &[]);
    let name = create(&*broker, &stage.destination()).await;
    send(&*broker, vec![stage.message(&name, "there")]).await;
    let mut consumer = stage.consumer(&*broker, &name, 10).await;
    let got = consumer.take(1).await;
    assert_eq!(ids(&got), ["there"]);
    acknowledge(got);
    consumer.leave().await;
    stage.assert_empty(&*broker, &name).await;
    until("up", PATIENCE, || async {
        (broker.health() == Health::Up).then_some(())
    })
    .await;
    broker.close().await;
}

/// The first `Down` that says all of `words`, in one line, and never a password.
pub async fn down(broker: &dyn Broker, words: &[&str]) -> String {
    let deadline = Instant::now() + PATIENCE;
    let reason = loop {
        let health = broker.health();
        match health {
            Health::Down { reason } if words.iter().all(|word| reason.contains(word)) => break reason,
            other => assert!(
                Instant::now() < deadline,
                "not down, saying {words:?}, but {other:?}"
            ),
        }
        tokio::time::sleep(Duration::from_millis(25)).await; // the pace of polling
    };
    assert_eq!(reason.lines().count(), 1, "one line: {reason}");
    assert!(reason.len() < 500, "short enough to read: {reason}");
    reason
}

/// Publishing fails as "not now", in bounded time, and says why.
pub async fn unavailable(place: Place, broker: &dyn Broker) -> String {
    let stage = Stage::new(place, &[]);
    let message = stage.message(&unique("away").into(), "lost");
    let answer = tokio::time::timeout(PATIENCE, broker.publisher().publish(vec![message])).await;
    match answer.expect("an answer in bounded time").pop() {
        Some(Err(PublishError::Unavailable(why))) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_over_tls_makes_the_round_trip() {
    round_trip(Place::RabbitMq, rabbitmq(&brokers::rabbitmq_tls("ca.pem"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_over_tls_makes_the_round_trip() {
    round_trip(
        Place::Kafka,
        kafka(&brokers::kafka_tls(&unique("group"), "ca.pem")),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_over_scram_sha_512_makes_the_round_trip() {
    scram(SaslMechanism::ScramSha512).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_over_scram_sha_256_makes_the_round_trip() {
    scram(SaslMechanism::ScramSha256).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_over_sasl_plain_makes_the_round_trip() {
    scram(SaslMechanism::Plain).await;
}

async fn scram(mechanism: SaslMechanism) {
    let options = brokers::kafka_sasl(&unique("group"), mechanism, variable("HELIX_TEST_KAFKA_PASSWORD"));
    round_trip(Place::Kafka, kafka(&options)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_with_a_foreign_ca_is_refused_by_us() {
    let options = brokers::rabbitmq_tls("other-ca.pem");
    let broker = rabbitmq(&valid::RabbitMq {
        publish_timeout: SHORT,
        ..options.clone()
    });
    let why = unavailable(Place::RabbitMq, &*broker).await;
    assert!(why.contains("issuer is not trusted"), "{why}");
    let address = format!("localhost:{}", options.port);
    let user = format!("user `{}`", options.user);
    let next = "Set tls.ca to the CA that signed the broker's certificate";
    down(
        &*broker,
        &[
            "HX0202",
            &address,
            &user,
            "other-ca.pem",
            "its issuer is not trusted",
            next,
        ],
    )
    .await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_with_a_foreign_ca_is_refused_by_us() {
    let options = valid::Kafka {
        publish_timeout: SHORT,
        ..brokers::kafka_tls("group", "other-ca.pem")
    };
    let broker = kafka(&options);
    down(
        &*broker,
        &[
            "HX0202",
            &options.servers[0],
            "SSL",
            "certificate verify failed",
            "Set tls.ca",
        ],
    )
    .await;
    let why = unavailable(Place::Kafka, &*broker).await;
    assert!(why.contains("certificate verify failed"), "{why}");
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_with_a_wrong_password_is_down_with_one_clear_line() {
    for (mechanism, name) in [
        (SaslMechanism::ScramSha512, "SCRAM-SHA-512"),
        (SaslMechanism::ScramSha256, "SCRAM-SHA-256"),
    ] {
        let options = valid::Kafka {
            publish_timeout: SHORT,
            ..brokers::kafka_sasl(&unique("group"), mechanism, "not-the-password".to_owned())
        };
        let broker = kafka(&options);
        // librdkafka's own words name the mechanism, too; ours stands beside the user.
        let user = format!("user `{}`, {name}", variable("HELIX_TEST_KAFKA_USER"));
        let next = "Check user, password and SASL mechanism";
        let reason = down(
            &*broker,
            &["HX0202", &options.servers[0], "SASL_SSL", &user, next],
        )
        .await;
        assert!(!reason.contains("not-the-password"), "{reason}");
        let why = unavailable(Place::Kafka, &*broker).await;
        assert!(why.contains(&user), "{why}");
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_with_a_wrong_password_is_down_with_one_clear_line() {
    let options = valid::RabbitMq {
        password: "not-the-password".to_owned().into(),
        publish_timeout: SHORT,
        ..brokers::rabbitmq()
    };
    let broker = rabbitmq(&options);
    let why = unavailable(Place::RabbitMq, &*broker).await;
    assert!(why.contains("login was refused"), "{why}");
    let address = format!("{}:{}", options.host, options.port);
    let user = format!("user `{}`", options.user);
    let words = [
        "HX0202",
        &address,
        &user,
        "vhost `/`",
        "login was refused",
        "Check user, password",
    ];
    let reason = down(&*broker, &words).await;
    assert!(!reason.contains("not-the-password"), "{reason}");
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_client_at_a_tls_port_is_told_so() {
    let options = brokers::rabbitmq_tls("ca.pem");
    let broker = rabbitmq(&valid::RabbitMq {
        tls: None,
        publish_timeout: SHORT,
        ..options
    });
    unavailable(Place::RabbitMq, &*broker).await;
    down(
        &*broker,
        &["plain", "Check that the port speaks what is configured"],
    )
    .await;
    broker.close().await;
    let options = brokers::kafka_tls("group", "ca.pem");
    let broker = kafka(&valid::Kafka {
        tls: None,
        publish_timeout: SHORT,
        ..options
    });
    down(
        &*broker,
        &["PLAINTEXT", "Check that this port speaks the configured mode"],
    )
    .await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_client_at_a_plain_port_is_told_so() {
    let plain = brokers::rabbitmq();
    let broker = rabbitmq(&valid::RabbitMq {
        tls: Some(brokers::trusting("ca.pem")),
        publish_timeout: SHORT,
        ..plain
    });
    unavailable(Place::RabbitMq, &*broker).await;
    down(
        &*broker,
        &[
            "does not speak TLS",
            "Check that the port speaks what is configured",
        ],
    )
    .await;
    broker.close().await;
    let plain = brokers::kafka("group");
    let broker = kafka(&valid::Kafka {
        tls: Some(brokers::trusting("ca.pem")),
        publish_timeout: SHORT,
        ..plain
    });
    down(&*broker, &["SSL", "Check that this port speaks"]).await;
    broker.close().await;
}

#[test]
fn a_missing_ca_file_is_named_before_anything_is_dialled() {
    let error = RabbitMq::new("rabbitmq", &brokers::rabbitmq_tls("missing.pem"), as_it_is()).err();
    assert!(
        matches!(&error, Some(Error::Refused(why)) if why.contains("missing.pem")),
        "{error:?}"
    );
    let error = Kafka::new("kafka", &brokers::kafka_tls("group", "missing.pem"), as_it_is()).err();
    assert!(
        error
            .as_ref()
            .is_some_and(|error| error.to_string().contains("missing.pem")),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_with_a_wrong_password_waits_and_says_why() {
    let options = brokers::kafka_sasl(
        &unique("group"),
        SaslMechanism::ScramSha512,
        "not-the-password".to_owned(),
    );
    let broker = kafka(&options);
    let stage = Stage::new(Place::Kafka, &[]);
    let subscription = Subscription {
        kind: stage.kind,
        destination: unique("topic").into(),
        window: 1,
    };
    // A login that is refused may be a broker that is not ready; it is no reason to give up.
    let source = broker.subscribe(subscription).await.unwrap();
    down(&*broker, &["HX0202", "SCRAM-SHA-512"]).await;
    source
        .close(SHORT)
        .await
        .unwrap_or_else(|error| assert!(matches!(error, Error::Unreachable(_)), "{error:?}"));
    broker.close().await;
}

/// Enough to see a refusal, short enough to wait for its end.
const SHORT: Duration = Duration::from_secs(3);
