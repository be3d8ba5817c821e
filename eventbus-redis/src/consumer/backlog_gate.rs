//! The backlog gate: holds back entries of a group's stream while its backlog comes first, and events of aggregates
//! that have earlier events in the backlog.
//!
//! A group reads its stream as soon as every entry left in its backlog has failed, or waits behind one that has.
//! The stream's events of the aggregates in the backlog follow when the backlog has no more of their events.
//!
//! Invariant: the consumer knows its pending entries in the backlog before it receives entries of the stream. With
//! partitions it lists the entries pending on the owner of the backlog, so that the order also holds if a different
//! process owns the partition of the aggregate. Without partitions consumers do not wait for each other, as in the
//! stream.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use eventbus::{StreamId, delivery::StopSignal};
use parking_lot::Mutex;
use redis::ScriptInvocation;
use uuid::Uuid;

use super::inner::{ConsumerInner, PARTITION_OWNER, RANGE_START};
use crate::{
    backlog, command, entry_id::EntryId, error::CommandError, group, inner::BusInner, keys, reply::parse_value, script,
};

/// Shortest interval between two checks whether the backlog is finished.
pub(super) const BACKLOG_POLL_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// Interval between two checks whether blocking entries are finished.
const UNBLOCK_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// The last entry in the backlog of each blocked aggregate.
#[derive(Debug, Default)]
struct BlockedStreams {
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

/// Holds back entries of the stream while the group's backlog comes first.
pub(super) struct BacklogGate {
    inner: Arc<ConsumerInner>,
    /// Counts the resets: of this consumer's sessions, and of groups that were created meanwhile.
    resets: AtomicU64,
    /// The number of resets at the last check without a backlog that comes first.
    passed_at: AtomicU64,
    /// Aggregates whose events wait for the group's backlog.
    blocked: Mutex<BlockedStreams>,
}

impl BacklogGate {
    pub(super) fn new(inner: Arc<ConsumerInner>) -> Self {
        Self { inner, resets: AtomicU64::new(1), passed_at: AtomicU64::new(0), blocked: Mutex::default() }
    }

    /// Creates the group of a stream if it is missing.
    pub(super) async fn create_group(&self, stream: &BusInner) -> Result<(), CommandError> {
        let create = group::create_joined_group_script(stream, self.inner.group());
        let is_new = stream.connection().run_idempotent(&create).await?;
        self.reset(stream, is_new);
        Ok(())
    }

    /// Checks for a backlog again before the next entries, because the group of a stream was created, perhaps again: by
    /// this consumer if `is_new`, else by a different member.
    pub(super) fn reset(&self, stream: &BusInner, is_new: bool) {
        if is_new {
            tracing::info!(group = %self.inner.group(), stream = stream.stream(), "group created");
        }
        self.resets.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns `true` if the entries just read must wait for a backlog of the group. If the group was created before a
    /// store's relay resynced the stream, for example after the server lost it, a backlog may come together with the
    /// first entries.
    pub(super) async fn must_wait(&self) -> Result<bool, CommandError> {
        // read before the check: a reset during the check requires a new one
        let resets = self.resets.load(Ordering::Acquire);
        if self.inner.bus().is_backlog() || self.passed_at.load(Ordering::Acquire) == resets {
            return Ok(false);
        }
        let is_behind = backlog::is_backlog_first(self.inner.bus(), self.inner.group()).await?;
        if !is_behind {
            self.block_streams().await?;
            self.passed_at.store(resets, Ordering::Release);
        }
        Ok(is_behind)
    }

    /// Waits while a backlog comes first, which [`GroupBacklog`](super::group_backlog::GroupBacklog) handles.
    pub(super) async fn wait(&self, stop: &StopSignal) -> Result<(), CommandError> {
        while !stop.is_stopped() && self.must_wait().await? {
            stop.run_until_stopped(self.inner.bus().config().clock.sleep(BACKLOG_POLL_INTERVAL_MIN)).await;
        }
        Ok(())
    }

    /// Blocks the aggregates that have pending entries in the group's backlog.
    pub(super) async fn block_streams(&self) -> Result<(), CommandError> {
        if self.inner.bus().is_backlog() {
            return Ok(());
        }
        let mut from = RANGE_START.to_owned();
        while !from.is_empty() {
            let mut list = self.add_backlog_arguments(script::consumer::LIST_PENDING_IN_BACKLOG.prepare_invoke());
            list.arg(&from).arg(command::SCRIPT_BATCH_MAX).arg(script::PASSED_BYTES_MAX);
            let mut reply: Vec<redis::Value> = self.inner.bus().connection().run_idempotent(&list).await?;
            let entries = reply.split_off(1.min(reply.len()));
            from = parse_value::<Option<String>>(reply.pop().unwrap_or(redis::Value::Nil))?.unwrap_or_default();
            for entry in entries {
                let (id, aggregate_type, aggregate_id, tenant): (String, String, String, String) = parse_value(entry)?;
                let stream = StreamId::parse(&aggregate_type, &aggregate_id);
                let stream = stream.map(|stream| stream.with_tenant_id(Uuid::try_parse(&tenant).ok()));
                // an entry that is no event has no aggregate
                if let (Ok(id), Ok(stream)) = (id.parse(), stream)
                    && self.blocked.lock().add(id, stream.clone())
                {
                    self.inner.in_flight().block_streams([&stream]);
                }
            }
        }
        Ok(())
    }

    /// Unblocks aggregates as soon as the backlog has no more of their events, until `stop`.
    pub(super) async fn unblock_streams(&self, stop: &StopSignal) {
        let mut after = EntryId::ZERO;
        while !stop.is_stopped() {
            if stop.run_until_stopped(self.inner.bus().config().clock.sleep(UNBLOCK_POLL_INTERVAL)).await.is_none() {
                return;
            }
            if let Err(error) = self.unblock_batch(&mut after).await {
                tracing::debug!(group = %self.inner.group(), %error, "the aggregates blocked by the backlog could not be checked; retrying later");
            }
        }
    }

    async fn unblock_batch(&self, after: &mut EntryId) -> Result<(), CommandError> {
        let ids = self.blocked.lock().ids_after(*after);
        *after =
            if ids.len() < command::SCRIPT_BATCH_MAX { EntryId::ZERO } else { ids.last().copied().unwrap_or_default() };
        if ids.is_empty() {
            return Ok(());
        }
        let mut find = self.add_backlog_arguments(script::consumer::FIND_DONE_IN_BACKLOG.prepare_invoke());
        for id in &ids {
            find.arg(id.to_string());
        }
        let done: Vec<String> = self.inner.bus().connection().run_idempotent(&find).await?;
        let mut blocked = self.blocked.lock();
        let unblocked: Vec<_> = done.iter().filter_map(|id| blocked.remove(id.parse().ok()?)).collect();
        drop(blocked);
        self.inner.in_flight().unblock_streams(&unblocked);
        Ok(())
    }

    /// Adds the arguments of a script on the backlog entries pending on this consumer, or on the owner of the backlog.
    fn add_backlog_arguments(&self, mut script: ScriptInvocation<'static>) -> ScriptInvocation<'static> {
        let (bus, group) = (self.inner.bus(), self.inner.group());
        let backlog = keys::backlog(bus.base_stream(), group);
        let name = if bus.partitions().is_empty() { self.inner.name() } else { PARTITION_OWNER };
        script.key(&backlog).key(keys::retry(&backlog, &bus.config().retry_key_prefix, group));
        script.arg(group.as_str()).arg(name);
        script
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use eventbus::{
        Position,
        delivery::WorkerSlots,
        relay::{Publisher, ResyncRequest},
    };
    use futures_util::poll;

    use super::*;
    use crate::{RedisEventBusConfig, consumer::new_in_flight, partition::layout, relay};

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

    /// Fails if a check that began before a reset counts for the time after it.
    #[tokio::test]
    async fn a_reset_during_a_check_asks_for_another_one() {
        let (redis_url, stream_prefix) = (eventbus_test::redis_url().into(), eventbus_test::unique_name("gate"));
        let config = RedisEventBusConfig { redis_url, stream_prefix, ..RedisEventBusConfig::default() };
        let bus = Arc::new(BusInner::new(config).unwrap());
        layout::join(&bus).await.unwrap();
        let (group, in_flight) = (bus.default_group().clone(), new_in_flight(&bus, &WorkerSlots::default()));
        let gate = BacklogGate::new(Arc::new(ConsumerInner::new(Arc::clone(&bus), group.clone(), in_flight)));
        let mut check = pin!(gate.must_wait());
        assert!(poll!(&mut check).is_pending(), "the server has not replied yet");
        gate.reset(&bus, false);
        assert!(!check.await.unwrap(), "the group has no backlog yet");

        let (publisher, groups) = (Publisher { store: Uuid::now_v7(), epoch: 1 }, &[group]);
        let request = ResyncRequest { floor: Position::new(5), groups, new_groups: groups, is_shared: false };
        relay::resync(&bus, publisher, request).await.unwrap();
        assert!(gate.must_wait().await.unwrap(), "the events of the store come first");
    }
}
