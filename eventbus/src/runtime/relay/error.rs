//! What only an operator can resolve, and why a position cannot be set back.

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

/// Why the relay publishes nothing until somebody decides.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The bus is ahead of the store: the store was restored from an older copy. What it appends now would have positions
    /// that were published before, and would pass for published. Resolved by [`App::republish`](crate::App::republish).
    #[error(
        "`{destination}` was published up to position {published} by a newer copy of this store, which ends at {newest} \
         now: it was restored; say from where to publish again, with `app.republish(position)`: where the copy ended, or \
         earlier"
    )]
    StoreBehindBus {
        /// Where the events go.
        destination: Name,
        /// How far they were published.
        published: Position,
        /// Where the store ends.
        newest: Position,
    },
    /// The stream carries the events of another store, and the relay was not told that this is meant. It looks again every
    /// minute, and at once in a process that starts.
    #[error(
        "`{destination}` carries the events of store {other}, and this is store {own}: if it is to carry both, say \
         `.share_stream()` in both apps; if the other one is gone, remove what it published"
    )]
    OtherStore {
        /// Where the events should go.
        destination: Name,
        /// The app's store.
        own: Uuid,
        /// The store whose events are there.
        other: Uuid,
    },
    /// The bus refuses an event. Everything before it is published, and nothing after it: that would overtake it.
    ///
    /// The relay looks again every minute, and at once in a process that starts. It goes on when the bus takes the event:
    /// raise the limit or change the option that the reason names, on the server, or in the app and start it again. An event
    /// that no bus of yours can carry has to go from the store, whose positions may have gaps.
    #[error("`{destination}` refuses event {event_id} of type `{event_type}` at position {position}: {reason}")]
    EventRefused {
        /// Where the event should go.
        destination: Name,
        /// Where it is in the store.
        position: Position,
        /// Its type.
        event_type: Name,
        /// Its id.
        event_id: EventId,
        /// What the bus says.
        reason: String,
    },
    /// What the store holds cannot be read: another program wrote or damaged it. Everything before it is published.
    ///
    /// The relay looks again every minute, and at once in a process that starts. It goes on when the event is mended, or when
    /// it is to be skipped, by [`App::skip_published_event`](crate::App::skip_published_event).
    #[error("what the store holds after position {after} cannot be read and published to `{destination}`: {reason}")]
    Damaged {
        /// Where the event should go.
        destination: Name,
        /// Everything up to here is published.
        after: Position,
        /// Where the store finds it, and what is wrong with it.
        reason: String,
    },
    /// The bus takes no events at all, such as one that was told another number of partitions than its stream has. The
    /// relay looks again every minute, and at once in a process that starts.
    #[error("`{destination}` refuses all events: {reason}")]
    Refused {
        /// Where the events should go.
        destination: Name,
        /// What the bus says.
        reason: String,
    },
}

impl RelayError {
    /// What it says without the words of bus and store, which may hold values of events: for reports that anybody may read.
    pub(crate) fn to_redacted_string(&self) -> String {
        match self {
            Self::EventRefused { destination, position, event_type, event_id, .. } => format!(
                "`{destination}` refuses event {event_id} of type `{event_type}` at position {position}: the log says why"
            ),
            Self::Damaged { destination, after, .. } => format!(
                "what the store holds after position {after} cannot be read and published to `{destination}`: the log says why"
            ),
            Self::Refused { destination, .. } => format!("`{destination}` refuses all events: the log says why"),
            error => error.to_string(),
        }
    }
}

/// Why a relay stops that cannot read what is next, or what is to be tried again.
pub(super) fn classify_read_error(
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

/// Whether the bus takes nothing because it was shut down.
pub(super) fn is_shut_down(error: &BoxError) -> bool {
    matches!(error.downcast_ref(), Some(PublishError::ShutDown { .. }))
}

/// Why a relay stops that was refused these events, or what is to be tried again.
pub(super) fn classify_publish_error(
    error: PublishError,
    events: &[RecordedEvent],
) -> Result<RelayError, PublishError> {
    let PublishError::Refused { destination, event_id, source } = error else {
        return Err(error);
    };
    let (destination, reason) = (destination, ErrorLine(&*source).to_string());
    let event = events.iter().find(|event| Some(event.metadata().event_id()) == event_id);
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

/// Why nothing is published again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepublishError {
    /// The bus keeps no position beside its events.
    #[error("`{destination}` keeps no position that could be set back")]
    NoPosition {
        /// The bus.
        destination: Name,
    },
    /// The stream carries the events of another store.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// Others published meanwhile, again and again; to be asked again.
    #[error("relays of `{destination}` came in between; try again")]
    Contended {
        /// The bus.
        destination: Name,
    },
    /// The store or the bus could not be asked; to be asked again. The position may be set back all the same.
    #[error("`{destination}` cannot be published again now")]
    Unavailable {
        /// The bus.
        destination: Name,
        /// What the store or the bus said.
        source: BoxError,
    },
}

/// What keeps a position from being set back for a while.
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
            let told = error.to_redacted_string();
            assert!(told.contains(place) && told.ends_with("the log says why"), "{told}");
            assert!(!told.contains("Mallory") && error.to_string().contains("Mallory"), "{told}");
        }
    }
}
