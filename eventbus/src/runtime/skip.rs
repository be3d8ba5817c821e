//! Events that projections and the relay skip because an operator wants it, and the editor of these lists.
//!
//! Invariant: the event stays in the store, and other readers read it. A reader's list changes only under its lease.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{
    held_lease::{LeaseRequest, command_owner, new_owner},
    projection::{ProjectionError, RebuildError, RunnerContext},
};
use crate::{
    domain::{clock::SharedClock, error::BoxError, name::Name, shown, stream::Position},
    port::{CheckpointError, EventStore, LeaseError, ReadError},
    support::{ReaderKind, Skip, SkipsError, note_names, reader_of_note, save_skips, skips, skips_to_note},
};

/// Lease of an editor, which bounds the wait for one that crashed.
const SKIP_LEASE_TTL: Duration = Duration::from_secs(10);

/// An event that a reader of the feed skips because an operator wants it: it cannot be decoded, or always fails.
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
    /// The process that recorded the skip: host, process id, and digits that no other start has.
    pub by: String,
    /// The time when it did, in whole microseconds.
    #[serde(serialize_with = "shown::moment")]
    pub at: OffsetDateTime,
}

/// A failure to record the skip of an event, or to end it.
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
    /// No reader can have this name, so no reader would follow its list.
    #[error("`{reader}` is neither `projection:<name>` nor `relay:<destination>`")]
    NoReader {
        /// The name.
        reader: Name,
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
    /// Loads the events that a reader, `projection:{name}` or `relay:{destination}`, skips, sorted by position. For
    /// tools that have a store and no app; an app has [`App::skipped_events`](crate::App::skipped_events).
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

    /// Loads the names of the readers of one kind that have a list of skipped events, in the order of their bytes. A
    /// list may be empty again.
    ///
    /// # Errors
    /// [`SkipError::Note`] if the names cannot be read.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
    /// use eventbus::{InMemoryEventStore, app::SkippedEvent, support::ReaderKind};
    /// assert!(SkippedEvent::load_readers(&InMemoryEventStore::new(), ReaderKind::Projection).await?.is_empty());
    /// # Ok(()) }
    /// ```
    pub async fn load_readers(store: &dyn EventStore, kind: ReaderKind) -> Result<Vec<Name>, SkipError> {
        let Some(notes) = store.notes() else { return Ok(Vec::new()) };
        let names = note_names(notes, &skips_to_note(&Name::from_static(kind.prefix()))).await?;
        Ok(names.iter().filter_map(reader_of_note).collect())
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

/// Changes which events the readers of a store's feed skip, for tools that have a store and no app.
///
/// A process that runs a reader follows its list within seconds; the relay, and state in memory that has stopped, within
/// minutes. An app has [`App::skip_event`](crate::App::skip_event) and
/// [`App::skip_published_event`](crate::App::skip_published_event).
#[derive(derive_more::Debug)]
pub struct SkipEditor {
    #[debug("{}", store.describe())]
    store: Arc<dyn EventStore>,
    clock: SharedClock,
    /// The name of this process as an owner of leases.
    owner: Name,
}

impl SkipEditor {
    /// Makes an editor in the name of this process.
    #[must_use]
    pub fn new(store: Arc<dyn EventStore>) -> Self {
        Self { store, clock: SharedClock::SYSTEM, owner: new_owner() }
    }

    /// Makes the editor of an app's process.
    pub(crate) fn of(context: &RunnerContext) -> Self {
        let RunnerContext { store, clock, owner, .. } = context;
        Self { store: Arc::clone(store), clock: clock.clone(), owner: owner.clone() }
    }

    /// Makes `reader`, `projection:{name}` or `relay:{destination}`, skip an event. Returns `false` if it skips the
    /// event already; the former reason stays then.
    ///
    /// # Errors
    /// [`SkipError`]; the reader does not skip the event then.
    ///
    /// # Examples
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> eventbus::Result<()> {
    /// # use eventbus::prelude::*;
    /// # #[derive(Debug, Serialize, Deserialize, DomainEvent)]
    /// # #[event(aggregate_type = "Account")]
    /// # struct Opened {}
    /// use std::sync::Arc;
    /// use eventbus::{ExpectedVersion, InMemoryEventStore, Name, NewEvent, Position, StreamId};
    /// use eventbus::app::{SkipEditor, SkippedEvent};
    /// use eventbus::port::AppendEvents as _;
    ///
    /// let store = Arc::new(InMemoryEventStore::new());
    /// let opened = NewEvent::from_event(&Opened {})?;
    /// store.append(&StreamId::parse("Account", "ada")?, ExpectedVersion::NoStream, vec![opened]).await?;
    /// let reader = Name::new("reader", "projection:balances")?;
    ///
    /// let editor = SkipEditor::new(store.clone());
    /// assert!(editor.skip(&reader, Position::new(1), "no owner, incident 17").await?);
    /// assert_eq!(SkippedEvent::load_all(&*store, &reader).await?[0].reason, "no owner, incident 17");
    /// assert!(editor.unskip(&reader, Position::new(1)).await?);
    /// # Ok(()) }
    /// ```
    pub async fn skip(&self, reader: &Name, position: Position, reason: &str) -> Result<bool, SkipError> {
        let head = self.store.head().await?;
        if position == Position::START || position > head {
            return Err(SkipError::NoSuchPosition { position, head });
        }
        let at = i64::try_from(self.clock.now().unix_timestamp_nanos() / 1_000).unwrap_or(i64::MAX);
        let skip = Skip { position: position.get(), reason: reason.to_owned(), by: self.owner.to_string(), at };
        let is_new = self.update(reader, |skips| {
            let place = skips.binary_search_by_key(&skip.position, |skip| skip.position).err();
            place.map(|place| skips.insert(place, skip)).is_some()
        });
        let is_new = is_new.await?;
        if is_new {
            tracing::warn!(%reader, %position, reason, "the reader skips an event from now on");
        }
        Ok(is_new)
    }

    /// Ends the skip of an event by `reader`. Returns `false` if it does not skip the event.
    ///
    /// # Errors
    /// [`SkipError`]; the skip stays then.
    pub async fn unskip(&self, reader: &Name, position: Position) -> Result<bool, SkipError> {
        let was_skipped =
            self.update(reader, |skips| skips.extract_if(.., |skip| position == skip.position).count() > 0);
        let was_skipped = was_skipped.await?;
        if was_skipped {
            tracing::warn!(%reader, %position, "the reader no longer skips an event");
        }
        Ok(was_skipped)
    }

    /// Changes the list of a reader under its lease, since an editor rewrites the whole list and would undo a concurrent
    /// change.
    async fn update(&self, reader: &Name, change: impl FnOnce(&mut Vec<Skip>) -> bool) -> Result<bool, SkipError> {
        let Self { store, clock, owner } = self;
        if !matches!(ReaderKind::parse(reader), Some((ReaderKind::Projection | ReaderKind::Relay, _))) {
            return Err(SkipError::NoReader { reader: reader.clone() });
        }
        let notes = store.notes().ok_or_else(|| SkipError::NotesUnsupported { reader: reader.clone() })?;
        let (role, owner) = (skips_to_note(reader), command_owner(owner, "skip"));
        let lease_request = LeaseRequest::new(Arc::clone(store), role, owner, SKIP_LEASE_TTL, clock.clone());
        let acquired = lease_request.acquire_within(2 * SKIP_LEASE_TTL, &CancellationToken::new()).await?;
        let Some(held_lease) = acquired else {
            return Err(SkipError::Busy { reader: reader.clone() });
        };
        let changed = async {
            let mut skips = skips(&**store, reader).await?;
            let has_changed = change(&mut skips);
            if has_changed {
                // after a pause of this process a successor may have changed the list
                if !held_lease.renew().await? {
                    return Err(SkipError::Busy { reader: reader.clone() });
                }
                save_skips(notes, reader, &skips).await?;
            }
            Ok(has_changed)
        };
        let changed = changed.await;
        held_lease.release().await;
        changed
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::{memory::InMemoryEventStore, port::Leases as _, support::skipped_positions};

    #[tokio::test]
    async fn an_editor_that_lost_its_lease_does_not_undo_what_its_successor_changed() {
        let (store, reader) = (InMemoryEventStore::new(), Name::from_static("projection:rows"));
        let skip = |position| Skip { position, reason: "torn".into(), by: "operator".into(), at: 0 };
        let editor = SkipEditor::new(Arc::new(store.clone()));
        let late = editor.update(&reader, |skips| {
            let successor = async {
                let (list, owner) = (skips_to_note(&reader), Name::from_static("successor"));
                store.seize_lease(&list, &owner, SKIP_LEASE_TTL).await.unwrap();
                save_skips(store.notes().unwrap(), &reader, &[skip(1)]).await.unwrap();
            };
            successor.now_or_never().unwrap();
            skips.push(skip(2));
            true
        });
        let late = late.await;
        assert!(matches!(late, Err(SkipError::Busy { .. })), "{late:?}");
        assert_eq!(skipped_positions(&store, &reader).await.unwrap(), [Position::new(1)]);
    }
}
