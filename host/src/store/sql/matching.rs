//! What a filter says, as conditions on letters or on how many there are of a kind.

use sqlx::QueryBuilder;

use super::engine::{Database, LIKE};
use super::int;
use super::tally::{KIND_CHARS, OTHER_TYPES};
use crate::model::{FailureClass, LetterState};
use crate::store::LetterFilter;

/// The same words as the partial indexes, so that they are used.
const OPEN: &str = "state NOT IN ('reprocessed', 'discarded')";

/// Appends the conditions of the filter to a query on `dead_letters`; each is complete, so that more may follow with AND.
pub(super) fn letters(query: &mut QueryBuilder<Database>, filter: &LetterFilter) {
    query.push(" WHERE 1 = 1");
    for (column, wanted) in [
        ("grp", filter.group.as_deref()),
        ("digest", filter.digest.as_deref()),
        ("route", filter.route.as_deref()),
        ("message_type", filter.message_type.as_deref()),
        ("destination", filter.destination.as_deref()),
        ("class", filter.class.map(FailureClass::as_str)),
        ("state", filter.state.map(LetterState::as_str)),
    ] {
        equal(query, "", column, wanted);
    }
    let open = |state| !matches!(state, LetterState::Reprocessed | LetterState::Discarded);
    if filter.open || filter.state.is_some_and(open) {
        query.push(" AND ").push(OPEN);
    }
    for (condition, bound) in [
        (" AND last_failure_ms >= ", filter.since_ms),
        (" AND last_failure_ms < ", filter.until_ms),
    ] {
        if let Some(bound) = bound {
            query.push(condition).push_bind(int(bound));
        }
    }
    if let Some(text) = filter.text.as_deref().filter(|text| !text.is_empty()) {
        let pattern = format!(
            "%{}%",
            text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_")
        );
        query.push(" AND (1 = 0");
        for column in ["reason", "code", "message_id", "destination"] {
            query
                .push(" OR ")
                .push(column)
                .push(LIKE)
                .push_bind(pattern.clone())
                .push(" ESCAPE '\\'");
        }
        query.push(")");
    }
}

/// Appends how many letters of each group match, as `grp` and `n`: from the counts where they know, else by counting.
pub(super) fn per_group(query: &mut QueryBuilder<Database>, filter: &LetterFilter) {
    if is_counted(filter) {
        query.push(
            "SELECT c.grp AS grp, CAST(SUM(c.letters) AS BIGINT) AS n
             FROM letter_counts c JOIN letter_groups k ON k.id = c.grp",
        );
        counts(query, filter);
        query.push(" GROUP BY c.grp HAVING SUM(c.letters) > 0");
    } else {
        query.push("SELECT grp, COUNT(*) AS n FROM dead_letters");
        letters(query, filter);
        query.push(" GROUP BY grp");
    }
}

/// Appends how many letters match.
pub(super) fn count(query: &mut QueryBuilder<Database>, filter: &LetterFilter) {
    if is_counted(filter) {
        query.push(
            "SELECT CAST(COALESCE(SUM(c.letters), 0) AS BIGINT)
             FROM letter_counts c JOIN letter_groups k ON k.id = c.grp",
        );
        counts(query, filter);
    } else {
        query.push("SELECT COUNT(*) FROM dead_letters");
        letters(query, filter);
    }
}

/// Do the counts know how many letters match?
fn is_counted(filter: &LetterFilter) -> bool {
    let counted = |kind: &str| !kind.is_empty() && kind != OTHER_TYPES && kind.chars().count() <= KIND_CHARS;
    filter.since_ms.is_none()
        && filter.until_ms.is_none()
        && filter.text.as_deref().is_none_or(str::is_empty)
        && filter.message_type.as_deref().is_none_or(counted)
}

fn counts(query: &mut QueryBuilder<Database>, filter: &LetterFilter) {
    query.push(" WHERE 1 = 1");
    for (table, column, wanted) in [
        ("c.", "grp", filter.group.as_deref()),
        ("k.", "digest", filter.digest.as_deref()),
        ("k.", "route", filter.route.as_deref()),
        ("k.", "class", filter.class.map(FailureClass::as_str)),
        ("c.", "message_type", filter.message_type.as_deref()),
        ("c.", "destination", filter.destination.as_deref()),
        ("c.", "state", filter.state.map(LetterState::as_str)),
    ] {
        equal(query, table, column, wanted);
    }
    if filter.open {
        query.push(" AND c.").push(OPEN);
    }
}

fn equal(query: &mut QueryBuilder<Database>, table: &str, column: &str, wanted: Option<&str>) {
    if let Some(wanted) = wanted {
        query
            .push(" AND ")
            .push(table)
            .push(column)
            .push(" = ")
            .push_bind(wanted.to_owned());
    }
}
