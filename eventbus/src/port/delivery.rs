//! One event, handed over by a bus to the handlers of one group.

use std::{fmt, time::Duration};

use super::{MessageId, ServerFault, StateMap, TypeKey};
use crate::domain::{
    codec::DecodeError,
    error::{BoxError, Error, ErrorLine},
    metadata::Metadata,
    name::Name,
    record::RecordedEvent,
};

/// One event, handed over by a bus to the handlers of one group. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Delivery {
    record: RecordedEvent,
    group: Name,
    attempt: u32,
    message_id: Option<MessageId>,
    state: StateMap,
}

impl Delivery {
    /// Hands `record` over to `group` for the first time.
    #[must_use]
    pub fn new(record: RecordedEvent, group: Name) -> Self {
        Self { record, group, attempt: 1, message_id: None, state: StateMap::new() }
    }

    /// Says how often the event was handed over, this time included.
    #[must_use]
    pub fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// Says what the bus calls the entry.
    #[must_use]
    pub fn with_message_id(mut self, message_id: MessageId) -> Self {
        self.message_id = Some(message_id);
        self
    }

    /// Gives the handlers their shared state.
    #[must_use]
    pub fn with_state(mut self, state: StateMap) -> Self {
        self.state = state;
        self
    }

    /// The event, not decoded.
    #[must_use]
    pub const fn record(&self) -> &RecordedEvent {
        &self.record
    }

    /// Everything about the event but its own fields.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        self.record.metadata()
    }

    /// The consumer group, or the projection, it is handed over to.
    #[must_use]
    pub const fn group(&self) -> &Name {
        &self.group
    }

    /// How often the event was handed over, this time included: 1 is the first try.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.attempt
    }

    /// What the bus calls the entry; `None` when it comes from a store's feed.
    #[must_use]
    pub const fn message_id(&self) -> Option<&MessageId> {
        self.message_id.as_ref()
    }

    /// The shared state of the handlers.
    #[must_use]
    pub const fn state(&self) -> &StateMap {
        &self.state
    }
}

/// Why a handler did not handle an event, and what is to become of the delivery.
///
/// Every error converts into it with `?` and is tried again, after a delay that grows, as often as the handler's
/// `retries` or else the bus's policy say; [`permanent`](Self::permanent) and [`retry_after`](Self::retry_after) ask for
/// something else. Only handlers that have not succeeded run again, and later events of the same aggregate wait
/// meanwhile. A delivery whose attempts are used up is a [dead letter](crate::port::DeadLetters). A panic, and a handler
/// that takes longer than its `timeout_ms`, count as errors.
///
/// An error of a handler that takes the store's connection uses up no attempt if the store's driver finds a fault of the
/// server among its sources, whatever the handler made of it: see [`Transactions::server_fault`](crate::port::Transactions::server_fault).
///
/// # Examples
/// ```
/// use eventbus::HandlerError;
/// fn parse(text: &str) -> Result<u16, HandlerError> {
///     text.parse().map_err(HandlerError::permanent) // trying again will not help
/// }
/// assert!(parse("x").unwrap_err().is_permanent());
/// ```
pub struct HandlerError {
    kind: HandlerErrorKind,
    source: BoxError,
    server_fault: Option<ServerFault>,
}

/// What is to become of a delivery that a handler did not handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandlerErrorKind {
    /// Try again, after the delay of the bus's policy.
    Retry,
    /// Try again, not before this delay has passed.
    RetryAfter(Duration),
    /// Trying again will not help: straight to the dead letters.
    Permanent,
    /// The event could not be decoded: no try can help, straight to the dead letters.
    Undecodable,
    /// The handler panicked: as [`Retry`](Self::Retry).
    Panicked,
    /// The handler took longer than it may, and was ended: as [`Retry`](Self::Retry).
    TimedOut,
    /// The handler waited for the store's transaction when its app stopped: again later, and no attempt is used up.
    NotBegun,
    /// The database of the handler's transaction had a fault of its own, such as a full disk or a lock that is held: again
    /// later, after delays that grow to 5 minutes, without limit, and no attempt is used up.
    ServerFault,
}

impl HandlerError {
    const fn of(kind: HandlerErrorKind, source: BoxError) -> Self {
        Self { kind, source, server_fault: None }
    }

    /// An error that no retry can mend.
    pub fn permanent(error: impl Into<BoxError>) -> Self {
        Self::of(HandlerErrorKind::Permanent, error.into())
    }

    /// An error that may be gone after `delay`. It uses up an attempt and its time, as any other.
    pub fn retry_after(delay: Duration, error: impl Into<BoxError>) -> Self {
        Self::of(HandlerErrorKind::RetryAfter(delay), error.into())
    }

    /// The error of a handler that panicked.
    pub(crate) fn from_panic(panic: &(dyn std::any::Any + Send)) -> Self {
        let text =
            (panic.downcast_ref::<&str>().copied()).or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let message = format!("handler panicked: {}", text.unwrap_or("(no message)"));
        Self::of(HandlerErrorKind::Panicked, message.into())
    }

    /// The error of a handler that took longer than it may.
    pub(crate) fn timed_out(timeout: Duration) -> Self {
        Self::of(HandlerErrorKind::TimedOut, format!("handler took longer than {timeout:?}").into())
    }

    /// The app stopped before the store began a transaction for the handler.
    pub(crate) fn not_begun() -> Self {
        let source = "the app stops, and the store has not begun a transaction for the handler".into();
        Self::of(HandlerErrorKind::NotBegun, source)
    }

    /// The same error, once the store's driver has found a fault of the server in it.
    pub(crate) fn with_server_fault(self, fault: ServerFault) -> Self {
        Self { kind: HandlerErrorKind::ServerFault, server_fault: Some(fault), ..self }
    }

    /// What the database said of itself, if this is [`HandlerErrorKind::ServerFault`].
    #[must_use]
    pub const fn server_fault(&self) -> Option<&ServerFault> {
        self.server_fault.as_ref()
    }

    #[doc(hidden)]
    #[must_use]
    pub fn undecodable(error: DecodeError) -> Self {
        Self::of(HandlerErrorKind::Undecodable, error.into())
    }

    #[doc(hidden)]
    #[must_use]
    pub fn missing(key: TypeKey) -> Self {
        Self::of(HandlerErrorKind::Permanent, format!("`{}` is not there", key.name()).into())
    }

    pub(crate) fn into_source(self) -> BoxError {
        self.source
    }

    /// What is to become of the delivery.
    #[must_use]
    pub const fn kind(&self) -> HandlerErrorKind {
        self.kind
    }

    /// Whether no retry can mend it.
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
        Self::of(HandlerErrorKind::Retry, error.into_inner())
    }
}

impl From<HandlerError> for Error {
    fn from(error: HandlerError) -> Self {
        error.source.into()
    }
}

impl<E: Into<BoxError>> From<E> for HandlerError {
    fn from(error: E) -> Self {
        Self::of(HandlerErrorKind::Retry, error.into())
    }
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ErrorLine(&*self.source).fmt(f)
    }
}

impl fmt::Debug for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind)
    }
}
