//! Changes of a letter's state: compare and set, and a row in its trail.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{AssertSqlSafe, QueryBuilder};

use super::engine::{self, Connection, Database, Row, SKIP_LOCKED, failed};
use super::row::{column, corrupt};
use super::tally::Tally;
use super::text::{stored, text};
use super::{Error, held, int, letters, retries, trail};
use crate::model::clock::duration_ms;
use crate::model::{DeadLetter, LetterState, UnixMs};
use crate::store::{Change, Changed, Note, Progress};

/// What all letters that are changed at once become.
pub(super) struct Step<'a> {
    from: LetterState,
    to: LetterState,
    claim: Option<Claim<'a>>,
    now: UnixMs,
}

struct Claim<'a> {
    until: i64,
    host: &'a str,
    by: By,
}

/// Who changes a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Person,
    /// The host by itself, which is so far with it then.
    Host(Progress),
    /// The job of that number.
    Job(u64),
}

impl By {
    /// Whoever else claims it, the host begins anew with it, so that it tries as often as ever after a person did.
    fn progress(self) -> Progress {
        match self {
            Self::Host(next) => next,
            Self::Person | Self::Job(_) => Progress::default(),
        }
    }

    fn job(self) -> Option<i64> {
        match self {
            Self::Job(job) => Some(int(job)),
            Self::Person | Self::Host(_) => None,
        }
    }
}

impl<'a> Step<'a> {
    pub(super) fn of(change: &Change, by: By, host: &'a str, now: UnixMs) -> Self {
        let claim = match change {
            Change::Claim { lease, .. } => Some(Claim {
                until: end_of(now, *lease),
                host,
                by,
            }),
            _ => None,
        };
        Self {
            from: change.from(),
            to: change.to(),
            claim,
            now,
        }
    }

    /// Compare and set of these letters, each with its holder: who claims it, or who has it. The rows of those that were changed,
    /// in no order, with the columns of [`letters::letter`] and [`letters::kind`].
    pub(super) async fn set(
        &self,
        on: &mut Connection,
        given: &[(&str, Option<&str>)],
    ) -> Result<Vec<Row>, Error> {
        let mut query = QueryBuilder::<Database>::new("WITH given (letter, who) AS (");
        let given = given.iter().map(|(letter, who)| {
            let who = who.map(|who| stored(who).into_owned());
            (stored(letter).into_owned(), who)
        });
        engine::pairs(&mut query, &given.collect::<Vec<_>>());
        query
            .push(") UPDATE dead_letters SET state = ")
            .push_bind(self.to.as_str())
            .push(", closed_ms = ")
            .push_bind(letters::closed(self.to, self.now));
        // A holder that is asked for has to be there; where none is asked for the row has none either.
        let held = match &self.claim {
            Some(Claim { until, host, by }) => {
                let begun = by.progress();
                query
                    .push(", holder = given.who, lease_until_ms = ")
                    .push_bind(*until);
                query.push(", host = ").push_bind((*host).to_owned());
                query.push(", job = ").push_bind(by.job());
                query
                    .push(", auto_attempts = ")
                    .push_bind(i64::from(begun.attempts));
                query.push(", auto_due_ms = ").push_bind(int(begun.due_ms));
                query.push(", auto_end = NULL");
                "holder IS NULL"
            }
            None => {
                query.push(", holder = NULL, lease_until_ms = NULL, host = NULL, job = NULL");
                "holder IS NOT DISTINCT FROM given.who"
            }
        };
        query
            .push(" FROM given WHERE id = given.letter AND state = ")
            .push_bind(self.from.as_str())
            .push(" AND ")
            .push(held)
            .push(concat!(" RETURNING ", letters::columns!(), ", grp, destination"));
        query.build().fetch_all(on).await.map_err(failed)
    }

    /// The letters of rows that were changed: counted, and each with its row in the trail.
    pub(super) async fn made<'n>(
        &self,
        on: &mut Connection,
        rows: &[Row],
        note: impl Fn(&str) -> Option<&'n Note>,
        tally: &mut Tally,
    ) -> Result<Vec<DeadLetter>, Error> {
        let mut letters = Vec::with_capacity(rows.len());
        for row in rows {
            tally.moved(&letters::kind(row)?, self.from, self.to);
            letters.push(letters::letter(row)?);
        }
        let noted = letters
            .iter()
            .filter_map(|letter| Some((letter.id.as_str(), note(&letter.id)?)));
        trail::add_all(on, self.now, (self.from, self.to), &noted.collect::<Vec<_>>()).await?;
        Ok(letters)
    }
}

#[allow(clippy::too_many_arguments, reason = "what a change is made of")]
pub(super) async fn change(
    on: &mut Connection,
    id: &str,
    change: &Change,
    by: By,
    note: &Note,
    host: &str,
    now: UnixMs,
    tally: &mut Tally,
) -> Result<Changed, Error> {
    // Its lane is locked: nobody else takes the row away.
    if matches!(change, Change::Resume { .. } | Change::Release) && !held::holds(on, id).await? {
        return as_it_is(on, id).await;
    }
    let step = Step::of(change, by, host, now);
    let rows = step.set(on, &[(id, who(change))]).await?;
    let Some(letter) = step.made(on, &rows, |_| Some(note), tally).await?.pop() else {
        return as_it_is(on, id).await;
    };
    follow(on, id, change, now).await?;
    Ok(Changed::Done(Box::new(letter)))
}

/// Who claims the letter with this change, or has to have it.
pub(super) fn who(change: &Change) -> Option<&str> {
    match change {
        Change::Claim { holder, .. } => Some(holder),
        change => change.holder(),
    }
}

/// Nothing was changed.
pub(super) async fn as_it_is(on: &mut Connection, id: &str) -> Result<Changed, Error> {
    Ok(state(on, id).await?.map_or(Changed::Unknown, Changed::Conflict))
}

/// What becomes of rows. Only now that the letter is ours: of whoever is just holding a key with it, one waits for the other.
async fn follow(on: &mut Connection, letter: &str, change: &Change, now: UnixMs) -> Result<(), Error> {
    match change {
        Change::Resume { row, .. } => held::resume(on, letter, row, false).await.map(drop),
        Change::Release | Change::Discard | Change::Edited { park: None, .. } => {
            held::remove(on, letter).await
        }
        // Whoever sent it may not have known that it holds a key. Its row is where it runs, also when its queue has it as
        // well: the one that came from there may have been taken for the row's double.
        Change::Sent { park: None, .. } => held::wake(on, &[letter], now).await,
        Change::Sent { park: Some(row), .. } | Change::Edited { park: Some(row), .. } => {
            let copy = matches!(change, Change::Edited { .. });
            if held::resume(on, letter, row, copy).await? {
                return Ok(());
            }
            retries::insert(on, row).await
        }
        Change::Claim { .. } | Change::GiveBack { .. } => Ok(()),
    }
}

fn end_of(now: UnixMs, lease: Duration) -> i64 {
    int(now.saturating_add(duration_ms(lease)))
}

async fn state(on: &mut Connection, id: &str) -> Result<Option<LetterState>, Error> {
    let row = sqlx::query("SELECT state FROM dead_letters WHERE id = $1")
        .bind(stored(id))
        .fetch_optional(on)
        .await
        .map_err(failed)?;
    row.map(|row| letters::word(column(&row, "state")?).ok_or_else(|| corrupt("the state", id)))
        .transpose()
}

/// Which leases are over.
pub(super) enum Over {
    /// Those that ended at this time or before.
    By(UnixMs),
    /// Those of this host. One that says no host was taken before hosts were written down, in a file that had one only.
    Of(Arc<str>),
}

pub(super) async fn lapse(
    on: &mut Connection,
    over: &Over,
    now: UnixMs,
    tally: &mut Tally,
) -> Result<u64, Error> {
    let (until, host) = match over {
        Over::By(until) => (Some(int(*until)), None),
        Over::Of(host) => (None, Some(&**host)),
    };
    // As many as were under way at a time: few. What another host is just changing is passed over: it may be waiting for one of the
    // others. Mostly the letter has failed again and is dead already; else it is found when its lease is over.
    let sql = format!(
        "WITH lapsed AS (SELECT id FROM dead_letters
             WHERE state = 'retrying' AND (lease_until_ms <= $1 OR host = $2 OR ($2 IS NOT NULL AND host IS NULL)){SKIP_LOCKED})
         UPDATE dead_letters SET state = 'dead', holder = NULL, lease_until_ms = NULL, host = NULL, job = NULL
         WHERE id IN (SELECT id FROM lapsed)
         RETURNING id, grp, destination, message_type"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(until)
        .bind(host)
        .fetch_all(&mut *on)
        .await
        .map_err(failed)?;
    let note = Note {
        actor: trail::HOST.to_owned(),
        action: "lease ran out".into(),
        reason: Some("whoever was sending it again did not finish; it may have been sent".to_owned()),
    };
    for row in &rows {
        let id = text(row, "id")?;
        let (from, to) = (LetterState::Retrying, LetterState::Dead);
        tally.moved(&letters::kind(row)?, from, to);
        trail::add(on, &id, now, (from, to), &note).await?;
    }
    Ok(rows.len() as u64)
}
