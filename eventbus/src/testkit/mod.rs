//! For tests of applications: [`given`], [`ManualClock`], [`FaultyStore`] and [`FaultyBus`]. For authors of backends:
//! conformance suites, one per port.

mod clock;
mod delegate;
pub mod event_bus;
mod event_diff;
pub mod event_store;
mod fault;
mod given;
mod lossy_bus;
mod lossy_bus_data;
mod tables;

#[doc(inline)]
pub use crate::__delegate as delegate;
pub use clock::ManualClock;
pub use fault::{Fault, Faults, FaultyBus, FaultyStore, Refusal};
pub use given::{Decided, Given, given};
pub use lossy_bus::{LossyBus, LossyBusSnapshot};
pub use tables::{Row, TableFault, TableStore, TableTransaction, Tables};
