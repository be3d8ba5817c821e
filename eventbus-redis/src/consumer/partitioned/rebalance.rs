//! Rebalancing: each consumer takes its share of the partitions, the number of partitions divided by that of live
//! members. No member assigns them.
//!
//! Invariant: a consumer releases a partition only when none of its entries is being handled and all dispositions are
//! on the server; then no entry is handled twice.
//!
//! Real time, not the given clock: leases, by the clock of Redis.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use redis::ScriptInvocation;
use tokio::time::Instant;

use super::{PartitionedConsumer, coordinator::PartitionCoordinator};
use crate::{
    consumer::{Consumer, FencingToken, ack_batch::AckBatch},
    error::CommandError,
    keys, script,
};

/// Longest wait between two searches for free partitions of a consumer that has less than its share.
const REBALANCE_INTERVAL_MIN: Duration = Duration::from_millis(250);
/// Reply to a heartbeat.
type RebalanceReply = (usize, usize, Vec<(String, String, bool)>, bool, Vec<String>, usize);

impl PartitionedConsumer {
    /// Sends a heartbeat, renews the leases of its partitions, and takes or releases partitions to own its share.
    pub(super) async fn rebalance(&self, coordinator: &mut PartitionCoordinator) -> Result<(), CommandError> {
        coordinator.rebalance_at = Instant::now() + self.lease_duration() / 3;
        let types = self.group_consumer.announced_types();
        let (other_layout, share, parts, is_duplicate, others, known_types): RebalanceReply =
            self.bus().connection().run_idempotent(&self.rebalance_script(coordinator)).await?;
        self.group_consumer.log_duplicate_name(is_duplicate, &mut coordinator.has_duplicate_name);
        self.group_consumer.log_type_mismatches(&mut coordinator.type_mismatches, &others);
        let mut taken = Vec::new();
        for (number, (epoch, last, is_recovered)) in parts.into_iter().enumerate() {
            if self.owned().epoch(number) == epoch {
                continue;
            }
            if !self.owned().epoch(number).is_empty() {
                self.drop_partition(coordinator, number);
            }
            if !epoch.is_empty() {
                self.owned().add(number, self.partition_consumer(number, epoch), is_recovered, last);
                taken.push(number);
            }
        }
        if !taken.is_empty() {
            tracing::info!(group = %self.group_consumer.group, partitions = ?taken, "partitions taken");
        }
        self.log_layout_change(coordinator, other_layout);
        let owned = self.owned().consumers().len();
        let keeps = if coordinator.has_layout_changed { 0 } else { share };
        self.owned().release_some(owned.saturating_sub(keeps));
        if owned < keeps {
            coordinator.rebalance_at = coordinator.rebalance_at.min(Instant::now() + REBALANCE_INTERVAL_MIN);
        }
        let has_forgotten_types = known_types < std::mem::replace(&mut coordinator.known_types, known_types);
        if coordinator.other_members != others || has_forgotten_types || coordinator.types != types {
            (coordinator.other_members, coordinator.types) = (others, types);
            self.restart_with_kept_pending();
        }
        self.partitions_changed.notify_one();
        self.release_idle_partitions(coordinator).await
    }

    /// Prepares the heartbeat that also renews and takes leases.
    fn rebalance_script(&self, coordinator: &PartitionCoordinator) -> ScriptInvocation<'static> {
        let bus = self.bus();
        let lease_ms = bus.config().partition_lease_ms;
        let mut share = script::partition::REBALANCE.key(&self.group_consumer.keys.members);
        share.key(keys::layout(bus.base_stream()));
        for part in bus.partitions() {
            let stream = part.stream();
            share.key(keys::lease(stream, &self.group_consumer.group)).key(stream).key(keys::floors(stream));
        }
        share.key(&self.group_consumer.keys.known_types);
        share
            .arg(self.group_consumer.group.as_str())
            .arg(&self.group_consumer.name)
            .arg(self.group_consumer.announced_types());
        share.arg(lease_ms.saturating_mul(2)).arg(bus.instance()).arg(lease_ms).arg(bus.layout().generation());
        share.arg(u8::from(!coordinator.has_layout_changed)).arg(self.group_consumer.long_run_json());
        let owned = self.owned();
        for number in 0..bus.partitions().len() {
            share.arg(owned.epoch(number));
        }
        drop(owned);
        for number in shuffled(bus.partitions().len()) {
            share.arg(number);
        }
        share
    }

    fn partition_consumer(&self, number: usize, epoch: String) -> Consumer {
        let part = &self.bus().partitions()[number];
        let lease = keys::lease(part.stream(), &self.group_consumer.group);
        let fence = FencingToken { lease_key: lease, owner: self.bus().instance().to_owned(), epoch };
        Consumer::for_partition(part, &self.group_consumer.group, &self.group_consumer.in_flight, fence)
    }

    /// Logs that the number of partitions in a newer layout differs from that of this bus.
    fn log_layout_change(&self, coordinator: &mut PartitionCoordinator, partitions: usize) {
        if partitions > 0 && !std::mem::replace(&mut coordinator.has_layout_changed, true) {
            let (stream, configured) = (self.bus().base_stream(), self.bus().partitions().len());
            tracing::error!(
                stream,
                partitions,
                configured,
                "the stream has a different number of partitions now: set `partitions` and restart"
            );
        }
    }

    /// Reads entries again that were handed off to other members: these may have left, a handler may have been added
    /// here, or an operator may have made the group forget their type.
    fn restart_with_kept_pending(&self) {
        let mut owned = self.owned();
        for (_, part) in owned.consumers() {
            let left = std::mem::take(&mut *part.kept_pending());
            if !left.is_empty() {
                owned.restart_partition(&part);
            }
        }
    }

    /// Releases partitions that are to be released and have no entry that is being handled.
    pub(super) async fn release_idle_partitions(
        &self,
        coordinator: &mut PartitionCoordinator,
    ) -> Result<(), CommandError> {
        let leaving = self.owned().list_releasing();
        if leaving.is_empty() {
            return Ok(());
        }
        {
            let owned = self.owned();
            self.group_consumer
                .in_flight
                .nack_idle_if(|id| owned.partition_of(id).is_some_and(|place| leaving.contains(&place)));
        }
        self.assign_to_batches(coordinator);
        let mut release = script::partition::RELEASE_PARTITIONS.prepare_invoke();
        let mut released = Vec::new();
        {
            let owned = self.owned();
            let busy: HashSet<_> =
                self.group_consumer.in_flight.ids().iter().filter_map(|id| owned.partition_of(id)).collect();
            for (number, part) in owned.consumers() {
                let is_written =
                    coordinator.batches.get(&number).is_none_or(AckBatch::is_empty) && part.discarded().is_empty();
                if let Some(fence) = &part.fencing_token
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
        self.bus().connection().run_idempotent::<u64>(&release).await?;
        tracing::info!(group = %self.group_consumer.group, partitions = ?released, "partitions released");
        let mut owned = self.owned();
        for number in released {
            owned.remove(number);
            coordinator.batches.remove(&number);
        }
        drop(owned);
        self.partitions_changed.notify_one();
        Ok(())
    }
}

/// Returns the numbers below `limit` in random order, so that members take different partitions first.
fn shuffled(limit: usize) -> Vec<usize> {
    let random = RandomState::new();
    let mut numbers: Vec<usize> = (0..limit).collect();
    numbers.sort_by_cached_key(|number| random.hash_one(number));
    numbers
}
