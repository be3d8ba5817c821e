//! The table of stored event types.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name,
    port::{EventTypes, ReadError, StoredEventType},
};
use rusqlite::Connection;

use crate::{error::read_error, row::to_position, store::SqliteEventStore};

#[async_trait]
impl EventTypes for SqliteEventStore {
    async fn stored_event_types(&self) -> Result<Vec<StoredEventType>, ReadError> {
        let types = self.readers().read(load_types).await?;
        types.iter().for_each(|stored| self.writer().listed_types().add(&stored.event_type, stored.schema_version));
        Ok(types)
    }
}

fn load_types(connection: &Connection) -> Result<Vec<StoredEventType>, ReadError> {
    let mut statement = connection.prepare_cached(include_str!("sql/event_types.sql")).map_err(read_error)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).map_err(read_error)?;
    let stored = |row: rusqlite::Result<(String, i64, i64)>| {
        let (event_type, schema_version, first_position) = row.map_err(read_error)?;
        let place = || format!("the row of event type `{event_type}`");
        let corrupt = |source: BoxError| ReadError::corrupt(place(), source);
        Ok(StoredEventType {
            schema_version: u32::try_from(schema_version).map_err(|error| corrupt(error.into()))?,
            first_position: to_position(first_position, place)?,
            event_type: Name::new("event type", event_type.as_str()).map_err(|error| corrupt(error.into()))?,
        })
    };
    rows.map(stored).collect()
}
