//! Straight to Kafka: an idempotent producer that keeps the order of each key through outages.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use helix_tests::variable;
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::Desk;
use crate::history::What;
use crate::message::{Dice, Id};

/// Produced and not confirmed.
const WINDOW: usize = 500;

pub fn client() -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", variable("HELIX_TEST_KAFKA_BOOTSTRAP"))
        .set("log_level", "2");
    config
}

/// # Errors
/// When the client cannot be made.
pub async fn run(desk: Arc<Desk>, keys: u32, seed: u64) -> anyhow::Result<()> {
    let producer: FutureProducer = client()
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("linger.ms", "5")
        // Outages are part of the run: a message is tried for longer than any of them lasts.
        .set("message.timeout.ms", "300000")
        .create()?;
    let mut dice = Dice::new(seed);
    let mut next = vec![0u64; usize::try_from(keys)?];
    let mut open = FuturesUnordered::new();
    loop {
        while open.len() >= WINDOW {
            open.next().await;
        }
        let key = u32::try_from(dice.between(0, u64::from(keys)))?;
        let Some(sequence) = next.get_mut(usize::try_from(key)?) else {
            continue;
        };
        let id = Id {
            stream: desk.stream,
            key,
            sequence: *sequence,
        };
        *sequence += 1;
        let entered = tokio::select! {
            // Confirms have to be taken while the flow is full.
            entered = desk.enter(id) => entered,
            () = async { while open.next().await.is_some() {} std::future::pending().await } => None,
        };
        let Some(id) = entered else { break };
        desk.sent(&id, false);
        let (body, key) = (desk.flat(&id), id.key_text());
        let mut record = FutureRecord::to(&desk.destination).key(&key).payload(&body);
        let sent = loop {
            match producer.send_result(record) {
                Ok(sent) => break sent,
                Err((_, back)) => {
                    record = back;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
        };
        let desk = Arc::clone(&desk);
        open.push(async move {
            match sent.await {
                Ok(Ok(at)) => desk.confirmed(&id, Some(i64::from(at.partition)), Some(at.offset)),
                _ => {
                    desk.history.add(What::GivenUp { id: id.to_string() });
                    desk.flow.leave(&id);
                }
            }
        });
    }
    while open.next().await.is_some() {}
    Ok(())
}
