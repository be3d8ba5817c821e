//! Events as a fold of a stream, or of the feed, visits them.

use std::ops::ControlFlow;

use futures_util::TryStreamExt as _;

use super::{ReadError, RecordStream};
use crate::domain::{
    codec::EventFields,
    metadata::EventId,
    stream::{Position, StreamId, Version},
};

/// An event of a stream, with only what a fold needs.
#[derive(Debug, Clone, Copy)]
pub struct VisitedEvent<'e> {
    /// Its place in the stream.
    pub version: Version,
    /// Its id.
    pub event_id: EventId,
    /// Its own fields.
    pub fields: EventFields<'e>,
}

/// The function that a visit calls with each event of a stream; `Break` ends the visit.
pub type VisitEvent<'v> = dyn FnMut(VisitedEvent<'_>) -> ControlFlow<()> + Send + 'v;

/// Visits records, until `visit` breaks off.
///
/// # Errors
/// The first error of the records.
pub async fn visit_records(mut records: RecordStream<'_>, visit: &mut VisitEvent<'_>) -> Result<(), ReadError> {
    while let Some(record) = records.try_next().await? {
        let event_id = record.metadata().event_id();
        if visit(VisitedEvent { version: record.version(), event_id, fields: record.fields() }).is_break() {
            break;
        }
    }
    Ok(())
}

/// An event of the feed, with only what a fold needs.
#[derive(Debug, Clone, Copy)]
pub struct VisitedFeedEvent<'e> {
    /// Its place in the feed.
    pub position: Position,
    /// Its stream.
    pub stream: &'e StreamId,
    /// Its own fields.
    pub fields: EventFields<'e>,
}

/// The function that a visit calls with each event of the feed; `Break` ends the visit.
pub type VisitFeedEvent<'v> = dyn FnMut(VisitedFeedEvent<'_>) -> ControlFlow<()> + Send + 'v;

/// Visits records of the feed, until `visit` breaks off.
///
/// # Errors
/// The first error of the records.
pub async fn visit_feed_records(
    mut records: RecordStream<'_>,
    visit: &mut VisitFeedEvent<'_>,
) -> Result<(), ReadError> {
    while let Some(record) = records.try_next().await? {
        let (position, stream) = (record.position().unwrap_or_default(), record.metadata().stream());
        if visit(VisitedFeedEvent { position, stream, fields: record.fields() }).is_break() {
            break;
        }
    }
    Ok(())
}
