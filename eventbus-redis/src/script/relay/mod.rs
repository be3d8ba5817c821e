//! Scripts of publishers and relays.

use std::sync::LazyLock;

use redis::Script;

use super::{BACKLOG, ENTRY_IDS, ONE_STREAM, PARTITIONED, RELAY, script};

pub(crate) static PUBLISH: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, PARTITIONED, include_str!("publish.lua")]));
pub(crate) static PUBLISH_RANGE: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, ONE_STREAM, RELAY, include_str!("publish_range.lua")]));
pub(crate) static PUBLISH_RANGE_TO_PARTITION: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, PARTITIONED, RELAY, include_str!("publish_range.lua")]));
pub(crate) static PUBLISHED_POSITION: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, RELAY, include_str!("published_position.lua")]));
pub(crate) static RESYNC: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, RELAY, include_str!("resync.lua")]));
pub(crate) static REWIND: LazyLock<Script> = LazyLock::new(|| script(&[ENTRY_IDS, RELAY, include_str!("rewind.lua")]));
pub(crate) static GROUP_FLOORS: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, RELAY, include_str!("group_floors.lua")]));
