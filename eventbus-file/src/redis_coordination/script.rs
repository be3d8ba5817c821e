//! The scripts, each one atomic step of Redis.

use std::sync::LazyLock;

use eventbus_redis_core::script::script;
use redis::Script;

pub(super) static LOWER_COUNTER: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("lua/lower_counter.lua")]));
pub(super) static RELEASE_CLAIM: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("lua/release_claim.lua")]));
pub(super) static RENEW_CLAIM: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("lua/renew_claim.lua")]));
pub(super) static RESERVE_IDS: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("lua/reserve_ids.lua")]));
