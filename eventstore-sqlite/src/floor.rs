//! Low-water marks of the consumer groups of a bus.

use async_trait::async_trait;
use eventbus::{
    Name,
    port::{CheckpointError, Floor, Floors, ReadError},
};
use rusqlite::Connection;

use crate::{error::read_error, row::to_position, store::SqliteEventStore};

#[async_trait]
impl Floors for SqliteEventStore {
    async fn floors(&self, destination: &Name) -> Result<Vec<Floor>, CheckpointError> {
        let key = destination.clone();
        let load = move |connection: &Connection| query_floors(connection, &key);
        self.readers().read(load).await.map_err(|error| CheckpointError::new(destination, error))
    }

    async fn save_floors(&self, destination: &Name, floors: &[Floor]) -> Result<(), CheckpointError> {
        let (key, floors) = (destination.clone(), floors.to_vec());
        let save = move |connection: &Connection| {
            let mut save = connection.prepare_cached(include_str!("sql/save_floor.sql"))?;
            for Floor { group, position } in &floors {
                save.execute((key.as_str(), group.as_str(), position.as_i64()))?;
            }
            Ok(())
        };
        self.writer().write(save).await.map_err(|error| CheckpointError::new(destination, error))
    }

    async fn forget_floor(&self, destination: &Name, group: &Name) -> Result<(), CheckpointError> {
        let (key, group) = (destination.clone(), group.clone());
        let forget = move |connection: &Connection| {
            let mut forget = connection.prepare_cached(include_str!("sql/forget_floor.sql"))?;
            forget.execute((key.as_str(), group.as_str())).map(drop)
        };
        self.writer().write(forget).await.map_err(|error| CheckpointError::new(destination, error))
    }
}

fn query_floors(connection: &Connection, destination: &Name) -> Result<Vec<Floor>, ReadError> {
    let rows: Vec<(String, i64)> = connection
        .prepare_cached(include_str!("sql/load_floors.sql"))
        .and_then(|mut statement| {
            let rows = statement.query_map([destination.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect()
        })
        .map_err(read_error)?;
    let place = || format!("a floor of `{destination}`");
    let floor = |(group, position): (String, i64)| {
        let group = Name::new("consumer group", group);
        let group = group.map_err(|error| ReadError::corrupt(place(), error))?;
        Ok(Floor { group, position: to_position(position, place)? })
    };
    rows.into_iter().map(floor).collect()
}
