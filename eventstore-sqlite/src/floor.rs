//! Low-water marks of the consumer groups of a bus.

use async_trait::async_trait;
use eventbus::{
    Name,
    port::{CheckpointError, Floor, Floors, ReadError},
};
use rusqlite::{Connection, Row};

use crate::{
    query::{QueryError, execute, query_rows},
    row::to_position,
    store::SqliteEventStore,
};

#[async_trait]
impl Floors for SqliteEventStore {
    async fn floors(&self, destination: &Name) -> Result<Vec<Floor>, CheckpointError> {
        let load = |connection: &Connection, destination: &Name| {
            let sql = include_str!("sql/load_floors.sql");
            query_rows(connection, sql, [destination.as_str()], |row| read_floor(row, destination))
        };
        self.inner().read_progress(destination, load).await
    }

    async fn save_floors(&self, destination: &Name, floors: &[Floor]) -> Result<(), CheckpointError> {
        let floors = floors.to_vec();
        let save = move |connection: &Connection, destination: &Name| {
            floors.iter().try_for_each(|Floor { group, position }| {
                let row = (destination.as_str(), group.as_str(), position.as_i64());
                execute(connection, include_str!("sql/save_floor.sql"), row).map(drop)
            })
        };
        self.inner().write_progress(destination, save).await
    }

    async fn forget_floor(&self, destination: &Name, group: &Name) -> Result<(), CheckpointError> {
        let group = group.clone();
        let forget = move |connection: &Connection, destination: &Name| {
            execute(connection, include_str!("sql/forget_floor.sql"), (destination.as_str(), group.as_str()))
        };
        self.inner().write_progress(destination, forget).await.map(drop)
    }
}

fn read_floor(row: &Row<'_>, destination: &Name) -> Result<Floor, QueryError> {
    let place = || format!("a floor of `{destination}`");
    let group = Name::new("consumer group", row.get::<_, String>(0)?);
    let group = group.map_err(|error| ReadError::corrupt(place(), error))?;
    Ok(Floor { group, position: to_position(row.get(1)?, place)? })
}
