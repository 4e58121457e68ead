//! What a transaction changes in counts, groups and jobs, and which letters are new in it, written once at its end.
//!
//! Each row that changes is written once instead of once for each letter, and always in the order of the keys: of two transactions
//! that count the same kinds none waits for the other in a circle.

use std::collections::BTreeMap;

use sqlx::QueryBuilder;

use super::Error;
use super::engine::{Connection, Database, failed};
use super::row::pieces;
use super::text::stored;
use super::{exports, int};
use crate::model::{DeadLetter, Fingerprint, LetterState, MessageKind, UnixMs};
use crate::store::Ending;

/// Types with more characters are counted together: an index takes no key of any length.
const KIND_CHARS: usize = 200;
const OTHER_TYPES: &str = "*";

/// The type that a letter is counted under; the column `kind` has the same.
pub(super) fn kind_of_type(message_type: Option<&str>) -> String {
    let kept = message_type.map(stored).unwrap_or_default();
    if kept.chars().count() > KIND_CHARS {
        return OTHER_TYPES.to_owned();
    }
    message_type.unwrap_or_default().to_owned()
}

/// What letters are counted by, besides their state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    group: String,
    destination: String,
    message_type: String,
}

impl Kind {
    pub(super) fn new(group: String, destination: String, message_type: Option<&str>) -> Self {
        Self {
            group,
            destination,
            message_type: kind_of_type(message_type),
        }
    }

    pub(super) fn in_group(self, group: String) -> Self {
        Self { group, ..self }
    }
}

struct Group {
    print: Fingerprint,
    route: Option<String>,
    class: &'static str,
    code: Option<String>,
    digest: Option<String>,
    first_ms: UnixMs,
    last_ms: UnixMs,
}

/// Letters of a job that got their result.
#[derive(Default)]
struct Ended {
    done: i64,
    failed: i64,
    skipped: i64,
}

#[derive(Default)]
pub(super) struct Tally {
    groups: BTreeMap<String, Group>,
    counts: BTreeMap<(Kind, &'static str), i64>,
    jobs: BTreeMap<i64, Ended>,
    /// Letters that are new, in the order of their entry.
    new: Vec<(String, MessageKind)>,
}

impl Tally {
    /// A letter of that kind left one state, and has the other.
    pub(super) fn moved(&mut self, kind: &Kind, from: LetterState, to: LetterState) {
        self.count(kind.clone(), from, -1);
        self.count(kind.clone(), to, 1);
    }

    pub(super) fn count(&mut self, kind: Kind, state: LetterState, by: i64) {
        *self.counts.entry((kind, state.as_str())).or_default() += by;
    }

    /// A letter is new.
    pub(super) fn entered(&mut self, letter: &DeadLetter) {
        self.new.push((letter.id.clone(), letter.raw.origin.kind));
    }

    /// A letter failed like that.
    pub(super) fn seen(&mut self, print: Fingerprint, letter: &DeadLetter) {
        // What this version did: attempts of an earlier one are not its failures.
        let began = letter
            .attempts
            .iter()
            .find(|attempt| attempt.digest == letter.digest)
            .map_or(letter.last_failure_ms, |attempt| attempt.started_ms);
        let first_ms = began.min(letter.last_failure_ms);
        let last_ms = letter.last_failure_ms;
        self.groups
            .entry(print.group.clone())
            .and_modify(|group| {
                group.first_ms = group.first_ms.min(first_ms);
                group.last_ms = group.last_ms.max(last_ms);
            })
            .or_insert_with(|| Group {
                print,
                route: letter.route.clone(),
                class: letter.class.as_str(),
                code: letter.code.clone(),
                digest: letter.digest.clone(),
                first_ms,
                last_ms,
            });
    }

    pub(super) fn ended(&mut self, job: i64, ending: Ending) {
        let ended = self.jobs.entry(job).or_default();
        match ending {
            Ending::Sent | Ending::Discarded => ended.done += 1,
            Ending::Skipped => ended.skipped += 1,
            Ending::Failed => ended.failed += 1,
        }
    }

    pub(super) async fn write(mut self, on: &mut Connection, wanted: &exports::Wanted) -> Result<(), Error> {
        self.new.retain(|(_, kind)| wanted.has(*kind));
        exports::add(on, &self.new).await?;
        let groups: Vec<Group> = self.groups.into_values().collect();
        for some in pieces(&groups) {
            write_groups(on, some).await?;
        }
        let counts: Vec<_> = self.counts.into_iter().filter(|(_, by)| *by != 0).collect();
        for some in pieces(&counts) {
            write_counts(on, some).await?;
        }
        for (job, ended) in self.jobs {
            sqlx::query(
                "UPDATE redrive_jobs SET done = done + $2, failed = failed + $3, skipped = skipped + $4 WHERE seq = $1",
            )
            .bind(job)
            .bind(ended.done)
            .bind(ended.failed)
            .bind(ended.skipped)
            .execute(&mut *on)
            .await
            .map_err(failed)?;
        }
        Ok(())
    }
}

async fn write_groups(on: &mut Connection, groups: &[Group]) -> Result<(), Error> {
    let mut query = QueryBuilder::<Database>::new(
        "INSERT INTO letter_groups (id, failure, route, class, code, digest, message, first_ms, last_ms) ",
    );
    let maybe = |text: &Option<String>| text.as_deref().map(|text| stored(text).into_owned());
    query.push_values(groups, |mut row, group| {
        row.push_bind(group.print.group.clone())
            .push_bind(group.print.failure.clone())
            .push_bind(maybe(&group.route))
            .push_bind(group.class)
            .push_bind(maybe(&group.code))
            .push_bind(maybe(&group.digest))
            .push_bind(stored(&group.print.message).into_owned())
            .push_bind(int(group.first_ms))
            .push_bind(int(group.last_ms));
    });
    query.push(
        " ON CONFLICT (id) DO UPDATE SET
             first_ms = CASE WHEN excluded.first_ms < letter_groups.first_ms THEN excluded.first_ms
                             ELSE letter_groups.first_ms END,
             last_ms = CASE WHEN excluded.last_ms > letter_groups.last_ms THEN excluded.last_ms
                            ELSE letter_groups.last_ms END",
    );
    query.build().execute(on).await.map(drop).map_err(failed)
}

async fn write_counts(on: &mut Connection, counts: &[((Kind, &'static str), i64)]) -> Result<(), Error> {
    let mut query = QueryBuilder::<Database>::new(
        "INSERT INTO letter_counts (grp, destination, message_type, state, letters) ",
    );
    query.push_values(counts, |mut row, ((kind, state), by)| {
        row.push_bind(kind.group.clone())
            .push_bind(stored(&kind.destination).into_owned())
            .push_bind(stored(&kind.message_type).into_owned())
            .push_bind(*state)
            .push_bind(*by);
    });
    query.push(
        " ON CONFLICT (grp, destination, message_type, state)
          DO UPDATE SET letters = letter_counts.letters + excluded.letters",
    );
    query.build().execute(on).await.map(drop).map_err(failed)
}
