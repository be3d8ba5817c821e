//! Boundaries: counting events by their tags, and adding tags to stored events.

use async_trait::async_trait;
use eventbus::{
    RecordedEvent,
    event::Tag,
    port::{AppendError, ReadError},
    store::{Boundaries, Boundary, BoundaryCondition, BoundaryRead},
    support::count_then_read,
};

use crate::{error::append_error, store::SqliteEventStore, tag_rows::count_tagged};

#[async_trait]
impl Boundaries for SqliteEventStore {
    async fn count_tagged(&self, boundary: &Boundary) -> Result<BoundaryCondition, ReadError> {
        let boundary = boundary.clone();
        self.readers().read(move |connection| count_tagged(connection, boundary)).await
    }

    async fn read_boundary<'s>(&'s self, boundary: &Boundary) -> Result<BoundaryRead<'s>, ReadError> {
        count_then_read(self, boundary).await
    }

    async fn add_tag(&self, event: &RecordedEvent, tag: &Tag) -> Result<bool, AppendError> {
        let begun = self.begin_transaction().await;
        let mut transaction = begun.map_err(|error| append_error(Some(event.metadata().stream()), error))?;
        let is_new = transaction.add_tag(event, tag)?;
        if is_new {
            transaction.commit_append().await?;
        }
        Ok(is_new)
    }
}
