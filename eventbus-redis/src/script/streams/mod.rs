//! Scripts of plain streams.

use super::{ENTRY_BYTES, ENTRY_IDS, Lua, PAGES, lua};

pub(crate) static NEXT_PROJECTION_BATCH: Lua =
    lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, include_str!("next_projection_batch.lua")]);
