//! What groups of the in-process bus have not finished.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, Position,
    port::{CheckpointError, DeadDelivery, ProgressUpdate, ReadError, Tries, UnfinishedDeliveries, UnfinishedDelivery},
};
use rusqlite::{Connection, OptionalExtension as _, Params};
use time::OffsetDateTime;

use crate::{
    checkpoint::to_position,
    error::read_error,
    row::{micros, time_of},
    store::SqliteEventStore,
};

/// What errors about the dead letters of all groups are called after.
static DEAD_LETTERS: Name = Name::from_static("dead letters");

#[async_trait]
impl UnfinishedDeliveries for SqliteEventStore {
    async fn save_progress(&self, group: &Name, update: &ProgressUpdate) -> Result<(), CheckpointError> {
        let (key, update) = (group.clone(), update.clone());
        let save = move |connection: &Connection| save(connection, &key, &update);
        self.writer().write(save).await.map_err(|error| CheckpointError::new(group, error))
    }

    async fn waiting_deliveries(&self, group: &Name) -> Result<Vec<UnfinishedDelivery>, CheckpointError> {
        let key = group.clone();
        let load = move |connection: &Connection| waiting(connection, &key);
        self.readers().read(load).await.map_err(|error| CheckpointError::new(group, error))
    }

    async fn dead_positions(&self, group: &Name, after: Position) -> Result<Vec<Position>, CheckpointError> {
        let key = group.clone();
        let load = move |connection: &Connection| {
            let parameters = (key.as_str(), after.as_i64());
            let rows: Vec<i64> =
                rows(connection, include_str!("sql/dead_positions.sql"), parameters, |row| row.get(0))?;
            rows.into_iter().map(|position| to_position(position, || place(&key))).collect()
        };
        self.readers().read(load).await.map_err(|error| CheckpointError::new(group, error))
    }

    async fn dead_deliveries(
        &self,
        after: Option<&DeadDelivery>,
        limit: usize,
    ) -> Result<Vec<DeadDelivery>, CheckpointError> {
        let after = after.map_or((i64::MIN, 0, String::new()), |after| {
            (micros(after.dead_since), after.position.as_i64(), after.group.to_string())
        });
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let load = move |connection: &Connection| {
            let (since, position, group) = &after;
            dead(connection, include_str!("sql/load_dead.sql"), (since, position, group.as_str(), limit))
        };
        self.readers().read(load).await.map_err(|error| CheckpointError::new(&DEAD_LETTERS, error))
    }

    async fn dead_delivery(&self, group: &Name, position: Position) -> Result<Option<DeadDelivery>, CheckpointError> {
        let key = group.clone();
        let load = move |connection: &Connection| {
            dead(connection, include_str!("sql/load_dead_one.sql"), (key.as_str(), position.as_i64()))
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
        self.readers().read(count).await.map_err(|error| CheckpointError::new(&DEAD_LETTERS, error))
    }

    async fn end_dead_delivery(
        &self,
        group: &Name,
        position: Position,
        again: Option<&Tries>,
    ) -> Result<bool, CheckpointError> {
        let (key, position, tries) = (group.clone(), position.as_i64(), again.map(Tries::to_json));
        let end = move |connection: &Connection| {
            let changed = match &tries {
                Some(tries) => connection.prepare_cached(include_str!("sql/revive_dead.sql"))?.execute((
                    key.as_str(),
                    position,
                    tries,
                ))?,
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
fn save(connection: &Connection, group: &Name, update: &ProgressUpdate) -> rusqlite::Result<()> {
    let mut save = connection.prepare_cached(include_str!("sql/save_unfinished.sql"))?;
    for row in &update.unfinished {
        let dead_since = row.dead_since.map(micros);
        save.execute((group.as_str(), row.position.as_i64(), row.tries.to_json(), dead_since))?;
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

fn waiting(connection: &Connection, group: &Name) -> Result<Vec<UnfinishedDelivery>, ReadError> {
    let sql = include_str!("sql/load_waiting.sql");
    let rows: Vec<(i64, String)> = rows(connection, sql, [group.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let waiting = |(position, tries): (i64, String)| {
        let position = to_position(position, || place(group))?;
        let tries = Tries::from_json(&tries).map_err(|error| corrupt(group, error))?;
        Ok(UnfinishedDelivery { position, tries, dead_since: None })
    };
    rows.into_iter().map(waiting).collect()
}

fn dead(connection: &Connection, sql: &str, parameters: impl Params) -> Result<Vec<DeadDelivery>, ReadError> {
    let rows: Vec<(String, i64, String, i64)> =
        rows(connection, sql, parameters, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
    let dead = |(group, position, tries, since): (String, i64, String, i64)| {
        let group = Name::new("consumer group", group).map_err(|error| corrupt(&DEAD_LETTERS, error))?;
        let position = to_position(position, || place(&group))?;
        let tries = Tries::from_json(&tries).map_err(|error| corrupt(&group, error))?;
        let dead_since: OffsetDateTime = time_of(since).map_err(|error| corrupt(&group, error))?;
        Ok(DeadDelivery { group, position, tries, dead_since })
    };
    rows.into_iter().map(dead).collect()
}

fn rows<T>(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, ReadError> {
    let mut statement = connection.prepare_cached(sql).map_err(read_error)?;
    let rows = statement.query_map(parameters, read).map_err(read_error)?;
    rows.collect::<rusqlite::Result<_>>().map_err(read_error)
}

fn place(group: &Name) -> String {
    format!("an unfinished delivery of `{group}`")
}

fn corrupt(group: &Name, source: impl Into<BoxError>) -> ReadError {
    ReadError::corrupt(place(group), source)
}
