//! The state that reader and coordinator of a partitioned stream share.

use std::{sync::Arc, time::Duration};

use eventbus::{Name, delivery::InFlight};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use super::owned_partitions::OwnedPartitions;
use crate::{
    command,
    consumer::{backlog_gate::BacklogGate, inner::ConsumerInner, membership::Membership, parts::ConsumerParts},
    error::CommandError,
    inner::BusInner,
};

/// The consumer of one group in a partitioned stream.
pub(super) struct PartitionedConsumer {
    /// The consumer of the whole group: holds the in-flight entries and knows the handlers, and reads no entries
    /// itself.
    pub(super) inner: Arc<ConsumerInner>,
    pub(super) membership: Membership,
    pub(super) gate: BacklogGate,
    /// Shared by reader and coordinator; no task holds the lock across an await. Lock order: this one, then those of
    /// the pending entries.
    owned: Mutex<OwnedPartitions>,
    /// Wakes the reader when the owned partitions have changed.
    pub(super) partitions_changed: Notify,
    /// Wakes the coordinator when the consumer has lost a partition.
    pub(super) partition_lost: Notify,
}

impl PartitionedConsumer {
    pub(super) fn new(bus: Arc<BusInner>, group: Name, in_flight: Arc<InFlight>) -> Self {
        let inner = Arc::new(ConsumerInner::new(bus, group, in_flight));
        Self {
            membership: Membership::new(Arc::clone(&inner)),
            gate: BacklogGate::new(Arc::clone(&inner)),
            inner,
            owned: Mutex::default(),
            partitions_changed: Notify::new(),
            partition_lost: Notify::new(),
        }
    }

    pub(super) fn owned(&self) -> MutexGuard<'_, OwnedPartitions> {
        self.owned.lock()
    }

    pub(super) fn bus(&self) -> &Arc<BusInner> {
        self.inner.bus()
    }

    /// Returns how long the consumer owns a partition without a heartbeat.
    pub(super) fn lease_duration(&self) -> Duration {
        Duration::from_millis(self.bus().config().partition_lease_ms)
    }

    /// Marks a partition that has a new owner; the coordinator drops it.
    pub(super) fn lose_partition(&self, part: &Arc<ConsumerParts>) {
        self.owned().mark_lost(part);
        self.partition_lost.notify_one();
    }

    /// Creates the group of a partition again, and starts over with its pending entries.
    pub(super) async fn recreate_group(&self, part: &Arc<ConsumerParts>) -> Result<(), CommandError> {
        self.gate.create_group(part.inner.bus()).await?;
        self.owned().restart_partition(part);
        Ok(())
    }

    /// Handles the server's refusal of a script on a partition; returns any other error.
    pub(super) async fn handle_refusal(
        &self,
        part: &Arc<ConsumerParts>,
        error: CommandError,
    ) -> Result<(), CommandError> {
        if command::is_fenced(&error) {
            self.lose_partition(part);
            return Ok(());
        }
        if command::is_group_missing(&error) {
            return self.recreate_group(part).await;
        }
        Err(error)
    }
}
