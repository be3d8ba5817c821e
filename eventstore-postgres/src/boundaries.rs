//! The port of boundaries: the counts of the tags.

use async_trait::async_trait;
use eventbus::{
    RecordedEvent,
    event::Tag,
    port::{AppendError, ReadError},
    store::{Boundaries, Boundary, BoundaryCondition},
};
use sqlx::Row as _;

use crate::{append, store::PgEventStore};

#[async_trait]
impl Boundaries for PgEventStore {
    async fn count_tagged(&self, boundary: &Boundary) -> Result<BoundaryCondition, ReadError> {
        let query = self.inner().statements().query(include_str!("sql/count_tags.sql"));
        let query = query
            .bind(boundary.tags().iter().map(|tag| tag.as_str()).collect::<Vec<_>>())
            .bind(boundary.tenant_id.unwrap_or_default())
            .bind(boundary.counted_names().collect::<Vec<_>>());
        let rows = self.inner().connections().fetch_all(query).await?;
        let decode = |count: Result<i64, sqlx::Error>| count.map(|count| u64::try_from(count).unwrap_or_default());
        let counts = rows.iter().map(|row| decode(row.try_get(0))).collect::<Result<_, _>>();
        let counts = counts.map_err(|error| ReadError::Unavailable(error.into()))?;
        Ok(BoundaryCondition { boundary: boundary.clone(), counts })
    }

    async fn add_tag(&self, event: &RecordedEvent, tag: &Tag) -> Result<bool, AppendError> {
        append::add_tag(self.inner(), event, tag).await
    }
}
