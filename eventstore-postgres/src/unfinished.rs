//! Unfinished deliveries of the in-process bus: those that wait, and dead letters.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, Position,
    delivery::DeliveryAttempts,
    port::{CheckpointError, DeadDelivery, ProgressUpdate, UnfinishedDeliveries, UnfinishedDelivery},
};
use sqlx::{Row as _, postgres::PgRow};

use crate::{
    record::{decode_position, decode_time},
    store::PgEventStore,
};

/// The name in errors about the dead letters of all groups.
static DEAD_LETTERS_NAME: Name = Name::from_static("dead letters");

#[async_trait]
impl UnfinishedDeliveries for PgEventStore {
    async fn save_progress(&self, group: &Name, update: &ProgressUpdate) -> Result<(), CheckpointError> {
        let ProgressUpdate { checkpoint, unfinished, finished } = update;
        let query = self.inner().statements().query(include_str!("sql/save_progress.sql"));
        let query = query
            .bind(group.as_str())
            .bind(unfinished.iter().map(|row| row.position.as_i64()).collect::<Vec<_>>())
            .bind(unfinished.iter().map(|row| row.attempts.to_json()).collect::<Vec<_>>())
            .bind(unfinished.iter().map(|row| row.dead_since).collect::<Vec<_>>())
            .bind(finished.iter().map(|position| position.as_i64()).collect::<Vec<_>>())
            .bind(checkpoint.as_ref().map(|(name, _)| name.as_str()))
            .bind(checkpoint.as_ref().map(|(_, position)| position.as_i64()));
        self.inner().fetch_progress(group, query, |_| Ok(())).await.map(drop)
    }

    async fn waiting_deliveries(&self, group: &Name) -> Result<Vec<UnfinishedDelivery>, CheckpointError> {
        let query = self.inner().statements().query(include_str!("sql/load_waiting.sql")).bind(group.as_str());
        self.inner().fetch_progress(group, query, decode_waiting).await
    }

    async fn dead_positions(&self, group: &Name, after: Position) -> Result<Vec<Position>, CheckpointError> {
        let query = self.inner().statements().query(include_str!("sql/dead_positions.sql"));
        let query = query.bind(group.as_str()).bind(after.as_i64());
        self.inner().fetch_progress(group, query, |row| decode_position(row, 0)).await
    }

    async fn dead_deliveries(
        &self,
        after: Option<&DeadDelivery>,
        limit: usize,
    ) -> Result<Vec<DeadDelivery>, CheckpointError> {
        let query = self.inner().statements().query(include_str!("sql/load_dead.sql"));
        let query = query
            .bind(after.map(|after| after.dead_since))
            .bind(after.map(|after| after.position.as_i64()))
            .bind(after.map(|after| after.group.as_str()))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        self.inner().fetch_progress(&DEAD_LETTERS_NAME, query, decode_dead).await
    }

    async fn dead_delivery(&self, group: &Name, position: Position) -> Result<Option<DeadDelivery>, CheckpointError> {
        let query = self.inner().statements().query(include_str!("sql/load_dead_one.sql"));
        let query = query.bind(group.as_str()).bind(position.as_i64());
        Ok(self.inner().fetch_progress(group, query, decode_dead).await?.pop())
    }

    async fn count_dead_deliveries(&self, at_most: u64) -> Result<u64, CheckpointError> {
        let query = self.inner().statements().query(include_str!("sql/count_dead.sql"));
        let query = query.bind(i64::try_from(at_most).unwrap_or(i64::MAX));
        let count = |row: &PgRow| Ok(row.try_get::<i64, _>(0)?);
        let counts = self.inner().fetch_progress(&DEAD_LETTERS_NAME, query, count).await?;
        Ok(counts.first().map_or(0, |count| count.unsigned_abs()))
    }

    async fn end_dead_delivery(
        &self,
        group: &Name,
        position: Position,
        retry_with: Option<&DeliveryAttempts>,
    ) -> Result<bool, CheckpointError> {
        let statements = self.inner().statements();
        let query = match retry_with {
            Some(_) => statements.query(include_str!("sql/revive_dead.sql")),
            None => statements.query(include_str!("sql/forget_dead.sql")),
        };
        let mut query = query.bind(group.as_str()).bind(position.as_i64());
        if let Some(attempts) = retry_with {
            query = query.bind(attempts.to_json());
        }
        Ok(!self.inner().fetch_progress(group, query, |_| Ok(())).await?.is_empty())
    }
}

fn decode_waiting(row: &PgRow) -> Result<UnfinishedDelivery, BoxError> {
    let attempts = DeliveryAttempts::from_json(row.try_get(1)?)?;
    Ok(UnfinishedDelivery { position: decode_position(row, 0)?, attempts, dead_since: None })
}

fn decode_dead(row: &PgRow) -> Result<DeadDelivery, BoxError> {
    Ok(DeadDelivery {
        group: Name::new("consumer group", row.try_get::<&str, _>(0)?)?,
        position: decode_position(row, 1)?,
        attempts: DeliveryAttempts::from_json(row.try_get(2)?)?,
        dead_since: decode_time(row.try_get_unchecked(3)?)?,
    })
}
