//! What becomes of one letter of a job.

use std::sync::Arc;
use std::time::Duration;

use super::Runner;
use crate::dlq::redrive::{Behalf, GUARD, Refused};
use crate::model::{DeadLetter, LetterState};
use crate::store::{Action, Ending, Job, Member, Standing};

/// A result that cannot be written is tried again after this.
const RECORD_AGAIN: Duration = Duration::from_millis(500);

pub(super) enum Landing {
    /// Its result is in the store.
    Ended(Ending),
    /// It had one already: from before this host had the job, or because its message was sent without a confirm and came back.
    Had,
    /// Somebody is sending it right now.
    Busy(Box<Standing>),
    /// Not now: a broker or the store is away.
    Away(Box<Standing>, String),
    /// The job is not ours any more.
    Stopped,
}

pub(super) struct Flight {
    pub(super) runner: Arc<Runner>,
    pub(super) job: Arc<Job>,
    pub(super) holder: String,
    pub(super) standing: Standing,
}

impl Flight {
    pub(super) async fn fly(self) -> Landing {
        let Some(letter) = &self.standing.letter else {
            let why = "its row is gone, or cannot be read";
            return self.record(Ending::Failed, why.to_owned()).await;
        };
        if letter.reprocessed >= GUARD && self.job.action == Action::Reprocess && !self.job.force {
            let why = format!(
                "it was sent again {} times and failed each time; send it alone, or make a job with `force`",
                letter.reprocessed
            );
            return self.record(Ending::Skipped, why).await;
        }
        let done = self.act(letter).await;
        match done {
            Ok(ending) => Landing::Ended(ending),
            Err(Refused::Stopped) => Landing::Stopped,
            Err(Refused::Ended) => Landing::Had,
            Err(Refused::Conflict(LetterState::Retrying | LetterState::Dead)) => self.busy().await,
            Err(Refused::Conflict(state)) => {
                self.record(Ending::Skipped, format!("it is {} already", state.as_str()))
                    .await
            }
            Err(Refused::Unknown) => self.record(Ending::Skipped, "it is gone".to_owned()).await,
            Err(refused @ (Refused::Away(_) | Refused::Store(_))) => {
                Landing::Away(Box::new(self.standing), refused.to_string())
            }
            Err(
                refused @ (Refused::Refusal(_)
                | Refused::Edit(_)
                | Refused::NoBroker(_)
                | Refused::Target(_)
                | Refused::HoldsNothing
                | Refused::Unrecorded(_)),
            ) => self.record(Ending::Failed, refused.to_string()).await,
        }
    }

    async fn act(&self, letter: &DeadLetter) -> Result<Ending, Refused> {
        let why = match &self.job.reason {
            Some(reason) => format!("{reason} (job {})", self.job.id),
            None => format!("job {}", self.job.id),
        };
        let behalf = Behalf {
            actor: self.job.actor.clone(),
            why: Some(why),
            member: Some(self.member()),
            unasked: None,
        };
        match self.job.action {
            Action::Reprocess => self
                .runner
                .redrive
                .send_again(letter, self.standing.holds, &behalf)
                .await
                .map(|_| Ending::Sent),
            Action::Discard => self
                .runner
                .redrive
                .discard(&letter.id, &behalf)
                .await
                .map(|_| Ending::Discarded),
        }
    }

    /// As it is by now: who had it may have ended.
    async fn busy(self) -> Landing {
        match self.runner.redrive.letters.get(&self.standing.id).await {
            Ok(letter) => Landing::Busy(Box::new(Standing {
                letter,
                holds: true,
                ..self.standing
            })),
            Err(error) => Landing::Away(Box::new(self.standing), error.to_string()),
        }
    }

    async fn record(self, ending: Ending, why: String) -> Landing {
        let member = self.member();
        loop {
            match self.runner.jobs.record(&member, ending, Some(why.clone())).await {
                Ok(true) => return Landing::Ended(ending),
                Ok(false) => return Landing::Had,
                Err(error) if self.runner.stop.is_cancelled() => {
                    return Landing::Away(Box::new(self.standing), error.to_string());
                }
                Err(_) => tokio::time::sleep(RECORD_AGAIN).await,
            }
        }
    }

    fn member(&self) -> Member {
        Member {
            job: self.job.number,
            place: self.standing.place,
            holder: self.holder.clone(),
        }
    }
}
