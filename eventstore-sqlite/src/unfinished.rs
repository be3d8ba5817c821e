//! Unfinished deliveries of the groups of the in-process bus.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, Position,
    delivery::DeliveryAttempts,
    port::{CheckpointError, DeadDelivery, ProgressUpdate, ReadError, UnfinishedDeliveries, UnfinishedDelivery},
};
use rusqlite::{Connection, Row};

use crate::{
    query::{QueryError, execute, query_rows, query_value},
    row::{from_micros, to_micros, to_position},
    store::SqliteEventStore,
};

/// Name in errors about the dead letters of all groups.
static DEAD_LETTERS_NAME: Name = Name::from_static("dead letters");

#[async_trait]
impl UnfinishedDeliveries for SqliteEventStore {
    async fn save_progress(&self, group: &Name, update: &ProgressUpdate) -> Result<(), CheckpointError> {
        let update = update.clone();
        let save = move |connection: &Connection, group: &Name| save_update(connection, group, &update);
        self.inner().write_progress(group, save).await
    }

    async fn waiting_deliveries(&self, group: &Name) -> Result<Vec<UnfinishedDelivery>, CheckpointError> {
        let load = |connection: &Connection, group: &Name| {
            let sql = include_str!("sql/load_waiting.sql");
            query_rows(connection, sql, [group.as_str()], |row| read_waiting(row, group))
        };
        self.inner().read_progress(group, load).await
    }

    async fn dead_positions(&self, group: &Name, after: Position) -> Result<Vec<Position>, CheckpointError> {
        let load = move |connection: &Connection, group: &Name| {
            let (sql, parameters) = (include_str!("sql/dead_positions.sql"), (group.as_str(), after.as_i64()));
            query_rows(connection, sql, parameters, |row| Ok(to_position(row.get(0)?, || describe_row(group))?))
        };
        self.inner().read_progress(group, load).await
    }

    async fn dead_deliveries(
        &self,
        after: Option<&DeadDelivery>,
        limit: usize,
    ) -> Result<Vec<DeadDelivery>, CheckpointError> {
        let (since, position, group) = after.map_or((i64::MIN, 0, String::new()), |after| {
            (to_micros(after.dead_since), after.position.as_i64(), after.group.to_string())
        });
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let load = move |connection: &Connection, _: &Name| {
            let parameters = (since, position, group.as_str(), limit);
            query_rows(connection, include_str!("sql/load_dead.sql"), parameters, read_dead)
        };
        self.inner().read_progress(&DEAD_LETTERS_NAME, load).await
    }

    async fn dead_delivery(&self, group: &Name, position: Position) -> Result<Option<DeadDelivery>, CheckpointError> {
        let load = move |connection: &Connection, group: &Name| {
            let parameters = (group.as_str(), position.as_i64());
            query_rows(connection, include_str!("sql/load_dead_one.sql"), parameters, read_dead)
        };
        Ok(self.inner().read_progress(group, load).await?.pop())
    }

    async fn count_dead_deliveries(&self, at_most: u64) -> Result<u64, CheckpointError> {
        let at_most = i64::try_from(at_most).unwrap_or(i64::MAX);
        let count = move |connection: &Connection, _: &Name| {
            let count: Option<i64> = query_value(connection, include_str!("sql/count_dead.sql"), [at_most])?;
            Ok(count.unwrap_or(0).unsigned_abs())
        };
        self.inner().read_progress(&DEAD_LETTERS_NAME, count).await
    }

    async fn end_dead_delivery(
        &self,
        group: &Name,
        position: Position,
        retry_with: Option<&DeliveryAttempts>,
    ) -> Result<bool, CheckpointError> {
        let (position, attempts) = (position.as_i64(), retry_with.map(DeliveryAttempts::to_json));
        let end = move |connection: &Connection, group: &Name| match &attempts {
            Some(attempts) => {
                execute(connection, include_str!("sql/revive_dead.sql"), (group.as_str(), position, attempts))
            }
            None => execute(connection, include_str!("sql/forget_dead.sql"), (group.as_str(), position)),
        };
        Ok(self.inner().write_progress(group, end).await? > 0)
    }
}

/// Writes rows and checkpoint in the transaction of the batch.
fn save_update(connection: &Connection, group: &Name, update: &ProgressUpdate) -> rusqlite::Result<()> {
    for row in &update.unfinished {
        let dead_since = row.dead_since.map(to_micros);
        let row = (group.as_str(), row.position.as_i64(), row.attempts.to_json(), dead_since);
        execute(connection, include_str!("sql/save_unfinished.sql"), row)?;
    }
    for position in &update.finished {
        execute(connection, include_str!("sql/forget_unfinished.sql"), (group.as_str(), position.as_i64()))?;
    }
    if let Some((name, position)) = &update.checkpoint {
        execute(connection, include_str!("sql/save_checkpoint.sql"), (name.as_str(), position.as_i64()))?;
    }
    Ok(())
}

fn read_waiting(row: &Row<'_>, group: &Name) -> Result<UnfinishedDelivery, QueryError> {
    let position = to_position(row.get(0)?, || describe_row(group))?;
    let attempts = DeliveryAttempts::from_json(&row.get::<_, String>(1)?).map_err(|error| corrupt(group, error))?;
    Ok(UnfinishedDelivery { position, attempts, dead_since: None })
}

fn read_dead(row: &Row<'_>) -> Result<DeadDelivery, QueryError> {
    let group = Name::new("consumer group", row.get::<_, String>(0)?);
    let group = group.map_err(|error| corrupt(&DEAD_LETTERS_NAME, error))?;
    let position = to_position(row.get(1)?, || describe_row(&group))?;
    let attempts = DeliveryAttempts::from_json(&row.get::<_, String>(2)?).map_err(|error| corrupt(&group, error))?;
    let dead_since = from_micros(row.get(3)?).map_err(|error| corrupt(&group, error))?;
    Ok(DeadDelivery { group, position, attempts, dead_since })
}

fn describe_row(group: &Name) -> String {
    format!("an unfinished delivery of `{group}`")
}

fn corrupt(group: &Name, source: impl Into<BoxError>) -> ReadError {
    ReadError::corrupt(describe_row(group), source)
}
