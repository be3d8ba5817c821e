//! The delivery engine that all buses share: subscribers, in-flight entries, workers and consumers' lifecycle.
//!
//! A bus keeps an [`InFlight`] for each consumer, adds the entries that it reads, runs [`run_workers`], and persists
//! the dispositions. Applications do not need this module.

mod active_subscriber;
pub(crate) mod activity;
mod consuming;
mod dispatch;
mod in_flight;
mod run;
mod subscribers;
mod watchdog;

pub use active_subscriber::{ActiveSubscriber, Limits, SpanFn, handler_span};
pub(crate) use consuming::within_grace_period;
pub use consuming::{Consuming, StopSignal};
pub use dispatch::{Outcome, dispatch, log_skipped_type};
pub(crate) use in_flight::memory_of;
pub use in_flight::{
    DEFAULT_IN_FLIGHT_BYTES, DEFAULT_MAX_WAITING, DisposedEntry, Disposition, GroupContext, InFlight, InFlightEntry,
    SuspectLock, SuspectPermit, run_workers,
};
pub use subscribers::{ConsumerReport, Subscribers};
pub(crate) use watchdog::slots_freed;

pub use crate::port::{
    attempts::{DeliveryAttempts, Failure, HandlerFailure},
    retry::RetryPolicy,
    stats::BusCounters,
};
