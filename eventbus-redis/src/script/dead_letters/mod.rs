//! Scripts of dead letters.

use super::{ENTRY_IDS, Lua, lua};

pub(crate) static REPLAY: Lua = lua(&[ENTRY_IDS, include_str!("replay.lua")]);
