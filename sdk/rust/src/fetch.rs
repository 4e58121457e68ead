//! A small HTTP client. Only hosts granted to the plugin answer. A request is not undone when the handler fails: make it
//! idempotent with the message's id.
//!
//! ```no_run
//! # use helix_sdk::prelude::*;
//! # use std::time::Duration;
//! # fn handle(context: &Context) -> Handled {
//! let answer: serde_json::Value = fetch::post("https://gateway.example/v1/complete")
//!     .header("idempotency-key", context.id())
//!     .timeout(Duration::from_secs(20))
//!     .json(&serde_json::json!({ "prompt": "hi" }))?
//!     .send()?
//!     .success()?
//!     .json()?;
//! # Ok(()) }
//! ```

mod error;

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use error::FetchError;

use crate::failure::{Failure, reject, retry};
use crate::host;
use crate::record::HeaderList;

pub fn get(url: impl Into<String>) -> Request {
    request("GET", url)
}

pub fn post(url: impl Into<String>) -> Request {
    request("POST", url)
}

pub fn put(url: impl Into<String>) -> Request {
    request("PUT", url)
}

pub fn delete(url: impl Into<String>) -> Request {
    request("DELETE", url)
}

/// Any method. The URL is absolute, `http` or `https`.
pub fn request(method: impl Into<String>, url: impl Into<String>) -> Request {
    Request {
        method: method.into(),
        url: url.into(),
        ..Request::default()
    }
}

/// A request. The host adds `traceparent`, `host` and `content-length`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "nothing is sent before send()"]
pub struct Request {
    pub method: String,
    pub url: String,
    pub headers: HeaderList,
    pub body: Vec<u8>,
    pub timeout_ms: Option<u64>,
}

impl Request {
    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The body as JSON, with its `content-type`.
    pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Result<Self, FetchError> {
        self.body = serde_json::to_vec(value)
            .map_err(|error| FetchError::Invalid(format!("the body is no JSON: {error}")))?;
        Ok(self.header("content-type", "application/json"))
    }

    pub fn bytes(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// For the whole exchange. The plugin's `fetch_timeout` is the default and the most that is granted.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout_ms = Some(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Sends it and waits for the whole answer. Answers of 4xx and 5xx are answers, see [`Response::success`].
    pub fn send(self) -> Result<Response, FetchError> {
        host::fetch(self)
    }
}

/// The server's answer. Redirects are not followed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// 100 to 599.
    pub status: u16,
    /// Names in lower case.
    pub headers: HeaderList,
    pub body: Vec<u8>,
}

impl Response {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of that name, compared without case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers
            .iter()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_slice())
    }

    /// The body as text, what is not UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; one that does not fit is a retry with the code `fetch.body`, since the next answer may.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body).map_err(|error| {
            retry(format_args!(
                "the answer ({}) cannot be read: {error}",
                self.status
            ))
            .code("fetch.body")
        })
    }

    /// The answer if it is a 2xx. 408, 429 and 5xx become a retry with the code `http.<status>` (after the seconds the
    /// server named in `retry-after`), all others a reject with that code.
    pub fn success(self) -> Result<Self, Failure> {
        if self.is_success() {
            return Ok(self);
        }
        let code = format!("http.{}", self.status);
        let reason = format!("the server answered {}", self.status);
        Err(match self.status {
            408 | 429 | 500.. => match self.retry_after() {
                Some(wait) => crate::retry_after(wait, reason),
                None => retry(reason),
            },
            _ => reject(reason),
        }
        .code(code))
    }

    fn retry_after(&self) -> Option<Duration> {
        let seconds = std::str::from_utf8(self.header("retry-after")?)
            .ok()?
            .trim()
            .parse()
            .ok()?;
        Some(Duration::from_secs(seconds))
    }
}
