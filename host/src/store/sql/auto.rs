//! What the host does with letters by itself: its SQL, and the seam [`AutoLetters`].

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{AssertSqlSafe, QueryBuilder};

use super::change::By;
use super::engine::{Connection, Database, FOR_UPDATE, Row, answered, failed};
use super::op::{Done, Op as WriterOp};
use super::row::{column, corrupt};
use super::tally::Tally;
use super::text::{maybe_text, stored, text};
use super::{Error, Store, change, int, letters, small, trail, uint};
use crate::model::{FailureClass, LetterState, UnixMs};
use crate::store::{
    AutoLetters, Candidate, Change, Changed, Decided, Mark, Note, Progress, Settled, Step, Turn,
};

/// `auto_end` of a letter whose attempts are used up. Orders before [`LEFT`].
const EXHAUSTED: &str = "exhausted";
/// What `auto_end` of a letter begins with that no policy wants; the policies follow.
const LEFT: &str = "left ";
/// Candidates in one answer.
const MAX_CANDIDATES: usize = 1000;

pub(super) enum Op {
    Claim {
        letter: String,
        turn: Turn,
        holder: String,
        lease: Duration,
        note: Note,
    },
    Settle {
        actor: String,
        decided: Vec<Decided>,
    },
    Reconsider {
        policies: String,
        limit: usize,
    },
}

impl Op {
    /// Letters that it discards, if they are as they were seen: a lane may go on.
    pub(super) fn discards(&self) -> impl Iterator<Item = &str> {
        let decided = match self {
            Self::Settle { decided, .. } => decided.as_slice(),
            Self::Claim { .. } | Self::Reconsider { .. } => &[],
        };
        decided
            .iter()
            .filter(|decided| matches!(decided.step, Step::Discard { .. }))
            .map(|decided| decided.letter.as_str())
    }

    pub(super) async fn apply(
        &self,
        on: &mut Connection,
        now: UnixMs,
        host: &str,
        tally: &mut Tally,
    ) -> Result<Done, Error> {
        match self {
            Self::Claim {
                letter,
                turn,
                holder,
                lease,
                note,
            } => {
                let is = state(on, letter).await?;
                let Some((is, progress)) = is else {
                    return Ok(Done::Changed(Changed::Unknown));
                };
                if progress != Some(turn.seen) {
                    return Ok(Done::Changed(Changed::Conflict(is)));
                }
                let claim = Change::Claim {
                    holder: holder.clone(),
                    lease: *lease,
                };
                change::change(on, letter, &claim, By::Host(turn.next), note, host, now, tally)
                    .await
                    .map(Done::Changed)
            }
            Self::Settle { actor, decided } => {
                let mut settled = Settled::default();
                for decided in decided {
                    settle(on, actor, decided, host, now, tally, &mut settled).await?;
                }
                Ok(Done::Settled(settled))
            }
            Self::Reconsider { policies, limit } => {
                let left = sqlx::query(
                    "UPDATE dead_letters SET auto_end = NULL, auto_due_ms = 0
                     WHERE id IN (SELECT id FROM dead_letters
                                  WHERE auto_end IS NOT NULL AND auto_end >= $1 AND auto_end <> $2 LIMIT $3)
                       AND auto_end >= $1 AND auto_end <> $2",
                )
                .bind(LEFT)
                .bind(left_under(policies))
                .bind(i64::try_from(*limit).unwrap_or(i64::MAX))
                .execute(on)
                .await
                .map_err(failed)?;
                Ok(Done::Count(left.rows_affected()))
            }
        }
    }
}

fn left_under(policies: &str) -> String {
    format!("{LEFT}{policies}")
}

/// Its state, and how far the host is with it unless it leaves it alone. The row is ours until the transaction ends.
async fn state(on: &mut Connection, id: &str) -> Result<Option<(LetterState, Option<Progress>)>, Error> {
    let sql = format!(
        "SELECT state, auto_attempts, auto_due_ms, auto_end FROM dead_letters WHERE id = $1{FOR_UPDATE}"
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(stored(id))
        .fetch_optional(on)
        .await
        .map_err(failed)?;
    let Some(row) = row else { return Ok(None) };
    let state = letters::word(column(&row, "state")?).ok_or_else(|| corrupt("the state", id))?;
    let open = column::<Option<&str>>(&row, "auto_end")?.is_none();
    Ok(Some((state, open.then(|| progress(&row)).transpose()?)))
}

fn progress(row: &Row) -> Result<Progress, Error> {
    Ok(Progress {
        attempts: small(column(row, "auto_attempts")?),
        due_ms: uint(column(row, "auto_due_ms")?),
    })
}

async fn settle(
    on: &mut Connection,
    actor: &str,
    decided: &Decided,
    host: &str,
    now: UnixMs,
    tally: &mut Tally,
    settled: &mut Settled,
) -> Result<(), Error> {
    let (to, end) = match &decided.step {
        Step::Set(progress) => (*progress, None),
        Step::Leave { policies } => (decided.seen, Some(left_under(policies))),
        Step::Archive { .. } | Step::Discard { .. } => (decided.seen, Some(EXHAUSTED.to_owned())),
    };
    let done = sqlx::query(
        "UPDATE dead_letters SET auto_attempts = $4, auto_due_ms = $5, auto_end = $6
         WHERE id = $1 AND state = 'dead' AND auto_end IS NULL AND auto_attempts = $2 AND auto_due_ms = $3",
    )
    .bind(stored(&decided.letter))
    .bind(i64::from(decided.seen.attempts))
    .bind(int(decided.seen.due_ms))
    .bind(i64::from(to.attempts))
    .bind(int(to.due_ms))
    .bind(end)
    .execute(&mut *on)
    .await
    .map_err(failed)?;
    if done.rows_affected() == 0 {
        return Ok(());
    }
    let note = |action: &'static str, why: &str| Note {
        actor: actor.to_owned(),
        action: action.into(),
        reason: Some(why.to_owned()),
    };
    match &decided.step {
        Step::Set(_) | Step::Leave { .. } => {}
        Step::Archive { why } => {
            let dead = LetterState::Dead;
            trail::add(on, &decided.letter, now, (dead, dead), &note("archive", why)).await?;
            settled.archived += 1;
        }
        Step::Discard { why } => {
            let note = note("discard", why);
            let discard = Change::Discard;
            let changed =
                change::change(on, &decided.letter, &discard, By::Person, &note, host, now, tally).await?;
            settled.discarded += u64::from(matches!(changed, Changed::Done(_)));
        }
    }
    Ok(())
}

/// Of one class, in the order of its index.
fn due(class: FailureClass, now: UnixMs, limit: usize) -> QueryBuilder<Database> {
    let mut query = QueryBuilder::new(
        "SELECT id, message_type, reprocessed, last_failure_ms, auto_attempts, auto_due_ms FROM dead_letters
         WHERE state = 'dead' AND auto_end IS NULL AND class = ",
    );
    query
        .push_bind(class.as_str())
        .push(" AND auto_due_ms <= ")
        .push_bind(int(now))
        .push(
            " AND NOT EXISTS (SELECT 1 FROM redrive_members m JOIN redrive_jobs j ON j.seq = m.job
                              WHERE m.letter = dead_letters.id AND m.outcome IS NULL
                                AND j.state IN ('preparing', 'pending', 'running'))
             ORDER BY auto_due_ms, id LIMIT ",
        )
        .push_bind(i64::try_from(limit).unwrap_or(i64::MAX));
    query
}

#[async_trait]
impl AutoLetters for Store {
    async fn candidates(
        &self,
        classes: &[FailureClass],
        now: UnixMs,
        limit: usize,
    ) -> Result<Vec<Candidate>, Error> {
        let limit = limit.min(MAX_CANDIDATES);
        let mut candidates = Vec::new();
        for class in classes {
            let mut query = due(*class, now, limit);
            let rows = answered(query.build().fetch_all(self.readers())).await?;
            for row in &rows {
                candidates.push(Candidate {
                    id: text(row, "id")?,
                    message_type: maybe_text(row, "message_type")?,
                    reprocessed: small(column(row, "reprocessed")?),
                    last_failure_ms: uint(column(row, "last_failure_ms")?),
                    progress: progress(row)?,
                });
            }
        }
        candidates.sort_by(|a, b| (a.progress.due_ms, &a.id).cmp(&(b.progress.due_ms, &b.id)));
        candidates.truncate(limit);
        Ok(candidates)
    }

    async fn claim_turn(
        &self,
        letter: &str,
        turn: &Turn,
        holder: String,
        lease: Duration,
        note: Note,
    ) -> Result<Changed, Error> {
        let claim = Op::Claim {
            letter: letter.to_owned(),
            turn: turn.clone(),
            holder,
            lease,
            note,
        };
        match self.write(WriterOp::Auto(claim, self.host())).await? {
            Done::Changed(changed) => Ok(changed),
            _ => Ok(Changed::Unknown),
        }
    }

    async fn settle(&self, actor: &str, decided: Vec<Decided>) -> Result<Settled, Error> {
        if decided.is_empty() {
            return Ok(Settled::default());
        }
        let actor = actor.to_owned();
        match self
            .write(WriterOp::Auto(Op::Settle { actor, decided }, self.host()))
            .await?
        {
            Done::Settled(settled) => Ok(settled),
            _ => Ok(Settled::default()),
        }
    }

    async fn reconsider(&self, policies: &str, limit: usize) -> Result<u64, Error> {
        // At each start, and mostly for nothing.
        let any = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM dead_letters
                            WHERE auto_end IS NOT NULL AND auto_end >= $1 AND auto_end <> $2)",
        )
        .bind(LEFT)
        .bind(left_under(policies));
        if !answered(any.fetch_one(self.readers())).await? {
            return Ok(0);
        }
        let policies = policies.to_owned();
        let reconsider = Op::Reconsider { policies, limit };
        self.write(WriterOp::Auto(reconsider, self.host()))
            .await
            .map(Done::count)
    }

    async fn progress(&self, letters: &[String]) -> Result<Vec<(String, Progress, Mark)>, Error> {
        if letters.is_empty() {
            return Ok(Vec::new());
        }
        let mut query = QueryBuilder::<Database>::new(
            "SELECT id, auto_attempts, auto_due_ms, auto_end FROM dead_letters
             WHERE (auto_attempts > 0 OR auto_end IS NOT NULL) AND id IN (",
        );
        let mut ids = query.separated(", ");
        for id in letters.iter().take(MAX_CANDIDATES) {
            ids.push_bind(stored(id).into_owned());
        }
        query.push(") ORDER BY id");
        let rows = answered(query.build().fetch_all(self.readers())).await?;
        rows.iter()
            .map(|row| {
                let mark = match column::<Option<&str>>(row, "auto_end")? {
                    None => Mark::Open,
                    Some(EXHAUSTED) => Mark::Exhausted,
                    Some(_) => Mark::Left,
                };
                Ok((text(row, "id")?, progress(row)?, mark))
            })
            .collect()
    }
}
