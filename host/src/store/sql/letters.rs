//! Dead letters: their SQL, and the seam [`DeadLetters`].

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::QueryBuilder;

use super::engine::{Row, failed};
use super::op::{Done, Op};
use super::row::{column, corrupt};
use super::tally::Kind;
use super::{Error, Store, codec, groups, int, matching, small, trail, uint};
use crate::model::DeadLetter;
use crate::store::{Change, Changed, DeadLetters, Entry, Group, LetterFilter, LetterPage, Note, Page};

/// Letters in a page whose caller did not say.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;

pub(super) fn letter(row: &Row) -> Result<DeadLetter, Error> {
    let id: String = column(row, "id")?;
    Ok(DeadLetter {
        raw: codec::read(column(row, "message")?).ok_or_else(|| corrupt("the message", &id))?,
        message_id: column(row, "message_id")?,
        message_type: column(row, "message_type")?,
        route: column(row, "route")?,
        plugin: column(row, "plugin")?,
        digest: column(row, "digest")?,
        class: word(column(row, "class")?).ok_or_else(|| corrupt("the failure class", &id))?,
        reason: column(row, "reason")?,
        code: column(row, "code")?,
        attempts: serde_json::from_str(column(row, "attempts")?).map_err(|_| corrupt("the attempts", &id))?,
        first_failure_ms: uint(column(row, "first_failure_ms")?),
        last_failure_ms: uint(column(row, "last_failure_ms")?),
        trace_id: column(row, "trace_id")?,
        state: word(column(row, "state")?).ok_or_else(|| corrupt("the state", &id))?,
        reprocessed: small(column(row, "reprocessed")?),
        id,
    })
}

/// What the letter of a row is counted by.
pub(super) fn kind(row: &Row) -> Result<Kind, Error> {
    Ok(Kind::new(
        column(row, "grp")?,
        column(row, "destination")?,
        column(row, "message_type")?,
    ))
}

/// The value of an enum whose variants are plain words; `as_str` writes what serde reads.
pub(super) fn word<T: DeserializeOwned + Serialize>(text: &str) -> Option<T> {
    serde_json::from_value(serde_json::Value::String(text.to_owned())).ok()
}

/// The place after a letter: its last failure and id.
fn cursor(letter: &DeadLetter) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}:{}", letter.last_failure_ms, letter.id))
}

fn place(cursor: &str) -> Option<(i64, String)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
    let (last_failure, id) = text.split_once(':')?;
    Some((last_failure.parse().ok()?, id.to_owned()))
}

/// A page without a limit has 100 letters; more than 1000 is 1000. `offset` counts from the cursor on.
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
        let mut query = QueryBuilder::new("SELECT * FROM dead_letters");
        matching::letters(&mut query, filter);
        if let Some(cursor) = &page.cursor {
            let (last_failure, id) = place(cursor)
                .ok_or_else(|| Error::Invalid("the cursor is none that `next` gave".to_owned()))?;
            query
                .push(" AND (last_failure_ms, id) < (")
                .push_bind(last_failure);
            query.push(", ").push_bind(id).push(")");
        }
        query.push(" ORDER BY last_failure_ms DESC, id DESC LIMIT ");
        // One more than asked for tells whether there is a next page.
        query.push_bind(i64::try_from(limit + 1).unwrap_or(i64::MAX));
        query
            .push(" OFFSET ")
            .push_bind(i64::try_from(page.offset).unwrap_or(i64::MAX));

        let mut counting = QueryBuilder::new("");
        matching::count(&mut counting, filter);

        // One snapshot, so that count and letters belong together.
        let mut snapshot = self.readers().begin().await.map_err(failed)?;
        let count: i64 = counting
            .build_query_scalar()
            .fetch_one(&mut *snapshot)
            .await
            .map_err(failed)?;
        let rows = query.build().fetch_all(&mut *snapshot).await.map_err(failed)?;
        snapshot.rollback().await.map_err(failed)?;

        let letters: Vec<DeadLetter> = rows.iter().take(limit).map(letter).collect::<Result<_, _>>()?;
        let next = letters.last().filter(|_| rows.len() > limit).map(cursor);
        Ok(LetterPage {
            count: uint(count),
            letters,
            next,
        })
    }

    async fn groups(&self, filter: &LetterFilter, limit: usize) -> Result<(u64, Vec<Group>), Error> {
        groups::of(self.readers(), filter, limit).await
    }

    async fn dead_groups(&self) -> Result<u64, Error> {
        groups::dead(self.readers()).await
    }

    async fn get(&self, id: &str) -> Result<Option<DeadLetter>, Error> {
        sqlx::query("SELECT * FROM dead_letters WHERE id = $1")
            .bind(id)
            .fetch_optional(self.readers())
            .await
            .map_err(failed)?
            .as_ref()
            .map(letter)
            .transpose()
    }

    async fn depth(&self) -> Result<Vec<(String, u64)>, Error> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT destination, CAST(SUM(letters) AS BIGINT) FROM letter_counts WHERE state = 'dead'
             GROUP BY destination HAVING SUM(letters) > 0 ORDER BY destination",
        )
        .fetch_all(self.readers())
        .await
        .map_err(failed)?;
        Ok(rows
            .into_iter()
            .map(|(destination, letters)| (destination, uint(letters)))
            .collect())
    }

    async fn change(&self, id: &str, change: Change, note: Note) -> Result<Changed, Error> {
        match self.write(Op::Change(id.to_owned(), change, note)).await? {
            Done::Changed(changed) => Ok(changed),
            _ => Ok(Changed::Unknown),
        }
    }

    async fn lapse(&self) -> Result<u64, Error> {
        let now = self.inner.clock.now_ms();
        // Asked often, and nearly always for nothing: only what is there costs a transaction.
        let any: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM dead_letters WHERE state = 'retrying' AND lease_until_ms <= $1)",
        )
        .bind(int(now))
        .fetch_one(self.readers())
        .await
        .map_err(failed)?;
        if !any {
            return Ok(0);
        }
        self.write(Op::Lapse(Some(now))).await.map(Done::count)
    }

    async fn trail(&self, id: &str) -> Result<Vec<Entry>, Error> {
        trail::of(self.readers(), id).await
    }
}
