//! The engine: runs the handlers of an app on the feed of its store.
//!
//! All state of a handler is in the store ([`HandlerProgress`](crate::port::HandlerProgress)); the engine of each live
//! process owns some of its shards. `ownership` shares the shards, `shard` is the state machine of one, `feeder` brings
//! events, `workers` runs them, and `saver` writes what has changed of all handlers, one save at a time.
//!
//! Invariant: what a process knows of a shard counts only as long as it owns it. Each save is fenced by the epoch; a
//! process that another one has replaced learns it there, and forgets the shard.

mod alone;
mod dead_letters;
mod feed_window;
mod feeder;
mod for_tools;
mod handler_queue;
mod handler_run;
mod heartbeats;
mod left_types;
mod ownership;
mod process;
mod saver;
mod shard;
mod shared;
mod slots;
mod start_log;
mod store_bus;
#[cfg(test)]
mod tests;
mod workers;

pub use self::for_tools::{bus_of_store, reads_store};
pub(crate) use self::store_bus::StoreBus;
