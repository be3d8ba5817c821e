//! Store and bus in memory: the readable reference.

mod bus;
mod store;

pub use bus::{InMemoryEventBus, InMemoryEventBusBuilder};
pub use store::InMemoryEventStore;
