//! A name in a path.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use super::Problem;

pub(super) struct Named(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            // It is no UTF-8.
            Err(rejection) => Err(Problem::bad_request(rejection.body_text())),
        }
    }
}
