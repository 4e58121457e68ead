//! Jobs that send many letters again, or discard them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::super::named::Named;
use super::super::{Api, Caller, Problem};
use super::parameters::{Words, limit, no_more, take, words};
use super::{Because, Letter, messaging};
use crate::dlq::filter::{self, Fault};
use crate::dlq::report::{DryRun, JobList, JobView, ResultView, Results};
use crate::model::{LetterState, Role};
use crate::store::{Action, Ending, JobState, LetterFilter, Members, NewJob, Page};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewJob")]
pub(in crate::http) struct Asked {
    action: Action,
    /// The words of a list; an empty one is for all that are dead.
    filter: Option<BTreeMap<String, String>>,
    #[schemars(length(min = 1, max = MAX_IDS))]
    ids: Option<Vec<String>>,
    /// Letters a second.
    #[schemars(range(min = 1, max = MAX_RATE))]
    rate: Option<u32>,
    #[serde(default)]
    dry_run: bool,
    /// Letters as well that were sent again very often.
    #[serde(default)]
    force: bool,
    reason: Option<String>,
    actor: Option<String>,
}

const MAX_IDS: usize = 10_000;
const MAX_RATE: u32 = 100_000;
const SAMPLES: usize = 10;

pub(in crate::http) async fn create(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Bytes,
) -> Result<Response, Problem> {
    let asked: Asked = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("the body is not understood: {error}")))?;
    let because = Because {
        actor: asked.actor,
        reason: asked.reason,
    }
    .checked()?;
    if asked.rate.is_some_and(|rate| rate == 0 || rate > MAX_RATE) {
        return Err(Fault::new("rate", 1, format!("it is letters a second, 1 to {MAX_RATE}")).into());
    }
    let said = asked
        .filter
        .as_ref()
        .map(|words| serde_json::json!(words).to_string());
    let members = members(&api, asked.filter, asked.ids)?;
    if asked.dry_run {
        return Ok(Json(dry_run(&api, asked.action, members).await?).into_response());
    }
    if asked.action == Action::Discard && because.reason.is_none() {
        return Err(Problem::bad_request(
            "`reason` is missing: who looks for these letters later should find why they were given up on",
        ));
    }
    if asked.action == Action::Discard && caller.role < Role::Admin {
        // One letter is looked at before it is given up on; many are not.
        return Err(Problem::forbidden(caller.role, Role::Admin));
    }
    messaging(&api)?;
    let made = api.jobs.create(NewJob {
        id: api.ids.next(),
        action: asked.action,
        members,
        filter: said,
        rate: asked.rate,
        force: asked.force,
        actor: caller.actor(because.actor.as_deref()),
        reason: because.reason,
    });
    let job = made.await?;
    api.nudge.notify_waiters();
    tracing::info!(job = %job.id, action = job.action.as_str(), state = job.state.as_str(), letters = job.total, "job over dead letters made");
    let status = if job.state == JobState::Preparing {
        // Which letters belong to it is known; they are not all written down yet.
        StatusCode::ACCEPTED
    } else {
        StatusCode::CREATED
    };
    Ok((status, Json(view(&api, &job))).into_response())
}

fn members(
    api: &Api,
    filter: Option<BTreeMap<String, String>>,
    ids: Option<Vec<String>>,
) -> Result<Members, Problem> {
    match (filter, ids) {
        (Some(words), None) => {
            let pairs = words.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let filter = filter::read(pairs, api.clock.now_ms())?;
            if filter.state.is_some_and(|state| state != LetterState::Dead) {
                let why = "only letters that are `dead` can be sent again or discarded; leave it out";
                return Err(Fault::new("state", 1, why).into());
            }
            Ok(Members::Matching(LetterFilter {
                state: Some(LetterState::Dead),
                open: true,
                ..filter
            }))
        }
        (None, Some(ids)) if ids.is_empty() => Err(Problem::bad_request("`ids` is empty")),
        (None, Some(ids)) if ids.len() > MAX_IDS => Err(Problem::bad_request(format!(
            "`ids` has {}, at most {MAX_IDS} are taken; use a filter",
            ids.len()
        ))),
        (None, Some(ids)) => Ok(Members::Ids(ids)),
        _ => Err(Problem::bad_request(
            "say which letters: either `filter` (`{}` is all that are dead) or `ids`",
        )),
    }
}

async fn dry_run(api: &Api, action: Action, members: Members) -> Result<DryRun, Problem> {
    let (count, at_least, samples) = match members {
        Members::Matching(filter) => {
            let page = Page {
                limit: SAMPLES,
                ..Page::default()
            };
            let found = api.letters.list(&filter, &page).await?;
            let samples = found.letters.iter().map(Letter::summary).collect();
            (found.count, found.at_least, samples)
        }
        Members::Ids(ids) => {
            let (mut count, mut samples) = (0, Vec::new());
            for id in ids {
                let letter = api.letters.get(&id).await?.ok_or_else(|| super::unknown(&id))?;
                if letter.state == LetterState::Dead {
                    count += 1;
                    if samples.len() < SAMPLES {
                        samples.push(Letter::summary(&letter));
                    }
                }
            }
            (count, false, samples)
        }
    };
    Ok(DryRun {
        dry_run: true,
        action: action.as_str().to_owned(),
        count,
        at_least,
        samples,
    })
}

pub(in crate::http) async fn list(
    State(api): State<Arc<Api>>,
    query: Result<Query<Words>, QueryRejection>,
) -> Result<Json<JobList>, Problem> {
    let mut words = words(query)?;
    let limit = limit(&mut words)?;
    let before = cursor(&mut words)?;
    no_more(&words, "limit, cursor")?;
    // One more than asked for tells whether there is a next page.
    let mut found = api.jobs.jobs(before, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| last.number.to_string());
    let jobs = found.iter().map(|job| view(&api, job)).collect();
    Ok(Json(JobList { jobs, next }))
}

/// A place in a list: a number that means nothing to others.
fn cursor(words: &mut Words) -> Result<Option<u64>, Problem> {
    take(words, "cursor")
        .map(|cursor| {
            let wrong = |_| Problem::bad_request("`cursor` is none that `next` gave");
            cursor.parse::<u64>().map_err(wrong)
        })
        .transpose()
}

pub(in crate::http) async fn show(
    State(api): State<Arc<Api>>,
    Named(id): Named,
) -> Result<Json<JobView>, Problem> {
    let job = api.jobs.job(&id).await?.ok_or_else(|| unknown(&id))?;
    Ok(Json(view(&api, &job)))
}

/// Who cancels, in the query or in a JSON body.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Who {
    actor: Option<String>,
}

impl Who {
    fn read(query: Result<Query<Self>, QueryRejection>, body: &Bytes) -> Result<Option<String>, Problem> {
        let Query(query) = query.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        let said: Self = if body.is_empty() {
            Self::default()
        } else {
            serde_json::from_slice(body)
                .map_err(|error| Problem::bad_request(format!("the body is not understood: {error}")))?
        };
        let because = Because {
            actor: said.actor.or(query.actor),
            reason: None,
        };
        Ok(because.checked()?.actor)
    }
}

/// Once this is answered no further letter is begun.
pub(in crate::http) async fn cancel(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Named(id): Named,
    query: Result<Query<Who>, QueryRejection>,
    body: Bytes,
) -> Result<Json<JobView>, Problem> {
    let actor = caller.actor(Who::read(query, &body)?.as_deref());
    let job = api.jobs.cancel(&id, &actor).await?.ok_or_else(|| unknown(&id))?;
    if job.state != JobState::Cancelled {
        let state = job.state.as_str();
        return Err(Problem::conflict(
            state,
            format!("the job `{id}` is {state} already; there is nothing to cancel"),
        ));
    }
    api.nudge.notify_waiters();
    Ok(Json(view(&api, &job)))
}

/// In the order of the job.
pub(in crate::http) async fn results(
    State(api): State<Arc<Api>>,
    Named(id): Named,
    query: Result<Query<Words>, QueryRejection>,
) -> Result<Json<Results>, Problem> {
    let mut words = words(query)?;
    let limit = limit(&mut words)?;
    let after = cursor(&mut words)?;
    let ending = take(&mut words, "result").map(|word| ending(&word)).transpose()?;
    no_more(&words, "limit, cursor, result")?;
    let job = api.jobs.job(&id).await?.ok_or_else(|| unknown(&id))?;
    // One more than asked for tells whether there is a next page.
    let mut found = api.jobs.results(job.number, after, ending, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|last| last.place.to_string());
    let results = found.into_iter().map(ResultView::from).collect();
    Ok(Json(Results { results, next }))
}

fn ending(word: &str) -> Result<Ending, Problem> {
    let known = Ending::ALL.map(Ending::as_str);
    Ending::ALL
        .into_iter()
        .find(|ending| ending.as_str() == word)
        .ok_or_else(|| Fault::new("result", 1, format!("it is none of {}", known.join(", "))).into())
}

fn view(api: &Api, job: &crate::store::Job) -> JobView {
    JobView::new(job, api.clock.now_ms())
}

fn unknown(id: &str) -> Problem {
    Problem::not_found(format!("no job `{id}`; `helix dlq jobs` shows what there is"))
}
