//! One lane of the publisher: a confirm channel, and messages that are sent again until they are confirmed or too late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;

use super::confirms::{Answer, Fate, Key, fates};
use super::connect::Link;
use super::diagnose::{self, PRECONDITION_FAILED};
use super::publisher::Job;
use crate::broker::{Confirmed, PublishError};

/// Unconfirmed messages of one lane.
const WINDOW: usize = 128;
/// Pause before a refused message is sent again: a quorum queue elects a leader in about half a second.
const AGAIN: Duration = Duration::from_millis(50);

pub type Outcome = Result<Confirmed, PublishError>;

/// A message ready for the wire.
pub struct Item {
    queue: ShortString,
    body: Bytes,
    properties: BasicProperties,
    deadline: Instant,
    /// It may be stored although no confirm came.
    maybe_stored: bool,
    outcome: Option<Outcome>,
}

impl Item {
    pub fn new(queue: ShortString, body: Bytes, properties: BasicProperties, deadline: Instant) -> Self {
        Self {
            queue,
            body,
            properties,
            deadline,
            maybe_stored: false,
            outcome: None,
        }
    }

    fn key(&self) -> Key {
        let id = self.properties.message_id().as_ref().map(ToString::to_string);
        (id.unwrap_or_default(), self.queue.to_string())
    }

    fn too_late(&mut self, why: &str) {
        self.outcome = Some(Err(if self.maybe_stored {
            PublishError::Unknown(why.to_owned())
        } else {
            PublishError::Unavailable(why.to_owned())
        }));
    }
}

pub struct Lane {
    link: Arc<Link>,
    /// With the epoch of its connection.
    channel: Option<(u64, Channel)>,
    /// A channel exception does not say which message it means: after one, messages go one at a time.
    one_by_one: bool,
    trouble: String,
    max_size: Arc<AtomicU64>,
}

impl Lane {
    pub fn new(link: Arc<Link>, max_size: Arc<AtomicU64>) -> Self {
        Self {
            link,
            channel: None,
            one_by_one: false,
            trouble: String::new(),
            max_size,
        }
    }

    /// Ends when the publisher is closed and nothing waits.
    pub async fn run(mut self, waiting: Arc<Mutex<mpsc::Receiver<Job>>>) {
        loop {
            let jobs = {
                let mut waiting = waiting.lock().await;
                let Some(first) = waiting.recv().await else {
                    return;
                };
                let mut count = first.items.len();
                let mut jobs = vec![first];
                while count < WINDOW {
                    let Ok(job) = waiting.try_recv() else {
                        break;
                    };
                    count += job.items.len();
                    jobs.push(job);
                }
                jobs
            };
            let (sizes, mut items): (Vec<_>, Vec<_>) = (
                jobs.iter().map(|job| job.items.len()).collect(),
                Vec::with_capacity(jobs.iter().map(|job| job.items.len()).sum()),
            );
            let mut replies = Vec::with_capacity(jobs.len());
            for job in jobs {
                items.extend(job.items);
                replies.push(job.done);
            }
            self.serve(&mut items).await;
            let missing = || Err(PublishError::Unknown("no answer".to_owned()));
            let mut outcomes = items.into_iter().map(|item| item.outcome.unwrap_or_else(missing));
            for (size, reply) in sizes.into_iter().zip(replies) {
                // Nobody waits for the answer any more: then nobody needs it.
                let _ = reply.send(outcomes.by_ref().take(size).collect());
            }
        }
    }

    /// Gives every item an outcome, by its deadline.
    async fn serve(&mut self, items: &mut [Item]) {
        self.one_by_one = false;
        loop {
            let now = Instant::now();
            for item in items
                .iter_mut()
                .filter(|item| item.outcome.is_none() && item.deadline <= now)
            {
                let why = if self.trouble.is_empty() {
                    "no confirm"
                } else {
                    &self.trouble
                };
                item.too_late(why);
            }
            let width = if self.one_by_one { 1 } else { WINDOW };
            let mut chunk: Vec<&mut Item> = items
                .iter_mut()
                .filter(|item| item.outcome.is_none())
                .take(width)
                .collect();
            let Some(deadline) = chunk.iter().map(|item| item.deadline).min() else {
                return;
            };
            match tokio::time::timeout_at(deadline, self.channel()).await {
                Ok(Ok(channel)) => {
                    if self.send(&channel, &mut chunk, deadline).await {
                        tokio::time::sleep_until(deadline.min(Instant::now() + AGAIN)).await;
                    }
                }
                Ok(Err(error)) => {
                    self.trouble = error;
                    tokio::time::sleep_until(deadline.min(Instant::now() + AGAIN)).await;
                }
                Err(_) => self.trouble = self.link.why_down().text.to_string(),
            }
        }
    }

    /// The lane's channel; a new one when the connection is another or the channel is dead.
    async fn channel(&mut self) -> Result<Channel, String> {
        let Some(up) = self.link.writable().await else {
            return Err("the publisher is closed".to_owned());
        };
        if let Some((epoch, channel)) = &self.channel
            && *epoch == up.epoch
            && channel.status().connected()
        {
            return Ok(channel.clone());
        }
        self.channel = None;
        let opened = async {
            let channel = up.connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            lapin::Result::Ok(channel)
        };
        let channel = opened.await.map_err(|error| error.to_string())?;
        self.channel = Some((up.epoch, channel.clone()));
        Ok(channel)
    }

    /// Sends a chunk and waits for all its confirms. True: something has to be sent again, after a pause.
    async fn send(&mut self, channel: &Channel, chunk: &mut [&mut Item], deadline: Instant) -> bool {
        let mut answers = vec![Answer::Silent; chunk.len()];
        let mut broken = None;
        {
            // Polled in order the first time, so the frames are queued in order; nothing waits for a single one.
            let mut confirms: FuturesUnordered<_> = chunk
                .iter()
                .enumerate()
                .map(|(index, item)| publish(channel, index, item))
                .collect();
            let mut settle = |(index, answer): (usize, lapin::Result<Confirmation>)| {
                if let Some(slot) = answers.get_mut(index) {
                    *slot = match answer {
                        Ok(Confirmation::Ack(message)) => Answer::Ack(message.map(|m| key(&m))),
                        Ok(Confirmation::Nack(message)) => Answer::Nack(message.map(|m| key(&m))),
                        // The channel is in confirm mode, so this does not happen; it proves nothing.
                        Ok(Confirmation::NotRequested) => Answer::Broken,
                        Err(error) => {
                            broken.get_or_insert(error);
                            Answer::Broken
                        }
                    };
                }
            };
            let all = async {
                while let Some(answer) = confirms.next().await {
                    settle(answer);
                }
            };
            if tokio::time::timeout_at(deadline, all).await.is_err() {
                // Returns that came in time must not be overlooked.
                while let Some(Some(answer)) = confirms.next().now_or_never() {
                    settle(answer);
                }
            }
        }
        let silent = answers.contains(&Answer::Silent);
        if broken.is_some() || silent {
            // Late answers must not be taken for those of later messages.
            self.channel = None;
        }
        self.judge(chunk, answers, broken.as_ref(), silent)
    }

    fn judge(
        &mut self,
        chunk: &mut [&mut Item],
        answers: Vec<Answer>,
        broken: Option<&lapin::Error>,
        silent: bool,
    ) -> bool {
        let refusal = broken.and_then(diagnose::reply);
        let alone = chunk.len() == 1;
        let sent: Vec<(Key, Answer)> = chunk.iter().map(|item| item.key()).zip(answers).collect();
        let mut again = false;
        for (item, fate) in chunk.iter_mut().zip(fates(&sent)) {
            match fate {
                Fate::Stored => {
                    item.outcome = Some(Ok(Confirmed {
                        partition: None,
                        offset: None,
                    }));
                }
                Fate::Unroutable => {
                    item.outcome = Some(Err(PublishError::UnknownTarget(item.queue.to_string())));
                }
                Fate::Refused => {
                    self.trouble =
                        "the broker refused it (basic.nack): a full queue, or one without a leader"
                            .to_owned();
                    again = true;
                }
                Fate::Unknown => {
                    if let (true, Some((PRECONDITION_FAILED, text))) = (alone, &refusal) {
                        let error = unacceptable(text);
                        if let PublishError::TooLarge { limit } = error {
                            self.max_size.store(limit, Ordering::Relaxed);
                        }
                        item.outcome = Some(Err(error));
                        continue;
                    }
                    item.maybe_stored = true;
                    again = true;
                }
            }
        }
        if let Some(error) = broken {
            self.trouble = error.to_string();
            self.one_by_one |= refusal.is_some_and(|(code, _)| code == PRECONDITION_FAILED);
        } else if silent {
            self.trouble = "the broker has not confirmed it".to_owned();
        }
        again
    }
}

async fn publish(channel: &Channel, index: usize, item: &Item) -> (usize, lapin::Result<Confirmation>) {
    let options = BasicPublishOptions {
        mandatory: true,
        immediate: false,
    };
    let (exchange, queue) = (ShortString::default(), item.queue.clone());
    let sent = channel
        .basic_publish(exchange, queue, options, &item.body, item.properties.clone())
        .await;
    let answer = match sent {
        Ok(confirm) => confirm.await,
        Err(error) => Err(error),
    };
    (index, answer)
}

fn key(message: &lapin::message::BasicReturnMessage) -> Key {
    let id = message.properties.message_id().as_ref().map(ToString::to_string);
    (id.unwrap_or_default(), message.routing_key.to_string())
}

/// `message size 5 is larger than configured max size 4` (3.8 to 4.x), or another reason for which this message cannot pass.
fn unacceptable(text: &str) -> PublishError {
    match text
        .rsplit_once("max size ")
        .map(|(_, limit)| limit.trim().parse())
    {
        Some(Ok(limit)) => PublishError::TooLarge { limit },
        _ => PublishError::Invalid(text.to_owned()),
    }
}

#[cfg(test)]
mod tests;
