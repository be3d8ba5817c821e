//! Scripts of the consumers of a group.

use std::sync::OnceLock;

use redis::Script;

use super::{BACKLOG, ENTRY_BYTES, ENTRY_IDS, FENCE, GONE, Lua, MEMBERS, PAGES, RELAY, lua};

pub(crate) static HEARTBEAT: Lua = lua(&[ENTRY_IDS, MEMBERS, RELAY, include_str!("heartbeat.lua")]);
pub(crate) static RENEW_CLAIMS: Lua = lua(&[ENTRY_IDS, RELAY, include_str!("renew_claims.lua")]);
pub(crate) static CLAIM_IDLE: ConsumerScript =
    fenceable(&[ENTRY_IDS, ENTRY_BYTES, MEMBERS, RELAY, GONE, include_str!("claim_idle.lua")]);
pub(crate) static RECLAIM_OWN: ConsumerScript =
    fenceable(&[ENTRY_IDS, ENTRY_BYTES, RELAY, include_str!("reclaim_own.lua")]);
pub(crate) static READ_DUE: ConsumerScript = fenceable(&[ENTRY_IDS, RELAY, include_str!("read_due.lua")]);
pub(crate) static READ_NEW: Lua = lua(&[ENTRY_IDS, ENTRY_BYTES, PAGES, include_str!("read_new.lua")]);
pub(crate) static SAVE_ATTEMPTS: ConsumerScript = fenceable(&[ENTRY_IDS, RELAY, include_str!("save_attempts.lua")]);
pub(crate) static ACKNOWLEDGE_WITH_ATTEMPTS: ConsumerScript =
    fenceable(&[include_str!("acknowledge_with_attempts.lua")]);
pub(crate) static MOVE_TO_DEAD_LETTERS: ConsumerScript = fenceable(&[include_str!("move_to_dead_letters.lua")]);
pub(crate) static SKIP_OR_HAND_OFF: ConsumerScript =
    fenceable(&[ENTRY_IDS, MEMBERS, include_str!("skip_or_hand_off.lua")]);
pub(crate) static HAND_OFF_UNKNOWN_VERSION: ConsumerScript =
    fenceable(&[ENTRY_IDS, MEMBERS, include_str!("hand_off_unknown_version.lua")]);
pub(crate) static CLAIM_HANDED_OFF: ConsumerScript =
    fenceable(&[ENTRY_IDS, MEMBERS, RELAY, include_str!("claim_handed_off.lua")]);
pub(crate) static COLLECT_GARBAGE: Lua = lua(&[ENTRY_IDS, include_str!("collect_garbage.lua")]);
pub(crate) static DEREGISTER_CONSUMER: Lua = lua(&[include_str!("deregister_consumer.lua")]);
pub(crate) static FIND_DONE_IN_BACKLOG: Lua = lua(&[ENTRY_IDS, BACKLOG, include_str!("find_done_in_backlog.lua")]);
pub(crate) static LIST_PENDING_IN_BACKLOG: Lua =
    lua(&[ENTRY_IDS, BACKLOG, include_str!("list_pending_in_backlog.lua")]);

/// A consumer's script, in a text for whole streams, and one that the server refuses if the consumer no longer owns its
/// partition.
pub(crate) struct ConsumerScript {
    parts: &'static [&'static str],
    plain: Lua,
    fenced: OnceLock<Script>,
}

pub(super) const fn fenceable(parts: &'static [&'static str]) -> ConsumerScript {
    ConsumerScript { parts, plain: lua(parts), fenced: OnceLock::new() }
}

impl ConsumerScript {
    /// Returns the text for the consumer of a partition, or of a whole stream.
    pub(crate) fn select(&self, is_fenced: bool) -> &Script {
        match is_fenced {
            true => self.fenced.get_or_init(|| Script::new(&(FENCE.to_owned() + &self.parts.concat()))),
            false => &self.plain,
        }
    }
}
