//! For tests of applications: [`ManualClock`], [`FaultyStore`] and [`FaultyBus`]. For authors of backends: conformance
//! suites, one per port.

mod clock;
mod delegate;
pub mod event_bus;
pub mod event_store;
mod fault;
mod lossy_bus;
mod lossy_bus_data;
mod tables;

#[doc(inline)]
pub use crate::__delegate as delegate;
pub use clock::ManualClock;
pub use fault::{Fault, Faults, FaultyBus, FaultyStore, Refusal};
pub use lossy_bus::{LossyBus, LossyBusSnapshot};
pub use tables::{Row, TableFault, TableStore, TableTransaction, Tables};
