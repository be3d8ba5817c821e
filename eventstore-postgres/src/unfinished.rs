//! What groups of the in-process bus have not finished.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, Position,
    port::{CheckpointError, DeadDelivery, ProgressUpdate, Tries, UnfinishedDeliveries, UnfinishedDelivery},
};
use sqlx::{Row, postgres::PgRow};

use crate::{pool::Query, record::time_of, store::PgEventStore};

/// What errors about the dead letters of all groups are called after.
static DEAD_LETTERS: Name = Name::from_static("dead letters");

#[async_trait]
impl UnfinishedDeliveries for PgEventStore {
    async fn save_progress(&self, group: &Name, update: &ProgressUpdate) -> Result<(), CheckpointError> {
        let ProgressUpdate { checkpoint, unfinished, finished } = update;
        let query = sqlx::query(self.statements.save_progress.clone())
            .bind(group.as_str())
            .bind(unfinished.iter().map(|row| row.position.as_i64()).collect::<Vec<_>>())
            .bind(unfinished.iter().map(|row| row.tries.to_json()).collect::<Vec<_>>())
            .bind(unfinished.iter().map(|row| row.dead_since).collect::<Vec<_>>())
            .bind(finished.iter().map(|position| position.as_i64()).collect::<Vec<_>>())
            .bind(checkpoint.as_ref().map(|(name, _)| name.as_str()))
            .bind(checkpoint.as_ref().map(|(_, position)| position.as_i64()));
        self.unfinished_rows(group, query).await.map(drop)
    }

    async fn waiting_deliveries(&self, group: &Name) -> Result<Vec<UnfinishedDelivery>, CheckpointError> {
        let query = sqlx::query(self.statements.load_waiting.clone()).bind(group.as_str());
        let rows = self.unfinished_rows(group, query).await?;
        rows.iter().map(|row| waiting(row).map_err(|error| CheckpointError::new(group, error))).collect()
    }

    async fn dead_positions(&self, group: &Name, after: Position) -> Result<Vec<Position>, CheckpointError> {
        let query = sqlx::query(self.statements.dead_positions.clone()).bind(group.as_str()).bind(after.as_i64());
        let rows = self.unfinished_rows(group, query).await?;
        rows.iter().map(|row| position(row, 0).map_err(|error| CheckpointError::new(group, error))).collect()
    }

    async fn dead_deliveries(
        &self,
        after: Option<&DeadDelivery>,
        limit: usize,
    ) -> Result<Vec<DeadDelivery>, CheckpointError> {
        let query = sqlx::query(self.statements.load_dead.clone())
            .bind(after.map(|after| after.dead_since))
            .bind(after.map(|after| after.position.as_i64()))
            .bind(after.map(|after| after.group.as_str()))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = self.unfinished_rows(&DEAD_LETTERS, query).await?;
        rows.iter().map(|row| dead(row).map_err(|error| CheckpointError::new(&DEAD_LETTERS, error))).collect()
    }

    async fn dead_delivery(&self, group: &Name, position: Position) -> Result<Option<DeadDelivery>, CheckpointError> {
        let query = sqlx::query(self.statements.load_dead_one.clone()).bind(group.as_str()).bind(position.as_i64());
        let rows = self.unfinished_rows(group, query).await?;
        rows.first().map(dead).transpose().map_err(|error| CheckpointError::new(group, error))
    }

    async fn count_dead_deliveries(&self) -> Result<u64, CheckpointError> {
        let rows = self.unfinished_rows(&DEAD_LETTERS, sqlx::query(self.statements.count_dead.clone())).await?;
        let unreadable = |error: sqlx::Error| CheckpointError::new(&DEAD_LETTERS, error);
        let count = rows.first().map(|row| row.try_get::<i64, _>(0)).transpose().map_err(unreadable)?;
        Ok(count.unwrap_or(0).unsigned_abs())
    }

    async fn end_dead_delivery(
        &self,
        group: &Name,
        position: Position,
        again: Option<&Tries>,
    ) -> Result<bool, CheckpointError> {
        let sql = if again.is_some() { &self.statements.revive_dead } else { &self.statements.forget_dead };
        let mut query = sqlx::query(sql.clone()).bind(group.as_str()).bind(position.as_i64());
        if let Some(tries) = again {
            query = query.bind(tries.to_json());
        }
        Ok(!self.unfinished_rows(group, query).await?.is_empty())
    }
}

impl PgEventStore {
    async fn unfinished_rows(&self, name: &Name, query: Query<'_>) -> Result<Vec<PgRow>, CheckpointError> {
        self.connections.fetch_all(query).await.map_err(|fault| fault.of_checkpoint(name))
    }
}

fn position(row: &PgRow, column: usize) -> Result<Position, BoxError> {
    Ok(Position::new(u64::try_from(row.try_get::<i64, _>(column)?)?))
}

fn waiting(row: &PgRow) -> Result<UnfinishedDelivery, BoxError> {
    let tries = Tries::from_json(row.try_get(1)?)?;
    Ok(UnfinishedDelivery { position: position(row, 0)?, tries, dead_since: None })
}

fn dead(row: &PgRow) -> Result<DeadDelivery, BoxError> {
    let group = Name::new("consumer group", row.try_get::<&str, _>(0)?)?;
    let tries = Tries::from_json(row.try_get(2)?)?;
    Ok(DeadDelivery { group, position: position(row, 1)?, tries, dead_since: time_of(row.try_get_unchecked(3)?)? })
}
