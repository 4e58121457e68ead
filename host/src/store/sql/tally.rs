//! What a transaction changes in counts, groups and jobs, and which letters are new in it, written once at its end.
//!
//! One statement for each row that changes instead of one for each letter, and always in the order of the keys: of two
//! transactions that count the same kinds none waits for the other in a circle.

use std::collections::BTreeMap;

use super::Error;
use super::engine::{Connection, failed};
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
        for group in self.groups.into_values() {
            insert(on, group).await?;
        }
        for ((kind, state), by) in self.counts.into_iter().filter(|(_, by)| *by != 0) {
            sqlx::query(
                "INSERT INTO letter_counts (grp, destination, message_type, state, letters) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (grp, destination, message_type, state)
                 DO UPDATE SET letters = letter_counts.letters + excluded.letters",
            )
            .bind(kind.group)
            .bind(stored(&kind.destination))
            .bind(stored(&kind.message_type))
            .bind(state)
            .bind(by)
            .execute(&mut *on)
            .await
            .map_err(failed)?;
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

async fn insert(on: &mut Connection, group: Group) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO letter_groups (id, failure, route, class, code, digest, message, first_ms, last_ms)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (id) DO UPDATE SET
             first_ms = CASE WHEN excluded.first_ms < letter_groups.first_ms THEN excluded.first_ms
                             ELSE letter_groups.first_ms END,
             last_ms = CASE WHEN excluded.last_ms > letter_groups.last_ms THEN excluded.last_ms
                            ELSE letter_groups.last_ms END",
    )
    .bind(group.print.group)
    .bind(group.print.failure)
    .bind(group.route.as_deref().map(stored))
    .bind(group.class)
    .bind(group.code.as_deref().map(stored))
    .bind(group.digest.as_deref().map(stored))
    .bind(stored(&group.print.message))
    .bind(int(group.first_ms))
    .bind(int(group.last_ms))
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(())
}
