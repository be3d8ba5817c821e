//! Scripts of dead letters.

use std::sync::LazyLock;

use redis::Script;

use super::{ENTRY_IDS, ONE_STREAM, PARTITIONED, script};

pub(crate) static INSPECT_DEAD_LETTERS: LazyLock<Script> =
    LazyLock::new(|| script(&[include_str!("inspect_dead_letters.lua")]));
pub(crate) static RESTORE_DEAD_LETTERS: LazyLock<Script> =
    LazyLock::new(|| script(&[include_str!("restore_dead_letters.lua")]));
pub(crate) static REPLAY: LazyLock<Script> = LazyLock::new(|| script(&[ONE_STREAM, include_str!("replay.lua")]));
pub(crate) static REPLAY_TO_PARTITION: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, PARTITIONED, include_str!("replay.lua")]));
