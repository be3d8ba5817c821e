//! The scripts, each one atomic step of Redis.

use eventbus_redis_core::script::{Lua, lua};

pub(super) static LOWER_COUNTER: Lua = lua(&[include_str!("lua/lower_counter.lua")]);
pub(super) static RELEASE_CLAIM: Lua = lua(&[include_str!("lua/release_claim.lua")]);
pub(super) static RENEW_CLAIM: Lua = lua(&[include_str!("lua/renew_claim.lua")]);
pub(super) static RESERVE_IDS: Lua = lua(&[include_str!("lua/reserve_ids.lua")]);
