//! What a filter says, as conditions on letters or on how many there are of a kind. Words are not among them: see [`words`](super::words).

use sqlx::QueryBuilder;

use super::engine::{Database, Row};
use super::row::column;
use super::tally::kind_of_type;
use super::text::stored;
use super::{Error, int};
use crate::model::LetterState;
use crate::store::LetterFilter;

/// The same words as the partial index, so that it is used.
const OPEN: &str = "state NOT IN ('reprocessed', 'discarded')";

/// Does it ask for nothing but a time, and what is open?
pub(super) fn is_plain(filter: &LetterFilter) -> bool {
    *filter
        == LetterFilter {
            open: filter.open,
            since_ms: filter.since_ms,
            until_ms: filter.until_ms,
            ..LetterFilter::default()
        }
}

/// Do the counts alone tell how many letters match?
pub(super) fn is_counted(filter: &LetterFilter) -> bool {
    filter.since_ms.is_none() && filter.until_ms.is_none()
}

fn wanted(filter: &LetterFilter) -> [(&'static str, Option<String>); 7] {
    let text = |text: &Option<String>| text.as_deref().map(|text| stored(text).into_owned());
    let kind = filter.message_type.as_deref();
    [
        ("grp", text(&filter.group)),
        ("digest", text(&filter.digest)),
        ("route", text(&filter.route)),
        ("class", filter.class.map(|class| class.as_str().to_owned())),
        (
            "message_type",
            kind.map(|kind| stored(&kind_of_type(Some(kind))).into_owned()),
        ),
        ("destination", text(&filter.destination)),
        ("state", filter.state.map(|state| state.as_str().to_owned())),
    ]
}

/// Appends what [`is_plain()`] leaves to a query on `dead_letters`, complete, so that more may follow with AND.
pub(super) fn plain(query: &mut QueryBuilder<Database>, filter: &LetterFilter) {
    query.push(" WHERE 1 = 1");
    if filter.open {
        query.push(" AND ").push(OPEN);
    }
    times(query, "", filter);
}

/// Appends those on the times of a letter in this table.
pub(super) fn times(query: &mut QueryBuilder<Database>, table: &str, filter: &LetterFilter) {
    for (condition, bound) in [
        ("last_failure_ms >= ", filter.since_ms),
        ("last_failure_ms < ", filter.until_ms),
    ] {
        if let Some(bound) = bound {
            query
                .push(" AND ")
                .push(table)
                .push(condition)
                .push_bind(int(bound));
        }
    }
}

/// Appends the kinds that match and have letters: counts as `c`, groups as `k`.
pub(super) fn kinds(query: &mut QueryBuilder<Database>, filter: &LetterFilter) {
    query.push(" FROM letter_counts c JOIN letter_groups k ON k.id = c.grp WHERE c.letters > 0");
    for (column, wanted) in wanted(filter) {
        let table = match column {
            "digest" | "route" | "class" => "k.",
            _ => "c.",
        };
        equal(query, &format!("{table}{column}"), wanted);
    }
    if filter.open {
        query.push(" AND c.").push(OPEN);
    }
}

fn equal(query: &mut QueryBuilder<Database>, column: &str, wanted: Option<String>) {
    if let Some(wanted) = wanted {
        query.push(" AND ").push(column).push(" = ").push_bind(wanted);
    }
}

/// The columns of a letter that [`meets()`] looks at.
pub(super) const LOOKED_AT: &str =
    "grp, digest, route, class, message_type, destination, state, last_failure_ms";

/// Does the letter of this row match? As [`kinds()`] and [`times()`], for rows that were found by something else.
pub(super) fn meets(row: &Row, filter: &LetterFilter) -> Result<bool, Error> {
    for (name, wanted) in wanted(filter) {
        let Some(wanted) = wanted else { continue };
        let found: Option<String> = column(row, name)?;
        let found = if name == "message_type" {
            // As it is kept already.
            Some(kind_of_type(found.as_deref()))
        } else {
            found
        };
        if found.as_deref() != Some(&*wanted) {
            return Ok(false);
        }
    }
    let closed = [LetterState::Reprocessed, LetterState::Discarded].map(LetterState::as_str);
    if filter.open && closed.contains(&column(row, "state")?) {
        return Ok(false);
    }
    let at: i64 = column(row, "last_failure_ms")?;
    Ok(filter.since_ms.is_none_or(|since| at >= int(since))
        && filter.until_ms.is_none_or(|until| at < int(until)))
}
