//! Scripts of partitions: their layout, their leases and their readers.

use super::{
    BACKLOG, ENTRY_BYTES, ENTRY_IDS, FORMAT, LEASE_IS_LIVE, Lua, MEMBERS, RELAY,
    consumer::{ConsumerScript, fenceable},
    lua,
};

pub(crate) static READ_PARTITIONS: Lua = lua(&[ENTRY_BYTES, include_str!("read_partitions.lua")]);
pub(crate) static REGISTER_PARTITION_READER: ConsumerScript =
    fenceable(&[include_str!("register_partition_reader.lua")]);
pub(crate) static ACKNOWLEDGE_IN_PARTITIONS: Lua = lua(&[include_str!("acknowledge_in_partitions.lua")]);
pub(crate) static REBALANCE: Lua = lua(&[ENTRY_IDS, MEMBERS, LEASE_IS_LIVE, include_str!("rebalance.lua")]);
pub(crate) static RELEASE_PARTITIONS: Lua = lua(&[include_str!("release_partitions.lua")]);
pub(crate) static LEASE_PARTITION: Lua = lua(&[ENTRY_IDS, LEASE_IS_LIVE, include_str!("lease_partition.lua")]);
pub(crate) static FIND_LAYOUT: Lua = lua(&[FORMAT, include_str!("find_layout.lua")]);
pub(crate) static JOIN_LAYOUT: Lua = lua(&[ENTRY_IDS, FORMAT, include_str!("join_layout.lua")]);
pub(crate) static REPARTITION: Lua = lua(&[ENTRY_IDS, BACKLOG, RELAY, include_str!("repartition.lua")]);
