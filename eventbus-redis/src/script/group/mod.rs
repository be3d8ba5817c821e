//! Scripts of groups: their creation, their end and trimming.

use super::{BACKLOG, ENTRY_BYTES, ENTRY_IDS, FORMAT, Lua, MEMBERS, PAGES, RELAY, TRIM_FLOOR, lua};

pub(crate) static CREATE_GROUP: Lua = lua(&[ENTRY_IDS, BACKLOG, RELAY, FORMAT, include_str!("create_group.lua")]);
pub(crate) static FIND_POSITION: Lua = lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, include_str!("find_position.lua")]);
pub(crate) static COUNT_AFTER: Lua = lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, include_str!("count_after.lua")]);
pub(crate) static RETIRE_GROUP: Lua = lua(&[ENTRY_IDS, BACKLOG, include_str!("retire_group.lua")]);
pub(crate) static RETIRE_STORE: Lua = lua(&[ENTRY_IDS, include_str!("retire_store.lua")]);
pub(crate) static FORGET_TYPE: Lua = lua(&[ENTRY_IDS, MEMBERS, RELAY, include_str!("forget_type.lua")]);
pub(crate) static TRIM: Lua =
    lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, BACKLOG, RELAY, TRIM_FLOOR, include_str!("trim.lua")]);
pub(crate) static TRIM_BLOCKER: Lua = lua(&[ENTRY_IDS, BACKLOG, RELAY, TRIM_FLOOR, include_str!("trim_blocker.lua")]);
pub(crate) static COUNT_EXHAUSTED: Lua = lua(&[include_str!("count_exhausted.lua")]);
