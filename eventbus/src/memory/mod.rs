//! Store and bus in memory: the readable reference.

mod bus;
mod store;

pub use bus::InMemoryEventBus;
pub use store::InMemoryEventStore;
