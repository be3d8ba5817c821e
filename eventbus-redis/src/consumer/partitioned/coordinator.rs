//! The coordinator: writes the dispositions of all partitions, and rebalances them.
//!
//! Real time, not the given clock: leases, by the clock of Redis, and its replies.

use std::collections::HashMap;

use eventbus::delivery::DueEntry;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};
use tokio_util::sync::CancellationToken;

use super::PartitionedConsumer;
use crate::{
    consumer::{
        ack_batch::AckBatch,
        acknowledger::{ACK_RETRY_INTERVAL, CLAIM_INTERVAL_MAX, SHUTDOWN_GRACE_PERIOD},
        membership::TypeMismatches,
        task_loop::FailedTasks,
    },
    error::CommandError,
    script,
};

/// Entries of a partition that one script acknowledges at most.
const PARTITION_ACK_BATCH_MAX: usize = 1_000;

/// State of the coordinator between two tasks.
pub(super) struct PartitionCoordinator {
    pub(super) batches: HashMap<usize, AckBatch>,
    failed_tasks: FailedTasks<CoordinatorTask>,
    pub(super) rebalance_at: Instant,
    /// Cursors of the search for unused attempt records, by partition.
    garbage_cursors: HashMap<usize, String>,
    pub(super) type_mismatches: TypeMismatches,
    pub(super) other_members: Vec<String>,
    /// Types that the last heartbeat announced, as JSON, and the number of types that the group knew.
    pub(super) types: String,
    pub(super) known_types: usize,
    pub(super) has_duplicate_name: bool,
    pub(super) has_layout_changed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CoordinatorTask {
    WriteBatches,
    ReadDue,
    Rebalance,
    CollectGarbage,
}

impl PartitionedConsumer {
    /// Runs until workers and reader have ended, then writes the rest and releases the partitions.
    pub(super) async fn run_coordinator(&self, ended: &CancellationToken) {
        let now = Instant::now();
        let mut coordinator = PartitionCoordinator {
            batches: HashMap::new(),
            failed_tasks: FailedTasks::new("keeping partitions", self.group_consumer.group.clone()),
            rebalance_at: now,
            garbage_cursors: HashMap::new(),
            type_mismatches: TypeMismatches::new(),
            other_members: Vec::new(),
            types: self.group_consumer.announced_types(),
            known_types: 0,
            has_duplicate_name: false,
            has_layout_changed: false,
        };
        let mut write = tokio::time::interval(ACK_RETRY_INTERVAL);
        write.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let period = self.group_consumer.pending_idle().max(CLAIM_INTERVAL_MAX);
        let mut garbage_collection = tokio::time::interval_at(now + period, period);
        garbage_collection.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = self.bus().subscribers().watch();
        loop {
            // a failed task is repeated at `retry_at`, and its usual triggers pause; only a lost partition, a change of the
            // handlers and the search for unused attempt records start their tasks also then
            let writes = !coordinator.failed_tasks.contains(CoordinatorTask::WriteBatches);
            let unwritten = self.has_unwritten(&coordinator);
            let gathers_until = coordinator.batches.values().filter_map(AckBatch::gathers_until).min();
            let (retry, retry_at) = (coordinator.failed_tasks.first(), coordinator.failed_tasks.retry_at());
            // unbiased: under load dispositions are always ready, and must not starve the rebalance, which renews the
            // leases
            let task = tokio::select! {
                () = ended.cancelled() => break,
                () = sleep_until(retry_at), if retry.is_some() => retry.unwrap_or(CoordinatorTask::WriteBatches),
                () = self.partition_lost.notified() => CoordinatorTask::WriteBatches,
                () = self.group_consumer.in_flight.disposed(), if writes => CoordinatorTask::WriteBatches,
                _ = write.tick(), if writes && unwritten => CoordinatorTask::WriteBatches,
                () = sleep_until(gathers_until.unwrap_or(retry_at)), if writes && gathers_until.is_some() => CoordinatorTask::WriteBatches,
                () = self.group_consumer.in_flight.due(), if writes && !coordinator.failed_tasks.contains(CoordinatorTask::ReadDue) => CoordinatorTask::ReadDue,
                () = sleep_until(coordinator.rebalance_at), if !coordinator.failed_tasks.contains(CoordinatorTask::Rebalance) => CoordinatorTask::Rebalance,
                _ = changes.changed() => CoordinatorTask::Rebalance,
                _ = garbage_collection.tick() => CoordinatorTask::CollectGarbage,
            };
            // a task that hangs must not outlast the grace period
            let in_vain = async {
                ended.cancelled().await;
                tokio::time::sleep(SHUTDOWN_GRACE_PERIOD).await;
            };
            let result = tokio::select! {
                done = self.run_task(task, &mut coordinator) => done,
                () = in_vain => break, // `shut_down` repeats an interrupted write
            };
            coordinator.failed_tasks.record_result(task, result);
        }
        self.shut_down(&mut coordinator).await;
    }

    fn has_unwritten(&self, coordinator: &PartitionCoordinator) -> bool {
        let owned = self.owned();
        !owned.list_releasing().is_empty()
            || coordinator.batches.values().any(|batch| !batch.is_empty())
            || owned.consumers().iter().any(|(_, part)| !part.discarded().is_empty())
    }

    async fn run_task(
        &self,
        task: CoordinatorTask,
        coordinator: &mut PartitionCoordinator,
    ) -> Result<(), CommandError> {
        match task {
            CoordinatorTask::WriteBatches => self.write_batches(coordinator).await,
            CoordinatorTask::ReadDue => self.read_due(coordinator).await,
            CoordinatorTask::Rebalance => self.rebalance(coordinator).await,
            CoordinatorTask::CollectGarbage => self.collect_garbage(coordinator).await,
        }
    }

    /// Removes lost partitions with their in-flight entries and unwritten dispositions.
    fn drop_lost_partitions(&self, coordinator: &mut PartitionCoordinator) {
        let lost = self.owned().list_lost();
        for number in lost {
            self.drop_partition(coordinator, number);
        }
    }

    /// Removes a partition whose lease ended, with its in-flight entries and unwritten dispositions. Its owner may be a
    /// different consumer now, or this one with a new epoch.
    pub(super) fn drop_partition(&self, coordinator: &mut PartitionCoordinator, number: usize) {
        self.assign_to_batches(coordinator);
        coordinator.batches.remove(&number);
        let mut owned = self.owned();
        let lost_entries: Vec<_> =
            owned.remove(number).into_iter().filter(|id| self.group_consumer.in_flight.contains(id)).collect();
        tracing::warn!(
            group = %self.group_consumer.group, partition = number, count = lost_entries.len(),
            "another consumer has taken a partition over, with its in-flight entries"
        );
        self.group_consumer.in_flight.release(&lost_entries);
    }

    /// Sorts dispositions into the batches of their partitions.
    pub(super) fn assign_to_batches(&self, coordinator: &mut PartitionCoordinator) {
        let owned = self.owned();
        for disposed in self.group_consumer.in_flight.take_disposed() {
            if let Some(number) = owned.partition_of(&disposed.id) {
                coordinator.batches.entry(number).or_default().add([disposed]);
            }
        }
    }

    /// Writes the batches; what fails stays in them.
    async fn write_batches(&self, coordinator: &mut PartitionCoordinator) -> Result<(), CommandError> {
        self.drop_lost_partitions(coordinator);
        self.assign_to_batches(coordinator);
        self.acknowledge(coordinator).await?;
        let parts = self.owned().consumers();
        for (number, part) in parts {
            let batch = coordinator.batches.entry(number).or_default();
            if batch.is_empty() && part.discarded().is_empty() {
                continue;
            }
            if let Err(error) = part.write_most(batch).await {
                // `Ok`: the partition is lost, or starts over because its group was created again
                self.handle_refusal(&part, error).await?;
            }
        }
        self.drop_lost_partitions(coordinator);
        let in_flight = &self.group_consumer.in_flight;
        self.owned().forget_finished(in_flight.len(), |id| in_flight.contains(id));
        self.release_idle_partitions(coordinator).await
    }

    /// Reads due entries again, after writing their last attempts, because the server returns the attempts with the
    /// entries.
    async fn read_due(&self, coordinator: &mut PartitionCoordinator) -> Result<(), CommandError> {
        coordinator.batches.values_mut().for_each(AckBatch::gather_no_more);
        self.write_batches(coordinator).await?;
        let in_flight = &self.group_consumer.in_flight;
        let (parts, mut due): (_, HashMap<usize, Vec<DueEntry>>) = {
            let (owned, mut due) = (self.owned(), HashMap::<usize, Vec<DueEntry>>::new());
            for one in in_flight.take_due() {
                match owned.partition_of(&one.id) {
                    Some(number) => due.entry(number).or_default().push(one),
                    None => in_flight.release([&one.id]),
                }
            }
            (owned.consumers(), due)
        };
        let mut outcome = Ok(());
        for (number, part) in parts {
            let of_part = due.remove(&number).unwrap_or_default();
            if outcome.is_err() {
                in_flight.return_due(of_part.iter().map(|due| &due.id));
            } else if let Err(error) = part.read_due(of_part).await {
                outcome = self.handle_refusal(&part, error).await;
            }
        }
        let without_partition: Vec<_> = due.into_values().flatten().map(|due| due.id).collect();
        in_flight.release(&without_partition);
        outcome
    }

    /// Acknowledges entries that succeeded at the first attempt, of all partitions in one step.
    async fn acknowledge(&self, coordinator: &mut PartitionCoordinator) -> Result<(), CommandError> {
        loop {
            let parts = self.owned().consumers();
            let mut done = script::partition::ACKNOWLEDGE_IN_PARTITIONS.prepare_invoke();
            done.arg(self.group_consumer.group.as_str());
            let mut requested = Vec::new();
            for (number, part) in parts {
                let Some(batch) = coordinator.batches.get(&number).filter(|batch| !batch.acknowledged.is_empty())
                else {
                    continue;
                };
                let Some(fence) = &part.fencing_token else { continue };
                let ids = &batch.acknowledged[..batch.acknowledged.len().min(PARTITION_ACK_BATCH_MAX)];
                done.key(part.bus.stream()).key(&fence.lease_key).arg(&fence.epoch).arg(ids.len());
                for id in ids {
                    done.arg(id.as_str());
                }
                requested.push((number, part, ids.len()));
            }
            if requested.is_empty() {
                return Ok(());
            }
            let replies: Vec<bool> = self.bus().connection().run_idempotent(&done).await?;
            for ((number, part, count), is_mine) in requested.into_iter().zip(replies) {
                let Some(batch) = coordinator.batches.get_mut(&number) else { continue };
                let mut ids: Vec<_> = batch.acknowledged.drain(..count).collect();
                if is_mine {
                    part.release_acknowledged(&mut ids);
                } else {
                    batch.acknowledged.clear();
                    self.owned().mark_lost(&part);
                }
            }
        }
    }

    async fn collect_garbage(&self, coordinator: &mut PartitionCoordinator) -> Result<(), CommandError> {
        let parts = self.owned().consumers();
        for (number, part) in parts {
            let cursor = coordinator.garbage_cursors.entry(number).or_insert_with(|| "0".into());
            if let Err(error) = part.collect_garbage(cursor).await {
                self.handle_refusal(&part, error).await?;
            }
        }
        Ok(())
    }

    /// Writes what remains and releases all partitions, within [`SHUTDOWN_GRACE_PERIOD`].
    async fn shut_down(&self, coordinator: &mut PartitionCoordinator) {
        self.group_consumer.in_flight.nack_idle();
        let ending = async {
            loop {
                let count = self.owned().consumers().len();
                // only marks the partitions: `write_batches` releases those without in-flight entries
                self.owned().release_some(count);
                match self.write_and_deregister(coordinator).await {
                    Err(error) => {
                        tokio::time::sleep(coordinator.failed_tasks.outage_log().record_failure(&error)).await
                    }
                    Ok(()) => return,
                }
            }
        };
        if tokio::time::timeout(SHUTDOWN_GRACE_PERIOD, ending).await.is_err() {
            let count = self.group_consumer.in_flight.len();
            tracing::warn!(
                group = %self.group_consumer.group, count,
                "the consumer ended before the server answered: its in-flight entries will be redelivered when its leases end"
            );
        }
    }

    async fn write_and_deregister(&self, coordinator: &mut PartitionCoordinator) -> Result<(), CommandError> {
        coordinator.batches.values_mut().for_each(AckBatch::gather_no_more);
        self.write_batches(coordinator).await?;
        self.group_consumer.deregister(&[], false).await
    }
}
