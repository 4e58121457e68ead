//! Speaks HTTP with the running host.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Exit, Global, load};
use crate::error;

/// Of a request that may come at a bad time.
pub enum Answer<T> {
    Ok(T),
    /// 503: ask again.
    NotNow(Exit),
}

pub struct Client {
    base: String,
    token: Option<String>,
    http: reqwest::Client,
}

impl Client {
    pub fn new(global: &Global) -> Result<Self, Exit> {
        let base = match &global.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => match load::load(global) {
                Ok(loaded) => format!("http://{}", loaded.settings.host.listen),
                // A client needs no configuration; without one the manual's port is meant.
                Err(_) => "http://127.0.0.1:7061".to_owned(),
            },
        };
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(60))
            .build()
            .map_err(|error| Exit::failed(format!("cannot make an HTTP client: {error}")))?;
        Ok(Self {
            base,
            token: global.token.clone(),
            http,
        })
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, Exit> {
        self.answer(self.http.get(format!("{}{path}", self.base)).query(query))
            .await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Exit> {
        self.answer(self.http.post(format!("{}{path}", self.base)).json(body))
            .await
    }

    /// A body that is no JSON.
    pub async fn post_bytes<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        body: &[u8],
    ) -> Result<Answer<T>, Exit> {
        let request = self
            .http
            .post(format!("{}{path}", self.base))
            .query(query)
            .header("content-type", "application/wasm")
            .body(body.to_vec());
        match self.ask(request).await {
            Ok(answer) => Ok(Answer::Ok(answer)),
            Err((Some(503), exit)) => Ok(Answer::NotNow(exit)),
            Err((_, exit)) => Err(exit),
        }
    }

    pub async fn delete<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Exit> {
        self.answer(self.http.delete(format!("{}{path}", self.base)).json(body))
            .await
    }

    async fn answer<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, Exit> {
        self.ask(request).await.map_err(|(_, exit)| exit)
    }

    /// A failure with its status, when there was one.
    async fn ask<T: DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<T, (Option<u16>, Exit)> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let response = request.send().await.map_err(|error| {
            let exit = Exit::unreachable(format!(
                "no host answers at {}: {error}\n  start one with `helix run` (or `helix dev`), or say where it is with --url",
                self.base
            ));
            (None, exit.coded(error::CLI_UNREACHABLE))
        })?;
        let status = response.status();
        let body = response
            .bytes()
            .await
            .map_err(|error| (None, Exit::failed(format!("the answer broke off: {error}"))))?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| {
                let exit = Exit::failed(format!(
                    "the host's answer is not understood: {error}; versions may differ"
                ));
                (None, exit)
            });
        }
        let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
        let text = |key: &str| {
            problem
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let message = format!(
            "error[{}]: {}: {} (HTTP {})",
            text("code"),
            text("title"),
            text("detail"),
            status.as_u16()
        );
        let exit = match status.as_u16() {
            503 | 504 | 507 => Exit::unreachable(message),
            400 | 413 | 422 => Exit::invalid(message),
            _ => Exit::failed(message),
        };
        Err((Some(status.as_u16()), exit))
    }
}

/// A name as one segment of a path.
pub fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
