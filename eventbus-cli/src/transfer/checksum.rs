//! The checksum of the parts of events that a move keeps, in the order of the events.

use eventbus::{
    Position,
    store::{EventStore, FeedFilter},
};
use xxhash_rust::xxh3::Xxh3;

use super::chunk::read_chunk;
use crate::{error::CommandError, output::Progress};

/// The number of events, and a checksum of the parts that a move keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Checksum {
    pub(crate) events: u64,
    pub(super) xxh3: u128,
}

/// Reads the events of a store up to a position.
pub(crate) async fn checksum(
    store: &dyn EventStore,
    through: Position,
    progress: Progress,
) -> Result<Checksum, CommandError> {
    let mut feed = store.read_feed(Position::START, through, &FeedFilter::all());
    let (mut events, mut hash) = (0, Xxh3::new());
    while let Some(chunk) = read_chunk(&mut feed).await? {
        hash.update(chunk.lines.as_bytes());
        events += chunk.events;
        progress.set(chunk.position.get(), through.get());
    }
    Ok(Checksum { events, xxh3: hash.digest128() })
}

/// Compares the events of a store with the events that were moved into it.
///
/// # Errors
/// [`CommandError::Fault`] if they differ.
pub(crate) async fn compare(store: &dyn EventStore, moved: Checksum, progress: Progress) -> Result<(), CommandError> {
    let found = checksum(store, store.head().await?, progress).await?;
    if found == moved {
        return Ok(());
    }
    let text = match found.events == moved.events {
        true => format!("{} holds as many events as were moved, but they differ", store.describe()),
        false => format!("{} holds {} events, moved were {}", store.describe(), found.events, moved.events),
    };
    Err(CommandError::fault(text))
}
