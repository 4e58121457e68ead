//! `wasi:http/outgoing-handler` under the same policy as the import `fetch`.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::fetch::{self, Failure};
use super::sandbox::{Denied, Services, Withheld};
use crate::config::valid::Plugin;
use crate::model::TraceContext;

pub(super) struct OutgoingHttp {
    plugin: Arc<Plugin>,
    services: Arc<Services>,
    denied: Denied,
    withheld: Withheld,
    deadline: Instant,
    trace: Option<TraceContext>,
}

impl OutgoingHttp {
    pub(super) fn new(
        plugin: Arc<Plugin>,
        services: Arc<Services>,
        denied: Denied,
        withheld: Withheld,
    ) -> Self {
        Self {
            plugin,
            services,
            denied,
            withheld,
            deadline: Instant::now(),
            trace: None,
        }
    }

    pub(super) fn begin(&mut self, deadline: Instant, trace: Option<TraceContext>) {
        self.deadline = deadline;
        self.trace = trace;
    }
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Answer = Result<(http::Response<WasiBody>, Io), Error>;

impl WasiHttpHooks for OutgoingHttp {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Io,
    ) -> Box<dyn Future<Output = Answer> + Send> {
        let plugin = self.plugin.clone();
        let services = self.services.clone();
        let denied = self.denied.clone();
        let withheld = self.withheld.clone();
        let trace = self.trace.clone();
        let mut until = self.deadline.min(Instant::now() + plugin.fetch_timeout);
        if let Some(wanted) = options.and_then(|o| o.first_byte_timeout) {
            until = until.min(Instant::now() + wanted);
        }
        Box::new(async move {
            match send(&services, &plugin, request, trace, until).await {
                Ok(answer) => Ok(answer),
                Err(Failure::Denied(denial)) => {
                    denied.record(&denial);
                    Err(Error::HttpRequestDenied)
                }
                Err(Failure::Withheld(place)) => {
                    withheld.record(place);
                    Err(Error::ConnectionRefused)
                }
                Err(Failure::Invalid(_)) => Err(Error::HttpRequestUriInvalid),
                Err(Failure::Timeout) => Err(Error::ConnectionTimeout),
                Err(Failure::TooLarge(limit)) => Err(Error::HttpResponseBodySize(Some(limit))),
                Err(Failure::Connection(why)) => {
                    tracing::debug!(plugin = %plugin.name, why, "wasi:http request failed");
                    Err(Error::ConnectionTerminated)
                }
            }
        })
    }
}

async fn send(
    services: &Services,
    plugin: &Plugin,
    request: http::Request<WasiBody>,
    trace: Option<TraceContext>,
    until: Instant,
) -> Result<(http::Response<WasiBody>, Io), Failure> {
    let (parts, body) = request.into_parts();
    let url = reqwest::Url::parse(&parts.uri.to_string()).map_err(|e| Failure::Invalid(e.to_string()))?;
    // Before the body is read, so that a refusal needs no waiting for the guest.
    fetch::permit(plugin, &url)?;
    let method = fetch::parse_method(parts.method.as_str().as_bytes())?;
    let limit = plugin.output_bytes;
    let collect = Limited::new(body, usize::try_from(limit).unwrap_or(usize::MAX)).collect();
    let body = tokio::time::timeout_at(until.into(), collect)
        .await
        .map_err(|_| Failure::Timeout)?
        .map_err(|error| Failure::Invalid(error.to_string()))?
        .to_bytes();
    let request = fetch::Request {
        method,
        url,
        headers: parts.headers,
        body,
        trace,
        until,
        body_limit: limit,
    };
    let answer = services.fetch.exchange(plugin, request).await?;
    let mut response = http::Response::new(full(answer.body));
    *response.status_mut() =
        http::StatusCode::from_u16(answer.status).map_err(|e| Failure::Invalid(e.to_string()))?;
    *response.headers_mut() = answer.headers;
    Ok((response, Box::new(async { Ok(()) })))
}

fn full(body: Bytes) -> WasiBody {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}
