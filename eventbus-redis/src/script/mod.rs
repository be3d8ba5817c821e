//! The scripts that run on the server.
//!
//! Invariant: changes that must not be seen half done are one script. A script reads all its keys before its first
//! write: the server does not roll back a script that fails half way.

pub(crate) mod store;

use std::sync::LazyLock;

use redis::Script;

/// A script with the functions for ids.
macro_rules! with_ids {
    ($($file:literal),+) => {
        LazyLock::new(|| Script::new(concat!(include_str!("id.lua"), $(include_str!($file)),+)))
    };
}

/// A script with the functions for members and their types.
macro_rules! with_members {
    ($($file:literal),+) => {
        LazyLock::new(|| {
            Script::new(concat!(include_str!("id.lua"), include_str!("members.lua"), $(include_str!($file)),+))
        })
    };
}

/// A script with the functions for backlogs of groups.
macro_rules! with_backlog {
    ($($file:literal),+) => {
        LazyLock::new(|| {
            Script::new(concat!(include_str!("id.lua"), include_str!("backlog.lua"), $(include_str!($file)),+))
        })
    };
}

/// A script with the functions for the records of relays.
macro_rules! with_relay {
    ($file:literal) => {
        LazyLock::new(|| Script::new(concat!(include_str!("id.lua"), include_str!("relay.lua"), include_str!($file))))
    };
}

/// A script that adds to partitions.
macro_rules! partitioned {
    ($file:literal) => {
        LazyLock::new(|| {
            Script::new(concat!(include_str!("id.lua"), include_str!("partitioned.lua"), include_str!($file)))
        })
    };
}

/// A script with the functions for pages.
macro_rules! with_pages {
    ($file:literal) => {
        LazyLock::new(|| {
            Script::new(concat!(
                include_str!("id.lua"),
                include_str!("bytes.lua"),
                include_str!("page.lua"),
                include_str!($file)
            ))
        })
    };
}

/// A consumer's script, with the functions that it needs.
macro_rules! of_consumer {
    ($($file:literal),+) => {
        LazyLock::new(|| ConsumerScript {
            plain: Script::new(concat!($(include_str!($file)),+)),
            fenced: Script::new(concat!(include_str!("fence.lua"), $(include_str!($file)),+)),
        })
    };
}

/// A script without further functions.
macro_rules! plain {
    ($file:literal) => {
        LazyLock::new(|| Script::new(include_str!($file)))
    };
}

pub(crate) static RESYNC: LazyLock<Script> = with_backlog!("relay.lua", "adopt.lua");
pub(crate) static NEXT_PROJECTION_BATCH: LazyLock<Script> = with_pages!("ahead.lua");
pub(crate) static ANNOUNCE: LazyLock<Script> = with_backlog!("members.lua", "relay.lua", "announce.lua");
pub(crate) static RENEW_CLAIMS: LazyLock<Script> = with_ids!("beat.lua");
pub(crate) static REGISTER_PARTITION_READER: LazyLock<ConsumerScript> = of_consumer!("begin_reading.lua");
pub(crate) static MOVE_TO_DEAD_LETTERS: LazyLock<ConsumerScript> = of_consumer!("bury.lua");
pub(crate) static CLAIM_IDLE: LazyLock<ConsumerScript> =
    of_consumer!("id.lua", "bytes.lua", "members.lua", "relay.lua", "gone.lua", "claim.lua");
pub(crate) static CLAIM_PAGE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(concat!(include_str!("bytes.lua"), include_str!("gone.lua"), include_str!("claim_page.lua")))
});
pub(crate) static COPY_TO_BACKLOG: LazyLock<Script> = with_backlog!("copy.lua");
pub(crate) static CREATE_GROUP: LazyLock<Script> = with_backlog!("relay.lua", "create_group.lua");
pub(crate) static ACKNOWLEDGE_IN_PARTITIONS: LazyLock<Script> = plain!("done.lua");
pub(crate) static COUNT_EXHAUSTED: LazyLock<Script> = plain!("exhausted.lua");
pub(crate) static FILL_BACKLOG: LazyLock<Script> = with_backlog!("fill.lua");
pub(crate) static FIND_POSITION: LazyLock<Script> = with_ids!("find_position.lua");
pub(crate) static FORGET_TYPE: LazyLock<Script> = with_members!("forget_type.lua");
pub(crate) static GROUP_FLOORS: LazyLock<Script> = with_backlog!("relay.lua", "group_floors.lua");
pub(crate) static CHECK_SCRIPTING: LazyLock<Script> = plain!("hello.lua");
pub(crate) static JOIN_LAYOUT: LazyLock<Script> = with_ids!("layout.lua");
pub(crate) static DEREGISTER_CONSUMER: LazyLock<Script> = plain!("leave.lua");
pub(crate) static LEASE_PARTITION: LazyLock<Script> = with_ids!("live.lua", "lease.lua");
pub(crate) static HAND_OFF_TO_NEWER: LazyLock<ConsumerScript> =
    of_consumer!("id.lua", "members.lua", "leave_to_newer.lua");
pub(crate) static LIST_FILLS: LazyLock<Script> = with_ids!("list_fills.lua");
pub(crate) static HEARTBEAT: LazyLock<Script> = with_members!("look.lua");
pub(crate) static INSPECT_BACKLOG: LazyLock<Script> = with_backlog!("look_at_backlog.lua");
pub(crate) static INSPECT_DEAD_LETTERS: LazyLock<Script> = plain!("look_at_dead_letters.lua");
pub(crate) static PUBLISHED_POSITION: LazyLock<Script> = with_relay!("mark.lua");
pub(crate) static SAVE_ATTEMPTS: LazyLock<ConsumerScript> = of_consumer!("id.lua", "note.lua");
pub(crate) static FIND_DONE_IN_BACKLOG: LazyLock<Script> = with_backlog!("past_backlog.lua");
pub(crate) static PUBLISH: LazyLock<Script> = partitioned!("publish.lua");
pub(crate) static PUBLISH_RANGE: LazyLock<Script> = LazyLock::new(|| {
    let text = concat!(
        include_str!("id.lua"),
        include_str!("one_stream.lua"),
        include_str!("relay.lua"),
        include_str!("publish_range.lua")
    );
    Script::new(text)
});
pub(crate) static PUBLISH_RANGE_TO_PARTITION: LazyLock<Script> = LazyLock::new(|| {
    let text = concat!(
        include_str!("id.lua"),
        include_str!("partitioned.lua"),
        include_str!("relay.lua"),
        include_str!("publish_range.lua")
    );
    Script::new(text)
});
pub(crate) static RESTORE_DEAD_LETTERS: LazyLock<Script> = plain!("put_back.lua");
pub(crate) static READ_PAGE: LazyLock<Script> = with_pages!("range.lua");
pub(crate) static READ_NEW: LazyLock<Script> = with_pages!("read_new.lua");
pub(crate) static RELEASE_PARTITIONS: LazyLock<Script> = plain!("release.lua");
pub(crate) static REPARTITION: LazyLock<Script> = with_backlog!("relay.lua", "repartition.lua");
pub(crate) static REPLAY: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("one_stream.lua"), include_str!("replay.lua"))));
pub(crate) static REPLAY_TO_PARTITION: LazyLock<Script> = partitioned!("replay.lua");
pub(crate) static READ_DUE: LazyLock<ConsumerScript> = of_consumer!("id.lua", "relay.lua", "reread.lua");
pub(crate) static RECLAIM_OWN: LazyLock<ConsumerScript> = of_consumer!("id.lua", "relay.lua", "retake.lua");
pub(crate) static RETIRE_GROUP: LazyLock<Script> = with_backlog!("retire_group.lua");
pub(crate) static RETIRE_STORE: LazyLock<Script> = with_ids!("retire_store.lua");
pub(crate) static REWIND: LazyLock<Script> = with_relay!("rewind.lua");
pub(crate) static ACKNOWLEDGE_WITH_ATTEMPTS: LazyLock<ConsumerScript> = of_consumer!("settle.lua");
pub(crate) static REBALANCE: LazyLock<Script> = with_members!("live.lua", "share.lua");
pub(crate) static SKIP_OR_HAND_OFF: LazyLock<ConsumerScript> = of_consumer!("id.lua", "members.lua", "skip.lua");
pub(crate) static COLLECT_GARBAGE: LazyLock<Script> = with_ids!("sweep.lua");
pub(crate) static CLAIM_HANDED_OFF: LazyLock<ConsumerScript> =
    of_consumer!("id.lua", "members.lua", "relay.lua", "take_back.lua");
pub(crate) static READ_PARTITIONS: LazyLock<Script> = plain!("take.lua");
pub(crate) static TRIM: LazyLock<Script> = with_backlog!("relay.lua", "trim.lua");
pub(crate) static LIST_PENDING_IN_BACKLOG: LazyLock<Script> = with_backlog!("waiting_in_backlog.lua");

/// A consumer's script, in a text for whole streams, and one that the server refuses if the consumer no longer owns its
/// partition.
pub(crate) struct ConsumerScript {
    plain: Script,
    fenced: Script,
}

impl ConsumerScript {
    /// Returns the text for the consumer of a partition, or of a whole stream.
    pub(crate) fn select(&self, is_fenced: bool) -> &Script {
        if is_fenced { &self.fenced } else { &self.plain }
    }
}
