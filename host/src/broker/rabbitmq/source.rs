//! One consumer of one queue that heals itself: what the dispatcher holds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::connect::Link;
use super::consume::Consume;
use super::health::Board;
use crate::broker::{Delivery, Error, Source, Subscription};

/// The handle; the work is done by the task in [`super::consume`].
pub struct QueueSource {
    queue: Arc<str>,
    /// Never more deliveries in it than the prefetch window.
    incoming: mpsc::UnboundedReceiver<Vec<Delivery>>,
    ready: VecDeque<Delivery>,
    pause: CancellationToken,
    leave: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl QueueSource {
    /// `ordered`: the queue has a single active consumer.
    pub fn start(
        broker: Arc<str>,
        subscription: &Subscription,
        ordered: bool,
        link: Arc<Link>,
        board: Arc<Board>,
    ) -> Self {
        let (deliveries, incoming) = mpsc::unbounded_channel();
        let pause = CancellationToken::new();
        let leave = CancellationToken::new();
        let queue = Arc::clone(&subscription.destination);
        let number = board.number();
        // Before anybody can ask for the health.
        board.source(number, &queue, Some("not connected yet".into()));
        let consume = Consume {
            broker,
            queue: Arc::clone(&queue),
            // 0 would mean "no limit" on the wire.
            window: u16::try_from(subscription.window.max(1)).unwrap_or(u16::MAX),
            ordered,
            number,
            link,
            board,
            pause: pause.clone(),
            leave: leave.clone(),
        };
        let task = tokio::spawn(consume.run(deliveries));
        Self {
            queue,
            incoming,
            ready: VecDeque::new(),
            pause,
            leave,
            task,
        }
    }

    /// What nobody has taken yet goes back to the broker at once: its receipts are dropped.
    fn give_back(&mut self) {
        self.incoming.close();
        while self.incoming.try_recv().is_ok() {}
        self.ready.clear();
    }
}

#[async_trait]
impl Source for QueueSource {
    async fn recv(&mut self, max: usize) -> Result<Vec<Delivery>, Error> {
        loop {
            while let Ok(batch) = self.incoming.try_recv() {
                self.ready.extend(batch);
            }
            if !self.ready.is_empty() {
                let take = self.ready.len().min(max.max(1));
                return Ok(self.ready.drain(..take).collect());
            }
            match self.incoming.recv().await {
                Some(batch) => self.ready.extend(batch),
                None => return Ok(Vec::new()),
            }
        }
    }

    async fn pause(&mut self) {
        self.pause.cancel();
        self.give_back();
    }

    async fn close(mut self: Box<Self>, limit: Duration) -> Result<(), Error> {
        self.pause().await;
        self.leave.cancel();
        match tokio::time::timeout(limit, &mut self.task).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(Error::Other(format!(
                "the consumer of queue `{}` failed: {panic}",
                self.queue
            ))),
            Err(_) => {
                self.task.abort();
                Err(Error::Other(format!(
                    "queue `{}` was not left within {limit:?}: the broker did not confirm the last acknowledgements",
                    self.queue
                )))
            }
        }
    }
}

impl Drop for QueueSource {
    fn drop(&mut self) {
        self.pause.cancel();
        self.leave.cancel();
    }
}
