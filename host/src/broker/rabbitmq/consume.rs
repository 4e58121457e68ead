//! The task behind a source: opens a channel, consumes, proves it, and does so again whenever that ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt, StreamExt};
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Consumer};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::connect::{Link, Up, backoff};
use super::convert;
use super::diagnose;
use super::health::Board;
use super::settle::ChannelAcks;
use crate::broker::{Delivery, Error, Receipt, Settle};
use crate::model::{Clock, SystemClock};

/// The broker must list a new consumer within this time.
const PROOF_LIMIT: Duration = Duration::from_secs(5);
const PROOF_STEP: Duration = Duration::from_millis(50);
/// A consumer that lived this long was a good one: the back-off starts anew.
const STABLE: Duration = Duration::from_secs(3);
/// Answers to channel methods; a dead peer is found by heartbeats, this bounds everything else.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

pub type Deliveries = mpsc::UnboundedSender<Vec<Delivery>>;

pub struct Consume {
    pub broker: Arc<str>,
    pub queue: Arc<str>,
    pub window: u16,
    /// The queue has a single active consumer, and its order outlives a change of hosts.
    pub ordered: bool,
    /// Its place on the board.
    pub number: u64,
    pub link: Arc<Link>,
    pub board: Arc<Board>,
    pub pause: CancellationToken,
    pub leave: CancellationToken,
}

/// Why consuming ended.
enum End {
    Paused,
    Broken(Arc<str>),
}

struct Session {
    channel: Channel,
    tag: ShortString,
    consumer: Consumer,
    acks: Arc<ChannelAcks>,
}

impl Drop for Consume {
    fn drop(&mut self) {
        self.board.source_gone(self.number);
    }
}

impl Drop for Session {
    /// Ends the task that sends acknowledgements, too.
    fn drop(&mut self) {
        self.acks.close();
    }
}

impl Consume {
    /// Until the source is paused or the link is closed.
    pub async fn run(self, deliveries: Deliveries) -> Result<(), Error> {
        let mut delays = backoff();
        loop {
            let opened = self.pause.run_until_cancelled(async {
                let up = self.link.up().await?;
                let opened = tokio::time::timeout(ANSWER_LIMIT, self.open(&up)).await;
                Some((
                    up,
                    opened.unwrap_or_else(|_| Err("the broker does not answer".into())),
                ))
            });
            let Some(Some((up, opened))) = opened.await else {
                return Ok(());
            };
            let since = Instant::now();
            let trouble = match opened {
                Ok(mut session) => {
                    self.board.source(self.number, &self.queue, None);
                    tracing::info!(queue = &*self.queue, "consuming");
                    tokio::spawn(Arc::clone(&session.acks).run());
                    let end = self.pump(&mut session, &up, &deliveries).await;
                    match end {
                        End::Broken(trouble) => trouble,
                        End::Paused => {
                            drop(deliveries);
                            return self.finish(session, &up).await;
                        }
                    }
                }
                Err(trouble) => trouble,
            };
            if since.elapsed() >= STABLE {
                delays = backoff();
            }
            self.board
                .source(self.number, &self.queue, Some(Arc::clone(&trouble)));
            if up.connection.status().connected() {
                // With the connection gone, the link has said everything already.
                let text: Arc<str> = format!("queue `{}` is not consumed: {trouble}", self.queue).into();
                if self.board.complain(&text, Instant::now()) {
                    tracing::warn!(queue = &*self.queue, "{text}. It is tried again");
                }
            }
            let pause = tokio::time::sleep(delays.next().unwrap_or(STABLE));
            if self.pause.run_until_cancelled(pause).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Up to the proof that the broker counts us among the queue's consumers.
    async fn open(&self, up: &Up) -> Result<Session, Arc<str>> {
        let queue = convert::short("the queue's name", &self.queue)?;
        let channel = up
            .connection
            .create_channel()
            .await
            .map_err(|error| self.explain(&error))?;
        let session = async {
            channel
                .queue_declare(queue.clone(), passive(), FieldTable::default())
                .await?;
            channel
                .basic_qos(self.window, BasicQosOptions { global: false })
                .await?;
            let options = BasicConsumeOptions::default();
            let tag = ShortString::default();
            let consumer = channel
                .basic_consume(queue.clone(), tag, options, FieldTable::default())
                .await?;
            let begun = Instant::now();
            while channel
                .queue_declare(queue.clone(), passive(), FieldTable::default())
                .await?
                .consumer_count()
                == 0
            {
                if begun.elapsed() > PROOF_LIMIT {
                    return Ok(None);
                }
                tokio::time::sleep(PROOF_STEP).await;
            }
            Ok(Some(consumer))
        };
        match session.await {
            Ok(Some(consumer)) => {
                let epoch = self.board.number();
                let acks = ChannelAcks::new(
                    epoch,
                    channel.clone(),
                    self.window.into(),
                    Arc::clone(&self.board),
                );
                Ok(Session {
                    tag: consumer.tag(),
                    channel,
                    consumer,
                    acks,
                })
            }
            Ok(None) => Err("the broker accepted the consumer but does not list it".into()),
            Err(error) => Err(self.explain(&error)),
        }
    }

    fn explain(&self, error: &lapin::Error) -> Arc<str> {
        match diagnose::reply(error) {
            Some((diagnose::NOT_FOUND, _)) => {
                "there is no queue of that name; create it or correct the route".into()
            }
            Some((diagnose::ACCESS_REFUSED, text)) => format!("no permission to read it ({text})").into(),
            Some((_, text)) => text.into(),
            None => error.to_string().into(),
        }
    }

    async fn pump(&self, session: &mut Session, up: &Up, deliveries: &Deliveries) -> End {
        let lost = self.link.lost(up.epoch);
        tokio::pin!(lost);
        loop {
            let first = tokio::select! {
                biased;
                () = self.pause.cancelled() => return End::Paused,
                () = &mut lost => return End::Broken("the connection was lost".into()),
                first = session.consumer.next() => first,
            };
            let mut batch = Vec::new();
            let mut next = Some(first);
            // Everything that is there already; the prefetch window bounds it.
            while let Some(item) = next {
                match item {
                    Some(Ok(delivery)) => batch.push(self.delivery(&session.acks, delivery)),
                    Some(Err(error)) => return End::Broken(self.explain(&error)),
                    None => {
                        return End::Broken(
                            "the broker cancelled the consumer, perhaps the queue was deleted".into(),
                        );
                    }
                }
                next = session.consumer.next().now_or_never();
            }
            // Nobody there any more: the batch is dropped, which gives it back.
            if deliveries.send(batch).is_err() {
                return End::Paused;
            }
        }
    }

    fn delivery(&self, acks: &Arc<ChannelAcks>, delivery: lapin::message::Delivery) -> Delivery {
        let token = acks.delivered(delivery.delivery_tag);
        let raw = convert::raw_message(
            &self.broker,
            &self.queue,
            &delivery.properties,
            delivery.redelivered,
            delivery.data,
            SystemClock.now_ms(),
        );
        let settle: Arc<dyn Settle> = Arc::<ChannelAcks>::clone(acks);
        Delivery {
            raw,
            receipt: Receipt::new(settle, token),
        }
    }

    /// No new deliveries; what is running may be settled until `leave`, then the channel is closed in order.
    async fn finish(&self, mut session: Session, up: &Up) -> Result<(), Error> {
        let failed = |error: &lapin::Error| {
            Error::Other(format!(
                "queue `{}` was not left in order: {}",
                self.queue,
                self.explain(error)
            ))
        };
        // Without the cancellation the broker stops at the window. With it, another host would become the active consumer
        // and start what comes next while handlers still run here; the end of the channel hands over everything at once.
        let cancelled = if self.ordered {
            Ok(())
        } else {
            cancel(&mut session).await
        };
        tokio::select! {
            () = self.leave.cancelled() => {}
            () = self.link.lost(up.epoch) => {
                session.acks.close();
                self.leave.cancelled().await;
                return Ok(());
            }
        }
        session.acks.flush(true).await;
        session.acks.close();
        cancelled.map_err(|error| failed(&error))?;
        // Its answer proves that the acknowledgements before it have arrived.
        session
            .channel
            .close(200, "done".into())
            .await
            .map_err(|error| failed(&error))
    }
}

/// What had been on its way goes back at once, not only when the channel closes.
async fn cancel(session: &mut Session) -> lapin::Result<()> {
    let options = BasicCancelOptions { nowait: false };
    let cancelled = session.channel.basic_cancel(session.tag.clone(), options).await;
    while let Some(Some(Ok(delivery))) = session.consumer.next().now_or_never() {
        let token = session.acks.delivered(delivery.delivery_tag);
        session.acks.release(token);
    }
    cancelled
}

fn passive() -> QueueDeclareOptions {
    QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    }
}
