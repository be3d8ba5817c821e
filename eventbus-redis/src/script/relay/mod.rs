//! Scripts of publishers and relays.

use super::{BACKLOG, ENTRY_BYTES, ENTRY_IDS, Lua, MISSING, ONE_STREAM, PAGES, PARTITIONED, RELAY, lua};

pub(crate) static PUBLISH: Lua = lua(&[ENTRY_IDS, PARTITIONED, include_str!("publish.lua")]);
pub(crate) static PUBLISH_RANGE: Lua = lua(&[ENTRY_IDS, ONE_STREAM, RELAY, include_str!("publish_range.lua")]);
pub(crate) static PUBLISH_RANGE_TO_PARTITION: Lua =
    lua(&[ENTRY_IDS, PARTITIONED, RELAY, include_str!("publish_range.lua")]);
pub(crate) static PUBLISHED_POSITION: Lua = lua(&[ENTRY_IDS, RELAY, include_str!("published_position.lua")]);
pub(crate) static RESYNC: Lua =
    lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, BACKLOG, RELAY, MISSING, include_str!("resync.lua")]);
pub(crate) static REWIND: Lua = lua(&[ENTRY_IDS, RELAY, include_str!("rewind.lua")]);
pub(crate) static GROUP_FLOORS: Lua =
    lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, BACKLOG, RELAY, include_str!("group_floors.lua")]);
