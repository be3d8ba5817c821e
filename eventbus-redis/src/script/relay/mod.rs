//! Scripts of relays.

use super::{Lua, lua};

pub(crate) static PUBLISH_RANGE: Lua = lua(&[include_str!("publish_range.lua")]);
pub(crate) static SET_RECORD: Lua = lua(&[include_str!("set_record.lua")]);
