//! Scripts of connecting to a bus.

use super::{FORMAT, Lua, lua};

pub(crate) static JOIN: Lua = lua(&[FORMAT, include_str!("join.lua")]);
pub(crate) static ATTACH: Lua = lua(&[FORMAT, include_str!("attach.lua")]);
