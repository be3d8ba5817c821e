//! The scripts that run on the server.
//!
//! Invariant: changes that no client may see half done are one script. A script reads all its keys before its first
//! write: the server does not roll back a script that fails half way.

pub(crate) mod bus;
pub(crate) mod consumer;
pub(crate) mod dead_letters;
pub(crate) mod group;
pub(crate) mod relay;
pub(crate) mod streams;

use eventbus_redis_core::script::{ENTRY_BYTES, ENTRY_IDS, FORMAT, Lua, PAGES, lua};

/// Bytes of the entries that one script call reads without returning them: the server runs no other command meanwhile,
/// and holds these entries twice.
pub(crate) const PASSED_BYTES_MAX: usize = 4 * 1024 * 1024;

const TRIM_FLOOR: &str = include_str!("lib/trim_floor.lua");
