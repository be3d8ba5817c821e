//! The port of unique values.

use async_trait::async_trait;
use eventbus::{
    ExpectedVersion, StreamId, Version,
    event::UniqueChange,
    port::{Append, AppendError, ReadError},
    store::{UniqueKey, UniqueValues},
    support::last_of_each_name,
};
use eventbus_redis_core::reply::request;

use crate::{RedisEventStore, append::append_together, read::query, value_change::ValueChange};

#[async_trait]
impl UniqueValues for RedisEventStore {
    async fn find_holder(&self, key: &UniqueKey) -> Result<Option<StreamId>, ReadError> {
        let holders = self.inner().keys().unique_holders(key.tenant_id(), &key.scope());
        let command = request("HGET", (holders, key.value()));
        let found: Option<String> = query(self.inner(), &command).await?;
        let Some(id) = found else { return Ok(None) };
        let stream = StreamId::parse(key.aggregate_type(), &id);
        let stream =
            stream.map_err(|source| ReadError::corrupt(format!("the holder of a `{}`", key.scope()), source))?;
        Ok(Some(stream.with_tenant_id(key.tenant_id())))
    }

    async fn assign(&self, stream: &StreamId, version: Version, changes: &[UniqueChange]) -> Result<(), AppendError> {
        let check = Append { stream: stream.clone(), expected: ExpectedVersion::Exact(version), events: Vec::new() };
        let changes = last_of_each_name(changes).into_iter().map(|change| ValueChange::new(stream.clone(), change));
        let changes: Vec<_> = changes.collect();
        append_together(self.inner(), vec![check], None, &changes).await.map(drop)
    }
}
