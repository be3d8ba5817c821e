//! Which events of a store a reader skips because an operator said so: a projection, or the relay to a bus.
//!
//! Keep: a reader reads around what it skips: a row that cannot even be read is never asked for.

use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};

use super::{CheckpointError, EventStore, FeedFilter, Notes, RecordStream, from_json};
use crate::domain::{error::BoxError, name::Name, stream::Position};

/// A skipped event as the store keeps it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Skip {
    pub(crate) position: u64,
    pub(crate) reason: String,
    pub(crate) by: String,
    /// Microseconds since 1970.
    pub(crate) at: i64,
}

/// Why it is not known, or not kept, what a reader skips.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SkipsError {
    /// The note in the store cannot be understood: another program wrote it.
    #[error("what `{reader}` skips cannot be read")]
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

/// The note that says what a reader skips, and the role of changing it.
pub(crate) fn skips_to_note(reader: &Name) -> Name {
    Name::prefixed("skipped:", reader)
}

/// What the relay to a bus is called where it skips events.
pub(crate) fn relay_to(destination: &Name) -> Name {
    Name::prefixed("relay:", destination)
}

/// What a reader skips, sorted by position.
pub(crate) async fn skips(store: &dyn EventStore, reader: &Name) -> Result<Vec<Skip>, SkipsError> {
    let Some(notes) = store.notes() else {
        return Ok(Vec::new());
    };
    let Some(text) = notes.load_note(&skips_to_note(reader)).await? else {
        return Ok(Vec::new());
    };
    from_json(&text).map_err(SkipsError::damaged(reader))
}

/// The positions that a reader skips, sorted.
pub(crate) async fn skipped_positions(store: &dyn EventStore, reader: &Name) -> Result<Vec<Position>, SkipsError> {
    Ok(skips(store, reader).await?.into_iter().map(|skip| Position::new(skip.position)).collect())
}

/// Keeps what a reader skips, sorted by position, instead of what it skipped before.
pub(crate) async fn save_skips(notes: &dyn Notes, reader: &Name, skips: &[Skip]) -> Result<(), SkipsError> {
    let text = serde_json::to_string(skips).map_err(SkipsError::damaged(reader))?;
    Ok(notes.save_note(&skips_to_note(reader), &text).await?)
}

/// The feed without some positions, sorted: what is there is not even asked for.
pub(crate) fn read_around<'s>(
    store: &'s dyn EventStore,
    after: Position,
    through: Position,
    filter: &FeedFilter,
    skipped: &[Position],
) -> RecordStream<'s> {
    let within = skipped.iter().copied().filter(|position| *position > after && *position <= through);
    let (mut parts, mut from) = (Vec::new(), after);
    for position in within {
        let before = Position::new(position.get() - 1);
        if from < before {
            parts.push((from, before));
        }
        from = position;
    }
    if parts.is_empty() && from == after {
        return store.read_feed(after, through, filter);
    }
    if from < through {
        parts.push((from, through));
    }
    let filter = filter.clone();
    Box::pin(stream::iter(parts).flat_map(move |(after, through)| store.read_feed(after, through, &filter)))
}
