//! The events that readers of a feed skip by order of an operator.

use eventbus::{Name, Position, app::SkippedEvent, store::EventStore, support::ReaderKind};
use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    error::CommandError,
    output::{serialize_position, serialize_time},
};

/// An event that a reader skips by order of an operator.
#[derive(Debug, Clone, Serialize)]
pub struct SkippedRow {
    /// Its position.
    #[serde(serialize_with = "serialize_position")]
    pub position: Position,
    /// The reason that the operator gave.
    pub reason: String,
    /// The process that stored the order.
    pub by: String,
    /// The time of the order.
    #[serde(serialize_with = "serialize_time")]
    pub at: OffsetDateTime,
}

/// The skipped events of a reader that keeps no progress in the store.
#[derive(Debug, Clone, Serialize)]
pub struct ReaderSkips {
    /// The projection, or the bus of the relay.
    pub reader: String,
    /// The events.
    pub skipped: Vec<SkippedRow>,
}

/// Lists the skipped events of readers of one kind that are not `known`: a projection whose state is in memory, the
/// relay to a bus in the process, and mistyped names.
///
/// # Errors
/// [`CommandError`] if the store cannot be reached, or a list cannot be read.
pub async fn list_other_skips(
    store: &dyn EventStore,
    kind: ReaderKind,
    known: &[&str],
) -> Result<Vec<ReaderSkips>, CommandError> {
    let mut others = Vec::new();
    for role in SkippedEvent::load_readers(store, kind).await? {
        let Some((_, reader)) = ReaderKind::parse(&role).filter(|(_, name)| !known.contains(name)) else { continue };
        let skipped = skipped_by(store, &role).await?;
        if !skipped.is_empty() {
            others.push(ReaderSkips { reader: reader.to_owned(), skipped });
        }
    }
    Ok(others)
}

/// Loads the events that a reader skips.
pub(super) async fn skipped_by(store: &dyn EventStore, reader: &Name) -> Result<Vec<SkippedRow>, CommandError> {
    let skipped = SkippedEvent::load_all(store, reader).await?;
    let row =
        |event: SkippedEvent| SkippedRow { position: event.position, reason: event.reason, by: event.by, at: event.at };
    Ok(skipped.into_iter().map(row).collect())
}
