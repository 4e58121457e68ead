//! What was done to a letter, by whom and why.

use super::engine::{Connection, Pool, answered, failed};
use super::row::{column, corrupt};
use super::text::{maybe_text, stored, text};
use super::{Error, int, letters, uint};
use crate::model::{LetterState, UnixMs};
use crate::store::{Entry, Note};

/// The actor of what no person did.
pub(super) const HOST: &str = "host";

/// Entries that are shown of one letter.
const MAX_SHOWN: i64 = 1000;

pub(super) async fn add(
    on: &mut Connection,
    letter: &str,
    now: UnixMs,
    (from, to): (LetterState, LetterState),
    note: &Note,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO letter_trail (letter, at_ms, actor, action, from_state, to_state, reason)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(stored(letter))
    .bind(int(now))
    .bind(stored(&note.actor))
    .bind(stored(&note.action))
    .bind(from.as_str())
    .bind(to.as_str())
    .bind(note.reason.as_deref().map(stored))
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(())
}

/// Oldest first.
pub(super) async fn of(readers: &Pool, letter: &str) -> Result<Vec<Entry>, Error> {
    let entries = sqlx::query(
        "SELECT at_ms, actor, action, from_state, to_state, reason FROM letter_trail
         WHERE letter = $1 ORDER BY seq DESC LIMIT $2",
    )
    .bind(stored(letter))
    .bind(MAX_SHOWN);
    let rows = answered(entries.fetch_all(readers)).await?;
    let state = |text: &str| letters::word(text).ok_or_else(|| corrupt("the trail", letter));
    rows.iter()
        .rev()
        .map(|row| {
            Ok(Entry {
                at_ms: uint(column(row, "at_ms")?),
                from: state(column(row, "from_state")?)?,
                to: state(column(row, "to_state")?)?,
                note: Note {
                    actor: text(row, "actor")?,
                    action: text(row, "action")?.into(),
                    reason: maybe_text(row, "reason")?,
                },
            })
        })
        .collect()
}
