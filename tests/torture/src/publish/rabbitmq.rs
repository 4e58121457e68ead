//! Straight to RabbitMQ: persistent, mandatory, confirmed; what a broken connection leaves in doubt is published again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use helix_tests::variable;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

use super::Desk;
use crate::message::Id;

/// Published and not confirmed.
const WINDOW: usize = 200;
const PAUSE: Duration = Duration::from_millis(500);
/// A confirm that takes longer is in doubt.
const CONFIRM: Duration = Duration::from_secs(20);

pub fn uri() -> String {
    format!(
        "amqp://{}:{}@{}:{}/%2f?heartbeat=5",
        variable("HELIX_TEST_RABBITMQ_USER"),
        variable("HELIX_TEST_RABBITMQ_PASSWORD"),
        variable("HELIX_TEST_RABBITMQ_HOST"),
        variable("HELIX_TEST_RABBITMQ_PORT"),
    )
}

pub async fn run(desk: Arc<Desk>) {
    let mut doubt: VecDeque<Id> = VecDeque::new();
    loop {
        if let Ok(connection) = Connection::connect(&uri(), ConnectionProperties::default()).await
            && let Ok(channel) = connection.create_channel().await
            && channel
                .confirm_select(ConfirmSelectOptions::default())
                .await
                .is_ok()
        {
            publish(&desk, &channel, &mut doubt).await;
        }
        if desk.stop.is_cancelled() && doubt.is_empty() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Until the connection breaks, or nothing is left to do.
async fn publish(desk: &Arc<Desk>, channel: &Channel, doubt: &mut VecDeque<Id>) {
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into());
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let mut open = FuturesUnordered::new();
    let mut broken = false;
    while !broken {
        let next = tokio::select! {
            biased;
            // Confirms first: with a full window, or a full flow, they are all there is to do.
            Some((id, stored)) = open.next(), if !open.is_empty() => {
                if stored {
                    desk.confirmed(&id, None, None);
                } else {
                    doubt.push_back(id);
                    broken = true;
                }
                continue;
            }
            next = take(desk, doubt), if open.len() < WINDOW => next,
        };
        let Some((id, again)) = next else { break };
        desk.sent(&id, again);
        let body = desk.flat(&id);
        let sent = channel.basic_publish(
            "".into(),
            desk.destination.as_str().into(),
            options,
            body.as_bytes(),
            properties.clone(),
        );
        match tokio::time::timeout(CONFIRM, sent).await {
            Ok(Ok(confirm)) => open.push(async move {
                let stored = matches!(
                    tokio::time::timeout(CONFIRM, confirm).await,
                    Ok(Ok(Confirmation::Ack(None)))
                );
                (id, stored)
            }),
            _ => {
                doubt.push_back(id);
                broken = true;
            }
        }
    }
    // The end of the connection settles every confirm that is open, one way or the other.
    while let Some((id, stored)) = open.next().await {
        if stored {
            desk.confirmed(&id, None, None);
        } else {
            doubt.push_back(id);
        }
    }
}

/// What is in doubt comes first.
async fn take(desk: &Desk, doubt: &mut VecDeque<Id>) -> Option<(Id, bool)> {
    match doubt.pop_front() {
        Some(id) => Some((id, true)),
        None => Some((desk.next_unkeyed().await?, false)),
    }
}
