//! Groups of letters that failed alike.

use std::collections::{BTreeMap, HashMap};

use sqlx::QueryBuilder;

use super::engine::{Connection, Database, Pool, Row, SNAPSHOT, answered, bounded, failed};
use super::find::{self, Count, Spot, among};
use super::row::{column, corrupt};
use super::text::{maybe_text, stored, text};
use super::{Error, letters, uint, words};
use crate::store::{Group, Groups, LetterFilter};

const MAX_GROUPS: usize = 1000;

/// A group with its letters that match.
struct Tallied {
    id: String,
    count: Count,
    /// The newest, when it is known already.
    newest: Option<Spot>,
}

/// Largest first.
pub(super) async fn of(readers: &Pool, filter: &LetterFilter, limit: usize) -> Result<Groups, Error> {
    // One snapshot, so that all of it belongs together.
    bounded(Box::pin(async {
        let mut snapshot = readers.begin_with(SNAPSHOT).await.map_err(failed)?;
        let (mut tallied, at_least) = tallied(&mut snapshot, filter).await?;
        let count = tallied.len() as u64;
        tallied.sort_unstable_by(|a, b| {
            b.count
                .letters
                .cmp(&a.count.letters)
                .then_with(|| a.id.cmp(&b.id))
        });
        tallied.truncate(limit.clamp(1, MAX_GROUPS));
        let groups = described(&mut snapshot, filter, tallied).await?;
        snapshot.rollback().await.map_err(failed)?;
        Ok(Groups {
            count,
            at_least,
            groups,
        })
    }))
    .await
}

/// And whether there may be more groups than these.
async fn tallied(on: &mut Connection, filter: &LetterFilter) -> Result<(Vec<Tallied>, bool), Error> {
    let Some(sought) = words::sought(filter)? else {
        let counts = find::in_groups(on, filter).await?.into_iter();
        let tallied = counts.map(|(id, count)| Tallied {
            id,
            count,
            newest: None,
        });
        return Ok((tallied.collect(), false));
    };
    let rest = words::without_text(filter);
    let found = words::newest(on, (&rest, &sought), None, usize::MAX).await?;
    let mut groups = BTreeMap::<String, Tallied>::new();
    for hit in found.hits {
        let group = groups.entry(hit.group.clone()).or_insert(Tallied {
            id: hit.group,
            count: Count {
                letters: 0,
                at_least: found.count.at_least,
            },
            // They come newest first.
            newest: Some(hit.spot),
        });
        group.count.letters += 1;
    }
    Ok((groups.into_values().collect(), found.count.at_least))
}

/// What there is to say of them, in their order.
async fn described(
    on: &mut Connection,
    filter: &LetterFilter,
    groups: Vec<Tallied>,
) -> Result<Vec<Group>, Error> {
    let ids: Vec<String> = groups.iter().map(|group| group.id.clone()).collect();
    let mut newest: HashMap<String, Spot> = HashMap::new();
    if groups.iter().any(|group| group.newest.is_none()) {
        for head in find::heads(on, filter, None, Some(&ids)).await? {
            let known = newest.entry(head.group).or_insert_with(|| head.newest.clone());
            if *known < head.newest {
                *known = head.newest;
            }
        }
    }
    let mut samples: HashMap<String, String> = HashMap::new();
    for group in &groups {
        let spot = group.newest.as_ref().or_else(|| newest.get(&group.id));
        samples.extend(spot.map(|spot| (group.id.clone(), spot.id.clone())));
    }
    let mut reasons = reasons(on, samples.values().cloned().collect()).await?;
    let rows = describing(&ids).build().fetch_all(on).await.map_err(failed)?;
    let mut rows: HashMap<String, &Row> = rows
        .iter()
        .map(|row| Ok((column(row, "id")?, row)))
        .collect::<Result<_, Error>>()?;
    let mut described = Vec::with_capacity(groups.len());
    for group in groups {
        // Each group that is counted has its row.
        let Some(row) = rows.remove(&group.id) else {
            continue;
        };
        let sample = samples.get(&group.id).and_then(|id| reasons.remove(id));
        described.push(read(row, group.count, sample)?);
    }
    Ok(described)
}

/// Ids as they are kept → id and reason.
async fn reasons(on: &mut Connection, ids: Vec<String>) -> Result<HashMap<String, (String, String)>, Error> {
    let mut query = QueryBuilder::<Database>::new("SELECT id, reason FROM dead_letters WHERE id");
    among(&mut query, "", &ids);
    let rows = query.build().fetch_all(on).await.map_err(failed)?;
    let reason = |row| {
        let id = text(row, "id")?;
        Ok((stored(&id).into_owned(), (id, text(row, "reason")?)))
    };
    rows.iter().map(reason).collect()
}

fn describing(ids: &[String]) -> QueryBuilder<Database> {
    let mut query = QueryBuilder::new(
        "SELECT g.id, g.route, g.class, g.code, g.digest, g.message, g.first_ms, g.last_ms,
             (SELECT p.digest FROM letter_groups p
              WHERE p.failure = g.failure AND p.id <> g.id AND p.digest IS NOT NULL AND p.first_ms < g.first_ms
              ORDER BY p.first_ms DESC LIMIT 1) AS previous
         FROM letter_groups g WHERE g.id",
    );
    among(&mut query, "", ids);
    query
}

fn read(row: &Row, count: Count, sample: Option<(String, String)>) -> Result<Group, Error> {
    let id = text(row, "id")?;
    Ok(Group {
        route: maybe_text(row, "route")?,
        class: letters::word(column(row, "class")?).ok_or_else(|| corrupt("the failure class", &id))?,
        code: maybe_text(row, "code")?,
        digest: maybe_text(row, "digest")?,
        message: maybe_text(row, "message")?,
        count: count.letters,
        at_least: count.at_least,
        first_ms: uint(column(row, "first_ms")?),
        last_ms: uint(column(row, "last_ms")?),
        sample,
        previous_digest: maybe_text(row, "previous")?,
        id,
    })
}

pub(super) async fn dead(readers: &Pool) -> Result<u64, Error> {
    let query = sqlx::query_scalar(
        "SELECT COUNT(*) FROM (SELECT grp FROM letter_counts WHERE state = 'dead'
                               GROUP BY grp HAVING SUM(letters) > 0) AS found",
    );
    answered(query.fetch_one(readers)).await.map(uint)
}
