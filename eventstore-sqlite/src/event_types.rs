//! The table of stored event types.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name,
    port::{EventTypes, ReadError, StoredEventType},
};
use rusqlite::Row;

use crate::{
    query::{QueryError, query_rows},
    row::to_position,
    store::SqliteEventStore,
};

#[async_trait]
impl EventTypes for SqliteEventStore {
    async fn stored_event_types(&self) -> Result<Vec<StoredEventType>, ReadError> {
        let sql = include_str!("sql/event_types.sql");
        let types = self.readers().read(|connection| query_rows(connection, sql, [], read_type)).await?;
        types.iter().for_each(|stored| self.writer().listed_types().add(&stored.event_type, stored.schema_version));
        Ok(types)
    }
}

fn read_type(row: &Row<'_>) -> Result<StoredEventType, QueryError> {
    let event_type: String = row.get(0)?;
    let place = || format!("the row of event type `{event_type}`");
    let corrupt = |source: BoxError| ReadError::corrupt(place(), source);
    Ok(StoredEventType {
        schema_version: u32::try_from(row.get::<_, i64>(1)?).map_err(|error| corrupt(error.into()))?,
        first_position: to_position(row.get(2)?, place)?,
        event_type: Name::new("event type", event_type.as_str()).map_err(|error| corrupt(error.into()))?,
    })
}
