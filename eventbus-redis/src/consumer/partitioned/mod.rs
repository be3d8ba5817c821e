//! The consumer of one group in a partitioned stream: it owns some of the partitions, and shares one set of in-flight
//! entries among them.
//!
//! Invariant: only the owner of a partition reads it, and the script that reads checks the ownership. A new owner
//! receives all pending entries, in order, before new ones. A consumer that loses a partition drops all entries of that
//! partition.

mod consumer;
mod coordinator;
mod fetch;
mod owned_partitions;

use std::sync::Arc;

use eventbus::{
    Name,
    delivery::{InFlight, StopSignal},
};

use self::{consumer::PartitionedConsumer, coordinator::PartitionTasks, fetch::PartitionReader};
use super::run_consumer;
use crate::inner::BusInner;

/// Delivers events to the group until `stop`; reconnects as often as needed.
pub(super) async fn consume(bus: Arc<BusInner>, group: Name, in_flight: Arc<InFlight>, stop: StopSignal) {
    let consumer = PartitionedConsumer::new(bus, group, in_flight);
    let (inner, gate) = (&consumer.inner, &consumer.gate);
    let mut reader = PartitionReader::new(&consumer, &stop);
    let (streams, tasks) = (|| consumer.owned().streams(), PartitionTasks::new(&consumer, &stop));
    run_consumer(inner, gate, &stop, reader.run(), streams, tasks, "keeping partitions").await;
}
