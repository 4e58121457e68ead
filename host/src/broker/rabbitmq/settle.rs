//! Acknowledgements of one consumer channel: receipts report here, one task sends the frames.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Instant;

use futures::future::join_all;
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::acks::{Coalescer, Frame};
use super::health::{Board, lock};
use crate::broker::{Settle, Token};

/// Lives as long as its channel; a token of another channel, or of this one after its end, is stale.
pub struct ChannelAcks {
    channel: Channel,
    core: Mutex<Coalescer>,
    wake: Notify,
    /// Held while frames are taken and queued: overtaking could acknowledge what was given back.
    sending: tokio::sync::Mutex<()>,
    closed: CancellationToken,
    board: Arc<Board>,
}

impl ChannelAcks {
    /// `epoch` is given out once per channel, so it grows with every connection, too.
    pub fn new(epoch: u64, channel: Channel, window: usize, board: Arc<Board>) -> Arc<Self> {
        let core = Coalescer::new(epoch, u32::from(channel.id()), window);
        Arc::new(Self {
            channel,
            core: Mutex::new(core),
            wake: Notify::new(),
            sending: tokio::sync::Mutex::new(()),
            closed: CancellationToken::new(),
            board,
        })
    }

    pub fn delivered(&self, tag: u64) -> Token {
        lock(&self.core).delivered(tag)
    }

    /// From now on everything is stale.
    pub fn close(&self) {
        lock(&self.core).close();
        self.closed.cancel();
    }

    /// Sends frames when they are due, until the channel is closed.
    pub async fn run(self: Arc<Self>) {
        self.closed.run_until_cancelled(self.serve()).await;
    }

    async fn serve(&self) {
        loop {
            let (due, full) = {
                let core = lock(&self.core);
                (core.due(), core.is_full())
            };
            let now = Instant::now();
            match due {
                _ if full => self.flush(false).await,
                Some(due) if due <= now => self.flush(false).await,
                Some(due) => {
                    let _either = tokio::time::timeout_at(due.into(), self.wake.notified()).await;
                }
                None => self.wake.notified().await,
            }
        }
    }

    /// Sends what is held back; with `all`, stragglers too. Frames are queued in order and awaited together.
    pub async fn flush(&self, all: bool) {
        let _in_order = self.sending.lock().await;
        let frames = lock(&self.core).flush(Instant::now(), all);
        let sent = join_all(frames.into_iter().map(|frame| self.send(frame))).await;
        if let Some(error) = sent.into_iter().find_map(Result::err) {
            // The channel is gone, its consumer says so; the broker delivers again what this would have settled.
            tracing::debug!(%error, "acknowledgements were not sent");
            self.close();
        }
    }

    async fn send(&self, frame: Frame) -> lapin::Result<()> {
        match frame {
            Frame::Prefix(tag) => {
                self.channel
                    .basic_ack(tag, BasicAckOptions { multiple: true })
                    .await
            }
            Frame::Single(tag) => {
                self.channel
                    .basic_ack(tag, BasicAckOptions { multiple: false })
                    .await
            }
            Frame::Requeue(tag) => {
                self.channel
                    .basic_nack(
                        tag,
                        BasicNackOptions {
                            multiple: false,
                            requeue: true,
                        },
                    )
                    .await
            }
        }
    }
}

impl Settle for ChannelAcks {
    fn begin(&self, token: Token) -> bool {
        self.channel.status().connected() && lock(&self.core).begin(token)
    }

    fn ack(&self, token: Token) {
        let (taken, urgent) = {
            let mut core = lock(&self.core);
            (core.finish(token, Instant::now()), core.is_urgent())
        };
        if !taken {
            self.board.stale_ack();
        } else if urgent {
            self.wake.notify_one();
        }
    }

    fn begin_all(&self, tokens: &[Token]) -> Vec<bool> {
        let connected = self.channel.status().connected();
        let mut core = lock(&self.core);
        tokens
            .iter()
            .map(|&token| connected && core.begin(token))
            .collect()
    }

    fn ack_all(&self, tokens: &[Token]) {
        let now = Instant::now();
        let (stale, urgent) = {
            let mut core = lock(&self.core);
            let stale = tokens.iter().filter(|&&token| !core.finish(token, now)).count();
            (stale, core.is_urgent())
        };
        for _ in 0..stale {
            self.board.stale_ack();
        }
        if urgent {
            self.wake.notify_one();
        }
    }

    fn release(&self, token: Token) {
        let taken = lock(&self.core).release(token);
        if taken {
            self.wake.notify_one();
        }
    }
}
