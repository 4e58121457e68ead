//! Every address of the API, once: the router and the OpenAPI document are made of this list.

use std::sync::Arc;

use axum::handler::Handler;
use axum::http::Method;
use axum::routing::{MethodRouter, delete, get, post};

use super::openapi::{Content, Operation, parameters as ask};
use super::{Api, audit, dlq, edit, health, openapi, parked, plugins, publish, rehearse, replay};
use crate::dlq::rehearse as rehearsal;
use crate::dlq::report::{DryRun, Groups, JobList, JobView, Results};
use crate::dlq::view::{Letter, Outcome};
use crate::guest::PluginStatus;
use crate::model::Role;
use crate::replay::view::{Listing as Replays, View as Replay};

pub(super) struct Route {
    pub method: Method,
    pub path: &'static str,
    /// None: everybody may ask.
    pub role: Option<Role>,
    pub brings: Brings,
    pub handler: MethodRouter<Arc<Api>>,
    pub operation: Operation,
}

/// How large a body may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Brings {
    /// A message and the envelope around it, at most.
    Message,
    /// A component, at most.
    Component,
}

impl Route {
    fn new(
        (method, path): (Method, &'static str),
        role: Option<Role>,
        handler: MethodRouter<Arc<Api>>,
        operation: Operation,
    ) -> Self {
        Self {
            method,
            path,
            role,
            brings: Brings::Message,
            handler,
            operation,
        }
    }
}

fn open<T: 'static>(path: &'static str, handler: impl Handler<T, Arc<Api>>, operation: Operation) -> Route {
    Route::new((Method::GET, path), None, get(handler), operation)
}

fn look<T: 'static>(
    path: &'static str,
    role: Role,
    handler: impl Handler<T, Arc<Api>>,
    operation: Operation,
) -> Route {
    Route::new((Method::GET, path), Some(role), get(handler), operation)
}

fn make<T: 'static>(
    path: &'static str,
    role: Role,
    handler: impl Handler<T, Arc<Api>>,
    operation: Operation,
) -> Route {
    Route::new((Method::POST, path), Some(role), post(handler), operation)
}

fn end<T: 'static>(
    path: &'static str,
    role: Role,
    handler: impl Handler<T, Arc<Api>>,
    operation: Operation,
) -> Route {
    Route::new((Method::DELETE, path), Some(role), delete(handler), operation)
}

pub(super) fn all() -> Vec<Route> {
    let mut all = publishing();
    all.extend(letters());
    all.extend(jobs());
    all.extend(replays());
    all.extend(host());
    all
}

fn publishing() -> Vec<Route> {
    let publish = |name, summary| {
        Operation::new("publish", name, summary)
            .takes::<publish::Request<'_>>()
            .answers::<publish::Accepted>(202, "The broker has it on its disk.")
            .fails(&[404, 503, 507])
    };
    vec![
        make(
            "/v1/messaging/tasks/{queue}",
            Role::Operator,
            publish::task,
            publish("publishTask", "Publish a task."),
        ),
        make(
            "/v1/messaging/events/{topic}",
            Role::Operator,
            publish::event,
            publish("publishEvent", "Publish an event."),
        ),
    ]
}

fn letters() -> Vec<Route> {
    let letters = |name, summary| Operation::new("dead letters", name, summary);
    let because = |name, summary| {
        letters(name, summary)
            .asks(ask::because())
            .may_take::<dlq::Because>()
            .fails(&[404, 409, 503, 507])
    };
    let discard =
        |name| because(name, "Discard it, with a reason.").answers::<Outcome>(200, "It is discarded.");
    vec![
        look(
            "/v1/messaging/dlq",
            Role::Viewer,
            dlq::list,
            letters("listDeadLetters", "List dead letters, newest last failure first.")
                .asks(ask::page(dlq::parameters::LIMITS))
                .asks(vec![ask::offset()])
                .asks(ask::filter())
                .answers::<dlq::Listing>(200, "A page of letters, without their messages.")
                .fails(&[503]),
        ),
        look(
            "/v1/messaging/dlq/groups",
            Role::Viewer,
            dlq::groups,
            letters("listFailureGroups", "Dead letters by what went wrong, most letters first.")
                .asks(vec![ask::limit(dlq::parameters::LIMITS)])
                .asks(ask::filter())
                .answers::<Groups>(200, "Letters that failed alike are one group.")
                .fails(&[503]),
        ),
        look(
            "/v1/messaging/dlq/parked",
            Role::Viewer,
            parked::list,
            letters("listParkedKeys", "Keys that wait behind a dead letter.")
                .asks(vec![ask::route()])
                .asks(ask::page(parked::LIMITS))
                .answers::<parked::Listing>(200, "A page of keys, in the order in which they were parked.")
                .fails(&[503]),
        ),
        look(
            "/v1/messaging/dlq/{id}",
            Role::Viewer,
            dlq::show,
            letters("showDeadLetter", "One dead letter, whole, with its trail.")
                .answers::<Letter>(200, "Without message and output of the handler where the token may not read payloads.")
                .fails(&[404, 503]),
        ),
        Route {
            brings: Brings::Component,
            ..make(
                "/v1/messaging/dlq/rehearse",
                Role::Operator,
                rehearse::run,
                letters(
                    "rehearse",
                    "What would become of dead letters under another version of their plugin. Nothing is sent or changed.",
                )
                .asks(ask::rehearsal())
                .may_take::<rehearse::Document>()
                .may_bring("application/wasm")
                .answers::<rehearsal::Report>(200, "A page of letters, and what would become of each.")
                .fails(&[422, 503, 507]),
            )
        },
        make(
            "/v1/messaging/dlq/{id}/reprocess",
            Role::Operator,
            dlq::reprocess,
            because("reprocess", "Send it again.").answers::<Outcome>(202, "It is on its way and on disk."),
        ),
        make(
            "/v1/messaging/dlq/{id}/edit",
            Role::Admin,
            edit::edit,
            letters("edit", "Send a changed copy in its place, where `[dlq] edit = true`.")
                .takes::<edit::Request>()
                .answers::<edit::Answer>(202, "The copy is on its way and on disk.")
                .fails(&[404, 409, 422, 503, 507]),
        ),
        make(
            "/v1/messaging/dlq/{id}/release",
            Role::Operator,
            parked::release,
            because("release", "Let the key behind it go on without it.")
                .answers::<Outcome>(200, "The letter stays dead, its followers go on."),
        ),
        end("/v1/messaging/dlq/{id}/discard", Role::Operator, dlq::discard, discard("discard")),
        end("/v1/messaging/dlq/{id}", Role::Operator, dlq::discard, discard("discardLetter")),
    ]
}

fn jobs() -> Vec<Route> {
    let jobs = |name, summary| Operation::new("jobs", name, summary);
    vec![
        make(
            "/v1/messaging/dlq/jobs",
            Role::Operator,
            dlq::create,
            jobs(
                "createJob",
                "Send many letters again, or discard them. To discard many needs the role admin.",
            )
            .takes::<dlq::NewJob>()
            .answers::<DryRun>(200, "With `dry_run`: what the job would do. Nothing is changed.")
            .answers::<JobView>(201, "The job. Its letters are fixed.")
            .answers::<JobView>(202, "Its letters are fixed, and still being written down.")
            .fails(&[404, 503, 507]),
        ),
        look(
            "/v1/messaging/dlq/jobs",
            Role::Viewer,
            dlq::jobs,
            jobs("listJobs", "Jobs, newest first.")
                .asks(ask::page(dlq::parameters::LIMITS))
                .answers::<JobList>(200, "A page of jobs.")
                .fails(&[503]),
        ),
        look(
            "/v1/messaging/dlq/jobs/{id}",
            Role::Viewer,
            dlq::job,
            jobs("showJob", "One job with its progress.")
                .answers::<JobView>(200, "The job.")
                .fails(&[404, 503]),
        ),
        look(
            "/v1/messaging/dlq/jobs/{id}/results",
            Role::Viewer,
            dlq::results,
            jobs(
                "listJobResults",
                "What became of each of its letters, in the order of the job.",
            )
            .asks(ask::page(dlq::parameters::LIMITS))
            .asks(vec![ask::result()])
            .answers::<Results>(200, "A page of letters.")
            .fails(&[404, 503]),
        ),
        end(
            "/v1/messaging/dlq/jobs/{id}",
            Role::Operator,
            dlq::cancel,
            jobs("cancelJob", "Cancel it: no letter of it is begun any more.")
                .asks(vec![ask::actor()])
                .may_take::<dlq::Who>()
                .answers::<JobView>(200, "The job, cancelled on disk.")
                .fails(&[404, 409, 503, 507]),
        ),
    ]
}

fn replays() -> Vec<Route> {
    let replays = |name, summary| Operation::new("replay", name, summary);
    vec![
        make(
            "/v1/messaging/replay",
            Role::Operator,
            replay::start,
            replays(
                "startReplay",
                "Put copies of a stretch of a topic into another topic.",
            )
            .takes::<crate::replay::Request>()
            .answers::<Replay>(201, "The replay. Its offsets are fixed and it is on disk.")
            .with_header("Location", "Where the replay is shown.")
            .fails(&[404, 409, 422, 503, 507]),
        ),
        look(
            "/v1/messaging/replay",
            Role::Viewer,
            replay::list,
            replays("listReplays", "Replays, newest first.")
                .asks(vec![ask::limit(replay::LIMITS)])
                .answers::<Replays>(200, "Replays without their partitions.")
                .fails(&[503]),
        ),
        look(
            "/v1/messaging/replay/{id}",
            Role::Viewer,
            replay::show,
            replays("showReplay", "One replay: how far it is.")
                .answers::<Replay>(200, "The replay.")
                .fails(&[404, 503]),
        ),
        end(
            "/v1/messaging/replay/{id}",
            Role::Operator,
            replay::cancel,
            replays(
                "cancelReplay",
                "Cancel it: after the batch that is under way nothing is sent any more.",
            )
            .answers::<Replay>(200, "The replay, cancelled on disk.")
            .fails(&[404, 409, 503, 507]),
        ),
    ]
}

fn host() -> Vec<Route> {
    let host = |name, summary| Operation::new("host", name, summary);
    let alive = |name| host(name, "Does the process serve?").answers::<health::Alive>(200, "It does.");
    let metrics =
        |name| host(name, "Prometheus text.").answers_with(200, "The metrics.", Content::Text("text/plain"));
    vec![
        look(
            "/v1/messaging/plugins",
            Role::Viewer,
            plugins::list,
            host("listPlugins", "Plugins: version, handlers, imports and grants.")
                .answers::<Vec<PluginStatus>>(200, "All of them."),
        ),
        look(
            "/v1/messaging/audit",
            Role::Admin,
            audit::list,
            host("listAudit", "Who did what, and what was refused, newest first.")
                .asks(ask::page(audit::LIMITS))
                .answers::<audit::Listing>(200, "A page of the audit table.")
                .fails(&[503]),
        ),
        open("/health", health::alive, alive("health")),
        open("/livez", health::alive, alive("livez")),
        open(
            "/readyz",
            health::ready,
            host("readyz", "Do messages flow?")
                .answers::<health::Report>(200, "They do.")
                .answers::<health::Report>(503, "They do not; the reasons."),
        ),
        open(
            "/v1/messaging/health",
            health::detail,
            host("healthReport", "The report of `/readyz`, always 200.")
                .answers::<health::Report>(200, "What is wrong, if anything is."),
        ),
        open("/metrics", health::metrics, metrics("metrics")),
        open(
            "/v1/messaging/metrics",
            health::metrics,
            metrics("messagingMetrics"),
        ),
        open(
            "/openapi.json",
            openapi::show,
            host("openapi", "This document.").answers_with(
                200,
                "OpenAPI 3.1.",
                Content::Any("application/json"),
            ),
        ),
    ]
}
