//! What was done to a letter, by whom and why.

use sqlx::QueryBuilder;

use super::engine::{self, Connection, Database, Pool, answered, failed};
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
    states: (LetterState, LetterState),
    note: &Note,
) -> Result<(), Error> {
    add_all(on, now, states, &[(letter, note)]).await
}

/// The same change of several letters, of which most were made with the same note.
pub(super) async fn add_all(
    on: &mut Connection,
    now: UnixMs,
    (from, to): (LetterState, LetterState),
    notes: &[(&str, &Note)],
) -> Result<(), Error> {
    for alike in notes.chunk_by(|(_, one), (_, other)| one == other) {
        let Some((_, note)) = alike.first() else { continue };
        let mut query = QueryBuilder::<Database>::new("WITH given (letter, who) AS (");
        let letters = alike
            .iter()
            .map(|(letter, _)| (stored(letter).into_owned(), None));
        engine::pairs(&mut query, &letters.collect::<Vec<_>>());
        query.push(
            ") INSERT INTO letter_trail (letter, at_ms, actor, action, from_state, to_state, reason) SELECT letter, ",
        );
        let mut values = query.separated(", ");
        values
            .push_bind(int(now))
            .push_bind(stored(&note.actor).into_owned())
            .push_bind(stored(&note.action).into_owned())
            .push_bind(from.as_str())
            .push_bind(to.as_str())
            .push_bind(note.reason.as_deref().map(|reason| stored(reason).into_owned()));
        query.push(" FROM given");
        query.build().execute(&mut *on).await.map_err(failed)?;
    }
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
