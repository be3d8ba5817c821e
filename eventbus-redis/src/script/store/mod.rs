//! The scripts of the event store.

use std::sync::LazyLock;

use redis::Script;

/// A script with the functions for time and leases.
macro_rules! with_time {
    ($file:literal) => {
        LazyLock::new(|| {
            Script::new(concat!(include_str!("now.lua"), include_str!("../live.lua"), include_str!($file)))
        })
    };
}

/// A script with the functions for events.
macro_rules! with_events {
    ($($file:literal),+) => {
        LazyLock::new(|| Script::new(concat!(include_str!("events.lua"), $(include_str!($file)),+)))
    };
}

/// A script without further functions.
macro_rules! plain {
    ($file:literal) => {
        LazyLock::new(|| Script::new(include_str!($file)))
    };
}

pub(crate) static LOCK_CHECKPOINT: LazyLock<Script> = plain!("advance.lua");
pub(crate) static APPEND: LazyLock<Script> = with_events!("append.lua");
pub(crate) static COMMIT: LazyLock<Script> = with_events!("now.lua", "commit.lua");
pub(crate) static END_DEAD_LETTER: LazyLock<Script> = plain!("end_dead.lua");
pub(crate) static FORGET_DELIVERIES: LazyLock<Script> = with_time!("forget.lua");
pub(crate) static DELETE_NOTE: LazyLock<Script> = plain!("forget_note.lua");
pub(crate) static LOCK_DELIVERY: LazyLock<Script> = plain!("is_first.lua");
pub(crate) static RENEW_LOCKS: LazyLock<Script> = plain!("keep.lua");
pub(crate) static LOAD_LEASE: LazyLock<Script> = with_time!("lease_of.lua");
pub(crate) static RELEASE_LOCKS: LazyLock<Script> = plain!("let_go.lua");
pub(crate) static LOAD_DEAD_LETTERS: LazyLock<Script> = plain!("load_dead.lua");
pub(crate) static READ_KEY: LazyLock<Script> = plain!("look_up.lua");
pub(crate) static MAKE_SHADOW: LazyLock<Script> = plain!("make_shadow.lua");
pub(crate) static OPEN_STORE: LazyLock<Script> = plain!("open.lua");
pub(crate) static RENEW_LEASE: LazyLock<Script> = with_time!("renew_lease.lua");
pub(crate) static SAVE_NOTE: LazyLock<Script> = plain!("save_note.lua");
pub(crate) static SAVE_PROGRESS: LazyLock<Script> = plain!("save_progress.lua");
pub(crate) static ACQUIRE_LEASE: LazyLock<Script> = with_time!("take_lease.lua");
pub(crate) static STREAM_VERSION: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!("#!lua flags=no-writes\n", include_str!("events.lua"), include_str!("version.lua")))
});
