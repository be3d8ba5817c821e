//! Scripts of partitions: their layout, their leases and their readers.

use std::sync::LazyLock;

use redis::Script;

use super::{BACKLOG, ENTRY_IDS, LEASE_IS_LIVE, MEMBERS, RELAY, consumer::ConsumerScript, script};

pub(crate) static READ_PARTITIONS: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("read_partitions.lua")]));
pub(crate) static REGISTER_PARTITION_READER: LazyLock<ConsumerScript> =
    LazyLock::new(|| ConsumerScript::new(&[include_str!("register_partition_reader.lua")]));
pub(crate) static ACKNOWLEDGE_IN_PARTITIONS: LazyLock<Script> =
    LazyLock::new(|| script(&[include_str!("acknowledge_in_partitions.lua")]));
pub(crate) static REBALANCE: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, MEMBERS, LEASE_IS_LIVE, include_str!("rebalance.lua")]));
pub(crate) static RELEASE_PARTITIONS: LazyLock<Script> =
    LazyLock::new(|| script(&[include_str!("release_partitions.lua")]));
pub(crate) static LEASE_PARTITION: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, LEASE_IS_LIVE, include_str!("lease_partition.lua")]));
pub(crate) static JOIN_LAYOUT: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, include_str!("join_layout.lua")]));
pub(crate) static REPARTITION: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, RELAY, include_str!("repartition.lua")]));
