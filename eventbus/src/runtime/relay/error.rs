//! What only an operator can resolve, and why a position cannot be set back.

use uuid::Uuid;

use crate::{
    domain::{error::BoxError, name::Name, stream::Position},
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
    StoreWentBack {
        /// Where the events go.
        destination: Name,
        /// How far they were published.
        published: Position,
        /// Where the store ends.
        newest: Position,
    },
    /// The stream carries the events of another store, and the relay was not told that this is meant. It looks again every
    /// second.
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
pub(super) trait Passing: Into<BoxError> {}

impl Passing for ReadError {}
impl Passing for LeaseError {}
impl Passing for CheckpointError {}
impl Passing for PublishError {}

impl RepublishError {
    pub(super) fn unavailable<E: Passing>(destination: &Name) -> impl Fn(E) -> Self {
        let destination = destination.clone();
        move |source| Self::Unavailable { destination: destination.clone(), source: source.into() }
    }
}
