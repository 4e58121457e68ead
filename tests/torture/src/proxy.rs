//! A TCP proxy in this process: passes, cuts, or swallows what goes through it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// The proxy of the run before is closed when its task has ended, which nobody waits for.
const CLOSING: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Pass = 0,
    /// Connections stay open and nothing arrives: the other side looks dead, not gone.
    BlackHole = 1,
    /// New connections are refused by closing them.
    Refuse = 2,
}

pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
    accepts: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepts.abort();
        self.cut();
    }
}

struct State {
    mode: AtomicU8,
    cut: Notify,
    changed: Notify,
}

impl State {
    fn mode(&self) -> Mode {
        match self.mode.load(Ordering::Acquire) {
            1 => Mode::BlackHole,
            2 => Mode::Refuse,
            _ => Mode::Pass,
        }
    }
}

impl Proxy {
    /// Port 0: any that is free.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn start(port: u16, target: u16) -> Result<Self> {
        let until = Instant::now() + CLOSING;
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", port)).await {
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                    tokio::time::sleep(CLOSING / 50).await;
                }
                bound => break bound.with_context(|| format!("the proxy's port {port}"))?,
            }
        };
        let port = listener.local_addr()?.port();
        let state = Arc::new(State {
            mode: AtomicU8::new(0),
            cut: Notify::new(),
            changed: Notify::new(),
        });
        let shared = Arc::clone(&state);
        let accepts = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if shared.mode() == Mode::Refuse {
                    continue;
                }
                tokio::spawn(connection(client, target, Arc::clone(&shared)));
            }
        });
        Ok(Self { port, state, accepts })
    }

    pub fn set(&self, mode: Mode) {
        self.state.mode.store(mode as u8, Ordering::Release);
        self.state.changed.notify_waiters();
    }

    /// Resets every connection there is.
    pub fn cut(&self) {
        self.state.cut.notify_waiters();
    }
}

async fn connection(client: TcpStream, target: u16, state: Arc<State>) {
    // Registered before connecting, so that no cut is missed.
    let mut cut = std::pin::pin!(state.cut.notified());
    cut.as_mut().enable();
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    // A reset, not an orderly end: SO_LINGER of zero makes close(2) send RST.
    #[allow(
        deprecated,
        reason = "zero does not block; the other constructor wants another crate"
    )]
    for stream in [&client, &server] {
        let _ = stream.set_linger(Some(std::time::Duration::ZERO));
        let _ = stream.set_nodelay(true);
    }
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::select! {
        () = pump(client_read, server_write, &state) => {}
        () = pump(server_read, client_write, &state) => {}
        () = cut => {}
    }
}

async fn pump(mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, state: &State) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let mut changed = std::pin::pin!(state.changed.notified());
        changed.as_mut().enable();
        if state.mode() == Mode::BlackHole {
            // Not read either: the sender's window fills, as it does when a switch dies.
            changed.await;
            continue;
        }
        let n = tokio::select! {
            read = from.read(&mut buffer) => match read {
                Ok(0) | Err(_) => return,
                Ok(n) => n,
            },
            () = &mut changed => continue,
        };
        let Some(bytes) = buffer.get(..n) else { return };
        while state.mode() == Mode::BlackHole {
            let mut changed = std::pin::pin!(state.changed.notified());
            changed.as_mut().enable();
            if state.mode() == Mode::BlackHole {
                changed.await;
            }
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}
