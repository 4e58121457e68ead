//! Dead letters: their SQL, and the seam [`DeadLetters`].

use std::collections::HashMap;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::QueryBuilder;

use super::change::Over;
use super::engine::{Connection, Row, SNAPSHOT, answered, bounded, failed};
use super::find::{self, Count, Spot};
use super::op::{Done, Op};
use super::row::{column, corrupt};
use super::tally::Kind;
use super::text::{maybe_text, stored, text};
use super::{Error, Store, codec, groups, int, small, trail, uint, words};
use crate::model::{DeadLetter, LetterState, UnixMs};
use crate::store::{Change, Changed, DeadLetters, Entry, Groups, LetterFilter, LetterPage, Note, Page};

/// Letters in a page whose caller did not say.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
/// Rows that are skipped are read.
const MAX_OFFSET: usize = 10_000;

/// What [`letter()`] reads. By name: a newer host may add columns while this one runs, and Postgres refuses a prepared `*`
/// that means something else than before.
macro_rules! columns {
    () => {
        "id, message_id, message_type, route, plugin, digest, class, reason, code, attempts, first_failure_ms,
         last_failure_ms, trace_id, state, message, reprocessed"
    };
}
pub(super) use columns;

pub(super) fn letter(row: &Row) -> Result<DeadLetter, Error> {
    let id = text(row, "id")?;
    Ok(DeadLetter {
        raw: codec::read(column(row, "message")?).ok_or_else(|| corrupt("the message", &id))?,
        message_id: maybe_text(row, "message_id")?,
        message_type: maybe_text(row, "message_type")?,
        route: maybe_text(row, "route")?,
        plugin: maybe_text(row, "plugin")?,
        digest: maybe_text(row, "digest")?,
        class: word(column(row, "class")?).ok_or_else(|| corrupt("the failure class", &id))?,
        reason: text(row, "reason")?,
        code: maybe_text(row, "code")?,
        attempts: serde_json::from_str(column(row, "attempts")?).map_err(|_| corrupt("the attempts", &id))?,
        first_failure_ms: uint(column(row, "first_failure_ms")?),
        last_failure_ms: uint(column(row, "last_failure_ms")?),
        trace_id: maybe_text(row, "trace_id")?,
        state: word(column(row, "state")?).ok_or_else(|| corrupt("the state", &id))?,
        reprocessed: small(column(row, "reprocessed")?),
        id,
    })
}

/// What the letter of a row is counted by.
pub(super) fn kind(row: &Row) -> Result<Kind, Error> {
    Ok(Kind::new(
        column(row, "grp")?,
        text(row, "destination")?,
        maybe_text(row, "message_type")?.as_deref(),
    ))
}

/// Since when a letter is closed that has that state from now on.
pub(super) fn closed(state: LetterState, now: UnixMs) -> Option<i64> {
    state.is_closed().then(|| int(now))
}

/// The value of an enum whose variants are plain words; `as_str` writes what serde reads.
pub(super) fn word<T: DeserializeOwned + Serialize>(text: &str) -> Option<T> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()
}

/// A place in a list, for somebody to come back to it.
fn cursor(spot: &Spot) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}:{}", spot.at, spot.id))
}

fn place(cursor: &str) -> Result<Spot, Error> {
    let place = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let (at, id) = text.split_once(':')?;
        Some(Spot {
            at: at.parse().ok()?,
            id: id.to_owned(),
        })
    };
    // As ids are kept, none has a U+0000.
    place()
        .filter(|spot| !spot.id.contains('\0'))
        .ok_or_else(|| Error::Invalid("the cursor is none that `next` gave".to_owned()))
}

/// What a page shows, and where the next one begins.
struct Listed {
    spots: Vec<Spot>,
    next: Option<Spot>,
    count: Count,
}

async fn listed(
    on: &mut Connection,
    filter: &LetterFilter,
    after: Option<&Spot>,
    (skip, limit): (usize, usize),
) -> Result<Listed, Error> {
    // One more than asked for tells whether there is a next page.
    let want = skip + limit + 1;
    let (mut spots, count, ended) = if let Some(sought) = words::sought(filter)? {
        let filter = words::without_text(filter);
        let found = words::newest(on, (&filter, &sought), after, want).await?;
        let spots = found.hits.into_iter().map(|hit| hit.spot).collect();
        (spots, found.count, found.ended)
    } else {
        let count = find::count(on, filter).await?;
        // Where the counts know that there are none, nobody looks for them.
        let spots = match count.letters {
            0 => Vec::new(),
            _ => find::newest(on, filter, after, want).await?,
        };
        (spots, count, None)
    };
    spots.drain(..skip.min(spots.len()));
    let more = spots.len() > limit;
    spots.truncate(limit);
    let next = if more { spots.last().cloned() } else { ended };
    Ok(Listed { spots, next, count })
}

/// Whole letters, in the order of their places. One that is not there is left out.
async fn at(on: &mut Connection, spots: &[Spot]) -> Result<Vec<DeadLetter>, Error> {
    if spots.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<String> = spots.iter().map(|spot| spot.id.clone()).collect();
    let mut query = QueryBuilder::new(concat!("SELECT ", columns!(), " FROM dead_letters WHERE id"));
    find::among(&mut query, "", &ids);
    let rows = query.build().fetch_all(on).await.map_err(failed)?;
    let mut letters = HashMap::with_capacity(rows.len());
    for row in &rows {
        letters.insert(column::<String>(row, "id")?, letter(row)?);
    }
    Ok(ids.iter().filter_map(|id| letters.remove(id)).collect())
}

/// A page without a limit has 100 letters; more than 1000 is 1000. `offset` counts from the cursor on, and is 10,000 at most.
#[async_trait]
impl DeadLetters for Store {
    async fn enter(&self, letters: Vec<DeadLetter>) -> Result<Vec<String>, Error> {
        self.write(Op::Enter(letters)).await.map(Done::entered)
    }

    async fn list(&self, filter: &LetterFilter, page: &Page) -> Result<LetterPage, Error> {
        let limit = if page.limit == 0 {
            DEFAULT_LIMIT
        } else {
            page.limit.min(MAX_LIMIT)
        };
        if page.offset > MAX_OFFSET {
            return Err(Error::Invalid(format!(
                "`offset` skips {MAX_OFFSET} letters at most; `cursor` goes on from any place"
            )));
        }
        let after = page.cursor.as_deref().map(place).transpose()?;
        // One snapshot, so that count and letters belong together.
        let (listed, letters) = bounded(Box::pin(async {
            let mut snapshot = self.readers().begin_with(SNAPSHOT).await.map_err(failed)?;
            let listed = listed(&mut snapshot, filter, after.as_ref(), (page.offset, limit)).await?;
            let letters = at(&mut snapshot, &listed.spots).await?;
            snapshot.rollback().await.map_err(failed)?;
            Ok((listed, letters))
        }))
        .await?;
        Ok(LetterPage {
            count: listed.count.letters,
            at_least: listed.count.at_least,
            letters,
            next: listed.next.as_ref().map(cursor),
        })
    }

    async fn groups(&self, filter: &LetterFilter, limit: usize) -> Result<Groups, Error> {
        groups::of(self.readers(), filter, limit).await
    }

    async fn dead_groups(&self) -> Result<u64, Error> {
        groups::dead(self.readers()).await
    }

    async fn get(&self, id: &str) -> Result<Option<DeadLetter>, Error> {
        let query = sqlx::query(concat!("SELECT ", columns!(), " FROM dead_letters WHERE id = $1"));
        answered(query.bind(stored(id)).fetch_optional(self.readers()))
            .await?
            .as_ref()
            .map(letter)
            .transpose()
    }

    async fn depth(&self) -> Result<Vec<(String, u64)>, Error> {
        let query = sqlx::query(
            "SELECT destination, CAST(SUM(letters) AS BIGINT) AS letters FROM letter_counts WHERE state = 'dead'
             GROUP BY destination HAVING SUM(letters) > 0 ORDER BY destination",
        );
        answered(query.fetch_all(self.readers()))
            .await?
            .iter()
            .map(|row| Ok((text(row, "destination")?, uint(column(row, "letters")?))))
            .collect()
    }

    async fn change(&self, id: &str, change: Change, note: Note) -> Result<Changed, Error> {
        match self
            .write(Op::Change(id.to_owned(), change, note, self.host()))
            .await?
        {
            Done::Changed(changed) => Ok(changed),
            _ => Ok(Changed::Unknown),
        }
    }

    async fn lapse(&self) -> Result<u64, Error> {
        let now = self.inner.clock.now_ms();
        // Asked often, and nearly always for nothing: only what is there costs a transaction.
        let any = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM dead_letters WHERE state = 'retrying' AND lease_until_ms <= $1)",
        )
        .bind(int(now));
        if !answered(any.fetch_one(self.readers())).await? {
            return Ok(0);
        }
        self.write(Op::Lapse(Over::By(now))).await.map(Done::count)
    }

    async fn trail(&self, id: &str) -> Result<Vec<Entry>, Error> {
        trail::of(self.readers(), id).await
    }
}
