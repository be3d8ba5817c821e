//! The consumer of one group: a reader fetches entries, workers handle them, an acknowledger writes their dispositions.
//!
//! Invariant: an entry stays pending until all its handlers have succeeded or it is a dead letter. Only the consumer
//! that it is pending on works on it, and renews that claim often enough. All other state may be lost at any time.

mod acknowledger;
mod backlog_gate;
mod group_backlog;
mod inner;
mod membership;
mod multi_consumer;
mod outage_log;
mod partitioned;
mod parts;
mod pending_entries;
mod plain;
mod reader;
mod reader_connection;
mod receiver;
mod recover;
mod task_loop;
mod trim;

use std::sync::Arc;

use eventbus::{
    Name,
    delivery::{InFlight, StopSignal, WorkerSlots, run_workers},
};
use tokio_util::sync::CancellationToken;

use self::{
    backlog_gate::BacklogGate,
    group_backlog::GroupBacklog,
    inner::ConsumerInner,
    parts::ConsumerParts,
    plain::PlainTasks,
    reader::{CaughtUp, StreamReader},
    task_loop::{ConsumerTasks, FailedTasks, run_tasks},
};
use crate::inner::BusInner;

pub(crate) use multi_consumer::consume as consume_all;
pub(crate) use recover::recover;
pub use recover::{Recovery, RecoveryStats};

/// Delivers events to the group until `stop`: those of its backlog, and those of the stream.
async fn consume(bus: Arc<BusInner>, group: Name, stop: StopSignal) {
    let worker_slots = WorkerSlots::default();
    let in_flight = new_in_flight(&bus, &worker_slots);
    let mut backlog = GroupBacklog::new(&bus, &group, worker_slots);
    let stream_ready = backlog.stream_ready().clone();
    let stream = async {
        // a stop while the backlog comes first must not wait for its end
        tokio::select! {
            () = stream_ready.cancelled() => consume_stream(bus, group, in_flight, stop.clone()).await,
            () = stop.stopped() => {}
        }
    };
    tokio::join!(stream, backlog.consume(&stop));
}

/// Creates the in-flight entries of one stream of a consumer. They share `worker_slots` with those of its backlog.
fn new_in_flight(bus: &BusInner, worker_slots: &WorkerSlots) -> Arc<InFlight> {
    let config = bus.config();
    let in_flight = InFlight::new(config.in_flight_limit(), config.max_in_flight_bytes, config.clock.clone());
    Arc::new(in_flight.with_max_waiting(config.max_waiting).with_slots(worker_slots))
}

/// Delivers the events of one stream to the group until `stop`; reconnects as often as needed.
async fn consume_stream(bus: Arc<BusInner>, group: Name, in_flight: Arc<InFlight>, stop: StopSignal) {
    if !bus.partitions().is_empty() {
        return partitioned::consume(bus, group, in_flight, stop).await;
    }
    let parts = ConsumerParts::new(ConsumerInner::new(bus, group, in_flight));
    let inner = &parts.inner;
    let (gate, caught_up) = (BacklogGate::new(Arc::clone(inner)), CaughtUp::default());
    let mut reader = StreamReader::new(&parts, &gate, &caught_up, &stop);
    let tasks = PlainTasks::new(&parts, &gate, &caught_up);
    let streams = || vec![Arc::clone(inner.bus())];
    run_consumer(inner, &gate, &stop, reader.run(), streams, tasks, "acknowledging").await;
}

/// Runs the workers and the reader of a consumer beside its other tasks until `stop`; trims the `streams` meanwhile.
async fn run_consumer(
    inner: &ConsumerInner,
    gate: &BacklogGate,
    stop: &StopSignal,
    read: impl Future<Output = ()>,
    streams: impl Fn() -> Vec<Arc<BusInner>>,
    mut tasks: impl ConsumerTasks,
    operation: &'static str,
) {
    let (context, ended) = (inner.group_context(), CancellationToken::new());
    let work = async {
        tokio::join!(
            run_workers(inner.in_flight(), &context, stop),
            read,
            gate.unblock_streams(stop),
            trim::trim(inner, stop, streams)
        );
        ended.cancel();
    };
    let failed = FailedTasks::new(operation, inner.group().clone());
    tokio::join!(work, run_tasks(&mut tasks, failed, inner.in_flight(), inner.bus().consuming(), &ended));
}
