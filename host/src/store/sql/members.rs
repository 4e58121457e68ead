//! What a job does with its letters: changes, and the result of each. Changes that are alike, as those of a job that sends thousands
//! again, go together in few statements.

use std::collections::{HashMap, HashSet};

use sqlx::QueryBuilder;

use super::change::{self, By, Step, as_it_is, who};
use super::engine::{self, Connection, Database, failed};
use super::row::column;
use super::tally::Tally;
use super::text::stored;
use super::{Error, held, int, retries};
use crate::model::UnixMs;
use crate::planted::{self, Bug};
use crate::store::{Change, Changed, Ending, Member, Note};

/// A change of a letter of a job.
pub(super) struct Wanted {
    pub(super) member: Member,
    pub(super) letter: String,
    pub(super) change: Change,
    pub(super) note: Note,
}

impl Wanted {
    /// Of one job, and one of the two changes that come by the hundred.
    fn is_like(&self, other: &Self) -> bool {
        let same_change = match (&self.change, &other.change) {
            (Change::Claim { lease, .. }, Change::Claim { lease: of_other, .. }) => lease == of_other,
            (Change::Sent { .. }, Change::Sent { .. }) => true,
            _ => false,
        };
        same_change && self.member.job == other.member.job && self.member.holder == other.member.holder
    }

    /// Those that can go together with it, of different letters.
    pub(super) fn with_alike<'a, T>(
        &'a self,
        others: impl Iterator<Item = (T, &'a Self)>,
    ) -> Vec<(T, &'a Self)> {
        let mut letters = HashSet::from([self.letter.as_str()]);
        others
            .filter(|(_, other)| self.is_like(other) && letters.insert(&other.letter))
            .collect()
    }

    fn begins(&self) -> bool {
        matches!(self.change, Change::Claim { .. } | Change::Discard)
            && !planted::is(Bug::CancelOnlyFlipsAFlag)
    }

    fn ending(&self, changed: &Changed) -> Option<Ending> {
        match (&self.change, changed) {
            (Change::Discard, Changed::Done(_)) => Some(Ending::Discarded),
            (Change::Sent { .. } | Change::Resume { .. }, Changed::Done(_)) => Some(Ending::Sent),
            // Its queue has it. It was so quick that its letter is dead again, and is not to be sent a second time.
            (Change::Sent { park: None, .. }, Changed::Conflict(_)) => Some(Ending::Sent),
            _ => None,
        }
    }
}

pub(super) async fn change(
    on: &mut Connection,
    wanted: &Wanted,
    host: &str,
    now: UnixMs,
    tally: &mut Tally,
) -> Result<Changed, Error> {
    let Wanted {
        member,
        letter,
        change,
        note,
    } = wanted;
    if wanted.begins()
        && let Some(not) = ours(on, &[wanted]).await?.refusal(member)
    {
        return Ok(not);
    }
    let changed = change::change(on, letter, change, By::Job(member.job), note, host, now, tally).await?;
    if let Some(ending) = wanted.ending(&changed) {
        record(on, member, ending, None, now, tally).await?;
    }
    Ok(changed)
}

/// As [`change()`] of each of them, which are alike and of different letters; in their order.
pub(super) async fn change_all(
    on: &mut Connection,
    wanted: &[&Wanted],
    host: &str,
    now: UnixMs,
    tally: &mut Tally,
) -> Result<Vec<Changed>, Error> {
    let first = match wanted {
        [] => return Ok(Vec::new()),
        [one] => return Ok(vec![change(on, one, host, now, tally).await?]),
        [first, ..] => first,
    };
    let begun = if first.begins() {
        Some(ours(on, wanted).await?)
    } else {
        None
    };
    let refusal = |one: &Wanted| begun.as_ref().and_then(|begun| begun.refusal(&one.member));
    // In one order everywhere: of two hosts that change the same letters one waits for the other, and not both.
    let mut given: Vec<_> = wanted
        .iter()
        .filter(|one| refusal(one).is_none())
        .map(|one| (one.letter.as_str(), who(&one.change)))
        .collect();
    given.sort_unstable();
    let step = Step::of(&first.change, By::Job(first.member.job), host, now);
    let rows = step.set(on, &given).await?;
    let notes: HashMap<&str, &Note> = wanted
        .iter()
        .map(|one| (one.letter.as_str(), &one.note))
        .collect();
    let made = step
        .made(on, &rows, |letter| notes.get(letter).copied(), tally)
        .await?;
    let sent: HashSet<&str> = made.iter().map(|letter| letter.id.as_str()).collect();
    follow(on, wanted.iter().filter(|one| sent.contains(&*one.letter)), now).await?;
    let mut made: HashMap<String, Changed> = made
        .into_iter()
        .map(|letter| (letter.id.clone(), Changed::Done(Box::new(letter))))
        .collect();
    let mut all = Vec::with_capacity(wanted.len());
    let mut endings = Vec::new();
    for one in wanted {
        let changed = match (made.remove(&one.letter), refusal(one)) {
            (Some(changed), _) | (None, Some(changed)) => changed,
            (None, None) => as_it_is(on, &one.letter).await?,
        };
        endings.extend(one.ending(&changed).map(|ending| (one.member.place, ending)));
        all.push(changed);
    }
    // They are alike, so these are as well.
    if let Some((_, ending)) = endings.first() {
        let places: Vec<i64> = endings.iter().map(|(place, _)| int(*place)).collect();
        ended(on, (first.member.job, &places), *ending, None, now, tally).await?;
    }
    Ok(all)
}

/// What becomes of rows, as after one change.
async fn follow<'a>(
    on: &mut Connection,
    changed: impl Iterator<Item = &'a &'a Wanted>,
    now: UnixMs,
) -> Result<(), Error> {
    let (mut queued, mut parked) = (Vec::new(), Vec::new());
    for one in changed {
        match &one.change {
            Change::Sent { park: None, .. } => queued.push(one.letter.as_str()),
            Change::Sent { park: Some(row), .. } => parked.push((one.letter.as_str(), &**row)),
            _ => {}
        }
    }
    if !queued.is_empty() {
        held::wake(on, &queued, now).await?;
    }
    if parked.is_empty() {
        return Ok(());
    }
    let letters: Vec<&str> = parked.iter().map(|(letter, _)| *letter).collect();
    let holding = held::holding(on, &letters).await?;
    let mut free = Vec::with_capacity(parked.len());
    for (letter, row) in parked {
        if holding.contains(letter) && held::resume(on, letter, row, false).await? {
            continue;
        }
        match row.lane {
            None => free.push(row),
            Some(_) => retries::insert(on, row).await?,
        }
    }
    retries::insert_free(on, &free).await
}

/// Members of a job that this host has still, by their places.
#[derive(Default)]
struct Ours {
    open: HashSet<i64>,
    /// They have a result.
    ended: HashSet<i64>,
}

impl Ours {
    /// Why it is not begun.
    fn refusal(&self, member: &Member) -> Option<Changed> {
        let place = int(member.place);
        match (self.open.contains(&place), self.ended.contains(&place)) {
            (true, _) => None,
            (false, true) => Some(Changed::Ended),
            (false, false) => Some(Changed::Stopped),
        }
    }
}

async fn ours(on: &mut Connection, wanted: &[&Wanted]) -> Result<Ours, Error> {
    let Some(first) = wanted.first() else {
        return Ok(Ours::default());
    };
    let job = int(first.member.job);
    let mut query = QueryBuilder::<Database>::new(
        "SELECT place, outcome IS NULL AS open FROM redrive_members WHERE EXISTS
             (SELECT 1 FROM redrive_jobs WHERE state = 'running' AND seq = ",
    );
    query.push_bind(job).push(" AND holder = ");
    query.push_bind(stored(&first.member.holder).into_owned());
    query.push(") AND job = ").push_bind(job).push(" AND place");
    let places: Vec<i64> = wanted.iter().map(|one| int(one.member.place)).collect();
    engine::among_numbers(&mut query, &places);
    let mut ours = Ours::default();
    for row in query.build().fetch_all(on).await.map_err(failed)? {
        let place = column(&row, "place")?;
        match column(&row, "open")? {
            true => ours.open.insert(place),
            false => ours.ended.insert(place),
        };
    }
    Ok(ours)
}

/// Its message, which this job was sending, has failed: it was sent, whatever the host that did so gets to write down still.
pub(super) async fn came_back(
    on: &mut Connection,
    job: i64,
    letter: &str,
    now: UnixMs,
    tally: &mut Tally,
) -> Result<(), Error> {
    let set = sqlx::query(
        "UPDATE redrive_members SET outcome = $3, at_ms = $4 WHERE job = $1 AND letter = $2 AND outcome IS NULL",
    )
    .bind(job)
    .bind(stored(letter))
    .bind(Ending::Sent.as_str())
    .bind(int(now))
    .execute(on)
    .await
    .map_err(failed)?;
    for _ in 0..set.rows_affected() {
        tally.ended(job, Ending::Sent);
    }
    Ok(())
}

/// False: it had a result.
pub(super) async fn record(
    on: &mut Connection,
    member: &Member,
    ending: Ending,
    why: Option<&str>,
    now: UnixMs,
    tally: &mut Tally,
) -> Result<bool, Error> {
    let places = [int(member.place)];
    let first = ended(on, (member.job, &places), ending, why, now, tally).await?;
    Ok(first > 0)
}

/// How many had no result yet.
async fn ended(
    on: &mut Connection,
    (job, places): (u64, &[i64]),
    ending: Ending,
    why: Option<&str>,
    now: UnixMs,
    tally: &mut Tally,
) -> Result<u64, Error> {
    let job = int(job);
    let mut query = QueryBuilder::<Database>::new("UPDATE redrive_members SET outcome = ");
    query.push_bind(ending.as_str()).push(", why = ");
    query.push_bind(why.map(|why| stored(why).into_owned()));
    query.push(", at_ms = ").push_bind(int(now));
    query
        .push(" WHERE outcome IS NULL AND job = ")
        .push_bind(job)
        .push(" AND place");
    engine::among_numbers(&mut query, places);
    let set = query.build().execute(on).await.map_err(failed)?;
    for _ in 0..set.rows_affected() {
        tally.ended(job, ending);
    }
    Ok(set.rows_affected())
}
