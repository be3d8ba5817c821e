//! Unfinished deliveries of the groups of the in-process bus.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, Position,
    delivery::DeliveryAttempts,
    port::{CheckpointError, DeadDelivery, ProgressUpdate, ReadError, UnfinishedDeliveries, UnfinishedDelivery},
};
use rusqlite::{Connection, OptionalExtension as _, Params};
use time::OffsetDateTime;

use crate::{
    error::read_error,
    row::{from_micros, to_micros, to_position},
    store::SqliteEventStore,
};

/// Name in errors about the dead letters of all groups.
static DEAD_LETTERS_NAME: Name = Name::from_static("dead letters");

#[async_trait]
impl UnfinishedDeliveries for SqliteEventStore {
    async fn save_progress(&self, group: &Name, update: &ProgressUpdate) -> Result<(), CheckpointError> {
        let (key, update) = (group.clone(), update.clone());
        let save = move |connection: &Connection| write_progress(connection, &key, &update);
        self.writer().write(save).await.map_err(|error| CheckpointError::new(group, error))
    }

    async fn waiting_deliveries(&self, group: &Name) -> Result<Vec<UnfinishedDelivery>, CheckpointError> {
        let key = group.clone();
        let load = move |connection: &Connection| load_waiting(connection, &key);
        self.readers().read(load).await.map_err(|error| CheckpointError::new(group, error))
    }

    async fn dead_positions(&self, group: &Name, after: Position) -> Result<Vec<Position>, CheckpointError> {
        let key = group.clone();
        let load = move |connection: &Connection| {
            let parameters = (key.as_str(), after.as_i64());
            let rows: Vec<i64> =
                query_rows(connection, include_str!("sql/dead_positions.sql"), parameters, |row| row.get(0))?;
            rows.into_iter().map(|position| to_position(position, || describe_row(&key))).collect()
        };
        self.readers().read(load).await.map_err(|error| CheckpointError::new(group, error))
    }

    async fn dead_deliveries(
        &self,
        after: Option<&DeadDelivery>,
        limit: usize,
    ) -> Result<Vec<DeadDelivery>, CheckpointError> {
        let after = after.map_or((i64::MIN, 0, String::new()), |after| {
            (to_micros(after.dead_since), after.position.as_i64(), after.group.to_string())
        });
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let load = move |connection: &Connection| {
            let (since, position, group) = &after;
            load_dead(connection, include_str!("sql/load_dead.sql"), (since, position, group.as_str(), limit))
        };
        self.readers().read(load).await.map_err(|error| CheckpointError::new(&DEAD_LETTERS_NAME, error))
    }

    async fn dead_delivery(&self, group: &Name, position: Position) -> Result<Option<DeadDelivery>, CheckpointError> {
        let key = group.clone();
        let load = move |connection: &Connection| {
            load_dead(connection, include_str!("sql/load_dead_one.sql"), (key.as_str(), position.as_i64()))
        };
        let found = self.readers().read(load).await.map_err(|error| CheckpointError::new(group, error))?;
        Ok(found.into_iter().next())
    }

    async fn count_dead_deliveries(&self) -> Result<u64, CheckpointError> {
        let count = |connection: &Connection| {
            let sql = include_str!("sql/count_dead.sql");
            let count: Option<i64> = connection.query_row(sql, [], |row| row.get(0)).optional().map_err(read_error)?;
            Ok(count.unwrap_or(0).unsigned_abs())
        };
        self.readers().read(count).await.map_err(|error| CheckpointError::new(&DEAD_LETTERS_NAME, error))
    }

    async fn end_dead_delivery(
        &self,
        group: &Name,
        position: Position,
        retry_with: Option<&DeliveryAttempts>,
    ) -> Result<bool, CheckpointError> {
        let (key, position, attempts) = (group.clone(), position.as_i64(), retry_with.map(DeliveryAttempts::to_json));
        let end = move |connection: &Connection| {
            let changed = match &attempts {
                Some(delivery_attempts) => connection
                    .prepare_cached(include_str!("sql/revive_dead.sql"))?
                    .execute((key.as_str(), position, delivery_attempts))?,
                None => {
                    connection.prepare_cached(include_str!("sql/forget_dead.sql"))?.execute((key.as_str(), position))?
                }
            };
            Ok(changed > 0)
        };
        self.writer().write(end).await.map_err(|error| CheckpointError::new(group, error))
    }
}

/// Writes rows and checkpoint in the transaction of the batch.
fn write_progress(connection: &Connection, group: &Name, update: &ProgressUpdate) -> rusqlite::Result<()> {
    let mut save = connection.prepare_cached(include_str!("sql/save_unfinished.sql"))?;
    for row in &update.unfinished {
        let dead_since = row.dead_since.map(to_micros);
        save.execute((group.as_str(), row.position.as_i64(), row.attempts.to_json(), dead_since))?;
    }
    let mut forget = connection.prepare_cached(include_str!("sql/forget_unfinished.sql"))?;
    for position in &update.finished {
        forget.execute((group.as_str(), position.as_i64()))?;
    }
    if let Some((name, position)) = &update.checkpoint {
        let mut save = connection.prepare_cached(include_str!("sql/save_checkpoint.sql"))?;
        save.execute((name.as_str(), position.as_i64()))?;
    }
    Ok(())
}

fn load_waiting(connection: &Connection, group: &Name) -> Result<Vec<UnfinishedDelivery>, ReadError> {
    let sql = include_str!("sql/load_waiting.sql");
    let rows: Vec<(i64, String)> = query_rows(connection, sql, [group.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let waiting = |(position, attempts): (i64, String)| {
        let position = to_position(position, || describe_row(group))?;
        let delivery_attempts = DeliveryAttempts::from_json(&attempts).map_err(|error| corrupt(group, error))?;
        Ok(UnfinishedDelivery { position, attempts: delivery_attempts, dead_since: None })
    };
    rows.into_iter().map(waiting).collect()
}

fn load_dead(connection: &Connection, sql: &str, parameters: impl Params) -> Result<Vec<DeadDelivery>, ReadError> {
    let rows: Vec<(String, i64, String, i64)> =
        query_rows(connection, sql, parameters, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    let dead = |(group, position, attempts, since): (String, i64, String, i64)| {
        let group = Name::new("consumer group", group).map_err(|error| corrupt(&DEAD_LETTERS_NAME, error))?;
        let position = to_position(position, || describe_row(&group))?;
        let delivery_attempts = DeliveryAttempts::from_json(&attempts).map_err(|error| corrupt(&group, error))?;
        let dead_since: OffsetDateTime = from_micros(since).map_err(|error| corrupt(&group, error))?;
        Ok(DeadDelivery { group, position, attempts: delivery_attempts, dead_since })
    };
    rows.into_iter().map(dead).collect()
}

fn query_rows<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, ReadError> {
    let mut statement = connection.prepare_cached(sql).map_err(read_error)?;
    let rows = statement.query_map(parameters, read).map_err(read_error)?;
    rows.collect::<rusqlite::Result<_>>().map_err(read_error)
}

fn describe_row(group: &Name) -> String {
    format!("an unfinished delivery of `{group}`")
}

fn corrupt(group: &Name, source: impl Into<BoxError>) -> ReadError {
    ReadError::corrupt(describe_row(group), source)
}
