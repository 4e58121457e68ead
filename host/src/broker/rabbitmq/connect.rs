//! One connection that is kept alive: dialled on first use, dialled again with back-off, numbered by epochs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::StreamExt;
use lapin::{Connection, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::dial::Target;
use super::health::{Board, Failure, LinkHealth};
use crate::broker::Error;

/// A lost connection is noticed after this time even if no event came.
const LOOK: Duration = Duration::from_millis(250);
/// A connection that lived this long was a good one: the back-off starts anew.
const STABLE: Duration = Duration::from_secs(3);

/// 0.1 s, doubled up to 1.5 s, plus as much again by jitter: never more than 3 s.
pub fn backoff() -> backon::ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_millis(1500))
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
        .build()
}

/// A live connection and its number; numbers grow with every connection of this broker.
#[derive(Clone)]
pub struct Up {
    pub connection: Arc<Connection>,
    pub epoch: u64,
    /// Set while the broker does not read from publishers.
    pub blocked: Option<Arc<str>>,
}

#[derive(Clone)]
enum State {
    Idle,
    Up(Up),
    Down(Failure),
    Closed,
}

/// Handle to the task that keeps one connection.
pub struct Link {
    role: &'static str,
    target: Arc<Target>,
    board: Arc<Board>,
    state: watch::Sender<State>,
    started: AtomicBool,
    stop: CancellationToken,
}

impl Link {
    pub fn new(role: &'static str, target: Arc<Target>, board: Arc<Board>) -> Arc<Self> {
        Arc::new(Self {
            role,
            target,
            board,
            state: watch::Sender::new(State::Idle),
            started: AtomicBool::new(false),
            stop: CancellationToken::new(),
        })
    }

    /// Starts dialling. Needs a tokio runtime.
    pub fn start(self: &Arc<Self>) {
        if !self.started.swap(true, Ordering::AcqRel) {
            tokio::spawn(Keeper::of(self).run());
        }
    }

    /// Waits for a connection. None: closed for good.
    pub async fn up(self: &Arc<Self>) -> Option<Up> {
        self.wait(|up| Some(up.clone())).await
    }

    /// Waits for a connection that takes messages. None: closed for good.
    pub async fn writable(self: &Arc<Self>) -> Option<Up> {
        self.wait(|up| up.blocked.is_none().then(|| up.clone())).await
    }

    async fn wait(self: &Arc<Self>, good: impl Fn(&Up) -> Option<Up>) -> Option<Up> {
        self.start();
        let mut state = self.state.subscribe();
        loop {
            match &*state.borrow_and_update() {
                State::Up(up) => {
                    if let Some(up) = good(up) {
                        return Some(up);
                    }
                }
                State::Closed => return None,
                State::Idle | State::Down(_) => {}
            }
            state.changed().await.ok()?;
        }
    }

    /// A connection, or why there is none after `limit`.
    pub async fn up_within(self: &Arc<Self>, limit: Duration) -> Result<Up, Error> {
        match tokio::time::timeout(limit, self.up()).await {
            Ok(Some(up)) => Ok(up),
            Ok(None) => Err(Error::Other(format!("{}: closed", self.target.label()))),
            Err(_) => Err(self.why_down().to_error()),
        }
    }

    /// Resolves when the connection of this epoch has gone.
    pub async fn lost(&self, epoch: u64) {
        let mut state = self.state.subscribe();
        let gone = |state: &State| !matches!(state, State::Up(up) if up.epoch == epoch);
        // The sender lives in self: waiting cannot fail.
        let _never = state.wait_for(gone).await;
    }

    /// Why nothing can be sent now.
    pub fn why_down(&self) -> Failure {
        let unreachable = |text: String| Failure {
            refused: false,
            text: text.into(),
        };
        match &*self.state.borrow() {
            State::Down(failure) => failure.clone(),
            State::Up(Up {
                blocked: Some(reason),
                ..
            }) => unreachable(format!(
                "{}: it does not take messages now ({reason})",
                self.target.label()
            )),
            State::Up(_) => unreachable(format!("{}: it does not answer", self.target.label())),
            State::Idle => unreachable(format!("{}: not connected yet", self.target.label())),
            State::Closed => unreachable(format!("{}: closed", self.target.label())),
        }
    }

    pub fn health(&self) -> LinkHealth {
        match &*self.state.borrow() {
            State::Idle if self.started.load(Ordering::Acquire) => LinkHealth::Down(Failure {
                refused: false,
                text: format!(
                    "{}: not connected yet. Nothing to do, it is being tried.",
                    self.target.label()
                )
                .into(),
            }),
            State::Idle => LinkHealth::Idle,
            State::Closed => LinkHealth::Down(Failure {
                refused: false,
                text: format!("{}: closed.", self.target.label()).into(),
            }),
            State::Up(Up {
                blocked: Some(reason),
                ..
            }) => LinkHealth::Blocked(Arc::clone(reason)),
            State::Up(_) => LinkHealth::Up,
            State::Down(failure) => LinkHealth::Down(failure.clone()),
        }
    }

    /// Closes the connection, waits until the broker has agreed or `limit` is over.
    pub async fn close(&self, limit: Duration) {
        let up = match &*self.state.borrow() {
            State::Up(up) => Some(up.clone()),
            _ => None,
        };
        self.stop.cancel();
        self.state.send_replace(State::Closed);
        if let Some(up) = up {
            // Nothing more can be done when it does not answer.
            let _ = tokio::time::timeout(limit, up.connection.close(200, "closed by the host".into())).await;
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The task behind a link. It does not own the link, so that dropping the link ends it.
struct Keeper {
    role: &'static str,
    target: Arc<Target>,
    board: Arc<Board>,
    state: watch::Sender<State>,
    stop: CancellationToken,
}

impl Keeper {
    fn of(link: &Link) -> Self {
        Self {
            role: link.role,
            target: Arc::clone(&link.target),
            board: Arc::clone(&link.board),
            state: link.state.clone(),
            stop: link.stop.clone(),
        }
    }

    async fn run(self) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(self.keep()).await;
    }

    async fn keep(self) {
        let mut delays = backoff();
        loop {
            let failure = match self.target.dial(self.role).await {
                Ok(connection) => {
                    let since = Instant::now();
                    let failure = self.watch_over(connection).await;
                    if since.elapsed() >= STABLE {
                        delays = backoff();
                    }
                    failure
                }
                Err(failure) => failure,
            };
            // Our own closing looks like a loss, too.
            if self.stop.is_cancelled() {
                return;
            }
            if self.board.complain(&failure.text, Instant::now()) {
                tracing::warn!(code = %failure.code(), connection = self.role, "{}", failure.text);
            }
            self.set(State::Down(failure));
            tokio::time::sleep(delays.next().unwrap_or(STABLE)).await;
        }
    }

    /// Closed is final.
    fn set(&self, new: State) {
        self.state.send_modify(|state| {
            if !matches!(state, State::Closed) {
                *state = new;
            }
        });
    }

    /// Publishes the connection's state until it is lost; returns why.
    async fn watch_over(&self, connection: Connection) -> Failure {
        let mut events = Box::pin(connection.events_listener());
        let connection = Arc::new(connection);
        let epoch = self.board.number();
        let up = |blocked| Up {
            connection: Arc::clone(&connection),
            epoch,
            blocked,
        };
        let mut cause = None;
        self.set(State::Up(up(None)));
        tracing::info!(connection = self.role, "connected to {}", self.target.label());
        loop {
            let event = tokio::time::timeout(LOOK, events.next()).await;
            match event {
                Ok(Some(Event::ConnectionBlocked(reason))) => {
                    tracing::warn!(
                        connection = self.role,
                        reason,
                        "{} does not take messages now",
                        self.target.label()
                    );
                    self.set(State::Up(up(Some(reason.into()))));
                }
                Ok(Some(Event::ConnectionUnblocked)) => {
                    tracing::info!(
                        connection = self.role,
                        "{} takes messages again",
                        self.target.label()
                    );
                    self.set(State::Up(up(None)));
                }
                Ok(Some(Event::Error(error))) => cause = Some(error),
                Ok(Some(_)) | Err(_) => {}
                // The stream of events ends with the connection.
                Ok(None) => tokio::time::sleep(LOOK).await,
            }
            if !connection.status().connected() {
                let cause = cause.map_or_else(
                    || "closed by the other side".to_owned(),
                    |error| error.to_string(),
                );
                let text = format!(
                    "{}: the connection was lost ({cause}). It is being restored.",
                    self.target.label()
                );
                return Failure {
                    refused: false,
                    text: text.into(),
                };
            }
        }
    }
}
