//! A steady stream of one type in the background.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use serde_json::json;

use super::report::post;
use crate::signals;

/// Between two messages: a stream that a debug build handles with ease, and that no swap can slip between.
const PAUSE: Duration = Duration::from_millis(10);

pub struct Traffic {
    accepted: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<()>>,
}

impl Traffic {
    pub fn start(address: &str, path: &'static str, kind: &'static str) -> Self {
        let (accepted, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end, address) = (Arc::clone(&accepted), Arc::clone(&stop), address.to_owned());
        let sender = thread::spawn(move || {
            while !end.load(Ordering::SeqCst) {
                let prompt = format!("message {}", count.load(Ordering::SeqCst));
                post(&address, path, kind, &json!({ "prompt": prompt }))?;
                count.fetch_add(1, Ordering::SeqCst);
                thread::sleep(PAUSE);
            }
            Ok(())
        });
        Self {
            accepted,
            stop,
            sender,
        }
    }

    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Waits until so many were accepted.
    pub fn until(&self, number: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.accepted() < number {
            if self.sender.is_finished() || Instant::now() > deadline || signals::interrupted() {
                bail!("the stream of messages stopped at {}", self.accepted());
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Ends the stream; how many were accepted, or why one was not.
    pub fn stop(self) -> Result<u64> {
        self.stop.store(true, Ordering::SeqCst);
        self.sender.join().map_err(|_| anyhow!("the sender panicked"))??;
        Ok(self.accepted.load(Ordering::SeqCst))
    }
}
