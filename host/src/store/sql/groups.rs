//! Groups of letters that failed alike.

use sqlx::QueryBuilder;

use super::engine::{Pool, Row, failed};
use super::row::{column, corrupt};
use super::{Error, letters, matching, uint};
use crate::store::{Group, LetterFilter};

const MAX_GROUPS: usize = 1000;

/// Largest first, and how many there are.
pub(super) async fn of(
    readers: &Pool,
    filter: &LetterFilter,
    limit: usize,
) -> Result<(u64, Vec<Group>), Error> {
    let mut counting = QueryBuilder::new("SELECT COUNT(*) FROM (");
    matching::per_group(&mut counting, filter);
    counting.push(") AS found");

    let mut query = QueryBuilder::new(
        "SELECT top.*, s.id AS sample, s.reason AS sample_reason FROM (
             SELECT g.id, g.route, g.class, g.code, g.digest, g.message, g.first_ms, g.last_ms, found.n,
                 (SELECT p.digest FROM letter_groups p
                  WHERE p.failure = g.failure AND p.id <> g.id AND p.digest IS NOT NULL AND p.first_ms < g.first_ms
                  ORDER BY p.first_ms DESC LIMIT 1) AS previous
             FROM (",
    );
    matching::per_group(&mut query, filter);
    query.push(") AS found JOIN letter_groups g ON g.id = found.grp ORDER BY found.n DESC, g.id LIMIT ");
    query.push_bind(i64::try_from(limit.clamp(1, MAX_GROUPS)).unwrap_or(i64::MAX));
    query.push(") AS top LEFT JOIN dead_letters s ON s.id = (SELECT d.id FROM dead_letters d");
    matching::letters(&mut query, filter);
    query.push(" AND d.grp = top.id ORDER BY d.last_failure_ms DESC LIMIT 1) ORDER BY top.n DESC, top.id");

    // One snapshot, so that the two belong together.
    let mut snapshot = readers.begin().await.map_err(failed)?;
    let all: i64 = counting
        .build_query_scalar()
        .fetch_one(&mut *snapshot)
        .await
        .map_err(failed)?;
    let rows = query.build().fetch_all(&mut *snapshot).await.map_err(failed)?;
    snapshot.rollback().await.map_err(failed)?;
    Ok((uint(all), rows.iter().map(group).collect::<Result<_, _>>()?))
}

fn group(row: &Row) -> Result<Group, Error> {
    let id: String = column(row, "id")?;
    let sample: Option<String> = column(row, "sample")?;
    let reason: Option<String> = column(row, "sample_reason")?;
    Ok(Group {
        route: column(row, "route")?,
        class: letters::word(column(row, "class")?).ok_or_else(|| corrupt("the failure class", &id))?,
        code: column(row, "code")?,
        digest: column(row, "digest")?,
        message: column(row, "message")?,
        count: uint(column(row, "n")?),
        first_ms: uint(column(row, "first_ms")?),
        last_ms: uint(column(row, "last_ms")?),
        sample: sample.zip(reason),
        previous_digest: column(row, "previous")?,
        id,
    })
}

pub(super) async fn dead(readers: &Pool) -> Result<u64, Error> {
    let groups: i64 = sqlx::query_scalar(
        "SELECT COUNT(*) FROM (SELECT grp FROM letter_counts WHERE state = 'dead'
                               GROUP BY grp HAVING SUM(letters) > 0) AS found",
    )
    .fetch_one(readers)
    .await
    .map_err(failed)?;
    Ok(uint(groups))
}
