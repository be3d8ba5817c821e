//! The consumer of one group in a partitioned stream: it owns some of the partitions, and shares one set of in-flight
//! entries among them.
//!
//! Invariant: only the owner of a partition reads it, and the script that reads checks the ownership. A new owner
//! receives all pending entries, in order, before new ones. A consumer that loses a partition drops all its entries of
//! it.

mod consumer;
mod coordinator;
mod fetch;
mod owned_partitions;

use std::sync::Arc;

use eventbus::{
    Name,
    delivery::{InFlight, StopSignal, run_workers},
};
use tokio_util::sync::CancellationToken;

use self::{consumer::PartitionedConsumer, coordinator::PartitionTasks, fetch::PartitionReader};
use super::{
    task_loop::{FailedTasks, run_tasks},
    trim,
};
use crate::inner::BusInner;

/// Delivers events to the group until `stop`; reconnects as often as needed.
pub(super) async fn consume(bus: Arc<BusInner>, group: Name, in_flight: Arc<InFlight>, stop: StopSignal) {
    let consumer = PartitionedConsumer::new(bus, group, in_flight);
    let inner = &consumer.inner;
    let context = inner.group_context();
    let ended = CancellationToken::new();
    let work = async {
        let mut reader = PartitionReader::new(&consumer, &stop);
        tokio::join!(
            run_workers(inner.in_flight(), &context, &stop),
            reader.run(),
            consumer.gate.unblock_streams(&stop),
            trim::trim(inner, &stop, || consumer.owned().streams())
        );
        ended.cancel();
    };
    let failed = FailedTasks::new("keeping partitions", inner.group().clone());
    let mut tasks = PartitionTasks::new(&consumer);
    tokio::join!(work, run_tasks(&mut tasks, failed, inner.in_flight(), &ended));
}
