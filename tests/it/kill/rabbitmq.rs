//! RabbitMQ: the queue is filled up front, by a client that waits for its confirms.

use std::collections::BTreeSet;
use std::time::Instant;

use futures::stream::{FuturesUnordered, StreamExt};
use helix_tests::{Host, Setup, brokers, unique, variable};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

use super::{MESSAGES, Run, State, WINDOW, check, finish, flat, kill_hosts, route, seed};

const REPORT: &str = "reports";

#[tokio::test]
async fn rabbitmq_loses_none_of_20000_messages_when_the_host_is_killed() {
    let seed = seed();
    let queue = unique("kill");
    let uri = format!(
        "amqp://{}:{}@{}:{}/%2f",
        variable("HELIX_TEST_RABBITMQ_USER"),
        variable("HELIX_TEST_RABBITMQ_PASSWORD"),
        variable("HELIX_TEST_RABBITMQ_HOST"),
        variable("HELIX_TEST_RABBITMQ_PORT"),
    );
    let connection = Connection::connect(&uri, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    channel
        .queue_declare(queue.as_str().into(), durable, FieldTable::default())
        .await
        .unwrap();
    fill(&channel, &queue).await;

    let config = format!(
        "[messaging]\ntasks = \"rabbitmq\"\n{}{}",
        brokers::rabbitmq_toml(),
        route(&format!("queue = \"{queue}\""), REPORT)
    );
    let topology = format!("[[queues]]\nname = \"{queue}\"\n[[topics]]\nname = \"{REPORT}\"\n");
    let setup = Setup::new(&config, &["probe"]).topology(&topology);
    let started = Instant::now();
    let host = kill_hosts(&setup, seed, |_| {}).await;
    let waiting = async |_: Option<&Host>| {
        let passive = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let queue = channel
            .queue_declare(queue.as_str().into(), passive, FieldTable::default())
            .await
            .unwrap();
        u64::from(queue.message_count())
    };
    finish(&setup, host, seed, waiting).await;
    let took = started.elapsed();

    let state = State::open(&setup).await;
    check(&Run {
        broker: "rabbitmq",
        seed,
        reports: state.reports(REPORT).await,
        letters: state.letters().await,
        resent: BTreeSet::new(),
        repeats: WINDOW,
        took,
    });
    channel
        .queue_delete(queue.as_str().into(), QueueDeleteOptions::default())
        .await
        .unwrap();
}

async fn fill(channel: &Channel, queue: &str) {
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .unwrap();
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into());
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let mut confirms = FuturesUnordered::new();
    for n in 0..MESSAGES {
        let body = flat(n, "payload", REPORT);
        let sent = channel.basic_publish(
            "".into(),
            queue.into(),
            options,
            body.as_bytes(),
            properties.clone(),
        );
        confirms.push(sent.await.unwrap());
    }
    while let Some(confirm) = confirms.next().await {
        assert!(
            matches!(confirm.unwrap(), Confirmation::Ack(None)),
            "RabbitMQ did not take a message"
        );
    }
}
