//! The scripts of the event store.
//!
//! Invariant: changes that must not be seen half done are one script. A script reads all its keys before its first
//! write: the server does not roll back a script that fails half way.

use std::sync::LazyLock;

use eventbus_redis_core::script::{LEASE_IS_LIVE, PROGRAM_ARGS, PROGRAM_RUN, PROGRAM_STEPS, script};
use redis::Script;

const EVENTS: &str = include_str!("events.lua");
const NOW: &str = include_str!("now.lua");

pub(crate) static LOCK_CHECKPOINT: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("lock_checkpoint.lua")]));
pub(crate) static APPEND: LazyLock<Script> =
    LazyLock::new(|| script(&[PROGRAM_ARGS, EVENTS, include_str!("append.lua")]));
pub(crate) static COMMIT: LazyLock<Script> = LazyLock::new(|| {
    script(&[PROGRAM_ARGS, EVENTS, NOW, PROGRAM_STEPS, include_str!("commit_steps.lua"), PROGRAM_RUN])
});
pub(crate) static END_DEAD_LETTER: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("end_dead_letter.lua")]));
pub(crate) static FORGET_DELIVERIES: LazyLock<Script> =
    LazyLock::new(|| script(&[NOW, LEASE_IS_LIVE, include_str!("forget_deliveries.lua")]));
pub(crate) static DELETE_NOTE: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("delete_note.lua")]));
pub(crate) static LOCK_DELIVERY: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("lock_delivery.lua")]));
pub(crate) static RENEW_LOCKS: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("renew_locks.lua")]));
pub(crate) static LOAD_LEASE: LazyLock<Script> =
    LazyLock::new(|| script(&[NOW, LEASE_IS_LIVE, include_str!("load_lease.lua")]));
pub(crate) static RELEASE_LOCKS: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("release_locks.lua")]));
pub(crate) static LOAD_DEAD_LETTERS: LazyLock<Script> =
    LazyLock::new(|| script(&[include_str!("load_dead_letters.lua")]));
pub(crate) static READ_KEY: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("read_key.lua")]));
pub(crate) static MAKE_SHADOW: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("make_shadow.lua")]));
pub(crate) static OPEN_STORE: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("open_store.lua")]));
pub(crate) static RENEW_LEASE: LazyLock<Script> =
    LazyLock::new(|| script(&[NOW, LEASE_IS_LIVE, include_str!("renew_lease.lua")]));
pub(crate) static SAVE_NOTE: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("save_note.lua")]));
pub(crate) static SAVE_PROGRESS: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("save_progress.lua")]));
pub(crate) static ACQUIRE_LEASE: LazyLock<Script> =
    LazyLock::new(|| script(&[NOW, LEASE_IS_LIVE, include_str!("acquire_lease.lua")]));
pub(crate) static STREAM_VERSION: LazyLock<Script> =
    LazyLock::new(|| script(&["#!lua flags=no-writes\n", PROGRAM_ARGS, EVENTS, include_str!("stream_version.lua")]));
