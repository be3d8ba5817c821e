//! Errors of the relay that only an operator can resolve, of setting a position back, and of beginning after one.

use uuid::Uuid;

use crate::{
    domain::{
        error::{BoxError, ErrorLine},
        metadata::EventId,
        name::Name,
        record::RecordedEvent,
        stream::Position,
    },
    port::{CheckpointError, LeaseError, PublishError, ReadError},
};

/// An error that stops the relay until an operator resolves it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The bus is ahead of the store: the store was restored from an older copy. Events that it appends now would get
    /// published positions, and never reach the bus. Resolved by [`App::republish`](crate::App::republish).
    #[error(
        "the store was restored from an older copy: `{destination}` was published up to position {published} while the store has \
         these events up to {fork} only; run `eventbus relay republish`, or call `app.republish(None)`, to publish its later ones"
    )]
    StoreBehindBus {
        /// The bus.
        destination: Name,
        /// Position up to which the newer copy was published.
        published: Position,
        /// The last position at which the store has the event that was published.
        fork: Position,
    },
    /// The stream carries the events of a different store, and the app does not share it: the address of the store or
    /// the prefix of the stream may be wrong, or the database is new. The app does not start; if it runs already, its
    /// relay retries every minute.
    #[error(
        "`{destination}` carries the events of store {other}, and this is store {own}: check the address of the store \
         and the prefix of the stream; to share it, call `.share_stream()` in both apps; only if the other store is gone \
         for good, remove its events"
    )]
    OtherStore {
        /// The bus.
        destination: Name,
        /// The app's store.
        own: Uuid,
        /// The store whose events are there.
        other: Uuid,
    },
    /// The bus refuses an event. All events before it are published, and none after it: those would overtake it.
    ///
    /// The relay retries every minute, and at once in a process that starts. It continues when the bus accepts the
    /// event: raise the limit or change the option that the reason names, on the server, or in the app and start it
    /// again. Or skip the event by [`App::skip_published_event`](crate::App::skip_published_event).
    #[error("`{destination}` refuses event {event_id} of type `{event_type}` at position {position}: {reason}")]
    EventRefused {
        /// The bus.
        destination: Name,
        /// Position of the event in the store.
        position: Position,
        /// Its type.
        event_type: Name,
        /// Its id.
        event_id: EventId,
        /// The reason that the bus gives.
        reason: String,
    },
    /// The store cannot read an event: a different program wrote or damaged it. All events before it are published.
    ///
    /// The relay retries every minute, and at once in a process that starts. It continues when the event is repaired,
    /// or skipped by [`App::skip_published_event`](crate::App::skip_published_event).
    #[error("the store cannot read the event after position {after}, to publish it to `{destination}`: {reason}")]
    Damaged {
        /// The bus.
        destination: Name,
        /// All events up to this position are published.
        after: Position,
        /// Where the store holds the event, and why it cannot be read.
        reason: String,
    },
    /// The bus refuses all events, for example because of a missing right. The relay retries every minute, and at once
    /// in a process that starts.
    #[error("`{destination}` refuses all events: {reason}")]
    Refused {
        /// The bus.
        destination: Name,
        /// The reason that the bus gives.
        reason: String,
    },
}

impl RelayError {
    /// Returns the message without the texts of bus and store, which may hold values of events: for public reports.
    pub(crate) fn to_redacted_string(&self) -> String {
        match self {
            Self::EventRefused { destination, position, event_type, event_id, .. } => format!(
                "`{destination}` refuses event {event_id} of type `{event_type}` at position {position}: the log says why"
            ),
            Self::Damaged { destination, after, .. } => format!(
                "the store cannot read the event after position {after}, to publish it to `{destination}`: the log says why"
            ),
            Self::Refused { destination, .. } => format!("`{destination}` refuses all events: the log says why"),
            error => error.to_string(),
        }
    }
}

/// Converts an error of reading the next event into the error that stops the relay; returns it unchanged, as `Err`, if
/// a retry can succeed.
pub(super) fn relay_error_of_read(
    error: BoxError,
    destination: &Name,
    after: Position,
) -> Result<RelayError, BoxError> {
    match error.downcast_ref() {
        Some(ReadError::Corrupt { .. }) => {
            let (destination, reason) = (destination.clone(), ErrorLine(&*error).to_string());
            Ok(RelayError::Damaged { destination, after, reason })
        }
        _ => Err(error),
    }
}

/// Returns `true` if the bus refuses events because it was shut down.
pub(super) fn is_shut_down(error: &BoxError) -> bool {
    matches!(error.downcast_ref(), Some(PublishError::ShutDown { .. }))
}

/// Converts the bus's refusal of these events into the error that stops the relay; returns the error unchanged, as
/// `Err`, if a retry can succeed.
pub(super) fn relay_error_of_publish(
    error: PublishError,
    events: &[RecordedEvent],
) -> Result<RelayError, PublishError> {
    let PublishError::Refused { destination, event_id, source } = error else {
        return Err(error);
    };
    let (destination, reason) = (destination, ErrorLine(&*source).to_string());
    // Events of different streams may have one id: the last of them, as the relay then publishes those before it, until
    // the refused one is the last.
    let event = events.iter().rfind(|event| Some(event.metadata().event_id()) == event_id);
    Ok(match event {
        Some(event) => RelayError::EventRefused {
            destination,
            position: event.position().unwrap_or_default(),
            event_type: event.event_type().clone(),
            event_id: event.metadata().event_id(),
            reason,
        },
        None => RelayError::Refused { destination, reason },
    })
}

/// Error of publishing again from a position.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepublishError {
    /// The bus keeps no position beside its events.
    #[error("`{destination}` keeps no position that could be set back")]
    NoPosition {
        /// The bus.
        destination: Name,
    },
    /// The stream carries the events of a different store.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// The store or the bus could not be reached; retry. The position may be set back all the same.
    #[error("the position of `{destination}` cannot be set back now")]
    Unavailable {
        /// The bus.
        destination: Name,
        /// The error of the store or the bus.
        source: BoxError,
    },
}

/// Error of having the relay begin after a position.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BeginError {
    /// The bus keeps no position beside its events.
    #[error("`{destination}` keeps no position after which its relay could begin")]
    NoPosition {
        /// The bus.
        destination: Name,
    },
    /// A process relays to the bus, or has begun to meanwhile; stop it first.
    #[error("a process relays to `{destination}`: stop it, then try again")]
    Relaying {
        /// The bus.
        destination: Name,
    },
    /// The relay has begun.
    #[error("the relay to `{destination}` has begun already, and goes on after position {position}")]
    HasBegun {
        /// The bus.
        destination: Name,
        /// The position after which it goes on.
        position: Position,
    },
    /// The store ends before the position.
    #[error("the store ends at position {newest}")]
    BeyondEnd {
        /// The end of the store.
        newest: Position,
    },
    /// The store or the bus could not be reached; retry. The position may be saved all the same.
    #[error("where the relay to `{destination}` begins cannot be saved now")]
    Unavailable {
        /// The bus.
        destination: Name,
        /// The error of the store or the bus.
        source: BoxError,
    },
}

/// An error that keeps a position from being set, until a retry succeeds.
pub(super) trait TransientError: Into<BoxError> {}

impl TransientError for ReadError {}
impl TransientError for LeaseError {}
impl TransientError for CheckpointError {}
impl TransientError for PublishError {}

impl RepublishError {
    pub(super) fn unavailable<E: TransientError>(destination: &Name) -> impl Fn(E) -> Self {
        let destination = destination.clone();
        move |source| Self::Unavailable { destination: destination.clone(), source: source.into() }
    }
}

impl BeginError {
    pub(super) fn unavailable<E: TransientError>(destination: &Name) -> impl Fn(E) -> Self {
        let destination = destination.clone();
        move |source| Self::Unavailable { destination: destination.clone(), source: source.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_anybody_may_read_has_no_words_of_bus_or_store() {
        let (destination, position) = (Name::from_static("orders"), Position::new(7));
        let reason = || "`Mallory` is no number".to_owned();
        let event_type = Name::from_static("Opened");
        let event_id = EventId::parse("8f14e45f-ceea-467f-ab6e-ff0d6b0d5c1a").unwrap();
        for (error, place) in [
            (RelayError::Refused { destination: destination.clone(), reason: reason() }, "`orders`"),
            (RelayError::Damaged { destination: destination.clone(), after: position, reason: reason() }, "position 7"),
            (RelayError::EventRefused { destination, position, event_type, event_id, reason: reason() }, "position 7"),
        ] {
            let redacted = error.to_redacted_string();
            assert!(redacted.contains(place) && redacted.ends_with("the log says why"), "{redacted}");
            assert!(!redacted.contains("Mallory") && error.to_string().contains("Mallory"), "{redacted}");
        }
    }
}
