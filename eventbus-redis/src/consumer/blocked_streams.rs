//! Blocked streams: aggregates in a group's stream with earlier events in the backlog of the group.
//!
//! A group reads its stream as soon as every entry left in its backlog has failed, or is parked behind one that has.
//! The stream's events of those aggregates follow when the backlog has no more events of them.
//!
//! Invariant: the consumer knows its pending entries in the backlog before it receives entries of the stream. With
//! partitions it lists the entries pending on the owner of the backlog, so that the order also holds if a different
//! process owns the partition of the aggregate. Without partitions consumers do not wait for each other, as in the
//! stream.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use eventbus::{StreamId, delivery::StopSignal};
use redis::ScriptInvocation;

use super::{Consumer, PARTITION_OWNER, read::RANGE_START};
use crate::{command, entry_id::EntryId, error::CommandError, keys, script};

/// Interval between two checks whether blocking entries are finished.
const UNBLOCK_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The last entry in the backlog of each blocked aggregate.
#[derive(Debug, Default)]
pub(super) struct BlockedStreams {
    stream_by_entry: BTreeMap<EntryId, StreamId>,
    last_entry: HashMap<StreamId, EntryId>,
}

impl BlockedStreams {
    /// Adds an entry. Returns `true` if it is the first of its aggregate.
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

    /// Returns a batch of the entries after an id.
    fn ids_after(&self, id: EntryId) -> Vec<EntryId> {
        self.stream_by_entry.keys().copied().filter(|other| *other > id).take(command::SCRIPT_BATCH_MAX).collect()
    }
}

impl Consumer {
    /// Blocks the aggregates that have pending entries in the group's backlog.
    pub(super) async fn block_streams_in_backlog(&self) -> Result<(), CommandError> {
        if self.bus.is_backlog() {
            return Ok(());
        }
        let mut from = RANGE_START.to_owned();
        while !from.is_empty() {
            let mut list = self.add_backlog_arguments(script::consumer::LIST_PENDING_IN_BACKLOG.prepare_invoke());
            list.arg(&from).arg(command::SCRIPT_BATCH_MAX);
            let mut reply: Vec<redis::Value> = self.bus.connection().run_idempotent(&list).await?;
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
                // an entry that is no event has no aggregate
                if let (Ok(id), Ok(stream)) = (id.parse(), StreamId::parse(&aggregate_type, &aggregate_id))
                    && self.blocked_streams().add(id, stream.clone())
                {
                    self.in_flight.block_streams([&stream]);
                }
            }
        }
        Ok(())
    }

    /// Unblocks aggregates as soon as the backlog has no more of their events, until `stop`.
    pub(super) async fn unblock_streams(&self, stop: &StopSignal) {
        let mut after = EntryId::ZERO;
        while !stop.is_stopped() {
            tokio::select! {
                () = self.bus.config().clock.sleep(UNBLOCK_POLL_INTERVAL) => {}
                () = stop.stopped() => return,
            }
            if let Err(error) = self.unblock_batch(&mut after).await {
                tracing::debug!(group = %self.group, %error, "the aggregates blocked by the backlog could not be checked; retrying later");
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
        let mut find = self.add_backlog_arguments(script::consumer::FIND_DONE_IN_BACKLOG.prepare_invoke());
        for id in &ids {
            find.arg(id.to_string());
        }
        let done: Vec<String> = self.bus.connection().run_idempotent(&find).await?;
        let mut blocked = self.blocked_streams();
        let unblocked: Vec<_> = done.iter().filter_map(|id| blocked.remove(id.parse().ok()?)).collect();
        drop(blocked);
        self.in_flight.unblock_streams(&unblocked);
        Ok(())
    }

    /// Adds the arguments of a script on the backlog entries pending on this consumer, or on the owner of the backlog.
    fn add_backlog_arguments(&self, mut script: ScriptInvocation<'static>) -> ScriptInvocation<'static> {
        let backlog = keys::backlog(self.bus.base_stream(), &self.group);
        let name = if self.bus.partitions().is_empty() { &self.name } else { PARTITION_OWNER };
        script.key(&backlog).key(keys::retry(&backlog, &self.bus.config().retry_key_prefix, &self.group));
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
        let mut blocked = BlockedStreams::default();
        assert!(blocked.add(id(1), stream("a")) && blocked.add(id(2), stream("b")));
        assert!(!blocked.add(id(3), stream("a")) && !blocked.add(id(1), stream("a")));
        assert_eq!(blocked.ids_after(EntryId::ZERO), [id(2), id(3)]);
        assert_eq!(blocked.remove(id(1)), None);
        assert_eq!(blocked.remove(id(3)), Some(stream("a")));
        assert_eq!((blocked.ids_after(id(2)), blocked.ids_after(id(1))), (vec![], vec![id(2)]));
        assert!(blocked.add(id(4), stream("a")), "it is new again");
    }
}
