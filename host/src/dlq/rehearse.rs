//! Dead letters run again with nothing carried out: walks over those that match, builds each message as sending it again
//! would ([`super::plan`]), and says what would become of it.
//!
//! Nothing is claimed and nothing written: a letter that somebody sends again meanwhile is not held up.

mod report;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesOrdered;

pub use report::{Counts, Group, Line, Prediction, Report, groups};

use super::plan::{self, Plan};
use crate::model::{Clock, DeadLetter, Failure, FailureClass, LetterState, RawMessage};
use crate::store::{DeadLetters, Error, LetterFilter, Page};

/// Letters of one request unless it says otherwise, and the most it may ask for.
pub const DEFAULT_LIMIT: usize = 1_000;
pub const MAX_LIMIT: usize = 10_000;
/// No letter is started later than this: a request may take 60 s, and those that were started get their time.
pub const STARTING: Duration = Duration::from_secs(15);
/// All attempts of one letter together.
pub const LETTER: Duration = Duration::from_secs(20);
/// Letters read at a time, each with its body.
const CHUNK: usize = 50;
/// Run at a time. They share one task and with it one core, so that traffic keeps the others.
const AT_ONCE: usize = 2;

/// How a letter would end this time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Acknowledged.
    Passes,
    /// A dead letter again.
    Fails { class: FailureClass, failure: Failure },
    /// Its route has another plugin.
    OtherPlugin(String),
    /// Nobody can tell, and why.
    Open(String),
}

/// What the candidate made of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Performed {
    pub end: End,
    pub attempts: u32,
    /// Messages it would publish, by target.
    pub publishes: Vec<(String, u64)>,
}

/// Where a message is run with nothing carried out.
#[async_trait]
pub trait Stage: Send + Sync {
    fn has_route(&self, route: &str) -> bool;
    /// `route`: of an event. All attempts together end within `limit`.
    async fn perform(&self, message: RawMessage, route: Option<&str>, limit: Duration) -> Performed;
    /// The host is leaving: start no further letter.
    fn closing(&self) -> bool;
}

/// Which letters.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// `state` is always `dead`: only such a letter can be sent again.
    pub filter: LetterFilter,
    /// These and no others; the filter does not apply.
    pub ids: Vec<String>,
    pub limit: usize,
    pub cursor: Option<String>,
}

/// One page of predictions.
#[derive(Debug, Default)]
pub struct Walked {
    /// All letters that match, this page or not.
    pub matched: u64,
    pub lines: Vec<Line>,
    /// Where to go on; none when all were run.
    pub next: Option<String>,
}

pub struct Rehearsal<'a> {
    pub letters: &'a dyn DeadLetters,
    pub stage: &'a dyn Stage,
    pub clock: &'a dyn Clock,
}

impl Rehearsal<'_> {
    /// Newest failure first.
    ///
    /// # Errors
    /// The store cannot be read, or the cursor is none of its own.
    pub async fn walk(&self, wanted: Wanted) -> Result<Walked, Error> {
        let started = Instant::now();
        if !wanted.ids.is_empty() {
            return self.named(&wanted, started).await;
        }
        let filter = LetterFilter {
            state: Some(LetterState::Dead),
            ..wanted.filter
        };
        let mut walked = Walked {
            next: wanted.cursor,
            ..Walked::default()
        };
        loop {
            let left = wanted.limit.saturating_sub(walked.lines.len());
            if left == 0 {
                return Ok(walked);
            }
            let page = Page {
                limit: left.min(CHUNK),
                offset: 0,
                cursor: walked.next.clone(),
            };
            let found = self.letters.list(&filter, &page).await?;
            walked.matched = walked.matched.max(found.count);
            let read = found.letters.len();
            let lines = self.run(found.letters, walked.lines.is_empty(), started).await;
            let done = lines.len();
            walked.lines.extend(lines);
            if done < read {
                // The time is over. The store says what the place after the last one is called.
                walked.next = self.place(&filter, page, done).await?;
                return Ok(walked);
            }
            walked.next = found.next;
            if walked.next.is_none() {
                return Ok(walked);
            }
        }
    }

    async fn place(&self, filter: &LetterFilter, page: Page, done: usize) -> Result<Option<String>, Error> {
        if done == 0 {
            return Ok(page.cursor);
        }
        let page = Page { limit: done, ..page };
        Ok(self.letters.list(filter, &page).await?.next)
    }

    /// The cursor counts ids.
    async fn named(&self, wanted: &Wanted, started: Instant) -> Result<Walked, Error> {
        let begin = match wanted.cursor.as_deref().map(str::parse::<usize>) {
            None => 0,
            Some(Ok(place)) => place,
            Some(Err(_)) => {
                return Err(Error::Invalid(
                    "the cursor is none that `next` gave for these ids".to_owned(),
                ));
            }
        };
        let mut walked = Walked {
            matched: wanted.ids.len() as u64,
            ..Walked::default()
        };
        for (place, id) in wanted.ids.iter().enumerate().skip(begin) {
            let first = walked.lines.is_empty();
            let line = match self.letters.get(id).await? {
                _ if walked.lines.len() >= wanted.limit => None,
                Some(letter) => self.run(vec![letter], first, started).await.pop(),
                None => Some(Line::unknown(id)),
            };
            let Some(line) = line else {
                walked.next = Some(place.to_string());
                break;
            };
            walked.lines.push(line);
        }
        Ok(walked)
    }

    /// In order. Ends early when the time for starting letters is over, but the `first` of a request is always run, so that
    /// whoever follows `next` gets on.
    async fn run(&self, letters: Vec<DeadLetter>, first: bool, started: Instant) -> Vec<Line> {
        let mut waiting = letters.into_iter();
        let mut running = FuturesOrdered::new();
        let mut lines = Vec::new();
        let mut open = first;
        loop {
            while running.len() < AT_ONCE && (open || started.elapsed() < STARTING) && !self.stage.closing() {
                let Some(letter) = waiting.next() else { break };
                open = false;
                running.push_back(self.one(letter));
            }
            match running.next().await {
                Some(line) => lines.push(line),
                None => return lines,
            }
        }
    }

    async fn one(&self, letter: DeadLetter) -> Line {
        if letter.state != LetterState::Dead {
            return Line::not_sendable(&letter, format!("the letter is {}", letter.state.as_str()));
        }
        let (message, route) =
            match plan::plan(&letter, |route| self.stage.has_route(route), self.clock.now_ms()) {
                Ok(Plan::Queue(raw)) => (*raw, None),
                Ok(Plan::Route(parked)) => (parked.raw, Some(parked.route)),
                Err(refusal) => return Line::not_sendable(&letter, refusal.to_string()),
            };
        let performed = self.stage.perform(message, route.as_deref(), LETTER).await;
        Line::of(&letter, performed)
    }
}

/// One rehearsal at a time: it takes a core.
#[derive(Clone, Default)]
pub struct Turn(Arc<tokio::sync::Mutex<()>>);

/// As long as it lives, no other rehearsal runs.
pub type Held = tokio::sync::OwnedMutexGuard<()>;

impl Turn {
    /// None: another one took longer than `patience`.
    pub async fn take(&self, patience: Duration) -> Option<Held> {
        let lock = Arc::clone(&self.0).lock_owned();
        tokio::time::timeout(patience, lock).await.ok()
    }
}

#[cfg(test)]
mod tests;
