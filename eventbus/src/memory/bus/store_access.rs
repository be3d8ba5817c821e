//! Names of a group's checkpoints in the store, and reads of single events and of skips.

use std::pin::pin;

use futures_util::{Stream, StreamExt as _, stream};

use super::settings::DESTINATION;
use crate::{
    domain::{name::Name, record::RecordedEvent, stream::Position},
    port::{EventStore, ReadError},
    support::{ReaderKind, SkipsError, relay_to, skipped_positions},
};

/// Returns the name of a group's checkpoint.
pub(super) fn checkpoint_name(group: &Name) -> Name {
    ReaderKind::Group.name_of(group)
}

/// Returns the name of the read limit: while a group is consumed, each unfinished event up to there may be in flight.
pub(super) fn read_limit_name(group: &Name) -> Name {
    ReaderKind::GroupReadLimit.name_of(group)
}

/// Reads the event at a position of a store.
pub(super) async fn read_event_at(
    store: &dyn EventStore,
    position: Position,
) -> Result<Option<RecordedEvent>, ReadError> {
    let mut read = pin!(read_events_at(store, vec![position]));
    read.next().await.map_or(Ok(None), |(_, event)| event)
}

/// Reads the events at positions of a store, in their order. Ends after an error that is not about one event.
pub(super) fn read_events_at(
    store: &dyn EventStore,
    positions: Vec<Position>,
) -> impl Stream<Item = (Position, Result<Option<RecordedEvent>, ReadError>)> + Send + '_ {
    let pages = stream::unfold((positions, 0), move |(positions, at)| async move {
        let rest = positions.get(at..).filter(|rest| !rest.is_empty())?;
        let mut read = store.read_events_at(rest).await;
        if read.is_empty() {
            read.push(Err(ReadError::Unavailable("the store answered without an event".into())));
        }
        let page: Vec<_> = rest.iter().copied().zip(read).collect();
        let is_over = matches!(page.last(), Some((_, Err(ReadError::Unavailable(_)))));
        let next = if is_over { positions.len() } else { at + page.len() };
        Some((stream::iter(page), (positions, next)))
    });
    pages.flatten()
}

/// Loads the positions that are neither published nor delivered, because an operator said so.
pub(super) async fn skipped_by_operators(store: &dyn EventStore) -> Result<Vec<Position>, SkipsError> {
    skipped_positions(store, &relay_to(&DESTINATION)).await
}
