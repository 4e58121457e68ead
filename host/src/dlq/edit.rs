//! Sends a changed copy of a letter's message in its place, and discards the letter: of several who want it one gets it.
//!
//! claimed (`retrying`, on disk) → the copy sent (confirmed by its broker, or parked for its route) → `discarded`, with the id
//! of the copy in its trail. A crash in between brings the letter back when its lease ends, as with [`super::redrive`]: then
//! the copy may exist beside it, and nothing is lost.

mod copy;

use std::sync::Arc;

pub use copy::{Edit, Fault};

use super::plan;
use super::redrive::{Behalf, LEASE, Redrive, Refused, Target, publish};
use crate::model::{DeadLetter, LetterState, header};
use crate::store::{Change, Changed, Parked};
use crate::telemetry::logs::printable;

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edited {
    /// Of the letter.
    pub state: LetterState,
    /// Of the copy.
    pub message_id: String,
}

impl Redrive {
    /// Goes on when the caller goes away.
    ///
    /// # Errors
    /// Says why not, and the letter is what it was; see [`Refused`].
    pub async fn edit(
        self: &Arc<Self>,
        id: &str,
        actor: &str,
        reason: String,
        edit: Edit,
    ) -> Result<Edited, Refused> {
        let (redrive, id, behalf) = (Arc::clone(self), id.to_owned(), Behalf::of(actor));
        let work = tokio::spawn(async move { redrive.send_copy(&id, &behalf, &reason, &edit).await });
        work.await.unwrap_or_else(|error| {
            let stopped = crate::store::Error::Storage(error.to_string());
            Err(Refused::Store(stopped))
        })
    }

    async fn send_copy(
        &self,
        id: &str,
        behalf: &Behalf,
        reason: &str,
        edit: &Edit,
    ) -> Result<Edited, Refused> {
        // What cannot be sent is not claimed first: its trail would say that somebody had tried.
        let letter = self.letters.get(id).await?.ok_or(Refused::Unknown)?;
        if letter.state != LetterState::Dead {
            return Err(Refused::Conflict(letter.state));
        }
        let message_id = self.ids.next();
        self.plan_copy(&letter, edit, &message_id).await?;
        let holder = self.ids.next();
        let claim = Change::Claim {
            holder: holder.clone(),
            lease: LEASE,
        };
        let claimed = self
            .letters
            .change(id, claim, behalf.note("edit", Some(reason.to_owned())));
        let letter = Refused::unless_done(claimed.await?)?;
        let sent = match self.plan_copy(&letter, edit, &message_id).await {
            Ok(Target::Queue(publisher, raw)) => publish(&*publisher, *raw, None).await.map(|()| None),
            Ok(Target::Route(row) | Target::Held(row)) => Ok(Some(row)),
            Err(refused) => Err(refused),
        };
        match sent {
            Ok(park) => {
                let why = format!("edited, sent as {message_id}: {reason}");
                let state = self.replaced(id, behalf, holder, park, why).await?;
                Ok(Edited { state, message_id })
            }
            Err(refused) => {
                self.give_back(id, behalf, holder, &refused).await;
                Err(refused)
            }
        }
    }

    /// As a redrive of the changed message, except that it begins a life of its own: failing, it is another letter. Where a key
    /// waits behind the letter, the copy runs in its place there.
    async fn plan_copy(&self, letter: &DeadLetter, edit: &Edit, message_id: &str) -> Result<Target, Refused> {
        let now = self.clock.now_ms();
        let changed = DeadLetter {
            raw: copy::of(letter, edit, message_id, now)?,
            ..letter.clone()
        };
        let has_route = |route: &str| self.routes.has(route);
        let mut target = match self.held.held_by(&letter.id).await? {
            Some(held) => Target::Held(Box::new(plan::resume(&changed, &held, has_route, now)?)),
            None => self.target(plan::plan(&changed, has_route, now)?)?,
        };
        let raw = match &mut target {
            Target::Queue(_, raw) => raw,
            Target::Route(row) | Target::Held(row) => {
                message_id.clone_into(&mut row.id);
                row.first_failure_ms = now;
                &mut row.raw
            }
        };
        raw.headers.remove(header::REPROCESSED);
        raw.headers.remove(header::LETTER);
        Ok(target)
    }

    async fn replaced(
        &self,
        id: &str,
        behalf: &Behalf,
        holder: String,
        park: Option<Box<Parked>>,
        why: String,
    ) -> Result<LetterState, Refused> {
        let parks = park.is_some();
        let change = Change::Edited { holder, park };
        match self
            .persist(behalf, id, &change, &behalf.note("edited", Some(why.clone())))
            .await
        {
            Ok(Changed::Done(letter)) => {
                if parks {
                    self.routes.parked();
                }
                tracing::info!(letter = %id, actor = %printable(&behalf.actor), why = %printable(&why), "dead letter edited and sent");
                Ok(letter.state)
            }
            // It is out; what is parked goes with the change, or not at all.
            Ok(Changed::Conflict(state)) if !parks => Ok(state),
            Ok(changed) => Refused::unless_done(changed).map(|letter| letter.state),
            Err(error) if parks => Err(Refused::Store(error)),
            Err(error) => {
                tracing::error!(letter = %id, %error, "an edited copy was sent, but that cannot be recorded: the letter will be dead again. Repair the store (HX0401)");
                Err(Refused::Unrecorded(error))
            }
        }
    }
}
