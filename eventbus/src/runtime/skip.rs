//! Events that operators have projections and the relay skip, and the editor of these lists.
//!
//! Invariant: the event stays in the store, and other readers read it. A reader's list changes only under its lease.

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;

use super::{
    held_lease::LeaseRequest,
    projection::{ProjectionError, RebuildError, RunnerContext},
};
use crate::{
    domain::{error::BoxError, name::Name, shown, stream::Position},
    port::{CheckpointError, EventStore, LeaseError, ReadError},
    support::{Skip, SkipsError, save_skips, skips, skips_to_note},
};

/// Lease of an editor, which bounds the wait for one that crashed.
const SKIP_LEASE_TTL: Duration = Duration::from_secs(10);
const LEASE_RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// An event that a reader of the feed skips by order of an operator: it cannot be decoded, or always fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SkippedEvent {
    /// The reader: `projection:{name}`, or `relay:{destination}`.
    #[serde(serialize_with = "shown::display")]
    pub reader: Name,
    /// The event's position in the feed.
    pub position: Position,
    /// The operator's reason.
    pub reason: String,
    /// The process that took the order: host, process id, and digits that no other start has.
    pub by: String,
    /// The time of the order, in whole microseconds.
    #[serde(serialize_with = "shown::moment")]
    pub at: OffsetDateTime,
}

/// An order to skip an event, or to skip it no longer, that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SkipError {
    /// The app has no such projection.
    #[error(transparent)]
    NotRunning(#[from] ProjectionError),
    /// The store ends before that position, or the position is 0, which no event has.
    #[error("there is no event at position {position}: the store ends at {head}")]
    NoSuchPosition {
        /// The position.
        position: Position,
        /// The last position of the store.
        head: Position,
    },
    /// The store keeps no notes.
    #[error("the store keeps no notes, so it cannot keep the list of events that `{reader}` skips")]
    NotesUnsupported {
        /// The reader.
        reader: Name,
    },
    /// A different process holds the lease of the reader's list for longer than a change takes.
    #[error("another process is changing the list of events that `{reader}` skips")]
    Busy {
        /// The reader.
        reader: Name,
    },
    /// The reader's list in the store is no valid list: a different program wrote it.
    #[error("the list of events that `{reader}` skips cannot be read")]
    Damaged {
        /// The reader.
        reader: Name,
        /// The parser's error.
        source: BoxError,
    },
    /// The reader skips the event, but the rebuild of its state in memory failed.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// The store could not return its last position.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The reader's list could not be read or written.
    #[error(transparent)]
    Note(#[from] CheckpointError),
    /// The lease of the reader's list could not be acquired.
    #[error(transparent)]
    Lease(#[from] LeaseError),
}

impl SkippedEvent {
    /// Loads the events that a reader skips, sorted by position: `projection:{name}` or `relay:{destination}`. For tools
    /// that have a store and no app, which has [`App::skipped_events`](crate::App::skipped_events).
    ///
    /// # Errors
    /// [`SkipError::Damaged`] if the reader's list is no valid list, [`SkipError::Note`] if it cannot be read.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
    /// use eventbus::{InMemoryEventStore, Name, app::SkippedEvent};
    /// let reader = Name::new("reader", "projection:balances")?;
    /// assert_eq!(SkippedEvent::load_all(&InMemoryEventStore::new(), &reader).await?, []);
    /// # Ok(()) }
    /// ```
    pub async fn load_all(store: &dyn EventStore, reader: &Name) -> Result<Vec<Self>, SkipError> {
        load_skipped_events(store, reader).await
    }

    fn from_skip(skip: Skip, reader: &Name) -> Result<Self, BoxError> {
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(skip.at) * 1_000)?;
        let position = Position::new(skip.position);
        Ok(Self { reader: reader.clone(), position, reason: skip.reason, by: skip.by, at })
    }
}

impl From<SkipsError> for SkipError {
    fn from(error: SkipsError) -> Self {
        match error {
            SkipsError::Damaged { reader, source } => Self::Damaged { reader, source },
            SkipsError::Note(error) => Self::Note(error),
        }
    }
}

/// Loads the events that a reader skips, sorted by position, for operators.
pub(crate) async fn load_skipped_events(store: &dyn EventStore, reader: &Name) -> Result<Vec<SkippedEvent>, SkipError> {
    let damaged = |source| SkipError::Damaged { reader: reader.clone(), source };
    let skips = skips(store, reader).await?;
    skips.into_iter().map(|skip| SkippedEvent::from_skip(skip, reader).map_err(damaged)).collect()
}

/// Has `reader` skip an event. Returns `false` if it skips the event already; the former reason stays then.
pub(crate) async fn skip(
    context: &RunnerContext,
    reader: &Name,
    position: Position,
    reason: &str,
) -> Result<bool, SkipError> {
    let head = context.store.head().await?;
    if position == Position::START || position > head {
        return Err(SkipError::NoSuchPosition { position, head });
    }
    let at = i64::try_from(context.clock.now().unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX);
    let skip = Skip { position: position.get(), reason: reason.to_owned(), by: context.owner.to_string(), at };
    let is_new = update_skips(context, reader, |skips| {
        let place = skips.binary_search_by_key(&skip.position, |skip| skip.position).err();
        place.map(|place| skips.insert(place, skip)).is_some()
    });
    let is_new = is_new.await?;
    if is_new {
        tracing::warn!(%reader, %position, reason, "the reader skips an event from now on");
    }
    Ok(is_new)
}

/// Has `reader` take an event again. Returns `false` if it does not skip it.
pub(crate) async fn unskip(context: &RunnerContext, reader: &Name, position: Position) -> Result<bool, SkipError> {
    let was_skipped =
        update_skips(context, reader, |skips| skips.extract_if(.., |skip| position == skip.position).count() > 0);
    let was_skipped = was_skipped.await?;
    if was_skipped {
        tracing::warn!(%reader, %position, "the reader no longer skips an event");
    }
    Ok(was_skipped)
}

/// Changes the list of a reader under its lease, since an editor rewrites the whole list and would undo a concurrent
/// change.
async fn update_skips(
    context: &RunnerContext,
    reader: &Name,
    change: impl FnOnce(&mut Vec<Skip>) -> bool,
) -> Result<bool, SkipError> {
    let (store, clock) = (&*context.store, &context.clock);
    let notes = store.notes().ok_or_else(|| SkipError::NotesUnsupported { reader: reader.clone() })?;
    let lease_request =
        LeaseRequest { ttl: SKIP_LEASE_TTL, ..context.command_lease_request(skips_to_note(reader), "skip") };
    let began = clock.instant();
    let held_lease = loop {
        match lease_request.acquire(&tokio_util::sync::CancellationToken::new()).await? {
            Some(held_lease) => break held_lease,
            None if clock.elapsed(began) > 2 * SKIP_LEASE_TTL => {
                return Err(SkipError::Busy { reader: reader.clone() });
            }
            None => clock.sleep(LEASE_RETRY_INTERVAL).await,
        }
    };
    let changed = async {
        let mut skips = skips(store, reader).await?;
        let has_changed = change(&mut skips);
        if has_changed {
            save_skips(notes, reader, &skips).await?;
        }
        Ok(has_changed)
    };
    let changed = changed.await;
    held_lease.release().await;
    changed
}
