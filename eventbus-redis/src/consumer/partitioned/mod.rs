//! The consumer of one group where the stream has partitions: it owns some of them, and what it reads from all of them is
//! in one hand.
//!
//! Keep: only the owner of a partition reads it, and the server checks that within the script that reads. A new owner
//! gets everything that is pending there, in order, before it reads on. Whoever loses a partition forgets all it has of
//! it.

mod coordinator;
mod fetch;
mod owned_partitions;
mod rebalance;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use eventbus::{
    Name,
    port::{InFlight, StopSignal},
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::owned_partitions::OwnedPartitions;
use super::Consumer;
use crate::{bus::BusInner, command, connection::CommandError};

/// The consumer of one group.
struct PartitionedConsumer {
    /// What it would be without partitions. It has the hand and knows the handlers; it reads nothing itself.
    group_consumer: Consumer,
    owned: Mutex<OwnedPartitions>,
    /// Tells the reader that it has other partitions than before.
    partitions_changed: Notify,
    /// Tells the keeper that a partition was lost.
    partition_lost: Notify,
}

/// Hands the group its events until it is stopped; connects anew as often as it must.
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
        tokio::join!(consumer.group_consumer.in_flight.work(&context, &stop), consumer.fetch(&stop), release, trim);
        ended.cancel();
    };
    tokio::join!(work, consumer.run_coordinator(&ended));
}

impl PartitionedConsumer {
    fn owned(&self) -> MutexGuard<'_, OwnedPartitions> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn bus(&self) -> &Arc<BusInner> {
        &self.group_consumer.bus
    }

    /// How long it owns a partition without a sign of life.
    fn lease_duration(&self) -> Duration {
        Duration::from_millis(self.bus().config.partition_lease_ms)
    }

    /// Does what is to be done when the server refuses something about a partition; any other error is the caller's.
    async fn handle_refusal(&self, part: &Arc<Consumer>, error: CommandError) -> Result<(), CommandError> {
        if command::is_fenced(&error) {
            self.owned().mark_lost(part);
            self.partition_lost.notify_one();
            return Ok(());
        }
        if command::is_group_missing(&error) {
            part.recreate_group().await?;
            self.owned().restart_partition(part);
            return Ok(());
        }
        Err(error)
    }
}
