#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod append;
mod checkpoint;
mod commands;
mod config;
mod durability;
mod entry;
mod error;
mod event_types;
mod fault;
mod feed;
mod handler_fields;
mod handler_progress;
mod inner;
/// Names of keys, for the tools of this repository: no part of the API.
#[doc(hidden)]
pub mod keys;
mod lease;
mod listings;
mod missing_events;
mod multi_stream_append;
mod notes;
mod ports;
mod read;
mod script;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
mod unique_values;
mod value_change;

pub use config::RedisEventStoreConfig;
pub use durability::{Durability, DurabilityWarning};
#[doc(inline)]
pub use eventbus_redis_core::error::{ConfigMistake, InvalidConfig, RedisConnectError};
/// The driver, in the version this crate uses.
pub use redis;
pub use store::RedisEventStore;
