//! A message that failed for good gets its row, or comes back to the one it has.

use super::engine::{Connection, failed};
use super::row::column;
use super::tally::{Kind, Tally};
use super::{Error, codec, int, letters, small, trail, uint};
use crate::model::{Attempt, DeadLetter, Fingerprint, LetterState, UnixMs};
use crate::store::Note;

/// Attempts that a letter keeps: of the latest lives when it was sent again very often.
const MAX_ATTEMPTS: usize = 100;

/// What the row of a letter says that its message is entered into again.
struct Row {
    id: String,
    state: LetterState,
    attempts: Vec<Attempt>,
    /// How many of them are of earlier lives.
    earlier: usize,
    reprocessed: u32,
    message: Vec<u8>,
    /// As it is counted.
    kind: Kind,
}

/// The id of the row.
pub(super) async fn enter(
    on: &mut Connection,
    letter: &DeadLetter,
    now: UnixMs,
    tally: &mut Tally,
) -> Result<String, Error> {
    let print = Fingerprint::of(letter);
    let group = print.group.clone();
    tally.seen(print, letter);
    let Some(row) = row_of(on, letter).await? else {
        insert(on, letter, &group).await?;
        let destination = letter.raw.origin.destination.to_string();
        let kind = Kind::new(group, destination, letter.message_type.as_deref());
        tally.count(kind, letter.state, 1);
        return Ok(letter.id.clone());
    };
    let (attempts, earlier) = lives(&row, letter);
    let attempts = serde_json::to_string(&attempts).map_err(|e| Error::Storage(e.to_string()))?;
    sqlx::query(
        "UPDATE dead_letters SET route = $2, plugin = $3, digest = $4, class = $5, reason = $6, code = $7, attempts = $8,
             earlier = $9, state = $10, reprocessed = $11, holder = NULL, lease_until_ms = NULL,
             first_failure_ms = CASE WHEN first_failure_ms < $12 THEN first_failure_ms ELSE $12 END,
             last_failure_ms = CASE WHEN last_failure_ms > $13 THEN last_failure_ms ELSE $13 END, grp = $14
         WHERE id = $1",
    )
    .bind(&row.id)
    .bind(&letter.route)
    .bind(&letter.plugin)
    .bind(&letter.digest)
    .bind(letter.class.as_str())
    .bind(&letter.reason)
    .bind(&letter.code)
    .bind(attempts)
    .bind(i64::try_from(earlier).unwrap_or(i64::MAX))
    .bind(letter.state.as_str())
    .bind(i64::from(letter.reprocessed))
    .bind(int(letter.first_failure_ms))
    .bind(int(letter.last_failure_ms))
    .bind(&group)
    .execute(&mut *on)
    .await
    .map_err(failed)?;
    tally.count(row.kind.clone(), row.state, -1);
    tally.count(row.kind.in_group(group), letter.state, 1);
    if row.state != letter.state {
        let note = Note {
            actor: trail::HOST.to_owned(),
            action: "failed again".into(),
            reason: Some(letter.reason.clone()),
        };
        trail::add(on, &row.id, now, (row.state, letter.state), &note).await?;
    }
    Ok(row.id)
}

/// All attempts, and how many of them are of earlier lives. A crash between writing and acknowledging enters the same life
/// twice: that replaces its attempts. Sent again, it is another life, and its attempts come after the earlier ones.
fn lives(row: &Row, letter: &DeadLetter) -> (Vec<Attempt>, usize) {
    let earlier = if letter.reprocessed == row.reprocessed {
        row.earlier
    } else {
        row.attempts.len()
    };
    let mut attempts: Vec<Attempt> = row.attempts.iter().take(earlier).cloned().collect();
    let earlier = attempts.len();
    attempts.extend_from_slice(&letter.attempts);
    let surplus = attempts.len().saturating_sub(MAX_ATTEMPTS);
    attempts.drain(..surplus);
    (attempts, earlier.saturating_sub(surplus))
}

/// The row of its own id, or of the letter that it was sent again from: at a new position it has a new id.
async fn row_of(on: &mut Connection, letter: &DeadLetter) -> Result<Option<Row>, Error> {
    if let Some(id) = letter.sent_from().filter(|id| *id != letter.id)
        && let Some(mut row) = find(on, id).await?
        && codec::read(std::mem::take(&mut row.message)).is_some_and(|original| letter.is_again(&original))
    {
        return Ok(Some(row));
    }
    find(on, &letter.id).await
}

async fn find(on: &mut Connection, id: &str) -> Result<Option<Row>, Error> {
    let found = sqlx::query(
        "SELECT state, attempts, earlier, reprocessed, message, grp, destination, message_type
         FROM dead_letters WHERE id = $1",
    )
    .bind(id)
    .fetch_optional(on)
    .await
    .map_err(failed)?;
    let Some(found) = found else { return Ok(None) };
    // What somebody's hand made unreadable must not keep a message from being settled.
    Ok(Some(Row {
        id: id.to_owned(),
        state: letters::word(column(&found, "state")?).unwrap_or(LetterState::Dead),
        attempts: serde_json::from_str(column(&found, "attempts")?).unwrap_or_default(),
        earlier: usize::try_from(uint(column(&found, "earlier")?)).unwrap_or(usize::MAX),
        reprocessed: small(column(&found, "reprocessed")?),
        message: column(&found, "message")?,
        kind: letters::kind(&found)?,
    }))
}

async fn insert(on: &mut Connection, letter: &DeadLetter, group: &str) -> Result<(), Error> {
    let attempts = serde_json::to_string(&letter.attempts).map_err(|e| Error::Storage(e.to_string()))?;
    sqlx::query(
        "INSERT INTO dead_letters (id, destination, message_id, message_type, route, plugin, digest, class, reason, code,
                                   attempts, first_failure_ms, last_failure_ms, trace_id, state, message, reprocessed, grp)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)",
    )
    .bind(&letter.id)
    .bind(&*letter.raw.origin.destination)
    .bind(&letter.message_id)
    .bind(&letter.message_type)
    .bind(&letter.route)
    .bind(&letter.plugin)
    .bind(&letter.digest)
    .bind(letter.class.as_str())
    .bind(&letter.reason)
    .bind(&letter.code)
    .bind(attempts)
    .bind(int(letter.first_failure_ms))
    .bind(int(letter.last_failure_ms))
    .bind(&letter.trace_id)
    .bind(letter.state.as_str())
    .bind(codec::write(&letter.raw))
    .bind(i64::from(letter.reprocessed))
    .bind(group)
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(())
}
