//! Names of a group's checkpoints in the store, and reads of single events and of skips.

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
    store.read_events_at(&[position]).await.pop().unwrap_or_else(|| Err(no_answer()))
}

/// Reads the events at positions of a store, in their order. Ends after an error that is not about one event.
pub(super) fn read_events_at(
    store: &dyn EventStore,
    positions: Vec<Position>,
) -> impl Stream<Item = (Position, Result<Option<RecordedEvent>, ReadError>)> + Send + '_ {
    let pages = stream::unfold(positions, move |mut positions| async move {
        let first = *positions.first()?;
        let read = store.read_events_at(&positions).await;
        let is_over = matches!(read.last(), None | Some(Err(ReadError::Unavailable(_))));
        let rest = if is_over { Vec::new() } else { positions.split_off(read.len()) };
        let page = match read.is_empty() {
            true => vec![(first, Err(no_answer()))],
            false => positions.into_iter().zip(read).collect(),
        };
        Some((stream::iter(page), rest))
    });
    pages.flatten()
}

fn no_answer() -> ReadError {
    ReadError::Unavailable("the store answered without an event".into())
}

/// Loads the positions that are neither published nor delivered, as an operator said so.
pub(super) async fn skipped_by_operators(store: &dyn EventStore) -> Result<Vec<Position>, SkipsError> {
    skipped_positions(store, &relay_to(&DESTINATION)).await
}
