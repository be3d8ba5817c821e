//! Event store and event bus in memory: the readable reference.

mod bus;
mod leases;
mod store;

pub use bus::{InMemoryEventBus, InMemoryEventBusBuilder};
pub use store::InMemoryEventStore;
