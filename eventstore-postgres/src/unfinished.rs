//! Unfinished deliveries of the in-process bus: those that wait, and dead letters.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, Position,
    delivery::DeliveryAttempts,
    port::{CheckpointError, DeadDelivery, ProgressUpdate, UnfinishedDeliveries, UnfinishedDelivery},
};
use sqlx::{Row, postgres::PgRow};

use crate::{pool::Query, record::decode_time, store::PgEventStore, store_inner::StoreInner};

/// The name in errors about the dead letters of all groups.
static DEAD_LETTERS_NAME: Name = Name::from_static("dead letters");

#[async_trait]
impl UnfinishedDeliveries for PgEventStore {
    async fn save_progress(&self, group: &Name, update: &ProgressUpdate) -> Result<(), CheckpointError> {
        let ProgressUpdate { checkpoint, unfinished, finished } = update;
        let query = sqlx::query(self.inner().statements().save_progress.clone())
            .bind(group.as_str())
            .bind(unfinished.iter().map(|row| row.position.as_i64()).collect::<Vec<_>>())
            .bind(unfinished.iter().map(|row| row.attempts.to_json()).collect::<Vec<_>>())
            .bind(unfinished.iter().map(|row| row.dead_since).collect::<Vec<_>>())
            .bind(finished.iter().map(|position| position.as_i64()).collect::<Vec<_>>())
            .bind(checkpoint.as_ref().map(|(name, _)| name.as_str()))
            .bind(checkpoint.as_ref().map(|(_, position)| position.as_i64()));
        fetch_unfinished_rows(self.inner(), group, query).await.map(drop)
    }

    async fn waiting_deliveries(&self, group: &Name) -> Result<Vec<UnfinishedDelivery>, CheckpointError> {
        let query = sqlx::query(self.inner().statements().load_waiting_deliveries.clone()).bind(group.as_str());
        let rows = fetch_unfinished_rows(self.inner(), group, query).await?;
        rows.iter().map(|row| decode_waiting(row).map_err(|error| CheckpointError::new(group, error))).collect()
    }

    async fn dead_positions(&self, group: &Name, after: Position) -> Result<Vec<Position>, CheckpointError> {
        let query = sqlx::query(self.inner().statements().load_dead_positions.clone())
            .bind(group.as_str())
            .bind(after.as_i64());
        let rows = fetch_unfinished_rows(self.inner(), group, query).await?;
        rows.iter().map(|row| decode_position(row, 0).map_err(|error| CheckpointError::new(group, error))).collect()
    }

    async fn dead_deliveries(
        &self,
        after: Option<&DeadDelivery>,
        limit: usize,
    ) -> Result<Vec<DeadDelivery>, CheckpointError> {
        let query = sqlx::query(self.inner().statements().load_dead_deliveries.clone())
            .bind(after.map(|after| after.dead_since))
            .bind(after.map(|after| after.position.as_i64()))
            .bind(after.map(|after| after.group.as_str()))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = fetch_unfinished_rows(self.inner(), &DEAD_LETTERS_NAME, query).await?;
        rows.iter()
            .map(|row| decode_dead(row).map_err(|error| CheckpointError::new(&DEAD_LETTERS_NAME, error)))
            .collect()
    }

    async fn dead_delivery(&self, group: &Name, position: Position) -> Result<Option<DeadDelivery>, CheckpointError> {
        let query = sqlx::query(self.inner().statements().load_dead_delivery.clone())
            .bind(group.as_str())
            .bind(position.as_i64());
        let rows = fetch_unfinished_rows(self.inner(), group, query).await?;
        rows.first().map(decode_dead).transpose().map_err(|error| CheckpointError::new(group, error))
    }

    async fn count_dead_deliveries(&self) -> Result<u64, CheckpointError> {
        let rows = fetch_unfinished_rows(
            self.inner(),
            &DEAD_LETTERS_NAME,
            sqlx::query(self.inner().statements().count_dead_deliveries.clone()),
        )
        .await?;
        let unreadable = |error: sqlx::Error| CheckpointError::new(&DEAD_LETTERS_NAME, error);
        let count = rows.first().map(|row| row.try_get::<i64, _>(0)).transpose().map_err(unreadable)?;
        Ok(count.unwrap_or(0).unsigned_abs())
    }

    async fn end_dead_delivery(
        &self,
        group: &Name,
        position: Position,
        retry_with: Option<&DeliveryAttempts>,
    ) -> Result<bool, CheckpointError> {
        let sql = if retry_with.is_some() {
            &self.inner().statements().requeue_dead_delivery
        } else {
            &self.inner().statements().delete_dead_delivery
        };
        let mut query = sqlx::query(sql.clone()).bind(group.as_str()).bind(position.as_i64());
        if let Some(attempts) = retry_with {
            query = query.bind(attempts.to_json());
        }
        Ok(!fetch_unfinished_rows(self.inner(), group, query).await?.is_empty())
    }
}

async fn fetch_unfinished_rows(
    inner: &StoreInner,
    name: &Name,
    query: Query<'_>,
) -> Result<Vec<PgRow>, CheckpointError> {
    inner.connections().fetch_all(query).await.map_err(|fault| fault.into_checkpoint_error(name))
}

fn decode_position(row: &PgRow, column: usize) -> Result<Position, BoxError> {
    Ok(Position::new(u64::try_from(row.try_get::<i64, _>(column)?)?))
}

fn decode_waiting(row: &PgRow) -> Result<UnfinishedDelivery, BoxError> {
    let attempts = DeliveryAttempts::from_json(row.try_get(1)?)?;
    Ok(UnfinishedDelivery { position: decode_position(row, 0)?, attempts, dead_since: None })
}

fn decode_dead(row: &PgRow) -> Result<DeadDelivery, BoxError> {
    let group = Name::new("consumer group", row.try_get::<&str, _>(0)?)?;
    let attempts = DeliveryAttempts::from_json(row.try_get(2)?)?;
    Ok(DeadDelivery {
        group,
        position: decode_position(row, 1)?,
        attempts,
        dead_since: decode_time(row.try_get_unchecked(3)?)?,
    })
}
