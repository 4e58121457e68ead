//! Takes letters back whose lease ran out, so that none stays `retrying` for ever.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::DeadLetters;

const INTERVAL: Duration = Duration::from_secs(5);

/// Runs until `stop`.
///
/// # Errors
/// Never: a store that cannot be asked is asked again.
pub async fn run(letters: Arc<dyn DeadLetters>, stop: CancellationToken) -> Result<(), String> {
    loop {
        match letters.lapse().await {
            Ok(0) => {}
            Ok(letters) => {
                tracing::warn!(
                    letters,
                    "sending dead letters again was not finished; they are dead again, look before you send them once more"
                );
            }
            Err(error) => tracing::debug!(%error, "cannot look for leases of dead letters that ran out"),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}
