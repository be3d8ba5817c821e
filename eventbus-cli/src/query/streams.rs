//! The streams of a store.

use eventbus::{
    port::listings::{ListCursor, StoredStream, StreamFilter},
    store::EventStore,
};
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::position::listings;
use crate::{error::CommandError, output::serialize_option_time};

/// A stream of a store.
#[derive(Debug, Clone, Serialize)]
pub struct StreamRow {
    /// The type of its aggregate.
    pub aggregate_type: String,
    /// The id of its aggregate.
    pub aggregate_id: String,
    /// The tenant of its aggregate.
    pub tenant: Option<Uuid>,
    /// The number of its events.
    pub version: u64,
    /// When its last event was recorded.
    #[serde(serialize_with = "serialize_option_time")]
    pub recorded_at: Option<OffsetDateTime>,
}

/// A page of streams.
#[derive(Debug, Clone, Serialize)]
pub struct StreamPage {
    /// The streams.
    pub streams: Vec<StreamRow>,
    /// Where the next page begins; `None` on the last page.
    pub next: Option<String>,
}

impl From<StoredStream> for StreamRow {
    fn from(stored: StoredStream) -> Self {
        Self {
            aggregate_type: stored.stream.aggregate_type().to_string(),
            aggregate_id: stored.stream.aggregate_id().to_string(),
            tenant: stored.stream.tenant_id(),
            version: stored.version.get(),
            recorded_at: stored.recorded_at,
        }
    }
}

/// Lists up to `limit` streams that match, after the former page. Reads as many pages of the store as that takes, so a
/// filter that few streams match reads the rows of all.
///
/// # Errors
/// [`CommandError`] if the store cannot be reached, or `after` is no place where a page begins.
pub async fn list_streams(
    store: &dyn EventStore,
    filter: &StreamFilter,
    after: Option<&str>,
    limit: usize,
) -> Result<StreamPage, CommandError> {
    let mut next = after.map(ListCursor::new);
    let mut streams = Vec::new();
    loop {
        let page = listings(store)?.list_streams(filter, next.as_ref(), limit - streams.len()).await?;
        streams.extend(page.items.into_iter().map(StreamRow::from));
        next = page.next;
        if streams.len() >= limit || next.is_none() {
            return Ok(StreamPage { streams, next: next.map(|next| next.to_string()) });
        }
    }
}
