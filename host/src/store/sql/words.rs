//! Letters by their words: the index of words, and what is found with it.
//!
//! A word may be in one letter or in all of them. So the newest letters of the rest of the filter are looked at first, which finds
//! what is frequent; what is rare then comes from the index. In between nobody looks further than [`LOOKED`] letters: a page
//! may be short then, and goes on where looking ended.

use std::collections::BTreeMap;

use sqlx::QueryBuilder;

use super::Error;
use super::engine::{self, Connection, Database, Row, failed};
use super::find::{self, Count, Spot, among};
use super::matching::{LOOKED_AT, meets};
use super::row::column;
use super::text::{maybe_text, text};
use crate::model::DeadLetter;
use crate::store::{LetterFilter, Sought, words_of};

/// Newest letters that are looked at before the index is asked.
const FIRST: usize = 400;
/// Letters that are looked at for one answer, and that the index may find.
const LOOKED: usize = 800;
/// Where one in so many of the newest has the words, the index may well find too many: it is asked only when the count of
/// letters says otherwise. Postgres reads all letters with a word before it says anything.
const FREQUENT: usize = 10;
/// Letters whose words are made up for in one statement.
const PIECE: i64 = 500;

/// As they are kept under the number of a letter: apart by spaces.
pub(super) fn of_letter(letter: &DeadLetter) -> String {
    of_failure(
        letter,
        &letter.raw.origin.destination,
        letter.message_id.as_deref(),
    )
}

/// Of a letter that failed again: its row stays with the destination and the message id that it has.
pub(super) fn of_failure(letter: &DeadLetter, destination: &str, message_id: Option<&str>) -> String {
    let all = [
        Some(letter.reason.as_str()),
        Some(destination),
        letter.code.as_deref(),
        message_id,
    ];
    words_of(all.into_iter().flatten()).join(" ")
}

/// Of a row with those columns.
fn of_row(row: &Row) -> Result<Vec<String>, Error> {
    let texts = [
        Some(text(row, "reason")?),
        Some(text(row, "destination")?),
        maybe_text(row, "code")?,
        maybe_text(row, "message_id")?,
    ];
    Ok(words_of(texts.iter().flatten().map(String::as_str)))
}

/// Letters of before there were words, and those of hosts that did not know of them: before anybody looks for one. They are
/// some thousand a second.
pub(super) async fn make_up(on: &mut Connection) -> Result<(), Error> {
    let mut made = 0;
    loop {
        engine::execute(on, "BEGIN").await?;
        let some = make_up_some(on).await;
        // What is half done is done again at the next start.
        engine::execute(on, if some.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
        match some? {
            0 if made == 0 => return Ok(()),
            0 => {
                tracing::info!(
                    letters = made,
                    "the words of older dead letters are in their index now"
                );
                return Ok(());
            }
            some => made += some,
        }
    }
}

async fn make_up_some(on: &mut Connection) -> Result<usize, Error> {
    let rows = sqlx::query(
        "SELECT id, reason, code, message_id, destination FROM dead_letters WHERE number IS NULL ORDER BY id LIMIT $1",
    )
    .bind(PIECE)
    .fetch_all(&mut *on)
    .await
    .map_err(failed)?;
    let mut kept = Vec::with_capacity(rows.len());
    for row in &rows {
        let sql = format!(
            "UPDATE dead_letters SET number = {} WHERE id = $1 RETURNING number",
            engine::number(0)
        );
        let number: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .bind(column::<String>(row, "id")?)
            .fetch_one(&mut *on)
            .await
            .map_err(failed)?;
        kept.push((number, of_row(row)?.join(" ")));
    }
    if !kept.is_empty() {
        engine::keep_words(on, &kept).await?;
    }
    Ok(rows.len())
}

/// The words of letters that are no more.
pub(super) async fn forget(on: &mut Connection, numbers: &[i64]) -> Result<(), Error> {
    if numbers.is_empty() {
        return Ok(());
    }
    let mut query = QueryBuilder::<Database>::new(format!(
        "DELETE FROM letter_words WHERE {} IN (",
        engine::WORDS_NUMBER
    ));
    let mut gone = query.separated(", ");
    for number in numbers {
        gone.push_bind(*number);
    }
    query.push(")");
    query.build().execute(on).await.map_err(failed)?;
    Ok(())
}

/// A letter that has the words, and its group.
pub(super) struct Hit {
    pub spot: Spot,
    pub group: String,
}

pub(super) struct Found {
    /// Newest first.
    pub hits: Vec<Hit>,
    pub count: Count,
    /// Where looking ended, when there may be more behind it.
    pub ended: Option<Spot>,
}

/// Those that match and have the words, from behind that place on; enough when there are `want` of them.
pub(super) async fn newest(
    on: &mut Connection,
    (filter, sought): (&LetterFilter, &Sought),
    after: Option<&Spot>,
    want: usize,
) -> Result<Found, Error> {
    let mut look = Look {
        hits: Vec::new(),
        looked: 0,
        at: after.cloned(),
        over: false,
    };
    look.on(on, (filter, sought), FIRST).await?;
    if look.over && after.is_none() {
        return Ok(look.found(false));
    }
    if look.hits.len() >= want {
        return Ok(look.found(true));
    }
    if !look.finds_too_many(on, filter).await?
        && let Some(all) = indexed(on, (filter, sought)).await?
    {
        let letters = all.len() as u64;
        let behind = |hit: &Hit| after.is_none_or(|after| hit.spot < *after);
        return Ok(Found {
            hits: all.into_iter().filter(behind).collect(),
            count: Count {
                letters,
                at_least: false,
            },
            ended: None,
        });
    }
    while !look.over && look.hits.len() < want && look.looked < LOOKED {
        look.on(on, (filter, sought), FIRST).await?;
    }
    Ok(look.found(true))
}

/// Looking at letters in the order of a list.
struct Look {
    hits: Vec<Hit>,
    looked: usize,
    at: Option<Spot>,
    over: bool,
}

impl Look {
    async fn on(
        &mut self,
        on: &mut Connection,
        (filter, sought): (&LetterFilter, &Sought),
        letters: usize,
    ) -> Result<(), Error> {
        let spots = find::newest(on, filter, self.at.as_ref(), letters).await?;
        self.over = spots.len() < letters;
        self.looked += spots.len();
        let ids: Vec<String> = spots.iter().map(|spot| spot.id.clone()).collect();
        let mut query = QueryBuilder::<Database>::new(
            "SELECT id, grp, reason, code, message_id, destination FROM dead_letters WHERE id",
        );
        among(&mut query, "", &ids);
        let rows = query.build().fetch_all(on).await.map_err(failed)?;
        let mut groups = BTreeMap::<String, String>::new();
        for row in &rows {
            if sought.is_in(&of_row(row)?) {
                groups.insert(column(row, "id")?, column(row, "grp")?);
            }
        }
        if let Some(last) = spots.last() {
            self.at = Some(last.clone());
        }
        let hit = |spot: Spot| {
            let group = groups.remove(&spot.id)?;
            Some(Hit { spot, group })
        };
        self.hits.extend(spots.into_iter().filter_map(hit));
        Ok(())
    }

    /// As far as the newest tell of the others.
    async fn finds_too_many(&self, on: &mut Connection, filter: &LetterFilter) -> Result<bool, Error> {
        let hits = self.hits.len() as u64;
        if self.hits.len() * FREQUENT < self.looked {
            return Ok(false);
        }
        let letters = find::count(on, filter).await?.letters;
        Ok(letters.saturating_mul(hits) > (LOOKED * self.looked) as u64)
    }

    fn found(self, at_least: bool) -> Found {
        let count = Count {
            letters: self.hits.len() as u64,
            at_least,
        };
        Found {
            hits: self.hits,
            count,
            ended: self.at.filter(|_| !self.over),
        }
    }
}

/// All of them, newest first; none when the index finds too many letters to look at each.
async fn indexed(
    on: &mut Connection,
    (filter, sought): (&LetterFilter, &Sought),
) -> Result<Option<Vec<Hit>>, Error> {
    let Some(numbers) = engine::rare(on, sought, LOOKED).await? else {
        return Ok(None);
    };
    let rows = those(&numbers).build().fetch_all(on).await.map_err(failed)?;
    let mut hits = Vec::with_capacity(rows.len());
    for row in &rows {
        if meets(row, filter)? && are_in(row, sought)? {
            hits.push(Hit {
                spot: Spot {
                    at: column(row, "last_failure_ms")?,
                    id: column(row, "id")?,
                },
                group: column(row, "grp")?,
            });
        }
    }
    hits.sort_unstable_by(|a, b| b.spot.cmp(&a.spot));
    Ok(Some(hits))
}

/// The letters of these numbers, and nothing else said: whatever else had an index might be looked at first.
pub(super) fn those(numbers: &[i64]) -> QueryBuilder<Database> {
    let mut query = QueryBuilder::new(format!(
        "SELECT id, reason, code, message_id, {LOOKED_AT} FROM dead_letters WHERE number"
    ));
    engine::among_numbers(&mut query, numbers);
    query
}

/// Of a text that has no word nothing can be found.
pub(super) fn sought(filter: &LetterFilter) -> Result<Option<Sought>, Error> {
    match filter.text.as_deref().filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => Sought::of(text)
            .map(Some)
            .ok_or_else(|| Error::Invalid("the text to look for has no word in it".to_owned())),
    }
}

/// The rest of the filter.
pub(super) fn without_text(filter: &LetterFilter) -> LetterFilter {
    LetterFilter {
        text: None,
        ..filter.clone()
    }
}

/// Does the letter of this row have them?
pub(super) fn are_in(row: &Row, sought: &Sought) -> Result<bool, Error> {
    Ok(sought.is_in(&of_row(row)?))
}
