//! Event store and event bus in memory: the readable reference.

mod bus;
mod leases;
mod store;
mod unique_table;

pub use bus::{InMemoryEventBus, InMemoryEventBusBuilder};
pub use store::InMemoryEventStore;
