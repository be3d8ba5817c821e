//! The end of a store, which its head may not show.

use crate::{
    domain::stream::Position,
    port::{FeedFilter, ReadError, ReadFeed},
};

/// The highest position that any store assigns.
const POSITION_MAX: u64 = i64::MAX as u64;

/// Returns `true` if a store holds no event at or after a position. The head may be lower than the last event while a
/// slow append is open.
pub(crate) async fn is_beyond_end<S: ReadFeed + ?Sized>(store: &S, position: Position) -> Result<bool, ReadError> {
    Ok(store.count_events(position_before(position), Position::new(POSITION_MAX), &FeedFilter::all()).await? == 0)
}

pub(crate) fn position_before(position: Position) -> Position {
    Position::new(position.get().saturating_sub(1))
}
