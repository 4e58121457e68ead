//! The client that asks a host's API. Every answer is held against docs/openapi.json: path, method, status, content type, body.

mod contract;

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::contract::{Answered, Asked, contract};

#[derive(Clone)]
pub struct Client(reqwest::Client);

impl Default for Client {
    fn default() -> Self {
        // Plain HTTP, but the client wants a TLS provider to exist.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Self(reqwest::Client::new())
    }
}

impl Client {
    /// # Panics
    /// When the client cannot be made.
    pub fn with_timeout(limit: Duration) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(limit).build();
        Self(client.unwrap_or_else(|error| panic!("make a client: {error}")))
    }

    pub fn request(&self, method: Method, url: impl AsRef<str>) -> Request {
        Request(self.0.request(method, url.as_ref()))
    }

    pub fn get(&self, url: impl AsRef<str>) -> Request {
        self.request(Method::GET, url)
    }

    pub fn post(&self, url: impl AsRef<str>) -> Request {
        self.request(Method::POST, url)
    }

    pub fn delete(&self, url: impl AsRef<str>) -> Request {
        self.request(Method::DELETE, url)
    }
}

pub struct Request(reqwest::RequestBuilder);

impl Request {
    #[must_use]
    pub fn json(self, body: &impl Serialize) -> Self {
        Self(self.0.json(body))
    }

    #[must_use]
    pub fn body(self, body: impl Into<reqwest::Body>) -> Self {
        Self(self.0.body(body))
    }

    #[must_use]
    pub fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }

    #[must_use]
    pub fn bearer_auth(self, token: &str) -> Self {
        Self(self.0.bearer_auth(token))
    }

    /// The whole answer.
    ///
    /// # Errors
    /// There was none, or it broke off.
    ///
    /// # Panics
    /// When it is not what docs/openapi.json says.
    pub async fn send(self) -> reqwest::Result<Answer> {
        let (client, request) = self.0.build_split();
        let request = request?;
        let asked = Asked {
            method: request.method().clone(),
            path: request.url().path().to_owned(),
            query: request.url().query_pairs().into_owned().collect(),
            kind: media(request.headers()),
            body: request
                .body()
                .and_then(reqwest::Body::as_bytes)
                .map(<[u8]>::to_vec),
        };
        let response = client.execute(request).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await?.to_vec();
        let answered = Answered {
            status: status.as_u16(),
            kind: media(&headers),
            headers: &headers,
            body: &body,
        };
        if let Err(why) = contract().check(&asked, &answered) {
            panic!(
                "{} {} was answered {status}, and docs/openapi.json does not know that: {why}\n{}",
                asked.method,
                asked.path,
                String::from_utf8_lossy(&body)
            );
        }
        Ok(Answer {
            status,
            headers,
            body,
        })
    }
}

/// Without its parameters; empty when there is none.
fn media(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value
        .and_then(|value| value.split(';').next())
        .unwrap_or_default()
        .trim()
        .to_owned()
}

pub struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// # Errors
    /// When it is no such JSON.
    pub fn json<T: DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.body)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
