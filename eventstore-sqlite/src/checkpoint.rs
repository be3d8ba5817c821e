//! Checkpoints of the readers of the feed, and notes.

use async_trait::async_trait;
use eventbus::{
    Name, Position,
    port::{CheckpointError, Checkpoints, Notes, ReadError},
};
use rusqlite::{Connection, OptionalExtension as _};

use crate::{error::read_error, row::to_position, store::SqliteEventStore};

#[async_trait]
impl Checkpoints for SqliteEventStore {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        let key = name.clone();
        self.readers()
            .read(move |connection| load_position(connection, &key))
            .await
            .map_err(|error| CheckpointError::new(name, error))
    }

    async fn save_checkpoint(&self, name: &Name, position: Position) -> Result<(), CheckpointError> {
        let key = name.clone();
        let save = move |connection: &Connection| {
            let mut save = connection.prepare_cached(include_str!("sql/save_checkpoint.sql"))?;
            save.execute((key.as_str(), position.as_i64())).map(drop)
        };
        self.writer().write(save).await.map_err(|error| CheckpointError::new(name, error))
    }
}

#[async_trait]
impl Notes for SqliteEventStore {
    async fn load_note(&self, name: &Name) -> Result<Option<String>, CheckpointError> {
        let key = name.clone();
        let load = move |connection: &Connection| {
            let mut load = connection.prepare_cached(include_str!("sql/load_note.sql")).map_err(read_error)?;
            load.query_row([key.as_str()], |row| row.get(0)).optional().map_err(read_error)
        };
        self.readers().read(load).await.map_err(|error| CheckpointError::new(name, error))
    }

    async fn save_note(&self, name: &Name, text: &str) -> Result<(), CheckpointError> {
        let (key, text) = (name.clone(), text.to_owned());
        let save = move |connection: &Connection| {
            let mut save = connection.prepare_cached(include_str!("sql/save_note.sql"))?;
            save.execute((key.as_str(), &text)).map(drop)
        };
        self.writer().write(save).await.map_err(|error| CheckpointError::new(name, error))
    }

    async fn delete_note(&self, name: &Name) -> Result<(), CheckpointError> {
        let key = name.clone();
        let forget = move |connection: &Connection| {
            let mut forget = connection.prepare_cached(include_str!("sql/forget_note.sql"))?;
            forget.execute([key.as_str()]).map(drop)
        };
        self.writer().write(forget).await.map_err(|error| CheckpointError::new(name, error))
    }

    async fn list_note_names(
        &self,
        prefix: &Name,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Name>, CheckpointError> {
        let (stem, after) = (prefix.clone(), after.map_or_else(String::new, Name::to_string));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let load = move |connection: &Connection| {
            let mut load = connection.prepare_cached(include_str!("sql/note_names.sql")).map_err(read_error)?;
            let names = load.query_map((stem.as_str(), &after, limit), |row| row.get(0)).map_err(read_error)?;
            names.collect::<rusqlite::Result<Vec<String>>>().map_err(read_error)
        };
        let names = self.readers().read(load).await.map_err(|error| CheckpointError::new(prefix, error))?;
        let names = names.into_iter().map(|name| Name::new("note", name));
        names.collect::<Result<_, _>>().map_err(|error| CheckpointError::new(prefix, error))
    }
}

fn load_position(connection: &Connection, name: &Name) -> Result<Option<Position>, ReadError> {
    let position: Option<i64> = connection
        .prepare_cached(include_str!("sql/load_checkpoint.sql"))
        .and_then(|mut statement| {
            let row = statement.query_row([name.as_str()], |row| row.get(0));
            row.optional()
        })
        .map_err(read_error)?;
    position.map(|position| to_position(position, || format!("checkpoint `{name}`"))).transpose()
}
