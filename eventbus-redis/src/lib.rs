#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod bus;
mod command;
mod config;
mod connection;
mod consume;
mod dead_letters;
mod entry_id;
mod error;
mod group;
mod info;
mod keys;
mod publish;
mod script;
mod settle;
mod trace;
mod trim;
mod wire;

pub use bus::RedisEventBus;
pub use config::RedisEventBusConfig;
pub use error::{ConfigMistake, InvalidConfig, RedisCommandError, RedisConnectError};
pub use group::{GroupError, GroupStart, RetiredGroup};
pub use trim::{HeldBy, HeldReason, Trim, Trimmed};
