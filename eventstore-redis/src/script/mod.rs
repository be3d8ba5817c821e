//! The scripts of the event store.
//!
//! Invariant: changes that no client may see half done are one script. A script reads all its keys before its first
//! write: the server does not roll back a script that fails half way. If half of its writes would do harm, it also
//! checks first that it may make the later ones.

use eventbus_redis_core::script::{ENTRY_BYTES, ENTRY_IDS, FORMAT, LEASE_IS_LIVE, Lua, PAGES, PROGRAM_ARGS, lua};

const EVENTS: &str = include_str!("events.lua");
const GROUPS: &str = include_str!("groups.lua");
const NOW: &str = include_str!("now.lua");
const RIGHTS: &str = include_str!("rights.lua");
const SHARD_LEASES: &str = include_str!("shard_leases.lua");
const SNAPSHOT_VERSION: &str = include_str!("snapshot_version.lua");

pub(crate) static ACQUIRE_SHARDS: Lua = lua(&[NOW, LEASE_IS_LIVE, SHARD_LEASES, include_str!("acquire_shards.lua")]);
pub(crate) static DECLARE_HANDLER: Lua = lua(&[include_str!("declare_handler.lua")]);
pub(crate) static END_DEAD_ROW: Lua = lua(&[RIGHTS, include_str!("end_dead_row.lua")]);
pub(crate) static HEARTBEAT: Lua = lua(&[NOW, LEASE_IS_LIVE, SHARD_LEASES, include_str!("heartbeat.lua")]);
pub(crate) static RETIRE_HANDLER: Lua = lua(&[NOW, LEASE_IS_LIVE, SHARD_LEASES, include_str!("retire_handler.lua")]);
pub(crate) static SAVE_MEMBER: Lua = lua(&[NOW, include_str!("save_member.lua")]);
pub(crate) static SAVE_SHARDS: Lua = lua(&[PROGRAM_ARGS, RIGHTS, include_str!("save_shards.lua")]);
pub(crate) static APPEND: Lua = lua(&[PROGRAM_ARGS, RIGHTS, EVENTS, GROUPS, include_str!("append.lua")]);
pub(crate) static APPEND_TOGETHER: Lua =
    lua(&[PROGRAM_ARGS, NOW, RIGHTS, EVENTS, GROUPS, include_str!("append_together.lua")]);
pub(crate) static FORGET_DELIVERIES: Lua = lua(&[NOW, LEASE_IS_LIVE, include_str!("forget_deliveries.lua")]);
pub(crate) static FORGET_COMMANDS: Lua = lua(&[NOW, LEASE_IS_LIVE, include_str!("forget_commands.lua")]);
pub(crate) static DELETE_CHECKPOINT: Lua = lua(&[include_str!("delete_checkpoint.lua")]);
pub(crate) static DELETE_NOTE: Lua = lua(&[include_str!("delete_note.lua")]);
pub(crate) static LOAD_LEASE: Lua = lua(&[NOW, LEASE_IS_LIVE, include_str!("load_lease.lua")]);
pub(crate) static READ_SNAPSHOT: Lua = lua(&[
    "#!lua flags=no-writes\n",
    ENTRY_IDS,
    ENTRY_BYTES,
    PAGES,
    PROGRAM_ARGS,
    SNAPSHOT_VERSION,
    include_str!("read_snapshot.lua"),
]);
pub(crate) static FIND_STORE: Lua = lua(&["#!lua flags=no-writes\n", FORMAT, include_str!("find_store.lua")]);
pub(crate) static OPEN_STORE: Lua = lua(&[FORMAT, include_str!("open_store.lua")]);
pub(crate) static RENEW_LEASE: Lua = lua(&[NOW, LEASE_IS_LIVE, include_str!("renew_lease.lua")]);
pub(crate) static SAVE_CHECKPOINT: Lua = lua(&[include_str!("save_checkpoint.lua")]);
pub(crate) static SAVE_NOTE: Lua = lua(&[include_str!("save_note.lua")]);
pub(crate) static SAVE_SNAPSHOT: Lua = lua(&[PROGRAM_ARGS, SNAPSHOT_VERSION, include_str!("save_snapshot.lua")]);
pub(crate) static ACQUIRE_LEASE: Lua = lua(&[NOW, LEASE_IS_LIVE, include_str!("acquire_lease.lua")]);
pub(crate) static STREAM_ENDS: Lua =
    lua(&["#!lua flags=no-writes\n", PROGRAM_ARGS, EVENTS, include_str!("stream_ends.lua")]);
pub(crate) static STREAM_VERSION: Lua =
    lua(&["#!lua flags=no-writes\n", PROGRAM_ARGS, EVENTS, include_str!("stream_version.lua")]);
