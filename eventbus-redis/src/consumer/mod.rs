//! The consumer of one group: a reader fetches entries, workers handle them, an acknowledger writes their dispositions.
//!
//! Invariant: an entry stays pending until all its handlers have succeeded or it is a dead letter. Only the consumer
//! that it is pending on works on it, and renews that claim often enough. All other state may be lost at any time.

mod acknowledger;
mod inner;
mod membership;
mod outage_log;
mod parts;
mod pending_entries;
mod reader;
mod receiver;
mod recover;
mod tasks;

use std::sync::Arc;

use eventbus::{
    Name,
    delivery::{DEFAULT_IN_FLIGHT_BYTES, InFlight, StopSignal, run_workers},
};
use tokio_util::sync::CancellationToken;

use self::{
    inner::ConsumerInner,
    parts::ConsumerParts,
    reader::{CaughtUp, StreamReader},
    tasks::ConsumerTasks,
};
use crate::inner::BusInner;

pub(crate) use recover::recover;
pub use recover::{Recovery, RecoveryStats};

/// Delivers events to the group until `stop`; reconnects as often as needed.
pub(crate) async fn consume(bus: Arc<BusInner>, group: Name, stop: StopSignal) {
    let in_flight = new_in_flight(&bus);
    let parts = ConsumerParts::new(ConsumerInner::new(bus, group, in_flight));
    let (inner, caught_up, ended) = (&parts.inner, CaughtUp::default(), CancellationToken::new());
    let mut reader = StreamReader::new(&parts, &caught_up, &stop);
    let mut tasks = ConsumerTasks::new(&parts, &caught_up);
    let context = inner.group_context();
    let work = async {
        tokio::join!(run_workers(inner.in_flight(), &context, &stop), reader.run());
        ended.cancel();
    };
    tokio::join!(work, tasks.run(&ended));
}

/// Creates the in-flight entries of a consumer.
fn new_in_flight(bus: &BusInner) -> Arc<InFlight> {
    let config = bus.config();
    Arc::new(InFlight::new(config.in_flight_limit(), DEFAULT_IN_FLIGHT_BYTES, config.clock.clone()))
}
