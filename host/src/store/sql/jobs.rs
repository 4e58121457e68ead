//! Jobs over letters: their SQL, and the seam [`Jobs`].

use std::time::Duration;

use async_trait::async_trait;
use sqlx::QueryBuilder;

use super::engine::{Connection, Row, answered, failed};
use super::op::{Done, Op as WriterOp};
use super::prepare::{self, Next, Piece};
use super::row::{column, corrupt};
use super::tally::Tally;
use super::text::{maybe_text, stored, text};
use super::{Error, Store, int, letters, members, small, uint};
use crate::model::UnixMs;
use crate::model::clock::duration_ms;
use crate::store::{
    Change, Changed, Ending, Job, JobResult, JobState, Jobs, Member, Members, NewJob, Note, Standing,
};

/// Letters of one job; there is a row for each.
pub(super) const MAX_LETTERS: i64 = 1_000_000;
/// Jobs that ended are kept, with their results, until there are more than this.
const KEPT: i64 = 100;
/// Results that one new job makes room of at most.
const FORGOTTEN: i64 = 5_000;
/// Rows in one answer.
const MAX_PAGE: usize = 1000;

pub(super) enum Op {
    Create(Box<NewJob>),
    Prepare(Box<Piece>),
    Take {
        holder: String,
        lease: Duration,
    },
    Renew {
        job: i64,
        holder: String,
        lease: Duration,
        trouble: Option<String>,
    },
    LetGo {
        job: i64,
        holder: String,
    },
    End {
        job: i64,
        holder: String,
        failure: Option<String>,
    },
    Cancel {
        id: String,
        actor: String,
    },
    /// Of a letter of a job.
    Change(members::Wanted),
    Record {
        member: Member,
        ending: Ending,
        why: Option<String>,
    },
}

impl Op {
    pub(super) async fn apply(
        &self,
        on: &mut Connection,
        now: UnixMs,
        host: &str,
        tally: &mut Tally,
    ) -> Result<Done, Error> {
        match self {
            Self::Create(job) => create(on, job, now).await.map(some),
            Self::Prepare(piece) => {
                let job = prepare::write(on, piece, now).await?;
                Ok(Done::Job(job.map(Box::new)))
            }
            Self::Take { holder, lease } => take(on, (holder, host), *lease, now).await,
            Self::Renew {
                job,
                holder,
                lease,
                trouble,
            } => {
                let until = int(now.saturating_add(duration_ms(*lease)));
                let renewed = sqlx::query(
                    "UPDATE redrive_jobs SET lease_until_ms = $3, trouble = $4
                     WHERE seq = $1 AND state IN ('running', 'preparing') AND holder = $2",
                )
                .bind(job)
                .bind(stored(holder))
                .bind(until)
                .bind(trouble.as_deref().map(stored))
                .execute(on)
                .await
                .map_err(failed)?;
                Ok(Done::Flag(renewed.rows_affected() > 0))
            }
            Self::LetGo { job, holder } => {
                let let_go = sqlx::query(
                    "UPDATE redrive_jobs SET holder = NULL, lease_until_ms = NULL WHERE seq = $1 AND holder = $2",
                )
                .bind(job)
                .bind(stored(holder))
                .execute(on)
                .await
                .map_err(failed)?;
                Ok(Done::Flag(let_go.rows_affected() > 0))
            }
            Self::End { job, holder, failure } => end(on, *job, holder, failure.as_deref(), now).await,
            Self::Cancel { id, actor } => cancel(on, id, actor, now).await,
            Self::Change(wanted) => members::change(on, wanted, host, now, tally)
                .await
                .map(Done::Changed),
            Self::Record { member, ending, why } => {
                members::record(on, member, *ending, why.as_deref(), now, tally)
                    .await
                    .map(Done::Flag)
            }
        }
    }
}

/// What [`job()`] reads.
macro_rules! columns {
    () => {
        "seq, id, action, filter, rate, force, reason, actor, state, total, done, failed, skipped, created_ms,
         started_ms, ended_ms, cancelled_by, trouble"
    };
}
pub(super) use columns;

fn some(job: Job) -> Done {
    Done::Job(Some(Box::new(job)))
}

pub(super) fn job(row: &Row) -> Result<Job, Error> {
    let id = text(row, "id")?;
    let time = |name: &str| Ok::<_, Error>(column::<Option<i64>>(row, name)?.map(uint));
    Ok(Job {
        number: uint(column(row, "seq")?),
        action: letters::word(column(row, "action")?).ok_or_else(|| corrupt("the action", &id))?,
        filter: maybe_text(row, "filter")?,
        rate: column::<Option<i64>>(row, "rate")?.map(small),
        force: column::<i64>(row, "force")? != 0,
        reason: maybe_text(row, "reason")?,
        actor: text(row, "actor")?,
        state: letters::word(column(row, "state")?).ok_or_else(|| corrupt("the state", &id))?,
        total: uint(column(row, "total")?),
        done: uint(column(row, "done")?),
        failed: uint(column(row, "failed")?),
        skipped: uint(column(row, "skipped")?),
        created_ms: uint(column(row, "created_ms")?),
        started_ms: time("started_ms")?,
        ended_ms: time("ended_ms")?,
        cancelled_by: maybe_text(row, "cancelled_by")?,
        trouble: maybe_text(row, "trouble")?,
        id,
    })
}

async fn create(on: &mut Connection, new: &NewJob, now: UnixMs) -> Result<Job, Error> {
    forget_old(on).await?;
    let members = match &new.members {
        Members::Matching(filter) => {
            Some(serde_json::to_string(filter).map_err(|e| Error::Storage(e.to_string()))?)
        }
        Members::Ids(_) => None,
    };
    let row = sqlx::query(concat!(
        "INSERT INTO redrive_jobs (id, action, filter, rate, force, reason, actor, state, total, created_ms, members, bound)
         VALUES ($1, $2, $3, $4, $5, $6, $7, CASE WHEN $9 IS NULL THEN 'pending' ELSE 'preparing' END, 0, $8, $9,
                 (SELECT MAX(number) FROM dead_letters)) RETURNING ",
        columns!()
    ))
    .bind(stored(&new.id))
    .bind(new.action.as_str())
    .bind(new.filter.as_deref().map(stored))
    .bind(new.rate.map(i64::from))
    .bind(i64::from(new.force))
    .bind(new.reason.as_deref().map(stored))
    .bind(stored(&new.actor))
    .bind(int(now))
    .bind(members.as_deref().map(stored))
    .fetch_one(&mut *on)
    .await
    .map_err(failed)?;
    let Members::Ids(ids) = &new.members else {
        return job(&row);
    };
    let seq: i64 = column(&row, "seq")?;
    let total = add_ids(on, seq, ids).await?;
    // A job over nothing has nothing to wait for.
    let row = sqlx::query(concat!(
        "UPDATE redrive_jobs SET total = $2, state = CASE WHEN $2 = 0 THEN 'completed' ELSE state END,
             ended_ms = CASE WHEN $2 = 0 THEN $3 ELSE NULL END
         WHERE seq = $1 RETURNING ",
        columns!()
    ))
    .bind(seq)
    .bind(total)
    .bind(int(now))
    .fetch_one(on)
    .await
    .map_err(failed)?;
    job(&row)
}

/// Of the job that ended first, at each new one: some of its results, and itself when it has none left.
async fn forget_old(on: &mut Connection) -> Result<(), Error> {
    let old: Option<i64> = sqlx::query_scalar(
        "SELECT MIN(seq) FROM redrive_jobs WHERE state NOT IN ('preparing', 'pending', 'running') HAVING COUNT(*) >= $1",
    )
    .bind(KEPT)
    .fetch_optional(&mut *on)
    .await
    .map_err(failed)?
    .flatten();
    let Some(old) = old else { return Ok(()) };
    sqlx::query(
        "DELETE FROM redrive_members WHERE job = $1 AND place IN
             (SELECT place FROM redrive_members WHERE job = $1 ORDER BY place LIMIT $2)",
    )
    .bind(old)
    .bind(FORGOTTEN)
    .execute(&mut *on)
    .await
    .map_err(failed)?;
    sqlx::query(
        "DELETE FROM redrive_jobs WHERE seq = $1 AND NOT EXISTS (SELECT 1 FROM redrive_members WHERE job = $1)",
    )
    .bind(old)
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(())
}

async fn add_ids(on: &mut Connection, job: i64, ids: &[String]) -> Result<i64, Error> {
    let mut found: Vec<(i64, &String)> = Vec::with_capacity(ids.len());
    for id in ids {
        let first: Option<i64> =
            sqlx::query_scalar("SELECT first_failure_ms FROM dead_letters WHERE id = $1")
                .bind(stored(id))
                .fetch_optional(&mut *on)
                .await
                .map_err(failed)?;
        let first = first.ok_or_else(|| Error::Invalid(format!("there is no dead letter `{id}`")))?;
        found.push((first, id));
    }
    found.sort_unstable();
    found.dedup();
    let mut place = 0;
    for (_, id) in found {
        place += 1;
        sqlx::query("INSERT INTO redrive_members (job, place, letter) VALUES ($1, $2, $3)")
            .bind(job)
            .bind(place)
            .bind(stored(id))
            .execute(&mut *on)
            .await
            .map_err(failed)?;
    }
    Ok(place)
}

async fn take(
    on: &mut Connection,
    (holder, host): (&str, &str),
    lease: Duration,
    now: UnixMs,
) -> Result<Done, Error> {
    // Said twice, so that of two hosts that look at the same time the second one finds that it is taken.
    let row = sqlx::query(concat!(
        "UPDATE redrive_jobs SET holder = $1, lease_until_ms = $2, host = $4,
             state = CASE WHEN state = 'preparing' THEN state ELSE 'running' END,
             started_ms = CASE WHEN state = 'preparing' THEN NULL ELSE COALESCE(started_ms, $3) END
         WHERE seq = (SELECT j.seq FROM redrive_jobs j
                      WHERE j.state = 'pending' OR (j.state IN ('running', 'preparing')
                                                    AND (j.lease_until_ms IS NULL OR j.lease_until_ms <= $3))
                      ORDER BY j.seq LIMIT 1)
           AND (state = 'pending' OR (state IN ('running', 'preparing')
                                      AND (lease_until_ms IS NULL OR lease_until_ms <= $3)))
         RETURNING ",
        columns!()
    ))
    .bind(stored(holder))
    .bind(int(now.saturating_add(duration_ms(lease))))
    .bind(int(now))
    .bind(host)
    .fetch_optional(on)
    .await
    .map_err(failed)?;
    let job = row.as_ref().map(job).transpose()?;
    Ok(Done::Job(job.map(Box::new)))
}

async fn end(
    on: &mut Connection,
    job: i64,
    holder: &str,
    failure: Option<&str>,
    now: UnixMs,
) -> Result<Done, Error> {
    let state = match failure {
        None => JobState::Completed,
        Some(_) => JobState::Failed,
    };
    let ended = sqlx::query(
        "UPDATE redrive_jobs SET state = $3, ended_ms = $4, trouble = $5, holder = NULL, lease_until_ms = NULL
         WHERE seq = $1 AND state IN ('running', 'preparing') AND holder = $2",
    )
    .bind(job)
    .bind(stored(holder))
    .bind(state.as_str())
    .bind(int(now))
    .bind(failure.map(stored))
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(Done::Flag(ended.rows_affected() > 0))
}

async fn cancel(on: &mut Connection, id: &str, actor: &str, now: UnixMs) -> Result<Done, Error> {
    sqlx::query(
        "UPDATE redrive_jobs SET state = 'cancelled', ended_ms = $2, holder = NULL, lease_until_ms = NULL,
             trouble = NULL, cancelled_by = $3
         WHERE id = $1 AND state IN ('preparing', 'pending', 'running')",
    )
    .bind(stored(id))
    .bind(int(now))
    .bind(stored(actor))
    .execute(&mut *on)
    .await
    .map_err(failed)?;
    let row = sqlx::query(concat!("SELECT ", columns!(), " FROM redrive_jobs WHERE id = $1"))
        .bind(stored(id))
        .fetch_optional(on)
        .await
        .map_err(failed)?;
    let job = row.as_ref().map(job).transpose()?;
    Ok(Done::Job(job.map(Box::new)))
}

/// What an earlier run of this host had is to be taken again at once. A job that says no host began before hosts were written
/// down, in a file that had one only.
pub(super) async fn let_all_go(on: &mut Connection, host: &str) -> Result<(), Error> {
    sqlx::query(
        "UPDATE redrive_jobs SET holder = NULL, lease_until_ms = NULL
         WHERE state IN ('running', 'preparing') AND (host = $1 OR host IS NULL)",
    )
    .bind(host)
    .execute(on)
    .await
    .map_err(failed)?;
    Ok(())
}

fn page(limit: usize) -> i64 {
    i64::try_from(limit.clamp(1, MAX_PAGE + 1)).unwrap_or(i64::MAX)
}

/// Places begin with 1.
fn behind(after: Option<u64>) -> i64 {
    after.map_or(0, int)
}

impl Store {
    async fn job_op(&self, op: Op) -> Result<Option<Job>, Error> {
        match self.write(WriterOp::Job(op, self.host())).await? {
            Done::Job(job) => Ok(job.map(|job| *job)),
            _ => Ok(None),
        }
    }

    async fn flag_op(&self, op: Op) -> Result<bool, Error> {
        let done = self.write(WriterOp::Job(op, self.host())).await?;
        Ok(matches!(done, Done::Flag(true)))
    }
}

#[async_trait]
impl Jobs for Store {
    async fn create(&self, job: NewJob) -> Result<Job, Error> {
        if let Members::Matching(filter) = &job.members {
            prepare::check(self.readers(), filter).await?;
        }
        let made = self.job_op(Op::Create(Box::new(job))).await?;
        let made = made.ok_or_else(|| Error::Storage("the job was not made".to_owned()))?;
        if made.state != JobState::Preparing {
            return Ok(made);
        }
        // Nearly always that is all of it. It is made, whatever comes of this.
        match self.prepare(made.number).await {
            Ok(Some(prepared)) => Ok(prepared),
            Ok(None) => Ok(made),
            Err(error) => {
                tracing::debug!(job = %made.id, %error, "its letters are written down later");
                Ok(made)
            }
        }
    }

    async fn prepare(&self, number: u64) -> Result<Option<Job>, Error> {
        match prepare::next(self.readers(), int(number)).await? {
            Next::Piece(piece) => self.job_op(Op::Prepare(piece)).await,
            Next::Nothing(job) => Ok(job.map(|job| *job)),
        }
    }

    async fn job(&self, id: &str) -> Result<Option<Job>, Error> {
        let query = sqlx::query(concat!("SELECT ", columns!(), " FROM redrive_jobs WHERE id = $1"));
        answered(query.bind(stored(id)).fetch_optional(self.readers()))
            .await?
            .as_ref()
            .map(job)
            .transpose()
    }

    async fn jobs(&self, before: Option<u64>, limit: usize) -> Result<Vec<Job>, Error> {
        let query = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM redrive_jobs WHERE seq < $1 ORDER BY seq DESC LIMIT $2"
        ))
        .bind(before.map_or(i64::MAX, int))
        .bind(page(limit));
        let rows = answered(query.fetch_all(self.readers())).await?;
        rows.iter().map(job).collect()
    }

    async fn results(
        &self,
        job: u64,
        after: Option<u64>,
        ending: Option<Ending>,
        limit: usize,
    ) -> Result<Vec<JobResult>, Error> {
        let mut query =
            QueryBuilder::new("SELECT place, letter, outcome, why, at_ms FROM redrive_members WHERE job = ");
        query
            .push_bind(int(job))
            .push(" AND place > ")
            .push_bind(behind(after));
        if let Some(ending) = ending {
            query.push(" AND outcome = ").push_bind(ending.as_str());
        }
        query.push(" ORDER BY place LIMIT ").push_bind(page(limit));
        let rows = answered(query.build().fetch_all(self.readers())).await?;
        rows.iter()
            .map(|row| {
                let letter = text(row, "letter")?;
                let ending = column::<Option<String>>(row, "outcome")?
                    .map(|text| letters::word(&text).ok_or_else(|| corrupt("the result", &letter)))
                    .transpose()?;
                Ok(JobResult {
                    place: uint(column(row, "place")?),
                    ending,
                    why: maybe_text(row, "why")?,
                    at_ms: column::<Option<i64>>(row, "at_ms")?.map(uint),
                    letter,
                })
            })
            .collect()
    }

    async fn take(&self, holder: &str, lease: Duration) -> Result<Option<Job>, Error> {
        let now = self.inner.clock.now_ms();
        // Asked often, and nearly always for nothing.
        let query = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM redrive_jobs WHERE state = 'pending'
                 OR (state IN ('running', 'preparing') AND (lease_until_ms IS NULL OR lease_until_ms <= $1)))",
        )
        .bind(int(now));
        let any: bool = answered(query.fetch_one(self.readers())).await?;
        if !any {
            return Ok(None);
        }
        let holder = holder.to_owned();
        self.job_op(Op::Take { holder, lease }).await
    }

    async fn renew(
        &self,
        job: u64,
        holder: &str,
        lease: Duration,
        trouble: Option<String>,
    ) -> Result<bool, Error> {
        let (job, holder) = (int(job), holder.to_owned());
        self.flag_op(Op::Renew {
            job,
            holder,
            lease,
            trouble,
        })
        .await
    }

    async fn let_go(&self, job: u64, holder: &str) -> Result<(), Error> {
        let (job, holder) = (int(job), holder.to_owned());
        self.flag_op(Op::LetGo { job, holder }).await.map(drop)
    }

    async fn end(&self, job: u64, holder: &str, failure: Option<String>) -> Result<bool, Error> {
        let (job, holder) = (int(job), holder.to_owned());
        self.flag_op(Op::End { job, holder, failure }).await
    }

    async fn cancel(&self, id: &str, actor: &str) -> Result<Option<Job>, Error> {
        let (id, actor) = (id.to_owned(), actor.to_owned());
        self.job_op(Op::Cancel { id, actor }).await
    }

    async fn standing(&self, job: u64, after: Option<u64>, limit: usize) -> Result<Vec<Standing>, Error> {
        let query = sqlx::query(concat!(
            "SELECT m.place, m.letter, ",
            letters::columns!(),
            ", EXISTS (SELECT 1 FROM parked p WHERE p.held = m.letter) AS holds
             FROM redrive_members m LEFT JOIN dead_letters d ON d.id = m.letter
             WHERE m.job = $1 AND m.place > $2 AND m.outcome IS NULL ORDER BY m.place LIMIT $3",
        ))
        .bind(int(job))
        .bind(behind(after))
        .bind(page(limit));
        let rows = answered(query.fetch_all(self.readers())).await?;
        rows.iter()
            .map(|row| {
                let there = column::<Option<String>>(row, "id")?.is_some();
                Ok(Standing {
                    place: uint(column(row, "place")?),
                    id: text(row, "letter")?,
                    // What somebody's hand made unreadable must not hold up the others.
                    letter: there.then(|| letters::letter(row).ok()).flatten(),
                    holds: column(row, "holds")?,
                })
            })
            .collect()
    }

    async fn change_member(
        &self,
        member: &Member,
        letter: &str,
        change: Change,
        note: Note,
    ) -> Result<Changed, Error> {
        let op = Op::Change(members::Wanted {
            member: member.clone(),
            letter: letter.to_owned(),
            change,
            note,
        });
        match self.write(WriterOp::Job(op, self.host())).await? {
            Done::Changed(changed) => Ok(changed),
            _ => Ok(Changed::Unknown),
        }
    }

    async fn record(&self, member: &Member, ending: Ending, why: Option<String>) -> Result<bool, Error> {
        let member = member.clone();
        self.flag_op(Op::Record { member, ending, why }).await
    }
}
