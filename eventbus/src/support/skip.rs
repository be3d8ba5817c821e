//! Events of a store that a reader (a projection, or the relay to a bus) skips because an operator said so.
//!
//! Invariant: a reader reads around skipped events: it never queries their rows, which may be unreadable.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::{ReaderKind, from_json};
use crate::{
    domain::{error::BoxError, name::Name, stream::Position},
    port::{CheckpointError, EventStore, FeedFilter, Notes, ReadError, RecordStream},
};

/// The shortest interval between two loads of the skipped positions of a reader that goes on reading.
pub(crate) const SKIPS_REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// The names of the notes begin with it.
const NOTE_PREFIX: &str = "skipped:";

/// A skipped event, as the store keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Skip {
    pub(crate) position: u64,
    pub(crate) reason: String,
    pub(crate) by: String,
    /// Microseconds since 1970.
    pub(crate) at: i64,
}

/// The error of loading or saving the skipped events of a reader.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SkipsError {
    /// The note in the store cannot be decoded: other software wrote it.
    #[error("the skipped events of `{reader}` cannot be read")]
    Damaged { reader: Name, source: BoxError },
    /// The note could not be read or written.
    #[error(transparent)]
    Note(#[from] CheckpointError),
}

impl SkipsError {
    fn damaged<E: Into<BoxError>>(reader: &Name) -> impl Fn(E) -> Self {
        move |error| Self::Damaged { reader: reader.clone(), source: error.into() }
    }
}

/// Returns the name of the note with the skipped events of a reader; also the role of the lease for changing it.
pub(crate) fn skips_to_note(reader: &Name) -> Name {
    Name::prefixed(NOTE_PREFIX, reader)
}

/// Returns the reader to whose skipped events a note belongs.
pub(crate) fn reader_of_note(note: &Name) -> Option<Name> {
    Name::new("reader", note.strip_prefix(NOTE_PREFIX)?).ok()
}

/// Returns the name of the relay to a bus: the name of its checkpoint, of the role of its lease, and of the reader that
/// skips events.
pub(crate) fn relay_to(destination: &Name) -> Name {
    ReaderKind::Relay.name_of(destination)
}

/// Loads the skipped events of a reader, sorted by position.
pub(crate) async fn skips(store: &dyn EventStore, reader: &Name) -> Result<Vec<Skip>, SkipsError> {
    let Some(notes) = store.notes() else {
        return Ok(Vec::new());
    };
    let Some(text) = notes.load_note(&skips_to_note(reader)).await? else {
        return Ok(Vec::new());
    };
    from_json(&text).map_err(SkipsError::damaged(reader))
}

/// Loads the positions of the skipped events of a reader, sorted.
pub(crate) async fn skipped_positions(store: &dyn EventStore, reader: &Name) -> Result<Vec<Position>, SkipsError> {
    Ok(skips(store, reader).await?.into_iter().map(|skip| Position::new(skip.position)).collect())
}

/// Replaces the skipped events of a reader; `skips` are sorted by position.
pub(crate) async fn save_skips(notes: &dyn Notes, reader: &Name, skips: &[Skip]) -> Result<(), SkipsError> {
    let text = serde_json::to_string(skips).map_err(SkipsError::damaged(reader))?;
    Ok(notes.save_note(&skips_to_note(reader), &text).await?)
}

/// Counts the events up to `through` that match `filter`, without those at the `skipped` positions.
pub(crate) async fn count_around(
    store: &dyn EventStore,
    through: Position,
    filter: &FeedFilter,
    skipped: &[Position],
) -> Result<u64, ReadError> {
    let mut count = store.count_events(Position::START, through, filter).await?;
    for &position in skipped.iter().filter(|position| **position <= through) {
        let before = Position::new(position.get() - 1);
        count = count.saturating_sub(store.count_events(before, position, filter).await?);
    }
    Ok(count)
}

/// Returns the ranges of positions after `after`, up to `through`, between the `skipped` positions, which are sorted.
pub(crate) fn ranges_around(
    after: Position,
    through: Position,
    skipped: &[Position],
) -> impl Iterator<Item = (Position, Position)> + use<> {
    let within = skipped.iter().copied().filter(|position| *position > after && *position <= through);
    let (mut ranges, mut from) = (Vec::new(), after);
    for position in within {
        ranges.push((from, Position::new(position.get() - 1)));
        from = position;
    }
    ranges.push((from, through));
    ranges.into_iter().filter(|(after, through)| after < through)
}

/// Reads the feed without the `skipped` positions, which are sorted: never queries the store for them.
pub(crate) fn read_around<'s>(
    store: &'s dyn EventStore,
    after: Position,
    through: Position,
    filter: &FeedFilter,
    skipped: &[Position],
) -> RecordStream<'s> {
    let is_skipped = |position: &Position| *position > after && *position <= through;
    if !skipped.iter().any(is_skipped) {
        return store.read_feed(after, through, filter);
    }
    let (ranges, filter) = (ranges_around(after, through, skipped), filter.clone());
    Box::pin(stream::iter(ranges).flat_map(move |(after, through)| store.read_feed(after, through, &filter)))
}
