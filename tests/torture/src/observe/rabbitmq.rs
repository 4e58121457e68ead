//! RabbitMQ's own word: the queue, and how much is in it.

use anyhow::Result;
use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};

use crate::publish::rabbitmq::uri;

async fn look(queue: &str, passive: bool) -> lapin::Result<u32> {
    let connection = Connection::connect(&uri(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions {
        durable: true,
        passive,
        ..QueueDeclareOptions::default()
    };
    let queue = channel
        .queue_declare(queue.into(), options, FieldTable::default())
        .await?;
    let count = queue.message_count();
    connection.close(200, "looked".into()).await?;
    Ok(count)
}

/// # Errors
/// When RabbitMQ does not answer.
pub async fn declare(queue: &str) -> Result<()> {
    look(queue, false).await?;
    Ok(())
}

/// Ready messages; what is in flight is counted by the hosts. None while it does not answer.
pub async fn depth(queue: &str) -> Option<i64> {
    look(queue, true).await.ok().map(i64::from)
}
