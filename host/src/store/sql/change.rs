//! Changes of a letter's state: compare and set, and a row in its trail.

use std::time::Duration;

use super::engine::{Connection, failed};
use super::row::{column, corrupt};
use super::{Error, held, int, letters, retries, trail};
use crate::model::clock::duration_ms;
use crate::model::{LetterState, UnixMs};
use crate::store::{Change, Changed, Note};

pub(super) async fn change(
    on: &mut Connection,
    id: &str,
    change: &Change,
    note: &Note,
    now: UnixMs,
) -> Result<Changed, Error> {
    let (from, to) = (change.from(), change.to());
    let (holder, until) = match change {
        Change::Claim { holder, lease } => (Some(holder), Some(end_of(now, *lease))),
        Change::Sent { .. }
        | Change::Resume { .. }
        | Change::GiveBack { .. }
        | Change::Release
        | Change::Discard => (None, None),
    };
    let holds = held::holds(on, id).await?;
    if !holds && matches!(change, Change::Resume { .. } | Change::Release) {
        return Ok(state(on, id).await?.map_or(Changed::Unknown, Changed::Conflict));
    }
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
    trail::add(on, id, now, (from, to), note).await?;
    match change {
        Change::Resume { row, .. } => held::resume(on, id, row).await?,
        Change::Release | Change::Discard if holds => held::remove(on, id).await?,
        // Whoever sent it did not know that it holds a key. Its row is where it runs, also when its queue has it as well: the
        // one that came from there may have been taken for the row's double.
        Change::Sent { park: Some(row), .. } if holds => held::resume(on, id, row).await?,
        Change::Sent { park: None, .. } if holds => held::wake(on, id, now).await?,
        Change::Sent { park: Some(row), .. } => retries::insert(on, row).await?,
        Change::Claim { .. }
        | Change::Sent { park: None, .. }
        | Change::GiveBack { .. }
        | Change::Release
        | Change::Discard => {}
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
pub(super) async fn lapse(on: &mut Connection, until: Option<UnixMs>, now: UnixMs) -> Result<u64, Error> {
    // As many as requests were under way at a time: few.
    let rows = sqlx::query(
        "UPDATE dead_letters SET state = 'dead', holder = NULL, lease_until_ms = NULL
         WHERE state = 'retrying' AND lease_until_ms <= $1 RETURNING id",
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
        trail::add(on, &id, now, (LetterState::Retrying, LetterState::Dead), &note).await?;
    }
    Ok(rows.len() as u64)
}
