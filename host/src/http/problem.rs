//! Errors of the API: RFC 9457 problem details, with the HX code of the page that has the remedy.

use axum::Json;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::error::{self, Code};
use crate::model::Role;

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub struct Problem {
    /// The page of the code.
    r#type: String,
    title: &'static str,
    status: u16,
    detail: String,
    code: String,
    /// Of a conflict: the state that the thing is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// The field of the body that cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'static str>,
}

impl Problem {
    pub fn new(status: StatusCode, code: Code, title: &'static str, detail: impl Into<String>) -> Self {
        Self {
            r#type: format!("https://github.com/HelixDevelopment/helix/blob/main/docs/errors/{code}.md"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            code: code.to_string(),
            state: None,
            field: None,
        }
    }

    /// The same, and which field of the body is the reason.
    pub fn in_field(self, field: &'static str) -> Self {
        Self {
            field: Some(field),
            ..self
        }
    }

    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            error::HTTP_BAD_REQUEST,
            "The request cannot be understood",
            detail,
        )
    }

    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, error::HTTP_NOT_FOUND, "Not found", detail)
    }

    pub fn conflict(state: &'static str, detail: impl Into<String>) -> Self {
        Self {
            state: Some(state),
            ..Self::new(
                StatusCode::CONFLICT,
                error::HTTP_CONFLICT,
                "Its state forbids it",
                detail,
            )
        }
    }

    /// Understood, and it cannot be done as asked.
    pub fn unprocessable(code: Code, detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            code,
            "It cannot be done as asked",
            detail,
        )
    }

    pub fn switched_off(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            error::HTTP_SWITCHED_OFF,
            "The configuration does not allow it",
            detail,
        )
    }

    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            error::HTTP_TOO_LARGE,
            "Too large",
            detail,
        )
    }

    /// Body or answer took too long.
    pub fn too_slow(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            error::HTTP_TOO_SLOW,
            "Too slow",
            detail,
        )
    }

    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            error::HTTP_UNAVAILABLE,
            "Not possible now",
            detail,
        )
    }

    pub fn full(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::INSUFFICIENT_STORAGE,
            error::HTTP_UNAVAILABLE,
            "The disk is full",
            detail,
        )
    }

    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            error::HTTP_UNAUTHORIZED,
            "A token is needed",
            "send `Authorization: Bearer …` with a token of [[tokens]] or [host] token",
        )
    }

    pub fn forbidden(has: Role, needed: Role) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            error::HTTP_FORBIDDEN,
            "The token may not do that",
            format!(
                "its role is {}, this needs {}; roles are given in [[tokens]]",
                has.as_str(),
                needed.as_str()
            ),
        )
    }

    pub fn too_many(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            error::HTTP_TOO_MANY,
            "Too many requests",
            detail,
        )
    }

    pub fn status(&self) -> u16 {
        self.status
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (status, kind, Json(self)).into_response();
        if status == StatusCode::TOO_MANY_REQUESTS {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
        }
        if matches!(
            status,
            StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT
        ) {
            // The rest of the body is not read and the connection ends; said aloud, no client sends its next request there.
            response
                .headers_mut()
                .insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Self {
        problem.into_response()
    }
}

impl From<crate::dlq::filter::Fault> for Problem {
    fn from(fault: crate::dlq::filter::Fault) -> Self {
        Self::bad_request(fault.to_string())
    }
}

impl From<crate::store::Error> for Problem {
    fn from(error: crate::store::Error) -> Self {
        match error {
            crate::store::Error::Invalid(reason) => Self::bad_request(reason),
            crate::store::Error::Full(reason) => Self::full(reason),
            other => Self::unavailable(other.to_string()),
        }
    }
}

pub(super) async fn no_such_path(uri: Uri) -> Problem {
    Problem::not_found(format!("no route for {}", uri.path()))
}

/// The names of those that are come in `Allow`.
pub(super) async fn no_such_method(method: Method, uri: Uri) -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        error::HTTP_NOT_FOUND,
        "Not found",
        format!("{} does not take {method}", uri.path()),
    )
}
