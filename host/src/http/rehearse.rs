//! Rehearsals: dead letters run on a component that the request brings, or on the version that serves, with nothing carried
//! out. One at a time, bounded so that the answer is there before the request's time is over.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use serde::Deserialize;

use super::dlq::{ACTOR, MAX_ACTOR};
use super::{Api, Problem};
use crate::dispatch::Dispatcher;
use crate::dispatch::rehearse::{self, Part};
use crate::dlq::rehearse::{
    Counts, DEFAULT_LIMIT, End, MAX_LIMIT, Performed, Rehearsal, Report, Stage, Wanted, groups,
};
use crate::guest::{self, Version};
use crate::model::{FailureClass, RawMessage, UnixMs};
use crate::store::LetterFilter;
use crate::telemetry::logs::printable;

/// With [`crate::dlq::rehearse::STARTING`] and [`crate::dlq::rehearse::LETTER`] less than a request may take.
const TURN: Duration = Duration::from_secs(4);
const COMPILING: Duration = Duration::from_secs(15);
/// Ids in one request.
const MAX_IDS: usize = 10_000;

/// The query. A JSON body says the same, with the filter in an object of its own.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    plugin: Option<String>,
    route: Option<String>,
    r#type: Option<String>,
    class: Option<FailureClass>,
    text: Option<String>,
    since: Option<jiff::Timestamp>,
    /// Several with commas between them.
    id: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
    actor: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    plugin: Option<String>,
    #[serde(default)]
    filter: Filter,
    limit: Option<usize>,
    cursor: Option<String>,
    actor: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Filter {
    route: Option<String>,
    r#type: Option<String>,
    class: Option<FailureClass>,
    text: Option<String>,
    since: Option<jiff::Timestamp>,
    ids: Vec<String>,
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
    headers: HeaderMap,
    query: Result<Query<Parameters>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Report>, Problem> {
    let Query(query) = query.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(format!(
            "the component is over {} bytes (limits.wasm_size)",
            api.wasm_limit
        )),
        _ => Problem::bad_request(rejection.body_text()),
    })?;
    let asked = ask(query, &headers, &body)?;
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

fn ask(query: Parameters, headers: &HeaderMap, body: &Bytes) -> Result<Asked, Problem> {
    let json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/json"));
    let (document, component) = if json {
        let document: Document = serde_json::from_slice(body)
            .map_err(|error| Problem::bad_request(format!("the body is not understood: {error}")))?;
        if query.route.is_some() || query.r#type.is_some() || query.class.is_some() || query.id.is_some() {
            return Err(Problem::bad_request(
                "a JSON body has the filter in `filter`, not in the query",
            ));
        }
        (document, None)
    } else {
        let ids = query.id.as_deref().unwrap_or_default();
        let ids = ids.split(',').map(str::trim).filter(|id| !id.is_empty());
        let document = Document {
            plugin: query.plugin,
            filter: Filter {
                route: query.route,
                r#type: query.r#type,
                class: query.class,
                text: query.text,
                since: query.since,
                ids: ids.map(str::to_owned).collect(),
            },
            limit: query.limit,
            cursor: query.cursor,
            actor: query.actor,
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
    if document.filter.ids.len() > MAX_IDS {
        return Err(Problem::bad_request(format!("more than {MAX_IDS} ids")));
    }
    Ok(Asked {
        plugin,
        actor: actor.unwrap_or_else(|| ACTOR.to_owned()),
        component,
        wanted: wanted(document.filter, document.limit, document.cursor),
    })
}

fn wanted(filter: Filter, limit: Option<usize>, cursor: Option<String>) -> Wanted {
    Wanted {
        since: filter.since.map(unix_ms),
        ids: filter.ids,
        filter: LetterFilter {
            route: filter.route,
            message_type: filter.r#type,
            class: filter.class,
            text: filter.text,
            ..LetterFilter::default()
        },
        limit: limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT),
        cursor,
    }
}

/// Before 1970 nothing failed.
fn unix_ms(time: jiff::Timestamp) -> UnixMs {
    u64::try_from(time.as_millisecond()).unwrap_or(0)
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
