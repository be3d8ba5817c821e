//! The streams of a store.

use eventbus::{
    port::{
        ReadError,
        listings::{ListCursor, StoredStream, StreamFilter},
    },
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

/// Lists up to `limit` streams that match, after the former page; on Redis there may be more. Reads as many pages of
/// the store as needed, so a filter with few matches reads the rows of all streams.
///
/// # Errors
/// [`CommandError`] if the store cannot be reached, or `after` is no place where a page begins.
pub async fn list_streams(
    store: &dyn EventStore,
    filter: &StreamFilter,
    after: Option<&str>,
    limit: usize,
) -> Result<StreamPage, CommandError> {
    let mut page = StreamPage { streams: Vec::new(), next: after.map(str::to_owned) };
    loop {
        let more = list_stream_page(store, filter, page.next.as_deref(), limit - page.streams.len()).await?;
        page.streams.extend(more.streams);
        page.next = more.next;
        if page.streams.len() >= limit || page.next.is_none() {
            return Ok(page);
        }
    }
}

/// Lists up to `limit` streams that match, after the former page, from one page of the store: there may be none
/// although more follow, and on Redis more than `limit`.
///
/// # Errors
/// [`CommandError`] if the store cannot be reached, or `after` is no place where a page begins.
pub async fn list_stream_page(
    store: &dyn EventStore,
    filter: &StreamFilter,
    after: Option<&str>,
    limit: usize,
) -> Result<StreamPage, CommandError> {
    let cursor = after.map(ListCursor::new);
    let page = listings(store)?.list_streams(filter, cursor.as_ref(), limit).await;
    let page = page.map_err(|error| match (&error, after) {
        // the store names the cursor as the place of the defect
        (ReadError::Corrupt { place, .. }, Some(after)) if place.contains(&format!("the cursor `{after}`")) => {
            CommandError::Usage(format!("`{after}` is no place where a page of streams begins"))
        }
        _ => error.into(),
    })?;
    let streams = page.items.into_iter().map(StreamRow::from).collect();
    Ok(StreamPage { streams, next: page.next.map(|next| next.to_string()) })
}
