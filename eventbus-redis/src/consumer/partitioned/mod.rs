//! The consumer of one group in a partitioned stream: it owns some of the partitions, and shares one set of in-flight
//! entries among them.
//!
//! Invariant: only the owner of a partition reads it, and the script that reads checks the ownership. A new owner
//! receives all pending entries, in order, before new ones. A consumer that loses a partition drops all its entries of
//! it.

mod coordinator;
mod fetch;
mod owned_partitions;
mod rebalance;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use eventbus::{
    Name,
    delivery::{InFlight, StopSignal, run_workers},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::owned_partitions::OwnedPartitions;
use super::Consumer;
use crate::{command, error::CommandError, inner::BusInner};

/// The consumer of one group in a partitioned stream.
struct PartitionedConsumer {
    /// The consumer of the whole group: holds the in-flight entries and knows the handlers, and reads no entries
    /// itself.
    group_consumer: Consumer,
    /// Shared by reader and coordinator; no task holds the lock across an await.
    owned: Mutex<OwnedPartitions>,
    /// Wakes the reader when the owned partitions have changed.
    partitions_changed: Notify,
    /// Wakes the coordinator when the consumer has lost a partition.
    partition_lost: Notify,
}

/// Delivers events to the group until `stop`; reconnects as often as needed.
pub(super) async fn consume(bus: Arc<BusInner>, group: Name, in_flight: Arc<InFlight>, stop: StopSignal) {
    let consumer = PartitionedConsumer {
        group_consumer: Consumer::new(bus, group, in_flight),
        owned: Mutex::default(),
        partitions_changed: Notify::new(),
        partition_lost: Notify::new(),
    };
    let context = consumer.group_consumer.group_context();
    let ended = CancellationToken::new();
    let work = async {
        let trim = consumer.group_consumer.trim(&stop, || consumer.owned().streams());
        let release = consumer.group_consumer.unblock_streams(&stop);
        tokio::join!(
            run_workers(&consumer.group_consumer.in_flight, &context, &stop),
            consumer.fetch(&stop),
            release,
            trim
        );
        ended.cancel();
    };
    // the coordinator ends last: it writes the last dispositions of the workers
    tokio::join!(work, consumer.run_coordinator(&ended));
}

impl PartitionedConsumer {
    fn owned(&self) -> MutexGuard<'_, OwnedPartitions> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bus(&self) -> &Arc<BusInner> {
        &self.group_consumer.bus
    }

    /// Returns how long the consumer owns a partition without a heartbeat.
    fn lease_duration(&self) -> Duration {
        Duration::from_millis(self.bus().config().partition_lease_ms)
    }

    /// Handles the server's refusal of a script on a partition; returns any other error.
    async fn handle_refusal(&self, part: &Arc<Consumer>, error: CommandError) -> Result<(), CommandError> {
        if command::is_fenced(&error) {
            self.owned().mark_lost(part);
            self.partition_lost.notify_one();
            return Ok(());
        }
        if command::is_group_missing(&error) {
            part.recreate_group().await?;
            self.group_consumer.has_passed_backlog.store(false, Ordering::Release);
            self.owned().restart_partition(part);
            return Ok(());
        }
        Err(error)
    }
}
