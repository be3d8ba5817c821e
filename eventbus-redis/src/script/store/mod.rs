//! The scripts of the event store.

use std::sync::LazyLock;

use redis::Script;

use super::{LEASE_IS_LIVE, script};

const EVENTS: &str = include_str!("events.lua");
const NOW: &str = include_str!("now.lua");

pub(crate) static LOCK_CHECKPOINT: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("advance.lua")]));
pub(crate) static APPEND: LazyLock<Script> = LazyLock::new(|| script(&[EVENTS, include_str!("append.lua")]));
pub(crate) static COMMIT: LazyLock<Script> = LazyLock::new(|| script(&[EVENTS, NOW, include_str!("commit.lua")]));
pub(crate) static END_DEAD_LETTER: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("end_dead.lua")]));
pub(crate) static FORGET_DELIVERIES: LazyLock<Script> =
    LazyLock::new(|| script(&[NOW, LEASE_IS_LIVE, include_str!("forget.lua")]));
pub(crate) static DELETE_NOTE: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("forget_note.lua")]));
pub(crate) static LOCK_DELIVERY: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("is_first.lua")]));
pub(crate) static RENEW_LOCKS: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("keep.lua")]));
pub(crate) static LOAD_LEASE: LazyLock<Script> =
    LazyLock::new(|| script(&[NOW, LEASE_IS_LIVE, include_str!("lease_of.lua")]));
pub(crate) static RELEASE_LOCKS: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("let_go.lua")]));
pub(crate) static LOAD_DEAD_LETTERS: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("load_dead.lua")]));
pub(crate) static READ_KEY: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("look_up.lua")]));
pub(crate) static MAKE_SHADOW: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("make_shadow.lua")]));
pub(crate) static OPEN_STORE: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("open.lua")]));
pub(crate) static RENEW_LEASE: LazyLock<Script> =
    LazyLock::new(|| script(&[NOW, LEASE_IS_LIVE, include_str!("renew_lease.lua")]));
pub(crate) static SAVE_NOTE: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("save_note.lua")]));
pub(crate) static SAVE_PROGRESS: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("save_progress.lua")]));
pub(crate) static ACQUIRE_LEASE: LazyLock<Script> =
    LazyLock::new(|| script(&[NOW, LEASE_IS_LIVE, include_str!("take_lease.lua")]));
pub(crate) static STREAM_VERSION: LazyLock<Script> =
    LazyLock::new(|| script(&["#!lua flags=no-writes\n", EVENTS, include_str!("version.lua")]));
