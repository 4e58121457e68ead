//! Rehearsals: dead letters run on a component that the request brings, or on the version that serves, with nothing carried
//! out. One at a time, bounded so that the answer is there before the request's time is over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::{HeaderMap, header};
use serde::Deserialize;

use super::dlq::MAX_ACTOR;
use super::dlq::parameters::{Words, no_more, number, take, words};
use super::{Api, Caller, Problem};
use crate::dispatch::Dispatcher;
use crate::dispatch::rehearse::{self, Part};
use crate::dlq::filter;
use crate::dlq::rehearse::{
    Counts, DEFAULT_LIMIT, End, MAX_LIMIT, Performed, Rehearsal, Report, Stage, Wanted, groups,
};
use crate::guest::{self, Version};
use crate::model::{RawMessage, UnixMs};
use crate::telemetry::logs::printable;

/// With [`crate::dlq::rehearse::STARTING`] and [`crate::dlq::rehearse::LETTER`] less than a request may take.
const TURN: Duration = Duration::from_secs(4);
const COMPILING: Duration = Duration::from_secs(15);
/// Ids in one request.
const MAX_IDS: usize = 10_000;

/// A JSON body. The query says the same, with the words of the filter beside the others.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RehearsalRequest")]
pub(super) struct Document {
    plugin: Option<String>,
    #[serde(default)]
    filter: BTreeMap<String, String>,
    #[serde(default)]
    #[schemars(length(max = MAX_IDS))]
    ids: Vec<String>,
    #[schemars(range(min = 1, max = MAX_LIMIT))]
    limit: Option<usize>,
    cursor: Option<String>,
    actor: Option<String>,
}

/// What is asked for, in either form.
struct Asked {
    plugin: String,
    actor: String,
    component: Option<Vec<u8>>,
    wanted: Wanted,
}

pub(super) async fn run(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    query: Result<Query<Words>, QueryRejection>,
    body: Bytes,
) -> Result<Json<Report>, Problem> {
    let query = words(query)?;
    let asked = ask(query, &headers, &body, &caller, api.clock.now_ms())?;
    if !api.messaging {
        return Err(Problem::unavailable(
            "messaging is switched off (MESSAGING_ENABLED=false)",
        ));
    }
    let Some(_turn) = api.rehearsing.take(TURN).await else {
        return Err(Problem::unavailable(
            "another rehearsal is running, and one runs at a time; ask again",
        ));
    };
    let version = candidate(&api, asked.plugin.clone(), asked.component).await?;
    let digest = version.digest().to_string();
    let stage = Boards {
        api: Arc::clone(&api),
        part: Part {
            plugin: asked.plugin.as_str().into(),
            version,
        },
    };
    let rehearsal = Rehearsal {
        letters: &*api.letters,
        stage: &stage,
        clock: &*api.clock,
    };
    let walked = rehearsal.walk(asked.wanted).await?;
    if stage.closing() {
        return Err(Problem::unavailable("the host is stopping"));
    }
    let counts = Counts::of(&walked.lines);
    tracing::info!(
        actor = %printable(&asked.actor), plugin = %asked.plugin, %digest, letters = counts.rehearsed,
        would_pass = counts.would_pass, same_failure = counts.same_failure, new_failure = counts.new_failure,
        "dead letters rehearsed; nothing was sent or changed"
    );
    Ok(Json(Report {
        plugin: asked.plugin,
        digest,
        matched: walked.matched,
        counts,
        groups: groups(&walked.lines),
        letters: walked.lines,
        next: walked.next,
    }))
}

fn ask(
    mut query: Words,
    headers: &HeaderMap,
    body: &Bytes,
    caller: &Caller,
    now: UnixMs,
) -> Result<Asked, Problem> {
    let json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/json"));
    let (document, component) = if json {
        no_more(&query, "none: a JSON body says it all")?;
        let document: Document = serde_json::from_slice(body)
            .map_err(|error| Problem::bad_request(format!("the body is not understood: {error}")))?;
        (document, None)
    } else {
        let ids = take(&mut query, "id").unwrap_or_default();
        let ids = ids.split(',').map(str::trim).filter(|id| !id.is_empty());
        let document = Document {
            plugin: take(&mut query, "plugin"),
            ids: ids.map(str::to_owned).collect(),
            limit: number(&mut query, "limit")?,
            cursor: take(&mut query, "cursor"),
            actor: take(&mut query, "actor"),
            filter: query.into_iter().collect(),
        };
        (document, (!body.is_empty()).then(|| body.to_vec()))
    };
    let plugin = document.plugin.filter(|name| !name.is_empty()).ok_or_else(|| {
        Problem::bad_request("`plugin` is missing: whose grants and limits the component shall have")
    })?;
    let actor = document.actor.filter(|actor| !actor.trim().is_empty());
    if actor.as_ref().is_some_and(|actor| actor.len() > MAX_ACTOR) {
        return Err(Problem::bad_request(format!(
            "`actor` has more than {MAX_ACTOR} bytes"
        )));
    }
    if document.ids.len() > MAX_IDS {
        return Err(Problem::bad_request(format!("more than {MAX_IDS} ids")));
    }
    let limit = document.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::bad_request(format!(
            "`limit` is {limit}; it can be 1 to {MAX_LIMIT}, go on with `cursor`"
        )));
    }
    let pairs = document
        .filter
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    Ok(Asked {
        plugin,
        actor: caller.actor(actor.as_deref()),
        component,
        wanted: Wanted {
            filter: filter::read(pairs, now)?,
            ids: document.ids,
            limit,
            cursor: document.cursor,
        },
    })
}

/// Compiling goes on when it takes longer than we wait, and its result is kept: asked again, the host is quick.
async fn candidate(
    api: &Api,
    plugin: String,
    component: Option<Vec<u8>>,
) -> Result<Arc<dyn Version>, Problem> {
    let candidates = Arc::clone(&api.candidates);
    let work = tokio::spawn(async move { candidates.candidate(&plugin, component).await });
    match tokio::time::timeout(COMPILING, work).await {
        Ok(Ok(Ok(version))) => Ok(version),
        Ok(Ok(Err(refused))) => Err(refusal(&refused)),
        Ok(Err(error)) => Err(Problem::unavailable(format!(
            "loading the component failed: {error}"
        ))),
        Err(_) => Err(Problem::unavailable(
            "the component is still being compiled; ask again, what is compiled is kept",
        )),
    }
}

fn refusal(error: &guest::Error) -> Problem {
    // Its code has a field of its own.
    Problem::unprocessable(error.code, format!("{}. {}", error.what, error.next))
}

/// The host's routes, with a candidate in one part.
struct Boards {
    api: Arc<Api>,
    part: Part,
}

#[async_trait]
impl Stage for Boards {
    fn has_route(&self, route: &str) -> bool {
        self.api.dispatcher.has_route(route)
    }

    async fn perform(&self, message: RawMessage, route: Option<&str>, limit: Duration) -> Performed {
        let dispatcher: &Dispatcher = &self.api.dispatcher;
        let done = dispatcher.rehearse(message, route, &self.part, limit).await;
        Performed {
            attempts: done.attempts,
            publishes: done
                .outputs
                .into_iter()
                .map(|(target, n)| (target.to_string(), n))
                .collect(),
            end: match done.end {
                rehearse::End::Done | rehearse::End::Ignored => End::Passes,
                rehearse::End::Dead { class, failure } => End::Fails { class, failure },
                rehearse::End::OtherPlugin(name) => End::OtherPlugin(name.to_string()),
                rehearse::End::Open(why) => End::Open(why),
            },
        }
    }

    fn closing(&self) -> bool {
        self.api.stopping.is_cancelled()
    }
}
