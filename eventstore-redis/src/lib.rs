#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod append;
mod boundaries;
mod checkpoint;
mod commands;
mod commit;
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
mod ports;
mod read;
mod script;
mod snapshot;
mod store;
#[cfg(test)]
mod tests;
mod transaction;
mod transaction_error;
mod transactions;

pub use config::RedisEventStoreConfig;
pub use durability::{Durability, DurabilityWarning};
#[doc(inline)]
pub use eventbus_redis_core::error::{ConfigMistake, InvalidConfig, RedisConnectError};
/// The driver, in the version this crate uses.
pub use redis;
pub use store::RedisEventStore;
pub use transaction::RedisTransaction;
pub use transaction_error::RedisTransactionError;
