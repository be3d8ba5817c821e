//! Checkpoints of the readers of the feed, and notes.

use async_trait::async_trait;
use eventbus::{
    Name, Position,
    port::{CheckpointError, Checkpoints, Notes},
};
use rusqlite::Connection;

use crate::{
    query::{execute, query_rows, query_value},
    row::to_position,
    store::SqliteEventStore,
};

#[async_trait]
impl Checkpoints for SqliteEventStore {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        let load = |connection: &Connection, name: &Name| {
            let position = query_value(connection, include_str!("sql/load_checkpoint.sql"), [name.as_str()])?;
            Ok(position.map(|position| to_position(position, || format!("checkpoint `{name}`"))).transpose()?)
        };
        self.inner().read_progress(name, load).await
    }

    async fn save_checkpoint(&self, name: &Name, position: Position) -> Result<(), CheckpointError> {
        let save = move |connection: &Connection, name: &Name| {
            execute(connection, include_str!("sql/save_checkpoint.sql"), (name.as_str(), position.as_i64()))
        };
        self.inner().write_progress(name, save).await.map(drop)
    }

    async fn delete_checkpoint(&self, name: &Name) -> Result<(), CheckpointError> {
        let delete = |connection: &Connection, name: &Name| {
            execute(connection, include_str!("sql/delete_checkpoint.sql"), [name.as_str()])
        };
        self.inner().write_progress(name, delete).await.map(drop)
    }
}

#[async_trait]
impl Notes for SqliteEventStore {
    async fn load_note(&self, name: &Name) -> Result<Option<String>, CheckpointError> {
        let load = |connection: &Connection, name: &Name| {
            Ok(query_value(connection, include_str!("sql/load_note.sql"), [name.as_str()])?)
        };
        self.inner().read_progress(name, load).await
    }

    async fn save_note(&self, name: &Name, text: &str) -> Result<(), CheckpointError> {
        let text = text.to_owned();
        let save = move |connection: &Connection, name: &Name| {
            execute(connection, include_str!("sql/save_note.sql"), (name.as_str(), &text))
        };
        self.inner().write_progress(name, save).await.map(drop)
    }

    async fn delete_note(&self, name: &Name) -> Result<(), CheckpointError> {
        let forget = |connection: &Connection, name: &Name| {
            execute(connection, include_str!("sql/forget_note.sql"), [name.as_str()])
        };
        self.inner().write_progress(name, forget).await.map(drop)
    }

    async fn list_note_names(
        &self,
        prefix: &Name,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Name>, CheckpointError> {
        let after = after.map_or_else(String::new, Name::to_string);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let load = move |connection: &Connection, prefix: &Name| {
            let parameters = (prefix.as_str(), &after, limit);
            query_rows(connection, include_str!("sql/note_names.sql"), parameters, |row| Ok(row.get(0)?))
        };
        let names: Vec<String> = self.inner().read_progress(prefix, load).await?;
        let names = names.into_iter().map(|name| Name::new("note", name));
        names.collect::<Result<_, _>>().map_err(|error| CheckpointError::new(prefix, error))
    }
}
