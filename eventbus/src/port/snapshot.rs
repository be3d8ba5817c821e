//! Snapshots: the state of an aggregate at a version of its stream, so that a load reads only the events after it.
//!
//! Invariant: a snapshot is disposable. A store may lose it at any time, and one that the store cannot read is absent:
//! the events of the stream are the truth, and a read with a snapshot fails only where a read of the events would.

use async_trait::async_trait;
use auto_impl::auto_impl;

use super::{ReadError, RecordStream};
use crate::domain::{
    error::BoxError,
    name::Name,
    stream::{StreamId, Version},
};

/// The snapshots of a store, one for each stream and fold.
///
/// A fold is a state type of an aggregate: two folds of one stream have two snapshots. The data of a snapshot are bytes
/// that a store does not interpret.
///
/// | snapshot in the store | event | effect |
/// |---|---|---|
/// | none, damaged, or of a lower version | `save_snapshot` | replaced |
/// | of the same or a later version | `save_snapshot` | none: `false` |
/// | any | `save_snapshot` with a version that the stream does not have | none: `false` |
/// | any | `remove_snapshot`, `remove_snapshots` | removed |
/// | any | the store loses it | none; the next load reads all events |
///
/// A snapshot is damaged if its version is not a number, or not a version of the stream.
///
/// Implementations must pass the event-store suite of `eventbus::testkit`.
///
/// # Examples
/// ```
/// use eventbus::{ExpectedVersion, InMemoryEventStore, Name, NewEvent, StreamId};
/// use eventbus::port::{AppendEvents, Snapshots, StoredSnapshot};
/// use futures_util::TryStreamExt as _;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
/// let (store, fold) = (InMemoryEventStore::new(), Name::new("fold", "Balance")?);
/// let stream = StreamId::parse("Account", "12345")?;
/// let deposited = || NewEvent::new(Name::from_static("Deposited"), 1, r#"{"cents":120}"#);
/// store.append(&stream, ExpectedVersion::NoStream, vec![deposited(), deposited(), deposited()]).await?;
///
/// let snapshot = StoredSnapshot { version: 2.into(), data: b"240".to_vec() };
/// assert!(store.save_snapshot(&stream, &fold, &snapshot).await?);
/// let read = store.read_from_snapshot(&stream, &fold).await?;
/// assert_eq!(read.snapshot, Some(snapshot));
/// let after: Vec<_> = read.events.try_collect().await?;
/// assert_eq!(after[0].version(), 3); // the one event that the snapshot does not contain
/// # Ok(()) }
/// ```
#[async_trait]
#[auto_impl(Arc)]
pub trait Snapshots: Send + Sync {
    /// Reads the snapshot of `stream` for `fold` and the first page of the events after its version; from a server in
    /// one round trip. Further pages are read as the caller consumes them, as by
    /// [`read_stream`](super::ReadStream::read_stream).
    ///
    /// Without a snapshot the events are all events of the stream. With one, the first event has the version after the
    /// snapshot's: a missing event is an error.
    ///
    /// # Errors
    /// [`ReadError`], as reading the events without a snapshot: the snapshot itself causes none.
    async fn read_from_snapshot<'s>(&'s self, stream: &StreamId, fold: &Name) -> Result<SnapshotRead<'s>, ReadError>;

    /// Saves `snapshot`, which replaces the former one of `stream` for `fold`.
    ///
    /// Returns `false` and changes nothing if the store has a snapshot of the same or a later version, if the stream
    /// does not have that version, or if the version is [`Version::NONE`]. Does not wait for appends.
    ///
    /// # Errors
    /// [`SnapshotError`]; the snapshot may be kept all the same if it [is retryable](SnapshotError::is_retryable).
    async fn save_snapshot(
        &self,
        stream: &StreamId,
        fold: &Name,
        snapshot: &StoredSnapshot,
    ) -> Result<bool, SnapshotError>;

    /// Removes the snapshot of `stream` for `fold`, for example because its data is damaged. Returns `true` if there
    /// was one.
    ///
    /// # Errors
    /// [`SnapshotError`]; the snapshot may be removed all the same if it [is retryable](SnapshotError::is_retryable).
    async fn remove_snapshot(&self, stream: &StreamId, fold: &Name) -> Result<bool, SnapshotError>;

    /// Removes the snapshots of all streams for `fold`, and returns their number.
    ///
    /// Removes them in batches, so that no lock or script is held for long; a snapshot that is saved meanwhile may
    /// stay.
    ///
    /// # Errors
    /// [`SnapshotError`]; some of the snapshots may be removed.
    async fn remove_snapshots(&self, fold: &Name) -> Result<u64, SnapshotError>;
}

/// A snapshot as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSnapshot {
    /// The version of the last event that the snapshot contains.
    pub version: Version,
    /// The state at that version; only the framework interprets it.
    pub data: Vec<u8>,
}

/// What a load reads: the snapshot, and the events after it; all events if there is none.
#[derive(derive_more::Debug)]
pub struct SnapshotRead<'a> {
    /// The snapshot; `None` if there is none, or the store cannot read it.
    pub snapshot: Option<StoredSnapshot>,
    /// The events after the version of the snapshot, in version order. Each item may be a [`ReadError`]; the stream
    /// ends after it.
    #[debug(skip)]
    pub events: RecordStream<'a>,
}

/// The error of saving or removing a snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The store could not be reached; the call may have taken effect.
    #[error("snapshots of fold `{fold}` are unavailable")]
    Unavailable {
        /// The fold of the snapshot.
        fold: Name,
        /// The error of the store.
        source: BoxError,
    },
    /// The store refuses the call, for example because a right is missing or the data is too large. It had no effect.
    #[error("event store refuses a snapshot of fold `{fold}`")]
    Refused {
        /// The fold of the snapshot.
        fold: Name,
        /// The store's reason.
        source: BoxError,
    },
}

impl SnapshotError {
    /// Wraps the error of a store that could not be reached.
    pub fn unavailable(fold: &Name, source: impl Into<BoxError>) -> Self {
        Self::Unavailable { fold: fold.clone(), source: source.into() }
    }

    /// Wraps the reason of a store that refuses the call.
    pub fn refused(fold: &Name, source: impl Into<BoxError>) -> Self {
        Self::Refused { fold: fold.clone(), source: source.into() }
    }

    /// Returns `true` if the same call can succeed later.
    ///
    /// # Examples
    /// ```
    /// use eventbus::{Name, port::SnapshotError};
    /// let fold = Name::from_static("Balance");
    /// assert!(SnapshotError::unavailable(&fold, "connection refused").is_retryable());
    /// assert!(!SnapshotError::refused(&fold, "permission denied").is_retryable());
    /// ```
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
