//! Store and bus in memory: the readable reference.

mod bus;
mod roles;
mod store;

pub use bus::{InMemoryEventBus, InMemoryEventBusBuilder};
pub use store::InMemoryEventStore;
