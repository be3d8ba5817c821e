//! For tests of applications: [`given`] tests the commands of aggregates, [`given_decision`] decisions,
//! [`given_events`] projections and handlers, [`TestApp`] a whole application, for which days pass in an instant;
//! [`FaultyStore`] and [`FaultyBus`] fail on demand. For authors of backends: conformance suites, one per port.
//!
#![doc = include_str!("../docs/testing.md")]

mod clock;
mod decided;
mod delegate;
pub mod event_bus;
mod event_diff;
pub mod event_store;
mod fault;
mod given;
mod given_decision;
mod given_events;
mod handler_run;
mod lossy_bus;
mod lossy_bus_data;
mod new_events;
mod recording_bus;
mod save_clock;
mod schedule;
mod tables;
mod test_app;

#[doc(inline)]
pub use crate::__delegate as delegate;
pub use clock::ManualClock;
pub use decided::Decided;
pub use fault::{Fault, Faults, FaultyBus, FaultyStore, Refusal};
pub use given::{Given, given};
pub use given_decision::{GivenDecision, given_decision};
pub use given_events::{GivenEvents, given_events};
pub use handler_run::HandlerRun;
pub use lossy_bus::{LossyBus, LossyBusSnapshot};
pub use new_events::IntoNewEvents;
pub use tables::{Row, TableFault, TableStore, TableTransaction, Tables};
pub use test_app::TestApp;
