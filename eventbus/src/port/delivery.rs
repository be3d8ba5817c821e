//! Deliveries: one event, passed by a bus to the handlers of one group.

use std::{sync::Arc, time::Duration};

use super::{MessageId, ServerFault, TypeKey, handler_saves::HandlerSaves, state::StateMap};
use crate::domain::{
    codec::DecodeError,
    error::{BoxError, Error, ErrorLine, panic_text},
    metadata::Metadata,
    name::Name,
    record::RecordedEvent,
};

/// One event, passed by a bus to the handlers of one group. Cloning is cheap.
#[derive(Debug, Clone)]
#[must_use]
pub struct Delivery {
    record: RecordedEvent,
    group: Name,
    attempt: u32,
    message_id: Option<MessageId>,
    state: StateMap,
    /// The name of the handler that it is for; `None` for a projection or a closure.
    handler: Option<&'static str>,
    /// The saves that the handler makes through its repositories; `None` if it takes none.
    saves: Option<Arc<HandlerSaves>>,
}

impl Delivery {
    /// Creates the first delivery of `record` to `group`.
    pub fn new(record: RecordedEvent, group: Name) -> Self {
        Self { record, group, attempt: 1, message_id: None, state: StateMap::new(), handler: None, saves: None }
    }

    /// Sets the number of this attempt: 1 is the first.
    pub fn with_attempt(self, attempt: u32) -> Self {
        Self { attempt, ..self }
    }

    /// Sets the id of the entry on the bus.
    pub fn with_message_id(self, message_id: MessageId) -> Self {
        Self { message_id: Some(message_id), ..self }
    }

    /// Gives the handlers their shared state.
    pub fn with_state(self, state: StateMap) -> Self {
        Self { state, ..self }
    }

    /// Names the handler that it is for.
    pub(crate) fn with_handler(self, name: &'static str) -> Self {
        Self { handler: Some(name), ..self }
    }

    pub(crate) const fn handler(&self) -> Option<&'static str> {
        self.handler
    }

    /// Keeps the saves of the handler until it has ended.
    pub(crate) fn with_saves(self, saves: Arc<HandlerSaves>) -> Self {
        Self { saves: Some(saves), ..self }
    }

    pub(crate) const fn saves(&self) -> Option<&Arc<HandlerSaves>> {
        self.saves.as_ref()
    }

    /// The event, not decoded.
    #[must_use]
    pub const fn record(&self) -> &RecordedEvent {
        &self.record
    }

    /// The metadata of the event: all but its own fields.
    pub fn metadata(&self) -> &Metadata {
        self.record.metadata()
    }

    /// The consumer group, or the projection, that receives it.
    #[must_use]
    pub const fn group(&self) -> &Name {
        &self.group
    }

    /// The number of this attempt: 1 is the first.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The id of the entry on the bus; `None` if it comes from a store's feed.
    #[must_use]
    pub const fn message_id(&self) -> Option<&MessageId> {
        self.message_id.as_ref()
    }

    /// The shared state of the handlers.
    pub const fn state(&self) -> &StateMap {
        &self.state
    }
}

/// The error of a handler for an event, and the next step for the delivery.
///
/// Every error converts into it with `?`. The bus then retries the delivery after growing delays, as often as the
/// handler's `retries`, or else the bus's policy, allows; [`permanent`](Self::permanent) and
/// [`retry_after`](Self::retry_after) change that. Only handlers that have not succeeded run again: those of a group
/// together, after the longest of their delays. Later events of the same aggregate wait meanwhile. A delivery that has
/// used up its attempts becomes a [dead letter](crate::port::DeadLetters). A panic counts as an error, and so does a
/// run that takes longer than the handler's `timeout_ms`.
///
/// An error of a handler that takes the store's connection uses up no attempt if the store's driver finds a server
/// fault among the error's sources, however the handler has wrapped it: see
/// [`Transactions::server_fault`](crate::port::Transactions::server_fault).
///
/// `?` converts it into [`eventbus::Error`](crate::Error) as well; if a handler returns that, the bus treats it the
/// same way.
///
/// # Examples
/// ```
/// use eventbus::HandlerError;
/// fn parse(text: &str) -> Result<u16, HandlerError> {
///     text.parse().map_err(HandlerError::permanent) // trying again will not help
/// }
/// assert!(parse("x").unwrap_err().is_permanent());
/// ```
#[derive(derive_more::Display, derive_more::Debug)]
#[display("{}", ErrorLine(&**source))]
#[debug("{kind:?}: {self}")]
pub struct HandlerError {
    kind: HandlerErrorKind,
    source: BoxError,
    server_fault: Option<ServerFault>,
}

/// The next step for a delivery that a handler did not handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandlerErrorKind {
    /// Retry after the delay of the bus's policy.
    Retry,
    /// Retry, not before this delay has passed.
    RetryAfter(Duration),
    /// A retry cannot help: straight to the dead letters.
    Permanent,
    /// The event cannot be decoded, so a retry cannot help: straight to the dead letters.
    Undecodable,
    /// A newer release wrote the event, in a shape that this one does not know: the bus leaves it to a member of the
    /// group that announced this version of the type; if there is none, as [`Retry`](Self::Retry).
    NewerVersion,
    /// The handler panicked: as [`Retry`](Self::Retry).
    Panicked,
    /// The handler reached its time limit, and was cancelled: as [`Retry`](Self::Retry).
    TimedOut,
    /// The handler waited for the store's transaction when its app stopped: retry later; it uses up no attempt.
    NotBegun,
    /// The database of the handler's transaction had a fault of its own, such as a full disk or a lock that is held:
    /// retry after delays that grow to 5 minutes, without limit; it uses up no attempt.
    ServerFault,
}

impl HandlerError {
    const fn of(kind: HandlerErrorKind, source: BoxError) -> Self {
        Self { kind, source, server_fault: None }
    }

    /// Creates an error that no retry can fix.
    pub fn permanent(error: impl Into<BoxError>) -> Self {
        Self::of(HandlerErrorKind::Permanent, error.into())
    }

    /// Creates an error that may be gone when the bus retries after `delay`. It uses up an attempt, and time for
    /// retries, like any error.
    pub fn retry_after(delay: Duration, error: impl Into<BoxError>) -> Self {
        Self::of(HandlerErrorKind::RetryAfter(delay), error.into())
    }

    /// Creates the error of a handler that panicked.
    pub(crate) fn from_panic(panic: &(dyn std::any::Any + Send)) -> Self {
        Self::of(HandlerErrorKind::Panicked, format!("handler panicked: {}", panic_text(panic)).into())
    }

    /// Creates the error of a handler that reached its time limit.
    pub(crate) fn timed_out(timeout: Duration) -> Self {
        Self::of(HandlerErrorKind::TimedOut, format!("handler took longer than {timeout:?}").into())
    }

    /// Creates the error for an app that stopped before the store began a transaction for the handler.
    pub(crate) fn not_begun() -> Self {
        let source = "the app stops, and the store has not begun a transaction for the handler".into();
        Self::of(HandlerErrorKind::NotBegun, source)
    }

    /// Marks the error: the store's driver has found a fault of the server in it.
    pub(crate) fn with_server_fault(self, fault: ServerFault) -> Self {
        Self { kind: HandlerErrorKind::ServerFault, server_fault: Some(fault), ..self }
    }

    /// The fault of the database, if this is [`HandlerErrorKind::ServerFault`].
    #[must_use]
    pub const fn server_fault(&self) -> Option<&ServerFault> {
        self.server_fault.as_ref()
    }

    #[doc(hidden)]
    #[must_use]
    pub fn undecodable(error: DecodeError) -> Self {
        let kind = match error {
            DecodeError::NewerVersion { .. } => HandlerErrorKind::NewerVersion,
            // of a newer release too, but no announcement tells which member can open them
            DecodeError::SealedFields { .. } => HandlerErrorKind::Retry,
            _ => HandlerErrorKind::Undecodable,
        };
        Self::of(kind, error.into())
    }

    #[doc(hidden)]
    #[must_use]
    pub fn missing(key: TypeKey) -> Self {
        Self::of(HandlerErrorKind::Permanent, format!("the application provides no `{}`", key.name()).into())
    }

    /// Writes the text once and drops it: a `Display` that panics does so here, not where the error is logged.
    pub(crate) fn check_text(&self) {
        drop(self.to_string());
    }

    pub(crate) fn into_source(self) -> BoxError {
        self.source
    }

    /// The next step for the delivery.
    #[must_use]
    pub const fn kind(&self) -> HandlerErrorKind {
        self.kind
    }

    /// Returns `true` if no retry can fix it.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        matches!(self.kind, HandlerErrorKind::Permanent | HandlerErrorKind::Undecodable)
    }

    /// The error that the handler returned.
    #[must_use]
    pub fn get_ref(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        &*self.source
    }
}

impl From<Error> for HandlerError {
    fn from(error: Error) -> Self {
        match error.into_inner().downcast::<ReportedHandlerError>() {
            Ok(reported) => reported.0,
            Err(source) => Self::of(HandlerErrorKind::Retry, source),
        }
    }
}

impl From<HandlerError> for Error {
    fn from(error: HandlerError) -> Self {
        match error.kind {
            HandlerErrorKind::Retry => error.source.into(),
            _ => ReportedHandlerError(error).into(),
        }
    }
}

/// Carries a handler's error in an [`Error`], which has no place for its kind: a handler may return that.
#[derive(Debug, derive_more::Display)]
#[display("{}", _0.source)]
struct ReportedHandlerError(HandlerError);

impl std::error::Error for ReportedHandlerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0.source)
    }
}

impl<E: Into<BoxError>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::of(HandlerErrorKind::Retry, error.into())
    }
}
