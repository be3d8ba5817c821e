//! Errors as HTTP responses: problem details.

use ::axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use crate::{
    domain::{
        codec::{EncodeError, EncodeFault},
        error::{Error, Never},
        name::InvalidName,
        stream::{ExpectedVersion, Version},
        validity::{EventFault, InvalidEvent, NULL_CHARACTER, TOO_DEEP, UNPAIRED_SURROGATE},
    },
    port::{AppendError, DeadLetterError, ReadError},
    runtime::{
        app::PublishedError,
        projection::ProjectionError,
        repository::{BoundaryError, FindByError, HistoryError, LoadError, OnceError, SaveError, UpdateError},
    },
};

/// A refused request: problem details as in RFC 9457, `application/problem+json`.
///
/// Implement `From` for the refusals of an aggregate's decisions. If a different crate declares them, such as the
/// domain's, Rust allows this for a wrapper type only (E0117), which the decision puts around the refusal:
///
/// ```
/// # mod bank {
/// #     use eventbus::prelude::*;
/// #     #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// #     #[event(aggregate = Account)]
/// #     pub struct Opened { owner: String }
/// #     #[derive(Debug, Default, Aggregate)]
/// #     #[aggregate(events(Opened))]
/// #     pub struct Account { owner: String }
/// #     impl Apply for Account {
/// #         fn apply(&mut self, AccountEvent::Opened(opened): &AccountEvent) { self.owner.clone_from(&opened.owner); }
/// #     }
/// #     #[derive(Debug, derive_more::Display)]
/// #     #[display("the account has an owner already")]
/// #     pub struct Taken;
/// #     impl Account {
/// #         pub fn open(&self, owner: &str) -> Result<Opened, Taken> {
/// #             if self.owner.is_empty() { Ok(Opened { owner: owner.into() }) } else { Err(Taken) }
/// #         }
/// #     }
/// # }
/// use axum::http::StatusCode;
/// use bank::{Account, Taken}; // the crate of the domain
/// use eventbus::{AggregateId, AggregateRepository, axum::Problem};
///
/// struct Refusal(Taken);
///
/// impl From<Refusal> for Problem {
///     fn from(Refusal(taken): Refusal) -> Self { Self::new(StatusCode::CONFLICT, taken.to_string()) }
/// }
///
/// async fn open(accounts: AggregateRepository<Account>, id: AggregateId) -> Result<(), Problem> {
///     accounts.upsert(&id, |account| account.open("Ada").map_err(Refusal)).await?;
///     Ok(())
/// }
/// ```
///
/// # Examples
/// ```
/// use axum::http::StatusCode;
/// use eventbus::axum::{Mistake, Problem};
///
/// let refused = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the request has mistakes")
///     .with_mistakes(vec![Mistake::in_field("email", "is missing")]);
/// assert_eq!(refused.status(), 422);
/// ```
#[derive(Debug)]
#[must_use]
pub struct Problem {
    status: StatusCode,
    detail: String,
    mistakes: Vec<Mistake>,
}

/// A mistake in one field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// The field, as a JSON pointer: `#/email`.
    pub pointer: String,
    /// The mistake, for the client.
    pub detail: String,
}

impl Mistake {
    /// Creates a mistake in a field of the request's object; escapes the name's characters.
    pub fn in_field(field: &str, detail: impl Into<String>) -> Self {
        Self { pointer: format!("#/{}", escaped(field)), detail: detail.into() }
    }
}

/// Escapes the name of a field for a JSON pointer in the fragment of a URI (RFC 6901, sections 3 and 6).
fn escaped(field: &str) -> String {
    let mut part = String::with_capacity(field.len());
    for byte in field.bytes() {
        match byte {
            b'~' => part.push_str("~0"),
            b'/' => part.push_str("~1"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => part.push(byte.into()),
            other if b"-._!$&'()*+,;=:@?".contains(&other) => part.push(other.into()),
            other => part.push_str(&format!("%{other:02X}")),
        }
    }
    part
}

impl Problem {
    /// Creates a problem; the client gets `detail`.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), mistakes: Vec::new() }
    }

    /// Adds the fields that are wrong, as the member `errors`.
    pub fn with_mistakes(self, mistakes: Vec<Mistake>) -> Self {
        Self { mistakes, ..self }
    }

    /// Creates a 503 with `retry-after`, for an error that passes. The log gets the error, the client a fixed text.
    pub fn unavailable(error: impl Into<Error>) -> Self {
        tracing::warn!(error = ?error.into(), "a request fails for now");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "not available at the moment, try again")
    }

    /// Creates a 504 without `retry-after`, for a change that may have taken effect, such as a save of unknown outcome, or a
    /// request that a time limit has cut off: a client that repeats it could make it twice. The log gets the error, the
    /// client a fixed text.
    pub fn outcome_unknown(error: impl Into<Error>) -> Self {
        tracing::warn!(error = ?error.into(), "a request fails, and it is not known whether its change took effect");
        let detail = "it is not known whether the change took effect; repeat it only with the same Idempotency-Key";
        Self::new(StatusCode::GATEWAY_TIMEOUT, detail)
    }

    /// Creates a 500, for an error that a retry cannot resolve. The log gets the error, the client a fixed text.
    pub fn internal(error: impl Into<Error>) -> Self {
        tracing::error!(error = ?error.into(), "a request fails");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
    }

    /// Returns the status of the response.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct ProblemBody {
            r#type: &'static str,
            title: &'static str,
            status: u16,
            detail: String,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            errors: Vec<Mistake>,
        }
        let Self { status, detail, mistakes: errors } = self;
        let title = status.canonical_reason().unwrap_or_default();
        let body = ProblemBody { r#type: "about:blank", title, status: status.as_u16(), detail, errors };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Unavailable(_) => Self::unavailable(error),
            ReadError::NoStore | ReadError::Corrupt { .. } => Self::internal(error),
        }
    }
}

impl From<LoadError> for Problem {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::NotFound { .. } => Self::new(StatusCode::NOT_FOUND, "there is nothing with this id"),
            LoadError::VersionNotReached { wanted, .. } => {
                Self::new(StatusCode::NOT_FOUND, format!("version {wanted} is not there yet"))
            }
            LoadError::Read(error) => error.into(),
            LoadError::Decode { .. } => Self::internal(error),
        }
    }
}

impl From<HistoryError> for Problem {
    fn from(error: HistoryError) -> Self {
        match error {
            HistoryError::Load(error) => error.into(),
            HistoryError::State { .. } => Self::internal(error),
        }
    }
}

/// An id, or an idempotency key, that the request has as a text.
impl From<InvalidName> for Problem {
    fn from(error: InvalidName) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<FindByError> for Problem {
    fn from(error: FindByError) -> Self {
        match error {
            FindByError::Load(error) => error.into(),
            FindByError::Read(error) => error.into(),
            FindByError::UnknownName { .. } | FindByError::Unsupported { .. } => Self::internal(error),
        }
    }
}

impl From<BoundaryError> for Problem {
    fn from(error: BoundaryError) -> Self {
        match &error {
            // a value of the request: its message names the tag, not the value
            BoundaryError::Tag(invalid) => Self::new(StatusCode::BAD_REQUEST, invalid.to_string()),
            BoundaryError::Load(load) if matches!(**load, LoadError::Read(ReadError::Unavailable(_))) => {
                Self::unavailable(error)
            }
            _ => Self::internal(error),
        }
    }
}

impl From<SaveError> for Problem {
    fn from(error: SaveError) -> Self {
        match &error {
            SaveError::Append(AppendError::Conflict {
                expected: ExpectedVersion::NoStream | ExpectedVersion::Exact(Version::NONE),
                ..
            }) => Self::new(StatusCode::CONFLICT, "it exists already, perhaps by a concurrent change"),
            _ if error.is_conflict() => Self::new(StatusCode::CONFLICT, "a concurrent change was first, try again"),
            SaveError::Append(AppendError::Taken { name, .. }) => {
                Self::new(StatusCode::CONFLICT, format!("`{name}` is taken already"))
            }
            // values of the request, which the messages name and do not show
            SaveError::Encode(EncodeError {
                reason: reason @ (EncodeFault::Tag(_) | EncodeFault::UniqueValue(_)),
                ..
            }) => Self::new(StatusCode::BAD_REQUEST, reason.to_string()),
            SaveError::Encode(EncodeError { reason: EncodeFault::Invalid(EventFault::Payload(field)), .. })
                if field.reason() == NULL_CHARACTER =>
            {
                Self::new(StatusCode::BAD_REQUEST, format!("field `{}` holds a null character", field.path()))
            }
            SaveError::Encode(EncodeError { reason: EncodeFault::Invalid(EventFault::Payload(field)), .. })
                if [TOO_DEEP, UNPAIRED_SURROGATE].contains(&field.reason()) =>
            {
                Self::new(StatusCode::BAD_REQUEST, field.to_string())
            }
            // the macro refuses such a field: it is flattened into the event, mostly of a map of the request
            SaveError::Encode(EncodeError {
                reason: EncodeFault::Invalid(EventFault::ReservedField(field)), ..
            }) => Self::new(StatusCode::BAD_REQUEST, format!("field `{field}` has a name that is reserved")),
            SaveError::Append(AppendError::Refused { source, .. })
                if let Some(InvalidEvent { fault: fault @ EventFault::Tags { .. }, .. }) =
                    source.downcast_ref::<InvalidEvent>() =>
            {
                Self::new(StatusCode::BAD_REQUEST, fault.to_string())
            }
            SaveError::Append(AppendError::OutcomeUnknown(_)) => Self::outcome_unknown(error),
            SaveError::Append(append) if append.is_retryable() => Self::unavailable(error),
            SaveError::Append(_)
            | SaveError::Encode(_)
            | SaveError::OtherTenant { .. }
            | SaveError::MultiStreamUnsupported { .. } => Self::internal(error),
        }
    }
}

impl<X: Into<Self>> From<UpdateError<X>> for Problem {
    fn from(error: UpdateError<X>) -> Self {
        match error {
            UpdateError::Refused(refusal) => refusal.into(),
            UpdateError::Load(error) => error.into(),
            UpdateError::Save(error) => error.into(),
            UpdateError::Once(OnceError::KeyReused { key }) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                format!("the idempotency key `{key}` was used for another request"),
            ),
            UpdateError::Once(error) => Self::internal(error),
            UpdateError::Boundary(error) => error.into(),
        }
    }
}

impl From<Never> for Problem {
    fn from(never: Never) -> Self {
        match never {}
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

impl From<PublishedError> for Problem {
    fn from(error: PublishedError) -> Self {
        match error {
            PublishedError::TimedOut { .. } | PublishedError::Stopped { .. } => Self::unavailable(error),
            PublishedError::NoRelay | PublishedError::Relay(_) => Self::internal(error),
        }
    }
}

impl From<DeadLetterError> for Problem {
    fn from(error: DeadLetterError) -> Self {
        match error {
            DeadLetterError::InvalidId { .. } => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            DeadLetterError::Empty { .. } | DeadLetterError::NoGroup { .. } => {
                Self::new(StatusCode::CONFLICT, error.to_string())
            }
            DeadLetterError::Unsupported { .. } => Self::new(StatusCode::NOT_IMPLEMENTED, error.to_string()),
            DeadLetterError::ShutDown { .. } => Self::unavailable(error),
            _ if error.is_retryable() => Self::unavailable(error),
            _ => Self::internal(error),
        }
    }
}

macro_rules! as_axum_rejects {
    ($($rejection:ty),*) => {$(
        impl From<$rejection> for Problem {
            fn from(rejection: $rejection) -> Self {
                Self::new(rejection.status(), rejection.body_text())
            }
        }
    )*};
}

as_axum_rejects!(JsonRejection, PathRejection, QueryRejection);

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if the pointer holds a name unescaped.
    #[test]
    fn a_pointer_names_the_field_whatever_it_is_called() {
        for (field, pointer) in [
            ("email", "#/email"),
            ("a/b", "#/a~1b"),
            ("a~b", "#/a~0b"),
            ("~1", "#/~01"),
            ("", "#/"),
            ("50 %", "#/50%20%25"),
            ("größe#", "#/gr%C3%B6%C3%9Fe%23"),
        ] {
            assert_eq!(Mistake::in_field(field, "is missing").pointer, pointer, "{field}");
        }
    }
}
