#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod backlog;
mod blocking_read;
mod bus;
mod command;
mod config;
mod connection;
mod consumer;
mod dead_letter_copies;
mod dead_letter_gate;
mod dead_letters;
mod entry_id;
mod error;
mod group;
mod hash_tag;
mod history;
mod info;
mod inner;
mod keys;
mod layout_state;
#[cfg(feature = "opentelemetry")]
mod otel;
#[cfg(not(feature = "opentelemetry"))]
#[path = "no_otel.rs"]
mod otel;
mod partition;
mod partition_hash;
mod ports;
mod program;
mod publish;
mod relay;
mod reply;
mod script;
mod server;
#[cfg(test)]
mod statuses;
mod store;
mod streams;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "no_tls.rs"]
mod tls;
mod trace;
mod trace_context;
mod trim;
mod url;
mod wire;

pub use bus::RedisEventBus;
pub use config::RedisEventBusConfig;
pub use consumer::{Recovery, RecoveryStats};
pub use error::{ConfigMistake, InvalidConfig, PartitionCountMismatch, RedisCommandError, RedisConnectError};
pub use group::{GroupError, GroupStart, RetireStoreError, RetiredGroup};
pub use history::{Follow, History, HistoryEntry, HistoryError, NotAnEvent};
pub use partition::{RepartitionError, UnfinishedGroup};
/// The driver, in the version this crate uses.
pub use redis;
pub use store::{
    Durability, DurabilityWarning, RedisEventStore, RedisEventStoreConfig, RedisTransaction, RedisTransactionError,
};
pub use streams::{
    Applied, Claim, Claimed, ClaimedEntry, Consume, Effects, EntryError, EventConsumer, EventProjection,
    EventPublishError, EventPublisher, GroupHealth, ProjectionProgress, RedisStreams, RedisStreamsConfig, StreamEntry,
    StreamHealth, StreamProjectionError, StreamReader,
};
pub use trim::{Trim, TrimBlockReason, TrimBlocker, Trimmed};
pub use wire::{Unencodable, wire_payload};
