//! The table of stored event types.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name,
    port::{EventTypes, ReadError, StoredEventType},
};
use sqlx::{Row as _, postgres::PgRow};

use crate::{record::decode_position, store::PgEventStore};

#[async_trait]
impl EventTypes for PgEventStore {
    async fn stored_event_types(&self) -> Result<Vec<StoredEventType>, ReadError> {
        let query = self.inner().statements().query(include_str!("sql/event_types.sql"));
        let rows = self.inner().connections().fetch_all(query).await?;
        let types: Result<Vec<_>, BoxError> = rows.iter().map(decode_event_type).collect();
        let types = types.map_err(|source| ReadError::corrupt("the table of event types", source))?;
        types.iter().for_each(|stored| self.inner().listed_types().add(&stored.event_type, stored.schema_version));
        Ok(types)
    }
}

fn decode_event_type(row: &PgRow) -> Result<StoredEventType, BoxError> {
    Ok(StoredEventType {
        event_type: Name::new("event type", row.try_get::<&str, _>(0)?)?,
        schema_version: u32::try_from(row.try_get::<i32, _>(1)?)?,
        first_position: decode_position(row, 2)?,
    })
}
