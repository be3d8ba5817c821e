//! The check before a rebuild that the store has all events.

use super::RebuildError;
use crate::{domain::stream::StreamId, port::EventStore};

/// Fails if the store misses an event, of `stream` or of any stream: the new state would be one that never existed.
///
/// The feed of a projection is filtered, so that its reader cannot know.
pub(super) async fn check_no_event_is_missing(
    name: &'static str,
    store: &dyn EventStore,
    stream: Option<&StreamId>,
) -> Result<(), RebuildError> {
    match store.find_missing_event(stream).await? {
        Some(missing) => Err(RebuildError::MissingEvent { name, missing }),
        None => Ok(()),
    }
}
