//! Lets keys go on that must not wait any longer behind a dead letter: they waited too long, or their route parks no more.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::redrive::Routes;
use crate::model::clock::duration_ms;
use crate::model::{Clock, UnixMs};
use crate::store::{Change, Changed, DeadLetters, Error, HeldFilter, HeldKeys, Note};

const INTERVAL: Duration = Duration::from_secs(2);
/// Keys that are looked at together.
const PAGE: usize = 100;
/// The actor of what no person did.
const HOST: &str = "host";

/// What a route does with later messages of a key when one is given up on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// There is no such route; it may come back.
    Gone,
    Skip,
    Park {
        expiry: Option<Duration>,
    },
}

/// Keys that wait since `until` or longer have to go on, and why. None: they all wait on.
fn overdue(policy: Policy, now: UnixMs) -> Option<(UnixMs, String)> {
    match policy {
        Policy::Gone | Policy::Park { expiry: None } => None,
        Policy::Skip => Some((
            now,
            "its route no longer says on_dead_letter = \"park\"".to_owned(),
        )),
        Policy::Park { expiry: Some(expiry) } => {
            let until = now.checked_sub(duration_ms(expiry))?;
            let reason = format!(
                "its key waited as long as park.expiry says ({} s)",
                expiry.as_secs()
            );
            Some((until, reason))
        }
    }
}

pub struct Sweep {
    pub letters: Arc<dyn DeadLetters>,
    pub held: Arc<dyn HeldKeys>,
    pub routes: Arc<dyn Routes>,
    pub clock: Arc<dyn Clock>,
}

impl Sweep {
    /// Runs until `stop`.
    ///
    /// # Errors
    /// Never: a store that cannot be asked is asked again.
    pub async fn run(self, stop: CancellationToken) -> Result<(), String> {
        loop {
            if let Err(error) = self.once().await {
                tracing::debug!(%error, "cannot look for keys that wait too long behind their dead letters");
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    async fn once(&self) -> Result<(), Error> {
        for held in self.held.held_routes().await? {
            let Some((until, reason)) = overdue(self.routes.policy(&held.route), self.clock.now_ms()) else {
                continue;
            };
            if held.since_ms <= until {
                self.release(held.route, until, reason).await?;
            }
        }
        Ok(())
    }

    async fn release(&self, route: String, until: UnixMs, reason: String) -> Result<(), Error> {
        let mut filter = HeldFilter {
            route: Some(route.clone()),
            until_ms: Some(until),
            limit: PAGE,
            cursor: None,
        };
        let mut released = 0;
        loop {
            let page = self.held.held(&filter).await?;
            for key in page.keys {
                let note = Note {
                    actor: HOST.to_owned(),
                    action: "release".into(),
                    reason: Some(reason.clone()),
                };
                // Somebody may be dealing with it right now: the next round sees what came of it.
                if let Changed::Done(_) = self.letters.change(&key.letter, Change::Release, note).await? {
                    released += 1;
                }
            }
            filter.cursor = page.next;
            if filter.cursor.is_none() {
                break;
            }
        }
        if released > 0 {
            self.routes.parked();
            tracing::warn!(%route, keys = released, %reason, "keys go on without their dead letters, which stay");
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn keys_wait_until_their_route_says_otherwise() {
        let hour = Some(Duration::from_secs(3600));
        let until = |policy, now| overdue(policy, now).map(|(until, _)| until);
        assert_eq!(until(Policy::Gone, 9), None);
        assert_eq!(until(Policy::Park { expiry: None }, u64::MAX), None);
        assert_eq!(until(Policy::Skip, 9), Some(9));
        assert_eq!(until(Policy::Park { expiry: hour }, 3_600_005), Some(5));
        assert_eq!(
            until(Policy::Park { expiry: hour }, 5),
            None,
            "no clock is that old"
        );
        let (_, reason) = overdue(Policy::Park { expiry: hour }, 3_600_005).unwrap();
        assert!(reason.contains("3600 s"), "{reason}");
    }
}
