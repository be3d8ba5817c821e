//! Checkpoints: the positions that readers of the feed have reached, and their notes.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, Position,
    port::{CheckpointError, Checkpoints, Notes},
};
use sqlx::{Row, postgres::PgRow};

use crate::store::PgEventStore;

#[async_trait]
impl Checkpoints for PgEventStore {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        let query = sqlx::query(self.inner().statements().load_checkpoint.clone()).bind(name.as_str());
        let rows = self.inner().connections().fetch_all(query).await;
        let Some(row) = rows.map_err(|fault| fault.into_checkpoint_error(name))?.pop() else {
            return Ok(None);
        };
        let position: i64 = row.try_get(0).map_err(|error| CheckpointError::new(name, error))?;
        u64::try_from(position)
            .map(|position| Some(Position::new(position)))
            .map_err(|error| CheckpointError::new(name, error))
    }

    async fn save_checkpoint(&self, name: &Name, position: Position) -> Result<(), CheckpointError> {
        let query =
            sqlx::query(self.inner().statements().save_checkpoint.clone()).bind(name.as_str()).bind(position.as_i64());
        let saved = self.inner().connections().fetch_all(query).await;
        saved.map(drop).map_err(|fault| fault.into_checkpoint_error(name))
    }
}

#[async_trait]
impl Notes for PgEventStore {
    async fn load_note(&self, name: &Name) -> Result<Option<String>, CheckpointError> {
        let query = sqlx::query(self.inner().statements().load_note.clone()).bind(name.as_str());
        let rows = self.inner().connections().fetch_all(query).await;
        let Some(row) = rows.map_err(|fault| fault.into_checkpoint_error(name))?.pop() else {
            return Ok(None);
        };
        row.try_get(0).map(Some).map_err(|error| CheckpointError::new(name, error))
    }

    async fn save_note(&self, name: &Name, text: &str) -> Result<(), CheckpointError> {
        let query = sqlx::query(self.inner().statements().save_note.clone()).bind(name.as_str()).bind(text.to_owned());
        let saved = self.inner().connections().fetch_all(query).await;
        saved.map(drop).map_err(|fault| fault.into_checkpoint_error(name))
    }

    async fn delete_note(&self, name: &Name) -> Result<(), CheckpointError> {
        let query = sqlx::query(self.inner().statements().delete_note.clone()).bind(name.as_str());
        let forgotten = self.inner().connections().fetch_all(query).await;
        forgotten.map(drop).map_err(|fault| fault.into_checkpoint_error(name))
    }

    async fn list_note_names(
        &self,
        prefix: &Name,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Name>, CheckpointError> {
        let query = sqlx::query(self.inner().statements().list_note_names.clone())
            .bind(prefix.as_str())
            .bind(after.map_or("", Name::as_str))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows =
            self.inner().connections().fetch_all(query).await.map_err(|fault| fault.into_checkpoint_error(prefix))?;
        let name = |row: &PgRow| Ok::<_, BoxError>(Name::new("note", row.try_get::<&str, _>(0)?)?);
        rows.iter().map(|row| name(row).map_err(|error| CheckpointError::new(prefix, error))).collect()
    }
}
