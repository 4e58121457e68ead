//! What every integration test stands on: a real `helix` process, real brokers, conditions with deadlines.
//!
//! Nothing here is skipped when something is missing: a test that cannot reach its broker fails and says what to run.

pub mod api;
pub mod brokers;
pub mod guests;
pub mod host;

use std::future::Future;
use std::time::{Duration, Instant};

pub use api::Client;
pub use host::{Host, Setup};

/// Asks until there is an answer.
///
/// # Panics
/// When there is none before `limit`; `what` says what was waited for.
pub async fn until<T, F, A>(what: &str, limit: Duration, mut ask: A) -> T
where
    A: FnMut() -> F,
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        // The pace of polling, not a wait for luck: the condition above decides.
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// A variable that `cargo xtask test` sets.
///
/// # Panics
/// When it is missing.
pub fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run `cargo xtask test`, or `cargo xtask test -- {{filter}}` for one test")
    })
}

/// A name no other test uses.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{}", &uuid::Uuid::now_v7().simple().to_string()[8..])
}
