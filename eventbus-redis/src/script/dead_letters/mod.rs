//! Scripts of dead letters.

use super::{ENTRY_IDS, Lua, ONE_STREAM, PARTITIONED, lua};

pub(crate) static INSPECT_DEAD_LETTERS: Lua = lua(&[include_str!("inspect_dead_letters.lua")]);
pub(crate) static RESTORE_DEAD_LETTERS: Lua = lua(&[include_str!("restore_dead_letters.lua")]);
pub(crate) static REPLAY: Lua = lua(&[ENTRY_IDS, ONE_STREAM, include_str!("replay.lua")]);
pub(crate) static REPLAY_TO_PARTITION: Lua = lua(&[ENTRY_IDS, PARTITIONED, include_str!("replay.lua")]);
