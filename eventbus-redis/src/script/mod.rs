//! The scripts that run on the server.
//!
//! Invariant: changes that must not be seen half done are one script. A script reads all its keys before its first
//! write: the server does not roll back a script that fails half way.

pub(crate) mod store;

use std::sync::LazyLock;

use redis::Script;

const ENTRY_IDS: &str = include_str!("id.lua");
const ENTRY_BYTES: &str = include_str!("bytes.lua");
const PAGES: &str = include_str!("page.lua");
const LEASE_IS_LIVE: &str = include_str!("live.lua");
const MEMBERS: &str = include_str!("members.lua");
const BACKLOG: &str = include_str!("backlog.lua");
const RELAY: &str = include_str!("relay.lua");
const PARTITIONED: &str = include_str!("partitioned.lua");
const ONE_STREAM: &str = include_str!("one_stream.lua");
const GONE: &str = include_str!("gone.lua");
const FENCE: &str = include_str!("fence.lua");

pub(crate) static RESYNC: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, RELAY, include_str!("adopt.lua")]));
pub(crate) static NEXT_PROJECTION_BATCH: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, ENTRY_BYTES, PAGES, include_str!("ahead.lua")]));
pub(crate) static ANNOUNCE: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, MEMBERS, RELAY, include_str!("announce.lua")]));
pub(crate) static RENEW_CLAIMS: LazyLock<Script> = LazyLock::new(|| script(&[ENTRY_IDS, include_str!("beat.lua")]));
pub(crate) static REGISTER_PARTITION_READER: LazyLock<ConsumerScript> =
    LazyLock::new(|| ConsumerScript::new(&[include_str!("begin_reading.lua")]));
pub(crate) static MOVE_TO_DEAD_LETTERS: LazyLock<ConsumerScript> =
    LazyLock::new(|| ConsumerScript::new(&[include_str!("bury.lua")]));
pub(crate) static CLAIM_IDLE: LazyLock<ConsumerScript> =
    LazyLock::new(|| ConsumerScript::new(&[ENTRY_IDS, ENTRY_BYTES, MEMBERS, RELAY, GONE, include_str!("claim.lua")]));
pub(crate) static CLAIM_PAGE: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_BYTES, GONE, include_str!("claim_page.lua")]));
pub(crate) static COPY_TO_BACKLOG: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, include_str!("copy.lua")]));
pub(crate) static CREATE_GROUP: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, RELAY, include_str!("create_group.lua")]));
pub(crate) static ACKNOWLEDGE_IN_PARTITIONS: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("done.lua")]));
pub(crate) static COUNT_EXHAUSTED: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("exhausted.lua")]));
pub(crate) static FILL_BACKLOG: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, include_str!("fill.lua")]));
pub(crate) static FIND_POSITION: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, include_str!("find_position.lua")]));
pub(crate) static FORGET_TYPE: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, MEMBERS, include_str!("forget_type.lua")]));
pub(crate) static GROUP_FLOORS: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, RELAY, include_str!("group_floors.lua")]));
pub(crate) static CHECK_SCRIPTING: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("hello.lua")]));
pub(crate) static JOIN_LAYOUT: LazyLock<Script> = LazyLock::new(|| script(&[ENTRY_IDS, include_str!("layout.lua")]));
pub(crate) static DEREGISTER_CONSUMER: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("leave.lua")]));
pub(crate) static LEASE_PARTITION: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, LEASE_IS_LIVE, include_str!("lease.lua")]));
pub(crate) static HAND_OFF_TO_NEWER: LazyLock<ConsumerScript> =
    LazyLock::new(|| ConsumerScript::new(&[ENTRY_IDS, MEMBERS, include_str!("leave_to_newer.lua")]));
pub(crate) static LIST_FILLS: LazyLock<Script> = LazyLock::new(|| script(&[ENTRY_IDS, include_str!("list_fills.lua")]));
pub(crate) static HEARTBEAT: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, MEMBERS, include_str!("look.lua")]));
pub(crate) static INSPECT_BACKLOG: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, include_str!("look_at_backlog.lua")]));
pub(crate) static INSPECT_DEAD_LETTERS: LazyLock<Script> =
    LazyLock::new(|| script(&[include_str!("look_at_dead_letters.lua")]));
pub(crate) static PUBLISHED_POSITION: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, RELAY, include_str!("mark.lua")]));
pub(crate) static SAVE_ATTEMPTS: LazyLock<ConsumerScript> =
    LazyLock::new(|| ConsumerScript::new(&[ENTRY_IDS, include_str!("note.lua")]));
pub(crate) static FIND_DONE_IN_BACKLOG: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, include_str!("past_backlog.lua")]));
pub(crate) static PUBLISH: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, PARTITIONED, include_str!("publish.lua")]));
pub(crate) static PUBLISH_RANGE: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, ONE_STREAM, RELAY, include_str!("publish_range.lua")]));
pub(crate) static PUBLISH_RANGE_TO_PARTITION: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, PARTITIONED, RELAY, include_str!("publish_range.lua")]));
pub(crate) static RESTORE_DEAD_LETTERS: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("put_back.lua")]));
pub(crate) static READ_PAGE: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, ENTRY_BYTES, PAGES, include_str!("range.lua")]));
pub(crate) static READ_NEW: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, ENTRY_BYTES, PAGES, include_str!("read_new.lua")]));
pub(crate) static RELEASE_PARTITIONS: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("release.lua")]));
pub(crate) static REPARTITION: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, RELAY, include_str!("repartition.lua")]));
pub(crate) static REPLAY: LazyLock<Script> = LazyLock::new(|| script(&[ONE_STREAM, include_str!("replay.lua")]));
pub(crate) static REPLAY_TO_PARTITION: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, PARTITIONED, include_str!("replay.lua")]));
pub(crate) static READ_DUE: LazyLock<ConsumerScript> =
    LazyLock::new(|| ConsumerScript::new(&[ENTRY_IDS, RELAY, include_str!("reread.lua")]));
pub(crate) static RECLAIM_OWN: LazyLock<ConsumerScript> =
    LazyLock::new(|| ConsumerScript::new(&[ENTRY_IDS, RELAY, include_str!("retake.lua")]));
pub(crate) static RETIRE_GROUP: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, include_str!("retire_group.lua")]));
pub(crate) static RETIRE_STORE: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, include_str!("retire_store.lua")]));
pub(crate) static REWIND: LazyLock<Script> = LazyLock::new(|| script(&[ENTRY_IDS, RELAY, include_str!("rewind.lua")]));
pub(crate) static ACKNOWLEDGE_WITH_ATTEMPTS: LazyLock<ConsumerScript> =
    LazyLock::new(|| ConsumerScript::new(&[include_str!("settle.lua")]));
pub(crate) static REBALANCE: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, MEMBERS, LEASE_IS_LIVE, include_str!("share.lua")]));
pub(crate) static SKIP_OR_HAND_OFF: LazyLock<ConsumerScript> =
    LazyLock::new(|| ConsumerScript::new(&[ENTRY_IDS, MEMBERS, include_str!("skip.lua")]));
pub(crate) static COLLECT_GARBAGE: LazyLock<Script> = LazyLock::new(|| script(&[ENTRY_IDS, include_str!("sweep.lua")]));
pub(crate) static CLAIM_HANDED_OFF: LazyLock<ConsumerScript> =
    LazyLock::new(|| ConsumerScript::new(&[ENTRY_IDS, MEMBERS, RELAY, include_str!("take_back.lua")]));
pub(crate) static READ_PARTITIONS: LazyLock<Script> = LazyLock::new(|| script(&[include_str!("take.lua")]));
pub(crate) static TRIM: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, RELAY, include_str!("trim.lua")]));
pub(crate) static LIST_PENDING_IN_BACKLOG: LazyLock<Script> =
    LazyLock::new(|| script(&[ENTRY_IDS, BACKLOG, include_str!("waiting_in_backlog.lua")]));

/// Returns the script whose text is these parts, one after the other.
fn script(parts: &[&str]) -> Script {
    Script::new(&parts.concat())
}

/// A consumer's script, in a text for whole streams, and one that the server refuses if the consumer no longer owns its
/// partition.
pub(crate) struct ConsumerScript {
    plain: Script,
    fenced: Script,
}

impl ConsumerScript {
    fn new(parts: &[&str]) -> Self {
        Self { plain: script(parts), fenced: script(&[FENCE, &parts.concat()]) }
    }

    /// Returns the text for the consumer of a partition, or of a whole stream.
    pub(crate) fn select(&self, is_fenced: bool) -> &Script {
        if is_fenced { &self.fenced } else { &self.plain }
    }
}
