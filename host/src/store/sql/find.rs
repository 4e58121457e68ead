//! Which letters match, newest last failure first: from indexes alone, and never looking at more than [`LOOKED`] of them.
//!
//! Letters of one kind (group, destination, type, state) lie in one index in the order of their last failure. Which kinds match,
//! and how many letters each has, the counts know. So a list is a merge of the kinds that a filter means, beginning with the one
//! whose newest letter is newest: whatever is asked for, each step reads what is shown or the head of a kind.

use sqlx::QueryBuilder;

use super::engine::{AMONG, BYTEWISE, Connection, Database, failed};
use super::matching::{is_counted, is_plain, kinds, plain, times};
use super::row::column;
use super::{Error, uint};
use crate::store::LetterFilter;

/// Letters that are counted one by one where the counts do not know how many match.
pub(super) const LOOKED: usize = 5_000;
/// Entries of the index that all groups together are counted by, when the counts do not know.
const LOOKED_IN_GROUPS: usize = 50_000;
/// Kinds that are read in one statement; each size is a statement of its own.
const KINDS: [usize; 3] = [16, 4, 1];

/// The place of a letter in a list; its id as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    pub at: i64,
    pub id: String,
}

/// How many match; at least so many where they are more than are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    pub letters: u64,
    pub at_least: bool,
}

/// Letters of a kind, and the newest of those that match.
pub(super) struct Head {
    pub group: String,
    destination: String,
    kind: String,
    state: String,
    pub newest: Spot,
}

/// At most `want` of them, from behind that place on, newest first.
pub(super) async fn newest(
    on: &mut Connection,
    filter: &LetterFilter,
    after: Option<&Spot>,
    want: usize,
) -> Result<Vec<Spot>, Error> {
    if is_plain(filter) {
        return spots(on, in_time(filter, after, want)).await;
    }
    let mut heads = heads(on, filter, after, None).await?;
    heads.sort_unstable_by(|a, b| b.newest.cmp(&a.newest));
    let mut found: Vec<Spot> = Vec::new();
    // The first kinds say how far back the others have to be read, so there are few of them at first.
    let (mut rest, mut most) = (heads.as_slice(), 1);
    while let Some(head) = rest.first() {
        let last = found.get(want.saturating_sub(1));
        // All that follow begin behind it as well.
        if last.is_some_and(|last| head.newest < *last) {
            break;
        }
        let floor = last.map(|last| last.at);
        let fits = |size: &usize| *size <= most && *size <= rest.len();
        let (some, others) = rest.split_at(KINDS.into_iter().find(fits).unwrap_or(1));
        found.extend(spots(on, of_kinds(some, filter, after, floor, want)).await?);
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.truncate(want);
        (rest, most) = (others, most.saturating_mul(4));
    }
    Ok(found)
}

async fn spots(on: &mut Connection, mut query: QueryBuilder<Database>) -> Result<Vec<Spot>, Error> {
    let rows = query.build().fetch_all(on).await.map_err(failed)?;
    let spot = |row| {
        Ok(Spot {
            at: column(row, "last_failure_ms")?,
            id: column(row, "id")?,
        })
    };
    rows.iter().map(spot).collect()
}

/// Of all kinds together, which have their own order.
pub(super) fn in_time(filter: &LetterFilter, after: Option<&Spot>, want: usize) -> QueryBuilder<Database> {
    let mut query = QueryBuilder::new("SELECT id, last_failure_ms FROM dead_letters");
    plain(&mut query, filter);
    behind(&mut query, "", after);
    ordered(&mut query, "", want);
    query
}

/// The kinds that have letters there, of these groups when some are given.
pub(super) async fn heads(
    on: &mut Connection,
    filter: &LetterFilter,
    after: Option<&Spot>,
    groups: Option<&[String]>,
) -> Result<Vec<Head>, Error> {
    let rows = heads_of(filter, after, groups)
        .build()
        .fetch_all(on)
        .await
        .map_err(failed)?;
    let mut heads = Vec::with_capacity(rows.len());
    for row in &rows {
        // None: its letters are all outside of the times, or before the place.
        if let (Some(at), Some(id)) = (column(row, "newest_ms")?, column(row, "newest")?) {
            heads.push(Head {
                group: column(row, "grp")?,
                destination: column(row, "destination")?,
                kind: column(row, "message_type")?,
                state: column(row, "state")?,
                newest: Spot { at, id },
            });
        }
    }
    Ok(heads)
}

pub(super) fn heads_of(
    filter: &LetterFilter,
    after: Option<&Spot>,
    groups: Option<&[String]>,
) -> QueryBuilder<Database> {
    let mut query = QueryBuilder::new("SELECT c.grp, c.destination, c.message_type, c.state");
    for (column, name) in [("last_failure_ms", "newest_ms"), ("id", "newest")] {
        query.push(", (SELECT d.").push(column);
        of_its_kind(&mut query, filter);
        behind(&mut query, "d.", after);
        ordered(&mut query, "d.", 1);
        query.push(") AS ").push(name);
    }
    kinds(&mut query, filter);
    if let Some(groups) = groups {
        among(&mut query, " AND c.grp", groups);
    }
    query
}

/// Letters of the kind that `c` is, within the times of the filter.
fn of_its_kind(query: &mut QueryBuilder<Database>, filter: &LetterFilter) {
    query.push(" FROM dead_letters d WHERE ");
    is_its_kind(query, filter);
}

fn is_its_kind(query: &mut QueryBuilder<Database>, filter: &LetterFilter) {
    query.push(format!(
        "d.grp = c.grp AND d.destination = c.destination AND d.kind = c.message_type AND d.state{BYTEWISE} = c.state"
    ));
    times(query, "d.", filter);
}

/// Of each of these kinds at most `want`.
pub(super) fn of_kinds(
    heads: &[Head],
    filter: &LetterFilter,
    after: Option<&Spot>,
    floor: Option<i64>,
    want: usize,
) -> QueryBuilder<Database> {
    let mut query = QueryBuilder::new("");
    for (place, head) in heads.iter().enumerate() {
        query.push(if place == 0 { "" } else { " UNION ALL " });
        // Around each: SQLite has ORDER BY and LIMIT inside of a UNION only there.
        query.push("SELECT id, last_failure_ms FROM (SELECT d.id, d.last_failure_ms FROM dead_letters d WHERE d.grp = ");
        query.push_bind(head.group.clone()).push(" AND d.destination = ");
        query.push_bind(head.destination.clone());
        query.push(" AND d.kind = ").push_bind(head.kind.clone());
        query.push(format!(" AND d.state{BYTEWISE} = "));
        query.push_bind(head.state.clone());
        times(&mut query, "d.", filter);
        if let Some(floor) = floor {
            query.push(" AND d.last_failure_ms >= ").push_bind(floor);
        }
        behind(&mut query, "d.", after);
        ordered(&mut query, "d.", want);
        query.push(") AS found");
    }
    query
}

fn behind(query: &mut QueryBuilder<Database>, table: &str, after: Option<&Spot>) {
    if let Some(after) = after {
        query
            .push(format!(" AND ({table}last_failure_ms, {table}id) < ("))
            .push_bind(after.at);
        query.push(", ").push_bind(after.id.clone()).push(")");
    }
}

fn ordered(query: &mut QueryBuilder<Database>, table: &str, want: usize) {
    query
        .push(format!(
            " ORDER BY {table}last_failure_ms DESC, {table}id DESC LIMIT "
        ))
        .push_bind(i64::try_from(want).unwrap_or(i64::MAX));
}

/// Appends the condition that this is one of these texts, as one parameter: a statement is the same however many there are.
pub(super) fn among(query: &mut QueryBuilder<Database>, condition: &str, texts: &[String]) {
    let (before, behind) = AMONG;
    let list = serde_json::Value::from(texts.to_vec()).to_string();
    query.push(condition).push(before).push_bind(list).push(behind);
}

/// How many match.
pub(super) async fn count(on: &mut Connection, filter: &LetterFilter) -> Result<Count, Error> {
    let found: i64 = counting(filter)
        .build_query_scalar()
        .fetch_one(on)
        .await
        .map_err(failed)?;
    let at_least = !is_counted(filter) && uint(found) > LOOKED as u64;
    Ok(Count {
        letters: if at_least { LOOKED as u64 } else { uint(found) },
        at_least,
    })
}

pub(super) fn counting(filter: &LetterFilter) -> QueryBuilder<Database> {
    if is_counted(filter) {
        let mut query = QueryBuilder::new("SELECT CAST(COALESCE(SUM(c.letters), 0) AS BIGINT)");
        kinds(&mut query, filter);
        return query;
    }
    let mut query = QueryBuilder::new("SELECT COUNT(*) FROM (SELECT 1 AS one");
    if is_plain(filter) {
        query.push(" FROM dead_letters");
        plain(&mut query, filter);
    } else {
        // CROSS: in this order.
        query.push(" FROM (SELECT c.grp, c.destination, c.message_type, c.state");
        kinds(&mut query, filter);
        query.push(") AS c CROSS JOIN dead_letters d WHERE ");
        is_its_kind(&mut query, filter);
    }
    // One more than are counted tells that there are more.
    query
        .push(" LIMIT ")
        .push_bind(i64::try_from(LOOKED + 1).unwrap_or(i64::MAX))
        .push(") AS looked");
    query
}

/// How many letters of each group match, of those that have any.
pub(super) async fn in_groups(
    on: &mut Connection,
    filter: &LetterFilter,
) -> Result<Vec<(String, Count)>, Error> {
    let mut most = usize::MAX;
    if !is_counted(filter) {
        let mut query = QueryBuilder::<Database>::new("SELECT COUNT(*)");
        kinds(&mut query, filter);
        let kinds: i64 = query
            .build_query_scalar()
            .fetch_one(&mut *on)
            .await
            .map_err(failed)?;
        let kinds = usize::try_from(kinds).unwrap_or(usize::MAX).max(1);
        most = (LOOKED_IN_GROUPS / kinds).clamp(100, LOOKED);
    }
    let rows = counting_kinds(filter, most)
        .build()
        .fetch_all(on)
        .await
        .map_err(failed)?;
    let mut groups = std::collections::BTreeMap::<String, Count>::new();
    for row in &rows {
        let n = uint(column(row, "n")?);
        let count = groups.entry(column(row, "grp")?).or_insert(Count {
            letters: 0,
            at_least: false,
        });
        count.letters += n;
        count.at_least |= n >= most as u64;
    }
    groups.retain(|_, count| count.letters > 0);
    Ok(groups.into_iter().collect())
}

/// Of each kind at most so many, where they are counted one by one.
pub(super) fn counting_kinds(filter: &LetterFilter, most: usize) -> QueryBuilder<Database> {
    let mut query = QueryBuilder::new("SELECT c.grp, ");
    if is_counted(filter) {
        query.push("c.letters AS n");
    } else {
        query.push("(SELECT COUNT(*) FROM (SELECT 1 AS one");
        of_its_kind(&mut query, filter);
        query
            .push(" LIMIT ")
            .push_bind(i64::try_from(most).unwrap_or(i64::MAX))
            .push(") AS looked) AS n");
    }
    kinds(&mut query, filter);
    query
}

/// Every statement that a list, a count, groups or a job over letters may need for this filter, for a test to look at.
#[cfg(test)]
#[allow(dead_code, reason = "the test asks one of the engines")]
pub(in crate::store) fn statements(filter: &LetterFilter) -> Vec<String> {
    let spot = Spot {
        at: 1,
        id: "i".to_owned(),
    };
    let head = || Head {
        group: "g".to_owned(),
        destination: "q".to_owned(),
        kind: "t".to_owned(),
        state: "dead".to_owned(),
        newest: spot.clone(),
    };
    let mut all = vec![counting(filter), counting_kinds(filter, 100)];
    for after in [None, Some(&spot)] {
        all.push(heads_of(filter, after, None));
        all.push(of_kinds(&[head(), head()], filter, after, Some(1), 9));
        if is_plain(filter) {
            all.push(in_time(filter, after, 9));
        }
    }
    all.push(heads_of(filter, None, Some(&["g".to_owned()])));
    all.push(super::prepare::dead_from(None));
    all.push(super::prepare::dead_from(Some(&(1, "i".to_owned()))));
    all.push(super::words::those(&[1, 2]));
    all.iter().map(|query| query.sql().as_str().to_owned()).collect()
}
