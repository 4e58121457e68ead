//! Looking at queues and creating missing ones; what is there is never changed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lapin::Channel;
use lapin::options::QueueDeclareOptions;
use lapin::types::{FieldTable, ShortString};

use super::arguments::{self, Shape};
use super::connect::Link;
use super::convert;
use super::diagnose::{self, ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED};
use crate::broker::{Comparison, Destination, Error, Topology};
use crate::model::MessageKind;

/// How long an answer may take, connecting included.
const LIMIT: Duration = Duration::from_secs(15);
/// Differences looked for in one queue; each costs a channel.
const DIFFERENCES: usize = 16;

pub struct Queues {
    pub link: Arc<Link>,
}

impl Queues {
    async fn channel(&self) -> Result<Channel, Error> {
        let up = self.link.up_within(LIMIT).await?;
        up.connection
            .create_channel()
            .await
            .map_err(|error| Error::Unreachable(error.to_string()))
    }

    /// Messages in the queue; none when there is no such queue. The channel survives only in the first case.
    async fn look(channel: &Channel, queue: &ShortString) -> Result<Option<u32>, Error> {
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        match channel
            .queue_declare(queue.clone(), options, FieldTable::default())
            .await
        {
            Ok(found) => Ok(Some(found.message_count())),
            Err(error) => match diagnose::reply(&error) {
                Some((NOT_FOUND, _)) => Ok(None),
                _ => Err(refusal(queue, &error)),
            },
        }
    }

    async fn declare(channel: &Channel, queue: &ShortString, shape: &Shape) -> lapin::Result<()> {
        let options = QueueDeclareOptions {
            durable: shape.durable,
            exclusive: shape.exclusive,
            auto_delete: shape.auto_delete,
            ..QueueDeclareOptions::default()
        };
        channel
            .queue_declare(queue.clone(), options, shape.arguments.clone())
            .await
            .map(drop)
    }

    /// A declaration with other arguments fails and names one difference; adopting what is there brings up the next.
    async fn differences(&self, queue: &ShortString, mut shape: Shape) -> Result<Comparison, Error> {
        let mut differences = Vec::new();
        while differences.len() < DIFFERENCES {
            let channel = self.channel().await?;
            // Only after a look: a declaration of a missing queue would create it.
            if Self::look(&channel, queue).await?.is_none() {
                return Ok(Comparison::Missing);
            }
            let error = match Self::declare(&channel, queue, &shape).await {
                Ok(()) => {
                    let _ = channel.close(200, "looked".into()).await;
                    break;
                }
                Err(error) => error,
            };
            match diagnose::reply(&error) {
                Some((PRECONDITION_FAILED, text)) => {
                    let difference = arguments::difference(&text);
                    let adopted = difference.as_ref().is_some_and(|found| shape.adopt(found));
                    differences.push(difference.map_or(text, |found| found.line()));
                    if !adopted {
                        break;
                    }
                }
                _ => return Err(refusal(queue, &error)),
            }
        }
        if differences.is_empty() {
            Ok(Comparison::Same)
        } else {
            Ok(Comparison::Differs { differences })
        }
    }
}

#[async_trait]
impl Topology for Queues {
    async fn compare(&self, want: &Destination) -> Result<Comparison, Error> {
        let queue = name(want.kind, &want.name)?;
        within(self.differences(&queue, Shape::of(want)?)).await
    }

    async fn create(&self, want: &Destination) -> Result<(), Error> {
        let queue = name(want.kind, &want.name)?;
        let shape = Shape::of(want)?;
        within(async {
            let channel = self.channel().await?;
            if Self::look(&channel, &queue).await?.is_none() {
                // The missing queue has cost the channel.
                let channel = self.channel().await?;
                match Self::declare(&channel, &queue, &shape).await {
                    Ok(()) => tracing::info!(queue = queue.as_str(), "queue created"),
                    Err(error) => {
                        // Somebody else was faster: then it is there, whatever it is like.
                        if Self::look(&self.channel().await?, &queue).await?.is_none() {
                            return Err(refusal(&queue, &error));
                        }
                    }
                }
            }
            Ok(())
        })
        .await
    }

    async fn depth(&self, kind: MessageKind, queue: &str) -> Result<u64, Error> {
        let queue = name(kind, queue)?;
        within(async {
            let channel = self.channel().await?;
            match Self::look(&channel, &queue).await? {
                Some(count) => {
                    // Only a courtesy: dropping the channel closes it as well.
                    let _ = channel.close(200, "looked".into()).await;
                    Ok(u64::from(count))
                }
                None => Err(Error::UnknownDestination(queue.to_string())),
            }
        })
        .await
    }
}

async fn within<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let silent = || Error::Unreachable("the broker does not answer".to_owned());
    tokio::time::timeout(LIMIT * 2, work)
        .await
        .unwrap_or_else(|_| Err(silent()))
}

fn name(kind: MessageKind, name: &str) -> Result<ShortString, Error> {
    match kind {
        MessageKind::Task => convert::short("the queue's name", name).map_err(Error::Unsupported),
        MessageKind::Event => Err(no_topics(name)),
    }
}

pub fn no_topics(name: &str) -> Error {
    Error::Unsupported(format!(
        "RabbitMQ holds queues only; put topic `{name}` on Kafka or the embedded broker"
    ))
}

fn refusal(queue: &ShortString, error: &lapin::Error) -> Error {
    match diagnose::reply(error) {
        Some((ACCESS_REFUSED, text)) => Error::Refused(format!("queue `{queue}`: {text}")),
        Some((_, text)) => Error::Other(format!("queue `{queue}`: {text}")),
        None => Error::Unreachable(format!("queue `{queue}`: {error}")),
    }
}
