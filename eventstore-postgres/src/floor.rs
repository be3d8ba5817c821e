//! The floors of a bus: the position below which each group has finished all events.

use std::collections::BTreeMap;

use async_trait::async_trait;
use eventbus::{
    BoxError, Name,
    port::{CheckpointError, Floor, Floors},
};
use sqlx::{Row as _, postgres::PgRow};

use crate::{record::decode_position, store::PgEventStore};

#[async_trait]
impl Floors for PgEventStore {
    async fn floors(&self, destination: &Name) -> Result<Vec<Floor>, CheckpointError> {
        let query = self.inner().statements().query(include_str!("sql/load_floors.sql")).bind(destination.as_str());
        self.inner().fetch_progress(destination, query, decode_floor).await
    }

    async fn save_floors(&self, destination: &Name, floors: &[Floor]) -> Result<(), CheckpointError> {
        // each group once: one statement cannot write a row twice
        let floors: BTreeMap<_, _> = floors.iter().map(|floor| (floor.group.as_str(), floor.position)).collect();
        if floors.is_empty() {
            return Ok(());
        }
        let query = self.inner().statements().query(include_str!("sql/save_floors.sql"));
        let query = query
            .bind(destination.as_str())
            .bind(floors.keys().copied().collect::<Vec<_>>())
            .bind(floors.values().map(|position| position.as_i64()).collect::<Vec<_>>());
        self.inner().fetch_progress(destination, query, |_| Ok(())).await.map(drop)
    }

    async fn forget_floor(&self, destination: &Name, group: &Name) -> Result<(), CheckpointError> {
        let query = self.inner().statements().query(include_str!("sql/forget_floor.sql"));
        let query = query.bind(destination.as_str()).bind(group.as_str());
        self.inner().fetch_progress(destination, query, |_| Ok(())).await.map(drop)
    }
}

fn decode_floor(row: &PgRow) -> Result<Floor, BoxError> {
    let group = Name::new("consumer group", row.try_get::<&str, _>(0)?)?;
    Ok(Floor { group, position: decode_position(row, 1)? })
}
