//! Changes of a letter's state: compare and set, and a row in its trail.

use std::time::Duration;

use super::engine::{Connection, failed};
use super::row::{column, corrupt};
use super::tally::Tally;
use super::{Error, int, letters, retries, trail};
use crate::model::clock::duration_ms;
use crate::model::{LetterState, UnixMs};
use crate::store::{Change, Changed, Note};

pub(super) async fn change(
    on: &mut Connection,
    id: &str,
    change: &Change,
    note: &Note,
    now: UnixMs,
    tally: &mut Tally,
) -> Result<Changed, Error> {
    let (from, to) = (change.from(), change.to());
    let (holder, until) = match change {
        Change::Claim { holder, lease } => (Some(holder), Some(end_of(now, *lease))),
        Change::Sent { .. } | Change::Edited { .. } | Change::GiveBack { .. } | Change::Discard => {
            (None, None)
        }
    };
    // A holder that is asked for has to be there; where none is asked for the row has none either.
    let changed = sqlx::query(
        "UPDATE dead_letters SET state = $3, holder = $4, lease_until_ms = $5
         WHERE id = $1 AND state = $2 AND holder IS NOT DISTINCT FROM $6 RETURNING *",
    )
    .bind(id)
    .bind(from.as_str())
    .bind(to.as_str())
    .bind(holder)
    .bind(until)
    .bind(change.holder())
    .fetch_optional(&mut *on)
    .await
    .map_err(failed)?;
    let Some(row) = changed else {
        return Ok(state(on, id).await?.map_or(Changed::Unknown, Changed::Conflict));
    };
    tally.moved(&letters::kind(&row)?, from, to);
    trail::add(on, id, now, (from, to), note).await?;
    if let Change::Sent { park: Some(row), .. } | Change::Edited { park: Some(row), .. } = change {
        retries::insert(on, row).await?;
    }
    Ok(Changed::Done(Box::new(letters::letter(&row)?)))
}

fn end_of(now: UnixMs, lease: Duration) -> i64 {
    int(now.saturating_add(duration_ms(lease)))
}

async fn state(on: &mut Connection, id: &str) -> Result<Option<LetterState>, Error> {
    let row = sqlx::query("SELECT state FROM dead_letters WHERE id = $1")
        .bind(id)
        .fetch_optional(on)
        .await
        .map_err(failed)?;
    row.map(|row| letters::word(column(&row, "state")?).ok_or_else(|| corrupt("the state", id)))
        .transpose()
}

/// Leases that ended at `until` or before; all of them when there is no time.
pub(super) async fn lapse(
    on: &mut Connection,
    until: Option<UnixMs>,
    now: UnixMs,
    tally: &mut Tally,
) -> Result<u64, Error> {
    // As many as requests were under way at a time: few.
    let rows = sqlx::query(
        "UPDATE dead_letters SET state = 'dead', holder = NULL, lease_until_ms = NULL
         WHERE state = 'retrying' AND lease_until_ms <= $1 RETURNING id, grp, destination, message_type",
    )
    .bind(until.map_or(i64::MAX, int))
    .fetch_all(&mut *on)
    .await
    .map_err(failed)?;
    let note = Note {
        actor: trail::HOST.to_owned(),
        action: "lease ran out".into(),
        reason: Some("whoever was sending it again did not finish; it may have been sent".to_owned()),
    };
    for row in &rows {
        let id: String = column(row, "id")?;
        let (from, to) = (LetterState::Retrying, LetterState::Dead);
        tally.moved(&letters::kind(row)?, from, to);
        trail::add(on, &id, now, (from, to), &note).await?;
    }
    Ok(rows.len() as u64)
}
