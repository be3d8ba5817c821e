//! Names of a group's checkpoints in the store, and reads of single events and of skips.

use futures_util::StreamExt as _;

use super::settings::DESTINATION;
use crate::{
    domain::{name::Name, record::RecordedEvent, stream::Position},
    port::{EventStore, FeedFilter, ReadError},
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
    let before = Position::new(position.get().saturating_sub(1));
    store.read_feed(before, position, &FeedFilter::all()).next().await.transpose()
}

/// Loads the positions that are neither published nor delivered, as an operator said so.
pub(super) async fn skipped_by_operators(store: &dyn EventStore) -> Result<Vec<Position>, SkipsError> {
    skipped_positions(store, &relay_to(&DESTINATION)).await
}
