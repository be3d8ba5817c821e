//! Checkpoints: the positions that readers of the feed have reached, and their notes.

use async_trait::async_trait;
use eventbus::{
    Name, Position,
    port::{CheckpointError, Checkpoints, Notes},
};
use sqlx::{Row as _, postgres::PgRow};

use crate::{record::decode_position, store::PgEventStore};

#[async_trait]
impl Checkpoints for PgEventStore {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        let query = self.inner().statements().query(include_str!("sql/load_checkpoint.sql")).bind(name.as_str());
        Ok(self.inner().fetch_progress(name, query, |row| decode_position(row, 0)).await?.pop())
    }

    async fn load_checkpoints(&self, names: &[Name]) -> Result<Vec<Option<Position>>, CheckpointError> {
        let Some(first) = names.first() else {
            return Ok(Vec::new());
        };
        let query = self.inner().statements().query(include_str!("sql/load_checkpoints.sql"));
        let query = query.bind(names.iter().map(Name::as_str).collect::<Vec<_>>());
        let position = |row: &PgRow| match row.try_get::<Option<i64>, _>(0)? {
            Some(_) => decode_position(row, 0).map(Some),
            None => Ok(None),
        };
        self.inner().fetch_progress(first, query, position).await
    }

    async fn save_checkpoint(&self, name: &Name, position: Position) -> Result<(), CheckpointError> {
        let query = self.inner().statements().query(include_str!("sql/save_checkpoint.sql"));
        let query = query.bind(name.as_str()).bind(position.as_i64());
        self.inner().fetch_progress(name, query, |_| Ok(())).await.map(drop)
    }

    async fn delete_checkpoint(&self, name: &Name) -> Result<(), CheckpointError> {
        let query = self.inner().statements().query(include_str!("sql/take_checkpoint.sql")).bind(name.as_str());
        self.inner().fetch_progress(name, query, |_| Ok(())).await.map(drop)
    }
}

#[async_trait]
impl Notes for PgEventStore {
    async fn load_note(&self, name: &Name) -> Result<Option<String>, CheckpointError> {
        let query = self.inner().statements().query(include_str!("sql/load_note.sql")).bind(name.as_str());
        Ok(self.inner().fetch_progress(name, query, |row| Ok(row.try_get(0)?)).await?.pop())
    }

    async fn save_note(&self, name: &Name, text: &str) -> Result<(), CheckpointError> {
        let query = self.inner().statements().query(include_str!("sql/save_note.sql")).bind(name.as_str()).bind(text);
        self.inner().fetch_progress(name, query, |_| Ok(())).await.map(drop)
    }

    async fn delete_note(&self, name: &Name) -> Result<(), CheckpointError> {
        let query = self.inner().statements().query(include_str!("sql/forget_note.sql")).bind(name.as_str());
        self.inner().fetch_progress(name, query, |_| Ok(())).await.map(drop)
    }

    async fn list_note_names(
        &self,
        prefix: &Name,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Name>, CheckpointError> {
        let query = self.inner().statements().query(include_str!("sql/note_names.sql"));
        let query = query
            .bind(prefix.as_str())
            .bind(after.map_or("", Name::as_str))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        self.inner().fetch_progress(prefix, query, |row| Ok(Name::new("note", row.try_get::<&str, _>(0)?)?)).await
    }
}
