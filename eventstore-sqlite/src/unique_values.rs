//! Unique values: which stream holds one, and taking those of stored events.

use async_trait::async_trait;
use eventbus::{
    StreamId, Version,
    event::UniqueChange,
    port::{AppendError, ReadError},
    store::{UniqueKey, UniqueValues},
    support::last_of_each_name,
};

use crate::{error::append_error, row, store::SqliteEventStore};

#[async_trait]
impl UniqueValues for SqliteEventStore {
    async fn find_holder(&self, key: &UniqueKey) -> Result<Option<StreamId>, ReadError> {
        let key = key.clone();
        self.readers()
            .read(move |connection| {
                let mut statement = connection.prepare_cached(include_str!("sql/stream_of_unique_value.sql"))?;
                let row = (key.value(), key.scope(), key.tenant_or_nil().into_bytes());
                let mut rows = statement.query(row)?;
                let Some(found) = rows.next()? else { return Ok(None) };
                let place = || format!("the stream that holds a `{}`", key.scope());
                row::get_stream(found, [0, 1, 2]).map(Some).map_err(|source| ReadError::corrupt(place(), source).into())
            })
            .await
    }

    async fn assign(&self, stream: &StreamId, version: Version, changes: &[UniqueChange]) -> Result<(), AppendError> {
        let begun = self.begin_transaction().await;
        let mut transaction = begun.map_err(|error| append_error(Some(stream), error))?;
        transaction.assign(stream, version, &last_of_each_name(changes))?;
        transaction.commit_append().await
    }
}
