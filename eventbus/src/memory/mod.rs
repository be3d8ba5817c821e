//! Store and bus in memory: the readable reference.

mod bus;

pub use bus::InMemoryEventBus;
