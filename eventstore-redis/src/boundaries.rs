//! Counting the events of a boundary, and adding a tag to a stored event.

use async_trait::async_trait;
use eventbus::{
    RecordedEvent,
    event::{TAGS_MAX, Tag},
    port::{AppendError, ReadError},
    store::{Boundaries, Boundary, BoundaryCondition, BoundaryRead},
    support::{count_then_read, no_such_event, too_many_tags},
};
use eventbus_redis_core::{
    error::CommandError,
    reply::{self, request},
};

use crate::{
    RedisEventStore,
    commit::tags,
    error::{append_error, corrupt_key, read_error},
    read::query_all,
    script::ADD_TAG,
};

#[async_trait]
impl Boundaries for RedisEventStore {
    async fn count_tagged(&self, boundary: &Boundary) -> Result<BoundaryCondition, ReadError> {
        let mut condition = BoundaryCondition { boundary: boundary.clone(), counts: vec![0; boundary.tags().len()] };
        if condition.counts.is_empty() {
            return Ok(condition);
        }
        let keys: Vec<_> = tags::counted_keys(&condition, self.inner().keys()).collect();
        let names: Vec<_> = boundary.counted_names().collect();
        let replies = query_all(self.inner(), keys.iter().map(|key| request("HMGET", (key, &names)))).await?;
        for ((key, reply), count) in keys.iter().zip(replies).zip(&mut condition.counts) {
            let key = self.inner().keys().shown(key);
            let reply = reply.map_err(|error| read_error(&key, CommandError::Sent(error)))?;
            let counts: Vec<Option<u64>> = reply::parse_value(reply).map_err(|error| corrupt_key(&key, error))?;
            *count = counts.into_iter().flatten().sum();
        }
        Ok(condition)
    }

    async fn read_boundary<'s>(&'s self, boundary: &Boundary) -> Result<BoundaryRead<'s>, ReadError> {
        count_then_read(self, boundary).await
    }

    async fn add_tag(&self, event: &RecordedEvent, tag: &Tag) -> Result<bool, AppendError> {
        let (keys, metadata) = (self.inner().keys(), event.metadata());
        let stream = metadata.stream();
        let mut script = ADD_TAG.prepare_invoke();
        script.key(keys.stream(stream)).key(keys.added_tags()).key(keys.tags(stream.tenant_id(), tag));
        script.key(tags::position_sets(keys, stream.tenant_id(), tag));
        script.arg(event.version().get()).arg(metadata.event_id().to_string()).arg(tag.as_str()).arg(TAGS_MAX);
        // may run twice: the second run finds the tag of the first
        let added = self.inner().connection().run_idempotent_or_unknown::<String>(&script).await;
        match added.map_err(|error| append_error(stream, error))?.0.as_str() {
            "missing" => Err(no_such_event(event)),
            "full" => Err(too_many_tags(event)),
            added => Ok(added == "added"),
        }
    }
}
