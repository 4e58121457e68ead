//! Changes of a letter's state: compare and set, and a row in its trail.

use std::sync::Arc;
use std::time::Duration;

use super::engine::{Connection, failed};
use super::row::{column, corrupt};
use super::tally::Tally;
use super::text::{stored, text};
use super::{Error, held, int, letters, retries, trail};
use crate::model::clock::duration_ms;
use crate::model::{LetterState, UnixMs};
use crate::store::{Change, Changed, Note, Progress};

/// `turn`: it is the host that claims it by itself, and is so far with it then.
#[allow(clippy::too_many_arguments, reason = "what a change is made of")]
pub(super) async fn change(
    on: &mut Connection,
    id: &str,
    change: &Change,
    turn: Option<Progress>,
    note: &Note,
    host: &str,
    now: UnixMs,
    tally: &mut Tally,
) -> Result<Changed, Error> {
    let (from, to) = (change.from(), change.to());
    let (holder, until, host) = match change {
        Change::Claim { holder, lease } => (Some(stored(holder)), Some(end_of(now, *lease)), Some(host)),
        Change::Sent { .. }
        | Change::Edited { .. }
        | Change::Resume { .. }
        | Change::GiveBack { .. }
        | Change::Release
        | Change::Discard => (None, None, None),
    };
    // Whoever claims it begins anew with it, so that the host tries as often as ever after a person did.
    let begun = match change {
        Change::Claim { .. } => Some(turn.unwrap_or_default()),
        _ => None,
    };
    // Its lane is locked: nobody else takes the row away.
    if matches!(change, Change::Resume { .. } | Change::Release) && !held::holds(on, id).await? {
        return Ok(state(on, id).await?.map_or(Changed::Unknown, Changed::Conflict));
    }
    // A holder that is asked for has to be there; where none is asked for the row has none either.
    let changed = sqlx::query(concat!(
        "UPDATE dead_letters SET state = $3, holder = $4, lease_until_ms = $5, host = $7, closed_ms = $8,
             auto_attempts = COALESCE($9, auto_attempts), auto_due_ms = COALESCE($10, auto_due_ms),
             auto_end = CASE WHEN $9 IS NULL THEN auto_end ELSE NULL END
         WHERE id = $1 AND state = $2 AND holder IS NOT DISTINCT FROM $6 RETURNING ",
        letters::columns!(),
        ", grp, destination"
    ))
    .bind(stored(id))
    .bind(from.as_str())
    .bind(to.as_str())
    .bind(holder)
    .bind(until)
    .bind(change.holder().map(stored))
    .bind(host)
    .bind(letters::closed(to, now))
    .bind(begun.map(|progress| i64::from(progress.attempts)))
    .bind(begun.map(|progress| int(progress.due_ms)))
    .fetch_optional(&mut *on)
    .await
    .map_err(failed)?;
    let Some(row) = changed else {
        return Ok(state(on, id).await?.map_or(Changed::Unknown, Changed::Conflict));
    };
    tally.moved(&letters::kind(&row)?, from, to);
    trail::add(on, id, now, (from, to), note).await?;
    follow(on, id, change, now).await?;
    Ok(Changed::Done(Box::new(letters::letter(&row)?)))
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
        Change::Sent { park: None, .. } => held::wake(on, letter, now).await,
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
    // As many as requests were under way at a time: few.
    let rows = sqlx::query(
        "UPDATE dead_letters SET state = 'dead', holder = NULL, lease_until_ms = NULL, host = NULL
         WHERE state = 'retrying' AND (lease_until_ms <= $1 OR host = $2 OR ($2 IS NOT NULL AND host IS NULL))
         RETURNING id, grp, destination, message_type",
    )
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
