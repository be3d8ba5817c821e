//! Scripts of groups: their creation, their end and trimming.

use std::sync::LazyLock;

use redis::Script;

use super::{BACKLOG, ENTRY_IDS, MEMBERS, RELAY, script};

pub(crate) static CREATE_GROUP: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, RELAY, include_str!("create_group.lua")]));
pub(crate) static FIND_POSITION: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, include_str!("find_position.lua")]));
pub(crate) static RETIRE_GROUP: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, include_str!("retire_group.lua")]));
pub(crate) static RETIRE_STORE: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, include_str!("retire_store.lua")]));
pub(crate) static FORGET_TYPE: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, MEMBERS, include_str!("forget_type.lua")]));
pub(crate) static TRIM: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, RELAY, include_str!("trim.lua")]));
pub(crate) static COUNT_EXHAUSTED: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("count_exhausted.lua")]));
