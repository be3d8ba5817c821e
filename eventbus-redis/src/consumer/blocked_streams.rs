//! What a group's stream holds back: aggregates of which earlier events wait in the backlog of the group.
//!
//! A group reads its stream as soon as all that its backlog still has was tried and failed, or is parked behind such.
//! What the stream has of those aggregates follows when the backlog has no more of them.
//!
//! Keep: the consumer knows what is pending on it in the backlog before it takes in anything of the stream. With partitions
//! it asks for what is pending on the owner of the backlog, so that the order holds also where another process owns the
//! partition of the aggregate. Without partitions consumers do not wait for each other, here as in the stream.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use eventbus::{StreamId, port::StopSignal};
use redis::ScriptInvocation;

use super::{Consumer, PARTITION_OWNER, read::RANGE_START};
use crate::{command, connection::CommandError, entry_id::EntryId, keys, script};

/// How often is looked whether something of it is done.
const UNBLOCK_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The last entry in the backlog of each aggregate that is held back.
#[derive(Debug, Default)]
pub(super) struct BlockedStreams {
    stream_by_entry: BTreeMap<EntryId, StreamId>,
    last_entry: HashMap<StreamId, EntryId>,
}

impl BlockedStreams {
    /// Notes an entry. Returns `true` if it is the first of its aggregate.
    fn add(&mut self, id: EntryId, stream: StreamId) -> bool {
        match self.last_entry.get(&stream) {
            Some(last) if *last >= id => return false,
            Some(last) => drop(self.stream_by_entry.remove(last)),
            None => {}
        }
        self.stream_by_entry.insert(id, stream.clone());
        self.last_entry.insert(stream, id).is_none()
    }

    fn remove(&mut self, id: EntryId) -> Option<StreamId> {
        let stream = self.stream_by_entry.remove(&id)?;
        self.last_entry.remove(&stream);
        Some(stream)
    }

    /// Some of the entries, those after an id.
    fn ids_after(&self, id: EntryId) -> Vec<EntryId> {
        self.stream_by_entry.keys().copied().filter(|other| *other > id).take(command::SCRIPT_BATCH_MAX).collect()
    }
}

impl Consumer {
    /// Holds the aggregates back that wait in the group's backlog.
    pub(super) async fn block_streams_in_backlog(&self) -> Result<(), CommandError> {
        if self.bus.is_backlog() {
            return Ok(());
        }
        let mut from = RANGE_START.to_owned();
        while !from.is_empty() {
            let mut list = self.add_backlog_arguments(script::LIST_PENDING_IN_BACKLOG.prepare_invoke());
            list.arg(&from).arg(command::SCRIPT_BATCH_MAX);
            let mut reply: Vec<redis::Value> = self.bus.connection.run_idempotent(&list).await?;
            let entries = reply.split_off(1.min(reply.len()));
            from = reply
                .pop()
                .map(redis::from_redis_value)
                .transpose()
                .map_err(redis::RedisError::from)?
                .unwrap_or_default();
            for entry in entries {
                let (id, aggregate_type, aggregate_id): (String, String, String) =
                    redis::from_redis_value(entry).map_err(redis::RedisError::from)?;
                // what is no event has no aggregate
                if let (Ok(id), Ok(stream)) = (id.parse(), StreamId::parse(&aggregate_type, &aggregate_id))
                    && self.blocked_streams().add(id, stream.clone())
                {
                    self.in_flight.block_streams([&stream]);
                }
            }
        }
        Ok(())
    }

    /// Lets aggregates go on as soon as the backlog has no more of them, until it is to stop.
    pub(super) async fn unblock_streams(&self, stop: &StopSignal) {
        let mut after = EntryId::ZERO;
        while !stop.is_stopped() {
            tokio::select! {
                () = self.bus.config.clock.sleep(UNBLOCK_POLL_INTERVAL) => {}
                () = stop.stopped() => return,
            }
            if let Err(error) = self.unblock_batch(&mut after).await {
                tracing::debug!(group = %self.group, %error, "what waits behind the backlog is looked at later");
            }
        }
    }

    async fn unblock_batch(&self, after: &mut EntryId) -> Result<(), CommandError> {
        let ids = self.blocked_streams().ids_after(*after);
        *after =
            if ids.len() < command::SCRIPT_BATCH_MAX { EntryId::ZERO } else { ids.last().copied().unwrap_or_default() };
        if ids.is_empty() {
            return Ok(());
        }
        let mut ask = self.add_backlog_arguments(script::FIND_DONE_IN_BACKLOG.prepare_invoke());
        for id in &ids {
            ask.arg(id.to_string());
        }
        let done: Vec<String> = self.bus.connection.run_idempotent(&ask).await?;
        let mut held = self.blocked_streams();
        let released: Vec<_> = done.iter().filter_map(|id| held.remove(id.parse().ok()?)).collect();
        drop(held);
        self.in_flight.unblock_streams(&released);
        Ok(())
    }

    /// A script about what is pending in the backlog on this consumer, or on the owner of the backlog.
    fn add_backlog_arguments(&self, mut script: ScriptInvocation<'static>) -> ScriptInvocation<'static> {
        let backlog = keys::backlog(&self.bus.base_stream, &self.group);
        let name = if self.bus.partitions.is_empty() { &self.name } else { PARTITION_OWNER };
        script.key(&backlog).key(keys::retry(&backlog, &self.bus.config.retry_key_prefix, &self.group));
        script.arg(self.group.as_str()).arg(name);
        script
    }

    fn blocked_streams(&self) -> MutexGuard<'_, BlockedStreams> {
        self.blocked_streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(id: &str) -> StreamId {
        StreamId::parse("Order", id).unwrap()
    }

    fn id(number: u64) -> EntryId {
        EntryId { ms: number, number: 0 }
    }

    #[test]
    fn an_aggregate_is_held_until_its_last_entry_is_done() {
        let mut held = BlockedStreams::default();
        assert!(held.add(id(1), stream("a")) && held.add(id(2), stream("b")));
        assert!(!held.add(id(3), stream("a")) && !held.add(id(1), stream("a")));
        assert_eq!(held.ids_after(EntryId::ZERO), [id(2), id(3)]);
        assert_eq!(held.remove(id(1)), None);
        assert_eq!(held.remove(id(3)), Some(stream("a")));
        assert_eq!((held.ids_after(id(2)), held.ids_after(id(1))), (vec![], vec![id(2)]));
        assert!(held.add(id(4), stream("a")), "it is new again");
    }
}
