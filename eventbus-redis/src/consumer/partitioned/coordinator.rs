//! The coordinator: writes dispositions, and rebalances the partitions. Each consumer takes its share, the number of
//! partitions divided by the number of live members; no member assigns partitions to others.
//!
//! Invariant: a consumer releases a partition only when none of its entries is being handled and all dispositions are
//! on the server; then no entry is handled twice.
//!
//! Real time, not the given clock: leases, by the clock of Redis, and its replies.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use eventbus::{
    delivery::{DueEntry, StopSignal},
    port::MessageId,
};
use redis::ScriptInvocation;
use tokio::{
    sync::watch,
    time::{Instant, Interval, sleep_until},
};

use super::consumer::PartitionedConsumer;
use crate::{
    consumer::{
        acknowledger::{AckBatch, AckBatchOutcome},
        inner::{ConsumerInner, FencingToken},
        membership::MemberLog,
        parts::ConsumerParts,
        task_loop::{CLAIM_INTERVAL_MAX, ConsumerTasks, FailedTasks, delayed_interval},
    },
    error::CommandError,
    keys, reply, script,
};

/// Entries of a partition that one script acknowledges at most.
const PARTITION_ACK_BATCH_MAX: usize = 1_000;
/// Time until a consumer with less than its share searches for free partitions again, if a third of the lease is
/// longer.
const FREE_PARTITION_SEARCH_INTERVAL: Duration = Duration::from_millis(250);
/// Reply to a heartbeat, as `rebalance.lua` lists it; the names and the types of the other members alternate.
type RebalanceReply = (usize, usize, Vec<(String, String, bool)>, bool, Vec<String>, usize);

/// A task of the coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartitionTask {
    WriteBatches,
    ReadDue,
    Rebalance,
    CollectGarbage,
}

/// The state of these tasks.
pub(super) struct PartitionTasks<'a> {
    consumer: &'a PartitionedConsumer,
    batches: HashMap<usize, AckBatch>,
    rebalance_at: Instant,
    garbage_collection: Interval,
    /// Cursors of the search for unused attempt records, by partition.
    garbage_cursors: HashMap<usize, String>,
    log: MemberLog,
    /// Set once a heartbeat has announced the consumer to the group.
    is_announced: bool,
    other_members: Vec<String>,
    /// Types that the last heartbeat announced, as JSON.
    types: String,
    /// Number of types that the group knew at the last heartbeat.
    known_types: usize,
    has_layout_changed: bool,
    changes: watch::Receiver<()>,
    stop: &'a StopSignal,
    /// Set once it has begun to release its partitions because of the stop.
    is_leaving: bool,
}

impl<'a> PartitionTasks<'a> {
    pub(super) fn new(consumer: &'a PartitionedConsumer, stop: &'a StopSignal) -> Self {
        Self {
            consumer,
            batches: HashMap::new(),
            rebalance_at: Instant::now(),
            garbage_collection: delayed_interval(consumer.inner.pending_idle().max(CLAIM_INTERVAL_MAX)),
            garbage_cursors: HashMap::new(),
            log: MemberLog::default(),
            is_announced: false,
            other_members: Vec::new(),
            types: consumer.inner.announced_types(),
            known_types: 0,
            has_layout_changed: false,
            changes: consumer.bus().subscribers().watch(),
            stop,
            is_leaving: false,
        }
    }

    /// Removes lost partitions with their in-flight entries and unwritten dispositions.
    fn drop_lost_partitions(&mut self) {
        let lost = self.consumer.owned().list_lost();
        for number in lost {
            self.drop_partition(number);
        }
    }

    /// Removes a partition whose lease ended, with its in-flight entries and unwritten dispositions. Its owner may be a
    /// different consumer now, or this one with a new epoch.
    ///
    /// Invariant: a disposition of the ended epoch is never written under the next one, although the entries have the
    /// same ids there. So the coordinator drops all of them with the batch, and the entries leave the partition and the
    /// in-flight entries under one lock of `owned`: the reader adds none of them in between.
    fn drop_partition(&mut self, number: usize) {
        self.assign_to_batches();
        self.batches.remove(&number);
        let mut owned = self.consumer.owned();
        let lost_entries: Vec<_> =
            owned.remove(number).into_iter().filter(|id| self.consumer.inner.in_flight().contains(id)).collect();
        tracing::warn!(
            group = %self.consumer.inner.group(), partition = number, count = lost_entries.len(),
            "the lease of a partition ended: its next owner receives its in-flight entries again"
        );
        self.consumer.inner.in_flight().release(&lost_entries);
    }

    /// Sorts dispositions into the batches of their partitions. Drops the dispositions of a partition that this
    /// consumer no longer owns: its next owner handles the entries again.
    fn assign_to_batches(&mut self) {
        let owned = self.consumer.owned();
        for disposed in self.consumer.inner.in_flight().take_disposed() {
            if let Some(number) = owned.partition_of(&disposed.id) {
                self.batches.entry(number).or_default().add([disposed]);
            }
        }
    }

    /// Writes the batches; what fails stays in them.
    async fn write_batches(&mut self) -> Result<(), CommandError> {
        self.drop_lost_partitions();
        self.assign_to_batches();
        self.acknowledge().await?;
        let (parts, mut written) = (self.consumer.owned().consumers(), Ok(()));
        for (number, part) in parts {
            let batch = self.batches.entry(number).or_default();
            if batch.is_empty() && !part.inner.entries().has_discarded() {
                continue;
            }
            if let Err(error) = part.acknowledger.write_ready(batch, &mut AckBatchOutcome::default()).await {
                // `Ok`: the partition is lost, or starts over because its group was created again
                match self.consumer.handle_refusal(&part, error).await {
                    // only this partition: the server may write the others
                    Err(CommandError::Sent(error))
                        if reply::is_not_executed(&error) && !reply::is_connection_lost(&error) =>
                    {
                        written = written.and(Err(error.into()));
                    }
                    handled => handled?,
                }
            }
        }
        self.drop_lost_partitions();
        let in_flight = self.consumer.inner.in_flight();
        self.consumer.owned().forget_finished(in_flight.len(), |id| in_flight.contains(id));
        self.release_idle_partitions().await?;
        written
    }

    /// Reads due entries again, after writing their last attempts, because the server returns the attempts with the
    /// entries.
    async fn read_due(&mut self) -> Result<(), CommandError> {
        self.batches.values_mut().for_each(AckBatch::gather_no_more);
        self.write_batches().await?;
        let in_flight = self.consumer.inner.in_flight();
        let mut due: HashMap<usize, Vec<DueEntry>> = HashMap::new();
        let parts = {
            let owned = self.consumer.owned();
            for one in in_flight.take_due() {
                match owned.partition_of(&one.id) {
                    Some(number) => due.entry(number).or_default().push(one),
                    None => in_flight.release([&one.id]),
                }
            }
            owned.consumers()
        };
        let mut outcome = Ok(());
        for (number, part) in parts {
            let of_part = due.remove(&number).unwrap_or_default();
            if outcome.is_err() {
                in_flight.return_due(of_part.iter().map(|due| &due.id));
            } else if let Err(error) = part.receiver.read_due(of_part).await {
                outcome = self.consumer.handle_refusal(&part, error).await;
            }
        }
        let without_partition: Vec<_> = due.into_values().flatten().map(|due| due.id).collect();
        in_flight.release(&without_partition);
        outcome
    }

    /// Acknowledges entries that succeeded at the first attempt, of all partitions in one step.
    async fn acknowledge(&mut self) -> Result<(), CommandError> {
        loop {
            let parts = self.consumer.owned().consumers();
            let mut done = script::partition::ACKNOWLEDGE_IN_PARTITIONS.prepare_invoke();
            done.arg(self.consumer.inner.group().as_str());
            let mut requested = Vec::new();
            for (number, part) in parts {
                let Some(batch) = self.batches.get(&number).filter(|batch| !batch.acknowledged(1).is_empty()) else {
                    continue;
                };
                let Some(fence) = part.inner.fencing_token() else { continue };
                let ids = batch.acknowledged(PARTITION_ACK_BATCH_MAX);
                done.key(part.inner.bus().stream()).key(&fence.lease_key).arg(&fence.epoch).arg(ids.len());
                for id in ids {
                    done.arg(id.as_str());
                }
                requested.push((number, part, ids.len()));
            }
            if requested.is_empty() {
                return Ok(());
            }
            let replies: Vec<bool> = self.consumer.bus().connection().run_idempotent(&done).await?;
            for ((number, part, count), is_mine) in requested.into_iter().zip(replies) {
                let Some(batch) = self.batches.get_mut(&number) else { continue };
                let ids = batch.take_acknowledged(count);
                if is_mine {
                    self.consumer.inner.in_flight().release(&ids);
                } else {
                    batch.drop_acknowledged();
                    self.consumer.owned().mark_lost(&part);
                }
            }
        }
    }

    async fn collect_garbage(&mut self) -> Result<(), CommandError> {
        let parts = self.consumer.owned().consumers();
        for (number, part) in parts {
            let cursor = self.garbage_cursors.entry(number).or_insert_with(|| "0".into());
            if let Err(error) = part.membership.collect_garbage(cursor).await {
                self.consumer.handle_refusal(&part, error).await?;
            }
        }
        Ok(())
    }

    /// Sends a heartbeat, renews the leases of its partitions, and takes or releases partitions to own its share.
    async fn rebalance(&mut self) -> Result<(), CommandError> {
        let inner = &self.consumer.inner;
        self.rebalance_at = Instant::now() + self.consumer.lease_duration() / 3;
        self.is_leaving = self.stop.is_stopped();
        let types = inner.announced_types();
        let (other_layout, share, parts, is_duplicate, others, known_types): RebalanceReply =
            self.consumer.bus().connection().run_idempotent(&self.rebalance_script()).await?;
        self.is_announced = true;
        self.log.log_duplicate_name(inner, is_duplicate, self.consumer.lease_duration().saturating_mul(2));
        self.log.log_type_mismatches(inner, &others);
        let mut taken = Vec::new();
        for (number, (epoch, last, owner_ended)) in parts.into_iter().enumerate() {
            if self.consumer.owned().epoch(number) == epoch {
                continue;
            }
            if !self.consumer.owned().epoch(number).is_empty() {
                self.drop_partition(number);
            }
            if !epoch.is_empty() {
                self.consumer.owned().add(number, self.partition_consumer(number, epoch), owner_ended, last);
                taken.push(number);
            }
        }
        if !taken.is_empty() {
            tracing::info!(group = %inner.group(), partitions = ?taken, "partitions taken");
        }
        self.log_layout_change(other_layout);
        let owned = self.consumer.owned().consumers().len();
        let keeps = if self.has_layout_changed || self.is_leaving { 0 } else { share };
        self.consumer.owned().release_some(owned.saturating_sub(keeps));
        if owned < keeps {
            self.rebalance_at = self.rebalance_at.min(Instant::now() + FREE_PARTITION_SEARCH_INTERVAL);
        }
        let has_forgotten_types = known_types < std::mem::replace(&mut self.known_types, known_types);
        if self.other_members != others || has_forgotten_types || self.types != types {
            (self.other_members, self.types) = (others, types);
            self.restart_with_kept_pending();
        }
        self.consumer.partitions_changed.notify_one();
        self.release_idle_partitions().await
    }

    /// Prepares the heartbeat that also renews and takes leases.
    fn rebalance_script(&self) -> ScriptInvocation<'static> {
        let (bus, inner) = (self.consumer.bus(), &self.consumer.inner);
        let lease_ms = bus.config().partition_lease_ms;
        let mut share = script::partition::REBALANCE.key(&inner.keys().members);
        share.key(keys::layout(bus.base_stream()));
        for part in bus.partitions() {
            let stream = part.stream();
            share.key(keys::lease(stream, inner.group())).key(stream).key(keys::floors(stream));
        }
        share.key(&inner.keys().known_types);
        share.arg((inner.group().as_str(), inner.name(), inner.announced_types()));
        share.arg(lease_ms.saturating_mul(2)).arg(bus.instance()).arg(lease_ms).arg(bus.layout().generation());
        share.arg(match (self.is_leaving, self.has_layout_changed) {
            (true, _) => "leaving",
            (false, true) => "keeps",
            (false, false) => "takes",
        });
        share.arg(inner.long_run_json());
        share.arg(u8::from(self.is_announced));
        let owned = self.consumer.owned();
        for number in 0..bus.partitions().len() {
            share.arg(owned.epoch(number));
        }
        drop(owned);
        share.arg(shuffled(bus.partitions().len()));
        share
    }

    fn partition_consumer(&self, number: usize, epoch: String) -> ConsumerParts {
        let part = &self.consumer.bus().partitions()[number];
        let lease = keys::lease(part.stream(), self.consumer.inner.group());
        let fence = FencingToken { lease_key: lease, owner: self.consumer.bus().instance().to_owned(), epoch };
        let inner = &self.consumer.inner;
        ConsumerParts::new(ConsumerInner::for_partition(part, inner.group(), inner.in_flight(), fence))
    }

    /// Logs that the number of partitions in a newer layout differs from that of this bus.
    fn log_layout_change(&mut self, partitions: usize) {
        if partitions > 0 && !std::mem::replace(&mut self.has_layout_changed, true) {
            let (stream, configured) = (self.consumer.bus().base_stream(), self.consumer.bus().partitions().len());
            tracing::error!(
                stream,
                partitions,
                configured,
                "the stream has a different number of partitions now: set `partitions` and restart"
            );
        }
    }

    /// Rereads entries that were handed off to other members: these members may have left, a handler may have been
    /// added here, or an operator may have made the group forget the type.
    fn restart_with_kept_pending(&self) {
        let mut owned = self.consumer.owned();
        for (_, part) in owned.consumers() {
            if part.inner.entries().unkeep_all() {
                owned.restart_partition(&part);
            }
        }
    }

    /// Releases the partitions in stage `Releasing` none of whose entries is being handled.
    async fn release_idle_partitions(&mut self) -> Result<(), CommandError> {
        let leaving = self.consumer.owned().list_releasing();
        if leaving.is_empty() {
            return Ok(());
        }
        {
            let (owned, in_flight) = (self.consumer.owned(), self.consumer.inner.in_flight());
            in_flight.nack_idle_if(|id| owned.partition_of(id).is_some_and(|place| leaving.contains(&place)));
        }
        self.assign_to_batches();
        let mut release = script::partition::RELEASE_PARTITIONS.prepare_invoke();
        let mut released = Vec::new();
        {
            let owned = self.consumer.owned();
            let busy: HashSet<_> =
                self.consumer.inner.in_flight().ids().iter().filter_map(|id| owned.partition_of(id)).collect();
            for (number, part) in owned.consumers() {
                let is_written =
                    self.batches.get(&number).is_none_or(AckBatch::is_empty) && !part.inner.entries().has_discarded();
                if let Some(fence) = part.inner.fencing_token()
                    && leaving.contains(&number)
                    && !busy.contains(&number)
                    && is_written
                {
                    release.key(&fence.lease_key).arg(&fence.epoch);
                    released.push(number);
                }
            }
        }
        if released.is_empty() {
            return Ok(());
        }
        self.consumer.bus().connection().run_idempotent::<u64>(&release).await?;
        tracing::info!(group = %self.consumer.inner.group(), partitions = ?released, "partitions released");
        let mut owned = self.consumer.owned();
        for number in released {
            owned.remove(number);
            self.batches.remove(&number);
        }
        drop(owned);
        self.consumer.partitions_changed.notify_one();
        Ok(())
    }
}

impl ConsumerTasks for PartitionTasks<'_> {
    type Task = PartitionTask;
    const WRITE: PartitionTask = PartitionTask::WriteBatches;
    const READ_DUE: PartitionTask = PartitionTask::ReadDue;

    fn has_unwritten(&self) -> bool {
        let owned = self.consumer.owned();
        !owned.list_releasing().is_empty()
            || self.batches.values().any(|batch| !batch.is_empty())
            || owned.consumers().iter().any(|(_, part)| part.inner.entries().has_discarded())
    }

    fn gathers_until(&self) -> Option<Instant> {
        self.batches.values().filter_map(AckBatch::gathers_until).min()
    }

    async fn next_task(&mut self, failed: &FailedTasks<PartitionTask>) -> PartitionTask {
        // only the heartbeat's timer pauses after a failure, as the loop repeats a failed task by itself: the consumer
        // drops lost partitions and announces changed handlers at once
        tokio::select! {
            () = self.consumer.partition_lost.notified() => PartitionTask::WriteBatches,
            () = sleep_until(self.rebalance_at), if !failed.contains(PartitionTask::Rebalance) => PartitionTask::Rebalance,
            _ = self.changes.changed() => PartitionTask::Rebalance,
            // its handlers may take long to end, and the other consumers need its share
            () = self.stop.stopped(), if !self.is_leaving => PartitionTask::Rebalance,
            _ = self.garbage_collection.tick() => PartitionTask::CollectGarbage,
        }
    }

    async fn run_task(&mut self, task: PartitionTask) -> Result<(), CommandError> {
        match task {
            PartitionTask::WriteBatches => self.write_batches().await,
            PartitionTask::ReadDue => self.read_due().await,
            PartitionTask::Rebalance => self.rebalance().await,
            PartitionTask::CollectGarbage => self.collect_garbage().await,
        }
    }

    async fn shut_down(&mut self, _nacked: &[MessageId]) -> Result<(), CommandError> {
        let count = self.consumer.owned().consumers().len();
        // only marks the partitions: `write_batches` releases those without in-flight entries
        self.consumer.owned().release_some(count);
        self.batches.values_mut().for_each(AckBatch::gather_no_more);
        self.write_batches().await?;
        self.consumer.membership.deregister(&[], false).await
    }

    fn log_unfinished(&self, _nacked: usize) {
        let inner = &self.consumer.inner;
        let count = inner.in_flight().len();
        tracing::warn!(
            group = %inner.group(), count,
            "the consumer ended before the server answered: its in-flight entries will be redelivered when its leases end"
        );
    }
}

/// Returns the numbers below `limit` in random order, so that members take different partitions first.
fn shuffled(limit: usize) -> Vec<usize> {
    let random = RandomState::new();
    let mut numbers: Vec<usize> = (0..limit).collect();
    numbers.sort_by_cached_key(|number| random.hash_one(number));
    numbers
}
