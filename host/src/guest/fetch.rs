//! The import `fetch`: one choke point for all HTTP that guests send, `wasi:http` included.

use std::error::Error as StdError;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::bindings::helix::messaging::fetch as wit;
use super::grants::{self, Denial};
use super::sandbox::Sandbox;
use super::{address, log};
use crate::config::valid::Plugin;
use crate::model::TraceContext;

/// Set by the host or by the connection; a guest's own values are left out.
const HOST_HEADERS: &[&str] = &[
    "host",
    "content-length",
    "traceparent",
    "tracestate",
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

pub(super) struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trace: Option<TraceContext>,
    /// The whole exchange has to be over by then.
    pub(super) until: Instant,
    /// Most bytes of an answer's body.
    pub(super) body_limit: u64,
}

pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

pub(super) enum Failure {
    Denied(Denial),
    Invalid(String),
    Timeout,
    Connection(String),
    TooLarge(u64),
    /// It may, but nobody is asked while this is a rehearsal: `host:port`.
    Withheld(String),
}

/// What a guest is told whose request was withheld.
pub(super) const WITHHELD: &str = "not carried out: this is a rehearsal";

/// Two clients, since the address policy sits in the resolver: connections are made to the addresses it checked.
pub(super) struct Client {
    public: OnceLock<Result<reqwest::Client, String>>,
    private: OnceLock<Result<reqwest::Client, String>>,
    /// Requests are looked at and not sent.
    withholds: bool,
}

impl Client {
    /// For versions that serve nobody: grants are checked, and nothing is looked up or connected to.
    pub(super) fn withholding() -> Self {
        Self {
            withholds: true,
            ..Self::new()
        }
    }

    pub(super) fn new() -> Self {
        // Two providers may be linked; rustls panics unless one is chosen. A second choice changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self {
            public: OnceLock::new(),
            private: OnceLock::new(),
            withholds: false,
        }
    }

    fn get(&self, private: bool) -> Result<&reqwest::Client, Failure> {
        let slot = if private { &self.private } else { &self.public };
        slot.get_or_init(|| build(private))
            .as_ref()
            .map_err(|why| Failure::Connection(why.clone()))
    }

    /// Sends a request when the plugin may.
    pub(super) async fn exchange(&self, plugin: &Plugin, request: Request) -> Result<Response, Failure> {
        let host = permit(plugin, &request.url)?;
        if self.withholds {
            let port = request.url.port_or_known_default().unwrap_or_default();
            return Err(Failure::Withheld(log::brief(&format!("{host}:{port}"), 300)));
        }
        let until = tokio::time::Instant::from_std(request.until);
        let answer = self.answer(plugin, &host, request);
        tokio::time::timeout_at(until, answer)
            .await
            .unwrap_or(Err(Failure::Timeout))
    }

    async fn answer(&self, plugin: &Plugin, host: &str, request: Request) -> Result<Response, Failure> {
        let mut headers = request.headers;
        for name in HOST_HEADERS {
            headers.remove(*name);
        }
        if let Some(trace) = request.trace {
            for (name, value) in [
                ("traceparent", Some(trace.traceparent)),
                ("tracestate", trace.tracestate),
            ] {
                if let Some(value) = value.and_then(|v| HeaderValue::try_from(v).ok()) {
                    headers.insert(name, value);
                }
            }
        }
        let failed = |error: reqwest::Error| explain(plugin, host, &error);
        let mut response = self
            .get(plugin.fetch_private)?
            .request(request.method, request.url)
            .headers(headers)
            .body(request.body)
            .send()
            .await
            .map_err(failed)?;
        let limit = request.body_limit;
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(Failure::TooLarge(limit));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(Failure::TooLarge(limit));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Response {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: body.into(),
        })
    }
}

/// The host of a URL that the plugin may fetch. The parser has turned `0x7f.1`, `2130706433` and the like into dotted form.
pub(super) fn permit(plugin: &Plugin, url: &Url) -> Result<String, Failure> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Failure::Invalid(format!(
            "scheme `{}`: only http and https can be fetched",
            log::escape(url.scheme())
        )));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Failure::Invalid(
            "a URL with a user name; send an `authorization` header".into(),
        ));
    }
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(Failure::Invalid("a URL without a host".into()));
    };
    if let Some(denial) = grants::fetch(plugin, host, port) {
        return Err(Failure::Denied(denial));
    }
    // Literal addresses never reach the resolver.
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Some(why) = bare
        .parse::<IpAddr>()
        .ok()
        .and_then(|ip| address::refusal(ip, plugin.fetch_private))
    {
        return Err(Failure::Denied(grants::address(plugin, host, why)));
    }
    Ok(host.to_owned())
}

fn build(private: bool) -> Result<reqwest::Client, String> {
    let builder = || {
        reqwest::Client::builder()
            .dns_resolver(Arc::new(Checked { private }))
            .redirect(reqwest::redirect::Policy::none())
            // A proxy from the environment would resolve the name itself, past the policy.
            .no_proxy()
            .referer(false)
            .connect_timeout(Duration::from_secs(10))
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(16)
    };
    builder()
        .build()
        // A container without root certificates can still speak plain HTTP.
        .or_else(|error| {
            tracing::warn!(%error, "no root certificates: plugins cannot fetch over https");
            builder().tls_built_in_root_certs(false).build()
        })
        .map_err(|error| format!("the HTTP client cannot be made: {error}"))
}

/// Resolves once and hands out only what passed the policy.
struct Checked {
    private: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("{why}")]
struct Blocked {
    why: &'static str,
}

impl Resolve for Checked {
    fn resolve(&self, name: Name) -> Resolving {
        let private = self.private;
        Box::pin(async move {
            let mut blocked = None;
            let mut open: Vec<SocketAddr> = Vec::new();
            for found in tokio::net::lookup_host((name.as_str(), 0)).await? {
                match address::refusal(found.ip(), private) {
                    None => open.push(found),
                    Some(why) => blocked = Some(Blocked { why }),
                }
            }
            match blocked {
                Some(blocked) if open.is_empty() => Err(blocked.into()),
                _ => Ok(Box::new(open.into_iter()) as Addrs),
            }
        })
    }
}

fn explain(plugin: &Plugin, host: &str, error: &reqwest::Error) -> Failure {
    let mut text = String::new();
    let mut cause: Option<&dyn StdError> = Some(error);
    while let Some(current) = cause {
        if let Some(blocked) = current.downcast_ref::<Blocked>() {
            return Failure::Denied(grants::address(plugin, host, blocked.why));
        }
        text = current.to_string();
        cause = current.source();
    }
    if error.is_timeout() {
        Failure::Timeout
    } else if error.is_builder() {
        Failure::Invalid(text)
    } else {
        Failure::Connection(format!("{host}: {text}"))
    }
}

impl wit::Host for Sandbox {
    async fn send(&mut self, request: wit::Request) -> Result<wit::Response, wit::FetchError> {
        let answer = match self.request(request) {
            Ok(request) => self.services.fetch.exchange(&self.plugin, request).await,
            Err(failure) => Err(failure),
        };
        match answer {
            Ok(response) => Ok(wit::Response {
                status: response.status,
                headers: response
                    .headers
                    .iter()
                    .map(|(n, v)| (n.as_str().to_owned(), v.as_bytes().to_vec()))
                    .collect(),
                body: response.body.into(),
            }),
            Err(Failure::Denied(denial)) => {
                self.call.denied.record(&denial);
                Err(wit::FetchError::Denied(denial.text))
            }
            Err(Failure::Invalid(why)) => Err(wit::FetchError::Invalid(why)),
            Err(Failure::Timeout) => Err(wit::FetchError::Timeout),
            Err(Failure::Connection(why)) => Err(wit::FetchError::Connection(why)),
            Err(Failure::TooLarge(limit)) => Err(wit::FetchError::TooLarge(limit)),
            Err(Failure::Withheld(place)) => {
                self.call.withheld.record(place);
                Err(wit::FetchError::Connection(WITHHELD.into()))
            }
        }
    }
}

impl Sandbox {
    fn request(&self, request: wit::Request) -> Result<Request, Failure> {
        let url = Url::parse(&request.url).map_err(|e| Failure::Invalid(format!("the URL: {e}")))?;
        let method = parse_method(request.method.as_bytes())?;
        let mut headers = HeaderMap::new();
        for (name, value) in request.headers {
            let wrong = |what: String| Failure::Invalid(format!("header `{}`: {what}", log::escape(&name)));
            let key = HeaderName::from_bytes(name.as_bytes()).map_err(|e| wrong(e.to_string()))?;
            let value = HeaderValue::from_bytes(&value).map_err(|e| wrong(e.to_string()))?;
            headers.try_append(key, value).map_err(|e| wrong(e.to_string()))?;
        }
        let wanted = request.timeout_ms.map_or(Duration::MAX, Duration::from_millis);
        let allowed = wanted.min(self.plugin.fetch_timeout).min(self.remaining());
        Ok(Request {
            method,
            url,
            headers,
            body: request.body.into(),
            trace: self.trace(),
            until: Instant::now() + allowed,
            body_limit: self.plugin.output_bytes,
        })
    }
}

/// CONNECT would make a tunnel out of a request, TRACE would hand the host's own headers back.
pub(super) fn parse_method(method: &[u8]) -> Result<Method, Failure> {
    match Method::from_bytes(method) {
        Ok(Method::CONNECT | Method::TRACE) => {
            Err(Failure::Invalid("methods CONNECT and TRACE are not sent".into()))
        }
        Ok(method) => Ok(method),
        Err(_) => Err(Failure::Invalid("the method is no HTTP token".into())),
    }
}
