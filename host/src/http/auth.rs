//! Who asks, and may they: bearer tokens with roles. Health and metrics stay open.

use std::sync::Arc;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};

use super::body::Most;
use super::routes::Brings;
use super::{Api, Problem};
use crate::model::Role;

/// Kept as its hash; hashes are compared, so neither length nor prefix of the token shows in the time it takes.
#[derive(Clone)]
struct Token([u8; 32]);

impl Token {
    fn new(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    fn accepts(&self, presented: &Self) -> bool {
        self.0
            .iter()
            .zip(presented.0)
            .fold(0, |different, (a, b)| different | (a ^ b))
            == 0
    }
}

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name of the token; none where the host asks for no token.
    pub name: Option<Arc<str>>,
    pub role: Role,
    /// May read what is in messages.
    pub payloads: bool,
}

impl Caller {
    /// On loopback without tokens: whoever can reach it may do everything, under the name it gives itself.
    const ANYBODY: Self = Self {
        name: None,
        role: Role::Admin,
        payloads: true,
    };

    /// The name for trails: a token's name cannot be chosen by the caller, what it says of itself is only added.
    pub fn actor(&self, said: Option<&str>) -> String {
        match (&self.name, said) {
            (Some(name), Some(said)) if &**name != said => format!("{name} (says: {said})"),
            (Some(name), _) => name.to_string(),
            (None, said) => said.unwrap_or("http").to_owned(),
        }
    }
}

/// The tokens of the configuration. None: everybody may do everything, so the host listens on loopback only.
#[derive(Clone, Default)]
pub struct Tokens(Vec<(Token, Caller)>);

impl Tokens {
    pub fn add(&mut self, token: &str, name: &str, role: Role, payloads: bool) {
        let caller = Caller {
            name: Some(name.into()),
            role,
            payloads,
        };
        self.0.push((Token::new(token), caller));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looks at every token, so that the time does not tell which one it was.
    fn caller(&self, presented: &str) -> Option<Caller> {
        let presented = Token::new(presented);
        let mut found = None;
        for (token, caller) in &self.0 {
            if token.accepts(&presented) {
                found = Some(caller.clone());
            }
        }
        found
    }

    /// None: not recognised.
    fn recognise(&self, headers: &HeaderMap) -> Option<Caller> {
        if self.is_empty() {
            return Some(Caller::ANYBODY);
        }
        let presented = headers.get(AUTHORIZATION)?.to_str().ok()?;
        self.caller(presented.strip_prefix("Bearer ")?)
    }
}

/// In front of each route that not everybody may ask.
#[derive(Clone)]
pub(super) struct Door {
    api: Arc<Api>,
    role: Role,
    most: Most,
}

impl Door {
    pub fn new(api: &Arc<Api>, role: Role, brings: Brings) -> Self {
        let (bytes, setting) = match brings {
            Brings::Message => (api.body_limit, "limits.message_size"),
            Brings::Component => (api.wasm_limit, "limits.wasm_size"),
        };
        Self {
            api: Arc::clone(api),
            role,
            most: Most { bytes, setting },
        }
    }
}

/// Lets callers of that role and above in, with the whole body of what they ask.
pub(super) async fn pass(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    let Door { api, role, most } = door;
    let asked = Asked::of(&request);
    let Some(caller) = api.tokens.load().recognise(request.headers()) else {
        return api.gate.refuse(&api, asked, None, Problem::unauthorized()).await;
    };
    if caller.role < role {
        let problem = Problem::forbidden(caller.role, role);
        return api.gate.refuse(&api, asked, Some(&caller), problem).await;
    }
    let changes = asked.changes();
    request.extensions_mut().insert(caller.clone());
    let response = if changes {
        match api.gate.read(request, most).await {
            Ok((request, _room)) => admit(&api, request, next).await,
            Err(problem) => problem.into(),
        }
    } else {
        admit(&api, request, next).await
    };
    // Refused by the handler for want of a right: as above.
    if changes || response.status() == StatusCode::FORBIDDEN {
        api.gate.done(&api, asked, &caller, response.status()).await;
    }
    response
}

/// Who still sends takes no place from those who wait for an answer.
async fn admit(api: &Api, request: Request, next: Next) -> Response {
    match api.gate.enter() {
        Some(_permit) => next.run(request).await,
        None => Problem::too_many("more requests are under way than the host takes at a time").into(),
    }
}

/// What a request asked for, for the audit table.
pub(super) struct Asked {
    method: Method,
    pattern: String,
    path: String,
}

/// Longer paths are cut in the audit table.
const MAX_PATH: usize = 512;

impl Asked {
    fn of(request: &Request) -> Self {
        let path = request.uri().path();
        let end = path.floor_char_boundary(MAX_PATH.min(path.len()));
        Self {
            method: request.method().clone(),
            pattern: request
                .extensions()
                .get::<MatchedPath>()
                .map_or_else(|| path.to_owned(), |matched| matched.as_str().to_owned()),
            path: path.get(..end).unwrap_or_default().to_owned(),
        }
    }

    fn changes(&self) -> bool {
        self.method != Method::GET && self.method != Method::HEAD
    }

    pub fn action(&self) -> String {
        format!("{} {}", self.method, self.pattern)
    }

    pub fn target(&self) -> &str {
        &self.path
    }
}
