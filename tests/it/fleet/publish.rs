//! Fills a queue and a topic, confirmed, without a host.

use futures::stream::{FuturesUnordered, StreamExt};
use helix_tests::variable;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::json;

use super::id;
use crate::kafka_client::client;

/// Confirms that are waited for at a time.
const WINDOW: usize = 2_000;

pub struct Rabbit {
    channel: Channel,
    queue: String,
    _connection: Connection,
}

impl Rabbit {
    pub async fn fill(queue: &str, numbers: impl Iterator<Item = usize>, report: &str) -> Self {
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
            .queue_declare(queue.into(), durable, FieldTable::default())
            .await
            .unwrap();
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into());
        let mut confirms = FuturesUnordered::new();
        for n in numbers {
            let body = body("payload", n, report);
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let sent = channel.basic_publish(
                "".into(),
                queue.into(),
                options,
                body.as_bytes(),
                properties.clone(),
            );
            confirms.push(sent.await.unwrap());
            if confirms.len() == WINDOW {
                let confirm = confirms.next().await.unwrap();
                assert!(matches!(confirm.unwrap(), Confirmation::Ack(None)));
            }
        }
        while let Some(confirm) = confirms.next().await {
            assert!(matches!(confirm.unwrap(), Confirmation::Ack(None)));
        }
        Self {
            channel,
            queue: queue.to_owned(),
            _connection: connection,
        }
    }

    pub async fn delete(self) {
        let queue = self.queue.as_str().into();
        self.channel
            .queue_delete(queue, QueueDeleteOptions::default())
            .await
            .unwrap();
    }
}

pub async fn kafka(topic: &str, numbers: impl Iterator<Item = usize>, report: &str) {
    let producer: FutureProducer = client("")
        .set("acks", "all")
        .set("linger.ms", "20")
        .create()
        .unwrap();
    let sent: Vec<_> = numbers
        .map(|n| {
            let (key, body) = (id(n), body("data", n, report));
            producer
                .send_result(FutureRecord::to(topic).key(&key).payload(&body))
                .unwrap_or_else(|(error, _)| panic!("{error}"))
        })
        .collect();
    for delivery in sent {
        delivery.await.unwrap().unwrap();
    }
}

fn body(payload: &str, n: usize, report: &str) -> String {
    json!({ "id": id(n), "type": "probe", payload: { "report": report } }).to_string()
}
