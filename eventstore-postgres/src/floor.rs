//! The floors of a bus: the position below which each group has finished all events.

use std::collections::BTreeMap;

use async_trait::async_trait;
use eventbus::{
    Name, Position,
    port::{CheckpointError, Floor, Floors},
};
use sqlx::{Row, postgres::PgRow};

use crate::{pool::Query, store::PgEventStore, store_inner::StoreInner};

#[async_trait]
impl Floors for PgEventStore {
    async fn floors(&self, destination: &Name) -> Result<Vec<Floor>, CheckpointError> {
        let query = sqlx::query(self.inner().statements().load_floors.clone()).bind(destination.as_str());
        let rows = fetch_floor_rows(self.inner(), destination, query).await?;
        rows.iter().map(|row| decode_floor(destination, row)).collect()
    }

    async fn save_floors(&self, destination: &Name, floors: &[Floor]) -> Result<(), CheckpointError> {
        // each group once: one statement cannot write a row twice
        let floors: BTreeMap<_, _> = floors.iter().map(|floor| (floor.group.as_str(), floor.position)).collect();
        if floors.is_empty() {
            return Ok(());
        }
        let query = sqlx::query(self.inner().statements().save_floors.clone())
            .bind(destination.as_str())
            .bind(floors.keys().copied().collect::<Vec<_>>())
            .bind(floors.values().map(|position| position.as_i64()).collect::<Vec<_>>());
        fetch_floor_rows(self.inner(), destination, query).await.map(drop)
    }

    async fn forget_floor(&self, destination: &Name, group: &Name) -> Result<(), CheckpointError> {
        let query =
            sqlx::query(self.inner().statements().forget_floor.clone()).bind(destination.as_str()).bind(group.as_str());
        fetch_floor_rows(self.inner(), destination, query).await.map(drop)
    }
}

async fn fetch_floor_rows(
    inner: &StoreInner,
    destination: &Name,
    query: Query<'_>,
) -> Result<Vec<PgRow>, CheckpointError> {
    inner.connections().fetch_all(query).await.map_err(|fault| fault.into_checkpoint_error(destination))
}

fn decode_floor(destination: &Name, row: &PgRow) -> Result<Floor, CheckpointError> {
    let unreadable = |error: sqlx::Error| CheckpointError::new(destination, error);
    let group: &str = row.try_get(0).map_err(unreadable)?;
    let position: i64 = row.try_get(1).map_err(unreadable)?;
    Ok(Floor {
        group: Name::new("consumer group", group).map_err(|error| CheckpointError::new(destination, error))?,
        position: u64::try_from(position)
            .map(Position::new)
            .map_err(|error| CheckpointError::new(destination, error))?,
    })
}
