//! Checkpoints and notes of the readers of the feed, and low-water marks of the groups of a bus.

use async_trait::async_trait;
use eventbus::{
    BoxError, Name, Position,
    port::{CheckpointError, Checkpoints, Notes},
};
use eventbus_redis_core::{
    error::boxed,
    reply::{self},
};
use redis::{Cmd, FromRedisValue, ScriptInvocation};

use crate::{
    RedisEventStore, commands,
    inner::StoreInner,
    script::{DELETE_CHECKPOINT, DELETE_NOTE, SAVE_CHECKPOINT, SAVE_NOTE},
};

#[async_trait]
impl Checkpoints for RedisEventStore {
    async fn load_checkpoint(&self, name: &Name) -> Result<Option<Position>, CheckpointError> {
        let key = self.inner().keys().checkpoint(name);
        let saved: Option<String> = query_for(self.inner(), name, &reply::get(&key)).await?;
        saved.map(|text| parse_position(&key, &text)).transpose().map_err(|error| CheckpointError::new(name, error))
    }

    async fn save_checkpoint(&self, name: &Name, position: Position) -> Result<(), CheckpointError> {
        let mut save = SAVE_CHECKPOINT.prepare_invoke();
        save.key(self.inner().keys().checkpoint(name)).key(self.inner().keys().reader_names());
        save.arg(name.as_str()).arg(position.get());
        run_script_for::<()>(self.inner(), name, &save).await
    }

    async fn delete_checkpoint(&self, name: &Name) -> Result<(), CheckpointError> {
        let keys = self.inner().keys();
        let mut delete = DELETE_CHECKPOINT.prepare_invoke();
        delete.key(keys.checkpoint(name)).key(keys.lease(name)).key(keys.reader_names()).arg(name.as_str());
        run_script_for::<()>(self.inner(), name, &delete).await
    }
}

#[async_trait]
impl Notes for RedisEventStore {
    async fn load_note(&self, name: &Name) -> Result<Option<String>, CheckpointError> {
        query_for(self.inner(), name, &reply::get(&self.inner().keys().note(name))).await
    }

    async fn save_note(&self, name: &Name, text: &str) -> Result<(), CheckpointError> {
        let mut save = SAVE_NOTE.prepare_invoke();
        save.key(self.inner().keys().note(name)).key(self.inner().keys().note_names()).arg(name.as_str()).arg(text);
        run_script_for::<()>(self.inner(), name, &save).await
    }

    async fn delete_note(&self, name: &Name) -> Result<(), CheckpointError> {
        let mut delete = DELETE_NOTE.prepare_invoke();
        delete.key(self.inner().keys().note(name)).key(self.inner().keys().note_names()).arg(name.as_str());
        run_script_for::<()>(self.inner(), name, &delete).await
    }

    async fn list_note_names(
        &self,
        prefix: &Name,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<Name>, CheckpointError> {
        let after = after.map(Name::as_str);
        let range = commands::names(&self.inner().keys().note_names(), prefix, after, limit);
        let names: Vec<String> = query_for(self.inner(), prefix, &range).await?;
        let names = names.into_iter().map(|name| Name::new("note", name));
        names.collect::<Result<_, _>>().map_err(|error| CheckpointError::new(prefix, error))
    }
}

pub(crate) async fn query_for<T: FromRedisValue>(
    inner: &StoreInner,
    name: &Name,
    command: &Cmd,
) -> Result<T, CheckpointError> {
    inner.connection().query_idempotent(command).await.map_err(|error| CheckpointError::new(name, boxed(error)))
}

pub(crate) async fn run_script_for<T: FromRedisValue>(
    inner: &StoreInner,
    name: &Name,
    script: &ScriptInvocation<'_>,
) -> Result<T, CheckpointError> {
    inner.connection().run_idempotent(script).await.map_err(|error| CheckpointError::new(name, boxed(error)))
}

pub(crate) fn parse_position(key: &str, text: &str) -> Result<Position, BoxError> {
    let position = text.parse().map_err(|_| {
        let shown: String = text.chars().take(40).flat_map(char::escape_debug).collect();
        format!("key `{key}` holds `{shown}`, which is not a position")
    })?;
    Ok(Position::new(position))
}
