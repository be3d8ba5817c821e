//! The hash of stored event types.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, Position,
    port::{EventTypes, ReadError, StoredEventType},
};

use crate::{RedisEventStore, commands, error::corrupt_key, read::query};

#[async_trait]
impl EventTypes for RedisEventStore {
    async fn stored_event_types(&self) -> Result<Vec<StoredEventType>, ReadError> {
        let key = self.inner().keys().event_types();
        let rows: Vec<(String, String)> = query(self.inner(), &commands::hash(&key)).await?;
        let types: Result<Vec<_>, BoxError> = rows.iter().map(parse_stored_type).collect();
        let mut types = types.map_err(|source| corrupt_key(&key, source))?;
        types.sort_unstable_by(|one, two| one.event_type.cmp(&two.event_type));
        types.iter().for_each(|stored| self.inner().known_event_types().add(&stored.event_type, stored.schema_version));
        Ok(types)
    }
}

fn parse_stored_type((event_type, listed): &(String, String)) -> Result<StoredEventType, BoxError> {
    let (schema_version, position) = listed.split_once(' ').ok_or("a field has no position")?;
    Ok(StoredEventType {
        event_type: Name::new("event type", event_type.as_str())?,
        schema_version: schema_version.parse()?,
        first_position: Position::new(position.parse()?),
    })
}
