//! Scripts of the backlogs of groups.

use super::{BACKLOG, BACKLOG_ROOM, ENTRY_BYTES, ENTRY_IDS, Lua, MEMBERS, PAGES, RELAY, lua};

pub(crate) static ANNOUNCE: Lua = lua(&[ENTRY_IDS, BACKLOG, MEMBERS, RELAY, include_str!("announce.lua")]);
pub(crate) static COPY_TO_BACKLOG: Lua =
    lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, BACKLOG, BACKLOG_ROOM, include_str!("copy_to_backlog.lua")]);
pub(crate) static FILL_BACKLOG: Lua =
    lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, BACKLOG, BACKLOG_ROOM, include_str!("fill_backlog.lua")]);
pub(crate) static LIST_FILLS: Lua = lua(&[ENTRY_IDS, include_str!("list_fills.lua")]);
pub(crate) static INSPECT_BACKLOG: Lua =
    lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, BACKLOG, include_str!("inspect_backlog.lua")]);
