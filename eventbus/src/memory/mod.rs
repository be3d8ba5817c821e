//! Store and bus in memory: the readable reference.

mod store;

pub use store::InMemoryEventStore;
