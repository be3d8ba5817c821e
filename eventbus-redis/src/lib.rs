#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod blocking_read;
mod bus;
mod command;
mod config;
mod consumer;
mod dead_letters;
mod entry_cursor;
mod group;
mod history;
mod info;
mod inner;
mod join;
/// Names of keys, for the tools of this repository: no part of the API.
#[doc(hidden)]
pub mod keys;
#[cfg(feature = "opentelemetry")]
mod otel;
#[cfg(not(feature = "opentelemetry"))]
#[path = "no_otel.rs"]
mod otel;
mod ports;
mod publish;
mod relay;
mod script;
pub mod streams;
#[cfg(test)]
mod tests;
mod trace;
mod trace_context;
mod trim;
mod unfinished;
mod wire;

// as modules of this crate: its files name them `crate::connection`
use eventbus_redis_core::{connection, entry_id, env_vars, error, hash_tag, program, reply, server, url, validate};

pub use bus::RedisEventBus;
pub use config::RedisEventBusConfig;
pub use consumer::{Recovery, RecoveryStats};
#[doc(inline)]
pub use eventbus_redis_core::error::{ConfigMistake, InvalidConfig, RedisCommandError, RedisConnectError};
pub use group::{GroupError, GroupStart, RetiredGroup};
pub use history::{Follow, History, HistoryEntry, NotAnEvent};
/// The driver, in the version this crate uses.
pub use redis;
pub use trim::{Trim, TrimBlockReason, TrimBlocker, Trimmed};
pub use unfinished::{GroupConsumer, PendingDelivery};
pub use wire::{Unencodable, wire_payload};
