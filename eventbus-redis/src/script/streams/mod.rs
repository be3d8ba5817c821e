//! Scripts of plain streams.

use super::{ENTRY_BYTES, ENTRY_IDS, GONE, Lua, PAGES, lua};

pub(crate) static NEXT_PROJECTION_BATCH: Lua =
    lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, include_str!("next_projection_batch.lua")]);
pub(crate) static CLAIM_PAGE: Lua = lua(&[ENTRY_BYTES, GONE, include_str!("claim_page.lua")]);
