//! What a request is refused with: problem details, RFC 9457.

use axum::{
    Json,
    extract::rejection::{JsonRejection, QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use eventbus::{LoadError, ProjectionError, SaveError, UpdateError, port};
use serde::Serialize;

/// Why a request is refused.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    detail: String,
    mistakes: Vec<Mistake>,
}

/// What is wrong with one field of a request.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// Where, as a JSON pointer: `#/email`.
    pub pointer: String,
    /// What.
    pub detail: String,
}

impl Mistake {
    pub fn in_field(field: &str, detail: impl Into<String>) -> Self {
        Self { pointer: format!("#/{field}"), detail: detail.into() }
    }
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), mistakes: Vec::new() }
    }

    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no {what}"))
    }

    /// Nothing the client could mend: it is said in the log, and may be asked for again.
    fn unavailable(error: impl Into<eventbus::Error>) -> Self {
        tracing::warn!(error = ?error.into(), "a request failed for now");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not available at the moment, try again")
    }

    /// Nothing that trying again would mend.
    fn internal(error: impl Into<eventbus::Error>) -> Self {
        tracing::error!(error = ?error.into(), "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "something is wrong here, see the log")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Body {
            r#type: &'static str,
            title: &'static str,
            status: u16,
            detail: String,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            errors: Vec<Mistake>,
        }
        let title = self.status.canonical_reason().unwrap_or_default();
        let body = Body {
            r#type: "about:blank",
            title,
            status: self.status.as_u16(),
            detail: self.detail,
            errors: self.mistakes,
        };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<Vec<Mistake>> for Problem {
    fn from(mistakes: Vec<Mistake>) -> Self {
        Self { mistakes, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "the request has mistakes") }
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<LoadError> for Problem {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::NotFound { stream } => Self::not_found(&format!("{}", stream.aggregate_type())),
            LoadError::Read(port::ReadError::Unavailable(_)) => Self::unavailable(error),
            _ => Self::internal(error),
        }
    }
}

impl From<SaveError> for Problem {
    fn from(error: SaveError) -> Self {
        match error {
            _ if error.is_conflict() => Self::new(StatusCode::CONFLICT, "somebody else was first"),
            SaveError::Append(ref append) if append.is_retryable() => Self::unavailable(error),
            _ => Self::internal(error),
        }
    }
}

impl<X: Into<Self>> From<UpdateError<X>> for Problem {
    fn from(error: UpdateError<X>) -> Self {
        match error {
            UpdateError::Refused(refusal) => refusal.into(),
            UpdateError::Load(error) => error.into(),
            UpdateError::Save(error) => error.into(),
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "something is wrong here"),
        }
    }
}

impl From<ProjectionError> for Problem {
    fn from(error: ProjectionError) -> Self {
        match error {
            ProjectionError::TimedOut { .. } | ProjectionError::Busy { .. } | ProjectionError::ShutDown { .. } => {
                Self::unavailable(error)
            }
            _ => Self::internal(error),
        }
    }
}
