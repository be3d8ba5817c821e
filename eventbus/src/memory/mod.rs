//! Event store and event bus in memory: the readable reference.

mod bus;
mod handler_progress;
mod handler_table;
mod leases;
mod store;
mod store_listings;
mod tag_table;
mod unique_table;

pub use bus::{InMemoryEventBus, InMemoryEventBusBuilder};
pub use store::InMemoryEventStore;
