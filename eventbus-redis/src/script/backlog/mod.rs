//! Scripts of the backlogs of groups.

use std::sync::LazyLock;

use redis::Script;

use super::{BACKLOG, ENTRY_IDS, MEMBERS, RELAY, script};

pub(crate) static ANNOUNCE: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, MEMBERS, RELAY, include_str!("announce.lua")]));
pub(crate) static COPY_TO_BACKLOG: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, include_str!("copy_to_backlog.lua")]));
pub(crate) static FILL_BACKLOG: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, include_str!("fill_backlog.lua")]));
pub(crate) static LIST_FILLS: LazyLock<Script> = LazyLock::new(|| script(&[ENTRY_IDS, include_str!("list_fills.lua")]));
pub(crate) static INSPECT_BACKLOG: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, include_str!("inspect_backlog.lua")]));
