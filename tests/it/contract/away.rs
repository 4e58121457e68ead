//! No broker at all: the host starts, says so in bounded time, and knows what to do next.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use helix_host::broker::Broker;
use helix_host::broker::kafka::Kafka;
use helix_host::broker::rabbitmq::RabbitMq;
use helix_host::config::valid;
use helix_tests::unique;

use super::brokers::{self, Place, as_it_is};
use super::secure::{down, unavailable};

const PUBLISH: Duration = Duration::from_secs(2);
/// The publish timeout, and what a loaded machine adds.
const BOUND: Duration = Duration::from_secs(8);

/// A port of this machine that was free a moment ago.
fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

#[tokio::test(flavor = "multi_thread")]
async fn rabbitmq_that_is_away_is_told_in_bounded_time() {
    for (tls, mode) in [(None, "TLS off"), (Some(brokers::trusting("ca.pem")), "TLS")] {
        let port = closed_port();
        let options = valid::RabbitMq {
            port,
            tls,
            publish_timeout: PUBLISH,
            ..brokers::rabbitmq()
        };
        let broker: Arc<dyn Broker> = Arc::new(RabbitMq::new("tasks", &options, as_it_is()).unwrap());
        let since = Instant::now();
        let why = unavailable(Place::RabbitMq, &*broker).await;
        assert!(since.elapsed() < BOUND, "{:?}", since.elapsed());
        assert!(why.contains("connection refused"), "{why}");
        let address = format!("RabbitMQ `tasks` at 127.0.0.1:{port}");
        let user = format!("user `{}`", options.user);
        let words = [
            "HX0201",
            &address,
            &user,
            mode,
            "connection refused",
            "Check that the broker runs",
        ];
        down(&*broker, &words).await;
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_that_is_away_is_told_in_bounded_time() {
    let server = format!("127.0.0.1:{}", closed_port());
    let secret = "geheim".to_owned();
    let secured = brokers::kafka_sasl(&unique("group"), valid::SaslMechanism::ScramSha512, secret);
    for (options, words) in [
        (
            brokers::kafka(&unique("group")),
            ["PLAINTEXT", "no user", "refused"],
        ),
        (secured, ["SASL_SSL, user `helix`", "SCRAM-SHA-512", "refused"]),
    ] {
        let options = valid::Kafka {
            servers: vec![server.clone()],
            publish_timeout: PUBLISH,
            ..options
        };
        let broker: Arc<dyn Broker> = Arc::new(Kafka::new("events", &options, as_it_is()).unwrap());
        let since = Instant::now();
        let why = unavailable(Place::Kafka, &*broker).await;
        assert!(since.elapsed() < BOUND, "{:?}", since.elapsed());
        assert!(why.contains(&server), "{why}");
        let reason = down(&*broker, &words).await;
        for part in ["HX0201", &server, "Check that Kafka runs there"] {
            assert!(reason.contains(part), "{part} is missing: {reason}");
        }
        assert!(!reason.contains("geheim"), "{reason}");
        broker.close().await;
    }
}
