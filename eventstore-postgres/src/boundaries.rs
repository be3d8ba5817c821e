//! The port of boundaries: the counts of the tags, and the events that have them.
//!
//! Invariant: the first page of a boundary and the counts are read in one statement, and further pages afterwards.

use async_trait::async_trait;
use eventbus::{
    Position, RecordedEvent,
    event::Tag,
    port::{AppendError, ReadError},
    store::{Boundaries, Boundary, BoundaryCondition, BoundaryRead},
    support::paged_after,
};

use crate::{
    append,
    feed_page::{FeedCursor, boundary_page, feed_page},
    filter_parameters::FilterParameters,
    store::PgEventStore,
};

/// Behind every event.
const END: i64 = i64::MAX;

#[async_trait]
impl Boundaries for PgEventStore {
    async fn count_tagged(&self, boundary: &Boundary) -> Result<BoundaryCondition, ReadError> {
        // before every event
        let (condition, _) =
            boundary_page(self.inner(), boundary, 0, &FilterParameters::new(&boundary.filter())).await?;
        Ok(condition)
    }

    async fn read_boundary<'s>(&'s self, boundary: &Boundary) -> Result<BoundaryRead<'s>, ReadError> {
        let wanted = FilterParameters::new(&boundary.filter());
        let (condition, mut first) = boundary_page(self.inner(), boundary, END, &wanted).await?;
        if !wanted.has_tags() {
            first = feed_page(self.inner(), FeedCursor::new(Position::START), END, &wanted).await?;
        }
        let events = paged_after(first, move |cursor| {
            let wanted = wanted.clone();
            async move { feed_page(self.inner(), cursor, END, &wanted).await }
        });
        Ok(BoundaryRead { condition, events })
    }

    async fn add_tag(&self, event: &RecordedEvent, tag: &Tag) -> Result<bool, AppendError> {
        append::add_tag(self.inner(), event, tag).await
    }
}
