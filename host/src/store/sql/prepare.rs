//! The letters of a job, written down in pieces that hold up nobody.
//!
//! Which they are is read beside the writer; a piece is written only if the job is where it was when that was read. So it does not
//! matter who does it and how often, or where a host dies in between. Letters that came after the job was made have higher
//! numbers than there were then.

use sqlx::QueryBuilder;

use super::engine::{Connection, Database, Pool, Row, SNAPSHOT, bounded, failed};
use super::find::{self, among};
use super::jobs::{self, MAX_LETTERS};
use super::matching::{LOOKED_AT, meets};
use super::row::{column, corrupt};
use super::text::maybe_text;
use super::{Error, int, uint, words};
use crate::model::{LetterState, UnixMs};
use crate::store::{Job, JobState, LetterFilter, Sought};

/// Letters that are looked through for a piece, and so those in one transaction at most.
const PIECE: usize = 2_000;
/// Rows in one statement.
const TOGETHER: usize = 500;

/// The order of a job: first failure, and id as it is kept.
type Place = (i64, String);

pub(super) struct Piece {
    job: i64,
    from: Option<Place>,
    letters: Vec<String>,
    /// None: that was the last one.
    to: Option<Place>,
}

pub(super) enum Next {
    Piece(Box<Piece>),
    /// The job needs none; none: there is no such job.
    Nothing(Option<Box<Job>>),
}

/// What a job may be made over.
pub(super) async fn check(readers: &Pool, filter: &LetterFilter) -> Result<(), Error> {
    if words::sought(filter)?.is_some() {
        return Ok(());
    }
    let filter = dead(filter);
    let count = bounded(Box::pin(async {
        let mut reader = readers.acquire().await.map_err(failed)?;
        find::count(&mut reader, &filter).await
    }))
    .await?;
    if count.letters > uint(MAX_LETTERS) {
        return Err(Error::Invalid(too_many()));
    }
    Ok(())
}

fn too_many() -> String {
    format!(
        "more than {MAX_LETTERS} letters match, which is the most that one job takes; narrow the filter, for example with `until`"
    )
}

fn dead(filter: &LetterFilter) -> LetterFilter {
    LetterFilter {
        state: Some(LetterState::Dead),
        open: false,
        ..filter.clone()
    }
}

pub(super) async fn next(readers: &Pool, job: i64) -> Result<Next, Error> {
    // One snapshot, so that a letter is in it once.
    bounded(Box::pin(async {
        let mut snapshot = readers.begin_with(SNAPSHOT).await.map_err(failed)?;
        let next = next_in(&mut snapshot, job).await?;
        snapshot.rollback().await.map_err(failed)?;
        Ok(next)
    }))
    .await
}

async fn next_in(on: &mut Connection, number: i64) -> Result<Next, Error> {
    let row = sqlx::query(concat!(
        "SELECT ",
        jobs::columns!(),
        ", members, bound, reached_ms, reached FROM redrive_jobs WHERE seq = $1"
    ))
    .bind(number)
    .fetch_optional(&mut *on)
    .await
    .map_err(failed)?;
    let Some(row) = row else {
        return Ok(Next::Nothing(None));
    };
    let job = jobs::job(&row)?;
    if job.state != JobState::Preparing {
        return Ok(Next::Nothing(Some(Box::new(job))));
    }
    let said = maybe_text(&row, "members")?.unwrap_or_default();
    let filter: LetterFilter =
        serde_json::from_str(&said).map_err(|_| corrupt("which letters are meant", &job.id))?;
    let sought = words::sought(&filter)?;
    let filter = dead(&words::without_text(&filter));
    // None: there was no letter.
    let bound = column::<Option<i64>>(&row, "bound")?.unwrap_or_default();
    let reached_ms: Option<i64> = column(&row, "reached_ms")?;
    let from = reached_ms.zip(column::<Option<String>>(&row, "reached")?);
    let few = match from {
        None => all(on, &filter, sought.as_ref(), bound).await?,
        Some(_) => None,
    };
    let (letters, to) = match few {
        Some(letters) => (letters, None),
        None => window(on, &filter, sought.as_ref(), bound, from.as_ref()).await?,
    };
    Ok(Next::Piece(Box::new(Piece {
        job: number,
        from,
        letters,
        to,
    })))
}

/// All of them, in the order of the job, when they are few.
async fn all(
    on: &mut Connection,
    filter: &LetterFilter,
    sought: Option<&Sought>,
    bound: i64,
) -> Result<Option<Vec<String>>, Error> {
    let spots: Vec<find::Spot> = if let Some(sought) = sought {
        let found = words::newest(on, (filter, sought), None, usize::MAX).await?;
        if found.count.at_least {
            return Ok(None);
        }
        found.hits.into_iter().map(|hit| hit.spot).collect()
    } else {
        let count = find::count(on, filter).await?;
        if count.at_least || count.letters > PIECE as u64 {
            return Ok(None);
        }
        find::newest(on, filter, None, PIECE).await?
    };
    let ids: Vec<String> = spots.into_iter().map(|spot| spot.id).collect();
    let mut query =
        QueryBuilder::<Database>::new("SELECT id, first_failure_ms, number FROM dead_letters WHERE id");
    among(&mut query, "", &ids);
    let rows = query.build().fetch_all(on).await.map_err(failed)?;
    let mut places = Vec::with_capacity(rows.len());
    for row in &rows {
        if was_there(row, bound)? {
            places.push(place(row)?);
        }
    }
    places.sort_unstable();
    Ok(Some(places.into_iter().map(|(_, id)| id).collect()))
}

/// One whose words are not there yet has no number, and was.
fn was_there(row: &Row, bound: i64) -> Result<bool, Error> {
    Ok(column::<Option<i64>>(row, "number")?.is_none_or(|number| number <= bound))
}

fn place(row: &Row) -> Result<Place, Error> {
    Ok((column(row, "first_failure_ms")?, column(row, "id")?))
}

/// Those of the next dead letters that are meant, and the last that was looked at.
async fn window(
    on: &mut Connection,
    filter: &LetterFilter,
    sought: Option<&Sought>,
    bound: i64,
    from: Option<&Place>,
) -> Result<(Vec<String>, Option<Place>), Error> {
    let rows = dead_from(from).build().fetch_all(on).await.map_err(failed)?;
    let mut letters = Vec::with_capacity(rows.len());
    for row in &rows {
        let has_words = match sought {
            Some(sought) => words::are_in(row, sought)?,
            None => true,
        };
        if has_words && was_there(row, bound)? && meets(row, filter)? {
            letters.push(column(row, "id")?);
        }
    }
    let last = rows.last().filter(|_| rows.len() == PIECE);
    Ok((letters, last.map(place).transpose()?))
}

/// The next dead letters in the order of their first failure, whatever filter there is: so much is looked at, and no more.
pub(super) fn dead_from(from: Option<&Place>) -> QueryBuilder<Database> {
    let mut query = QueryBuilder::new(format!(
        "SELECT id, first_failure_ms, number, reason, code, message_id, {LOOKED_AT} FROM dead_letters WHERE state = 'dead'"
    ));
    if let Some((at, id)) = from {
        query.push(" AND (first_failure_ms, id) > (").push_bind(*at);
        query.push(", ").push_bind(id.clone()).push(")");
    }
    query
        .push(" ORDER BY first_failure_ms, id LIMIT ")
        .push_bind(i64::try_from(PIECE).unwrap_or(i64::MAX));
    query
}

/// The job as it is then; one that is elsewhere by now, or was cancelled, is left as it is.
pub(super) async fn write(on: &mut Connection, piece: &Piece, now: UnixMs) -> Result<Option<Job>, Error> {
    let more = i64::try_from(piece.letters.len()).unwrap_or(i64::MAX);
    let row = sqlx::query(concat!(
        "UPDATE redrive_jobs SET total = total + $2, reached_ms = $3, reached = $4,
             state = CASE WHEN total + $2 > $5 THEN 'failed' WHEN $3 IS NOT NULL THEN state
                          WHEN total + $2 = 0 THEN 'completed' ELSE 'pending' END,
             trouble = CASE WHEN total + $2 > $5 THEN $6 ELSE NULL END,
             ended_ms = CASE WHEN total + $2 > $5 OR ($3 IS NULL AND total + $2 = 0) THEN $7 ELSE NULL END,
             holder = CASE WHEN total + $2 > $5 OR $3 IS NULL THEN NULL ELSE holder END,
             lease_until_ms = CASE WHEN total + $2 > $5 OR $3 IS NULL THEN NULL ELSE lease_until_ms END
         WHERE seq = $1 AND state = 'preparing' AND reached_ms IS NOT DISTINCT FROM $8 AND reached IS NOT DISTINCT FROM $9
         RETURNING ",
        jobs::columns!()
    ))
    .bind(piece.job)
    .bind(more)
    .bind(piece.to.as_ref().map(|(at, _)| *at))
    .bind(piece.to.as_ref().map(|(_, id)| id.clone()))
    .bind(MAX_LETTERS)
    .bind(too_many())
    .bind(int(now))
    .bind(piece.from.as_ref().map(|(at, _)| *at))
    .bind(piece.from.as_ref().map(|(_, id)| id.clone()))
    .fetch_optional(&mut *on)
    .await
    .map_err(failed)?;
    let Some(row) = row else {
        let row = sqlx::query(concat!(
            "SELECT ",
            jobs::columns!(),
            " FROM redrive_jobs WHERE seq = $1"
        ))
        .bind(piece.job)
        .fetch_optional(on)
        .await
        .map_err(failed)?;
        return row.as_ref().map(jobs::job).transpose();
    };
    let job = jobs::job(&row)?;
    let before = int(job.total) - more;
    for (number, letters) in piece.letters.chunks(TOGETHER).enumerate() {
        let first = before + i64::try_from(number * TOGETHER).unwrap_or(i64::MAX) + 1;
        let mut query = QueryBuilder::<Database>::new("INSERT INTO redrive_members (job, place, letter) ");
        query.push_values((first..).zip(letters), |mut row, (place, letter)| {
            row.push_bind(piece.job)
                .push_bind(place)
                .push_bind(letter.clone());
        });
        query.build().execute(&mut *on).await.map_err(failed)?;
    }
    Ok(Some(job))
}
