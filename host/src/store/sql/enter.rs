//! A message that failed for good gets its row, or comes back to the one it has.

use std::collections::{HashMap, HashSet};

use sqlx::{AssertSqlSafe, QueryBuilder};

use super::engine::{Connection, Database, FOR_UPDATE, failed, keep_words, number};
use super::row::{TOGETHER, column};
use super::tally::{Kind, Tally};
use super::text::{maybe_text, stored, text};
use super::{Error, codec, int, letters, members, small, trail, uint, words};
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
    /// That is sending it.
    job: Option<i64>,
    message: Vec<u8>,
    /// As it is counted.
    kind: Kind,
    /// None: its words are not in the index, which the next start makes up for.
    number: Option<i64>,
    /// What of its words may become others.
    reason: String,
    code: Option<String>,
    /// And what will not.
    destination: String,
    message_id: Option<String>,
}

/// Their messages, so that no statement gets larger than the server takes.
const BYTES: usize = 4 << 20;

/// The ids of the rows. Letters that nobody knows yet, which is nearly all, cost one question for many of them.
pub(super) async fn enter_all(
    on: &mut Connection,
    letters: &[&DeadLetter],
    now: UnixMs,
    tally: &mut Tally,
) -> Result<Vec<String>, Error> {
    let mut ids = Vec::with_capacity(letters.len());
    let mut rest = letters;
    while let Some((first, others)) = rest.split_first() {
        let new = new_at_first_sight(rest);
        let Some(size) = TOGETHER.into_iter().find(|size| *size <= new) else {
            ids.push(enter(on, first, now, tally).await?);
            rest = others;
            continue;
        };
        let (some, others) = rest.split_at(size);
        let inserted = insert(on, some, now, tally).await?;
        for letter in some {
            ids.push(if inserted.contains(&letter.id) {
                letter.id.clone()
            } else {
                enter(on, letter, now, tally).await?
            });
        }
        rest = others;
    }
    Ok(ids)
}

/// How many at the front have nothing that must come before them: another row to look for, or one of the same id.
fn new_at_first_sight(letters: &[&DeadLetter]) -> usize {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    letters
        .iter()
        .take(TOGETHER.into_iter().max().unwrap_or(1))
        .take_while(|letter| {
            bytes += letter.raw.size();
            letter.sent_from().is_none_or(|id| id == letter.id)
                && seen.insert(letter.id.as_str())
                && (bytes <= BYTES || seen.len() == 1)
        })
        .count()
}

/// The id of the row.
async fn enter(
    on: &mut Connection,
    letter: &DeadLetter,
    now: UnixMs,
    tally: &mut Tally,
) -> Result<String, Error> {
    let group = Fingerprint::of(letter).group;
    let mut found = row_of(on, letter).await?;
    if found.is_none() {
        if insert(on, &[letter], now, tally).await?.contains(&letter.id) {
            return Ok(letter.id.clone());
        }
        // Another host was quicker.
        found = find(on, &letter.id).await?;
    }
    tally.seen(Fingerprint::of(letter), letter);
    let Some(row) = found else {
        return Err(Error::Storage(format!(
            "letter `{}` is there and cannot be read",
            letter.id
        )));
    };
    let again = letter.reprocessed > row.reprocessed;
    // Of a life before the one that is on its way: whoever is sending it has it still, and says what became of that.
    let state = match row.state {
        LetterState::Retrying if !again => LetterState::Retrying,
        _ => letter.state,
    };
    let (attempts, earlier) = lives(&row, letter);
    let attempts = serde_json::to_string(&attempts).map_err(|e| Error::Storage(e.to_string()))?;
    sqlx::query(
        "UPDATE dead_letters SET route = $2, plugin = $3, digest = $4, class = $5, reason = $6, code = $7, attempts = $8,
             earlier = $9, state = $10, reprocessed = CASE WHEN reprocessed < $11 THEN $11 ELSE reprocessed END,
             holder = CASE WHEN $10 = 'retrying' THEN holder END, host = CASE WHEN $10 = 'retrying' THEN host END,
             lease_until_ms = CASE WHEN $10 = 'retrying' THEN lease_until_ms END, job = CASE WHEN $10 = 'retrying' THEN job END,
             first_failure_ms = CASE WHEN first_failure_ms < $12 THEN first_failure_ms ELSE $12 END,
             last_failure_ms = CASE WHEN last_failure_ms > $13 THEN last_failure_ms ELSE $13 END, grp = $14,
             closed_ms = $15
         WHERE id = $1",
    )
    .bind(stored(&row.id))
    .bind(letter.route.as_deref().map(stored))
    .bind(letter.plugin.as_deref().map(stored))
    .bind(letter.digest.as_deref().map(stored))
    .bind(letter.class.as_str())
    .bind(stored(&letter.reason))
    .bind(letter.code.as_deref().map(stored))
    .bind(attempts)
    .bind(i64::try_from(earlier).unwrap_or(i64::MAX))
    .bind(state.as_str())
    .bind(i64::from(letter.reprocessed))
    .bind(int(letter.first_failure_ms))
    .bind(int(letter.last_failure_ms))
    .bind(&group)
    .bind(letters::closed(state, now))
    .execute(&mut *on)
    .await
    .map_err(failed)?;
    if let Some(number) = row.number
        && (row.reason != letter.reason || row.code != letter.code)
    {
        let words = words::of_failure(letter, &row.destination, row.message_id.as_deref());
        keep_words(on, &[(number, words)]).await?;
    }
    tally.count(row.kind.clone(), row.state, -1);
    tally.count(row.kind.in_group(group), state, 1);
    if row.state != state {
        let note = Note {
            actor: trail::HOST.to_owned(),
            action: "failed again".into(),
            reason: Some(letter.reason.clone()),
        };
        trail::add(on, &row.id, now, (row.state, state), &note).await?;
    }
    if let Some(job) = row.job.filter(|_| again) {
        members::came_back(on, job, &row.id, now, tally).await?;
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
    // Two hosts that enter it at once must not both work from what it was before.
    let sql = format!(
        "SELECT state, attempts, earlier, reprocessed, message, grp, destination, message_type, number, reason, code,
                message_id, job
         FROM dead_letters WHERE id = $1{FOR_UPDATE}"
    );
    let found = sqlx::query(AssertSqlSafe(sql))
        .bind(stored(id))
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
        job: column(&found, "job")?,
        message: column(&found, "message")?,
        kind: letters::kind(&found)?,
        number: column(&found, "number")?,
        reason: text(&found, "reason")?,
        code: maybe_text(&found, "code")?,
        destination: text(&found, "destination")?,
        message_id: maybe_text(&found, "message_id")?,
    }))
}

/// The ids of those that had none there. They are counted.
async fn insert(
    on: &mut Connection,
    letters: &[&DeadLetter],
    now: UnixMs,
    tally: &mut Tally,
) -> Result<HashSet<String>, Error> {
    let mut query: QueryBuilder<Database> = QueryBuilder::new(
        "INSERT INTO dead_letters (id, destination, message_id, message_type, route, plugin, digest, class, reason, code,
                                   attempts, first_failure_ms, last_failure_ms, trace_id, state, message, reprocessed, grp, closed_ms, number) ",
    );
    let mut rows = Vec::with_capacity(letters.len());
    for letter in letters {
        rows.push((
            letter,
            Fingerprint::of(letter),
            serde_json::to_string(&letter.attempts).map_err(|e| Error::Storage(e.to_string()))?,
        ));
    }
    let maybe = |text: &Option<String>| text.as_deref().map(|text| stored(text).into_owned());
    query.push_values(
        rows.iter().enumerate(),
        |mut row, (place, (letter, print, attempts))| {
            row.push_bind(stored(&letter.id).into_owned())
                .push_bind(stored(&letter.raw.origin.destination).into_owned())
                .push_bind(maybe(&letter.message_id))
                .push_bind(maybe(&letter.message_type))
                .push_bind(maybe(&letter.route))
                .push_bind(maybe(&letter.plugin))
                .push_bind(maybe(&letter.digest))
                .push_bind(letter.class.as_str())
                .push_bind(stored(&letter.reason).into_owned())
                .push_bind(maybe(&letter.code))
                .push_bind(attempts.clone())
                .push_bind(int(letter.first_failure_ms))
                .push_bind(int(letter.last_failure_ms))
                .push_bind(maybe(&letter.trace_id))
                .push_bind(letter.state.as_str())
                .push_bind(codec::write(&letter.raw))
                .push_bind(i64::from(letter.reprocessed))
                .push_bind(print.group.clone())
                .push_bind(letters::closed(letter.state, now))
                .push(number(place));
        },
    );
    query.push(" ON CONFLICT (id) DO NOTHING RETURNING id, number");
    let found = query.build().fetch_all(&mut *on).await.map_err(failed)?;
    let numbers: HashMap<String, i64> = found
        .iter()
        .map(|row| Ok((text(row, "id")?, column(row, "number")?)))
        .collect::<Result<_, Error>>()?;
    let mut kept = Vec::with_capacity(numbers.len());
    for (letter, print, _) in rows {
        let Some(number) = numbers.get(&letter.id) else {
            continue;
        };
        kept.push((*number, words::of_letter(letter)));
        let destination = letter.raw.origin.destination.to_string();
        let kind = Kind::new(print.group.clone(), destination, letter.message_type.as_deref());
        tally.count(kind, letter.state, 1);
        tally.entered(letter);
        tally.seen(print, letter);
    }
    if !kept.is_empty() {
        keep_words(on, &kept).await?;
    }
    Ok(numbers.into_keys().collect())
}
