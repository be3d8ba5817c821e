//! Listings: the streams, checkpoints and leases that a store holds, page by page, for operators and their tools.
//!
//! Invariant: a page costs about the same at any place of any store. It begins at a key and counts no rows, so that a
//! tool may list a store with millions of streams while its application runs.

use async_trait::async_trait;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Lease, ReadError};
use crate::domain::{
    name::Name,
    stream::{Position, StreamId, Version},
};

/// A filter for streams; the default matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamFilter {
    /// Of aggregates of this type.
    pub aggregate_type: Option<Name>,
    /// Of aggregates whose ids begin with this text.
    pub id_prefix: String,
    /// Of this tenant; the nil UUID stands for the streams of no tenant.
    pub tenant: Option<Uuid>,
}

impl StreamFilter {
    /// Returns `true` if a stream matches.
    #[must_use]
    pub fn matches(&self, stream: &StreamId) -> bool {
        self.aggregate_type.as_ref().is_none_or(|wanted| wanted == stream.aggregate_type())
            && stream.aggregate_id().as_str().starts_with(&self.id_prefix)
            && self.tenant.is_none_or(|wanted| wanted == stream.tenant_or_nil())
    }
}

/// A stream as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredStream {
    /// The stream.
    pub stream: StreamId,
    /// The version of its last event, which is the number of its events.
    pub version: Version,
    /// The time when the store recorded its last event.
    pub recorded_at: Option<OffsetDateTime>,
}

/// A checkpoint as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Its name.
    pub name: Name,
    /// The last position that its reader has fully handled.
    pub position: Position,
    /// The time when it was saved last, where the store keeps that.
    pub updated_at: Option<OffsetDateTime>,
}

/// A lease as a listing shows it; one that was released or has expired is listed too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLease {
    /// The role, the owner who acquired it last, and its epoch.
    pub lease: Lease,
    /// Set if the owner still holds it, by the store's clock.
    pub is_held: bool,
    /// The time when it expires, or expired or was released, where the store keeps that.
    pub expires_at: Option<OffsetDateTime>,
}

/// The place where a listing continues, as a text that only the store interprets.
#[derive(Debug, Clone, PartialEq, Eq, derive_more::Display)]
pub struct ListCursor(String);

impl ListCursor {
    /// Returns the cursor with this text, which a page returned before.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The cursor as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing<T> {
    /// The items; may be empty although more items follow.
    pub items: Vec<T>,
    /// The place where the next page begins; `None` on the last page.
    pub next: Option<ListCursor>,
}

/// Lists what a store holds, page by page.
///
/// A store examines about 1,000 rows or keys at most for a page. So a page may hold fewer items than the limit, even
/// none, although more follow: only a page without a `next` is the last one. The SQL stores and the one in memory list
/// in the order of the bytes of the aggregate id, then the type, then the tenant. The store on Redis searches the keys
/// of its server for streams, in no order: a page may exceed the limit, and a stream can be listed twice if keys come
/// or go meanwhile. Checkpoints and leases are listed in the order of the bytes of their names.
///
/// Implementations must pass the event-store suite of `eventbus::testkit`.
#[async_trait]
pub trait Listings: Send + Sync {
    /// Lists the streams that match `filter`, about `limit` of them. `after` is the former page's
    /// [`next`](Listing::next), or `None` to begin.
    ///
    /// # Errors
    /// [`ReadError::Unavailable`] if the store cannot be reached, [`ReadError::Corrupt`] if a row cannot be read or
    /// `after` is no cursor of this listing.
    async fn list_streams(
        &self,
        filter: &StreamFilter,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<Listing<StoredStream>, ReadError>;

    /// Lists the checkpoints whose names begin with `prefix`, about `limit` of them, after the former page.
    ///
    /// # Errors
    /// As for [`list_streams`](Self::list_streams).
    async fn list_checkpoints(
        &self,
        prefix: &str,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<Listing<StoredCheckpoint>, ReadError>;

    /// Lists the leases whose roles begin with `prefix`, held or not, about `limit` of them, after the former page.
    ///
    /// # Errors
    /// As for [`list_streams`](Self::list_streams).
    async fn list_leases(
        &self,
        prefix: &str,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<Listing<StoredLease>, ReadError>;
}
