//! The commands of `RedisStreams`, and the parsers of their replies.

use std::time::Duration;

use redis::{Cmd, Pipeline, ScriptInvocation, Value};

use super::{GroupRead, SCRIPT_BATCH_MAX};
use crate::{
    reply::{Entry, request},
    script,
};

/// Claims entries that have been pending for `idle`, from `from` on: at most as many as the reader's `count`, and none
/// after the one that reaches `bytes`.
pub(crate) fn claim_page(reader: GroupRead<'_>, idle: Duration, from: &str, bytes: usize) -> ScriptInvocation<'static> {
    let GroupRead { stream, group, consumer, count } = reader;
    let mut script = script::consumer::CLAIM_IDLE.key(stream);
    let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
    script.arg(group).arg(consumer).arg(idle).arg(from).arg(SCRIPT_BATCH_MAX).arg(count).arg(bytes).arg(0);
    script
}

/// The reply of [`claim_page`]: the id at which the next page begins, `-` at the end; the entries, and the number of
/// deliveries of each; entries that were deleted while they were pending; a list that only a bus needs.
pub(crate) type ClaimPageReply = (String, Vec<Entry>, Vec<u64>, Vec<String>, Value);

/// Reads the length, first and last entry, groups and projections of a stream, in one instant.
pub(crate) fn health(stream: &str, projections: &str) -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.atomic().ignore_errors();
    pipeline.cmd("XLEN").arg(stream);
    pipeline.cmd("XRANGE").arg(stream).arg("-").arg("+").arg("COUNT").arg(1);
    pipeline.cmd("XREVRANGE").arg(stream).arg("+").arg("-").arg("COUNT").arg(1);
    pipeline.cmd("XINFO").arg("GROUPS").arg(stream);
    pipeline.cmd("HGETALL").arg(projections);
    pipeline
}

pub(crate) fn length(stream: &str) -> Cmd {
    request("XLEN", stream)
}

/// Reads the members of a set.
pub(crate) fn members(key: &str) -> Cmd {
    request("SMEMBERS", key)
}

/// Removes fields of a hash.
pub(crate) fn delete_fields(key: &str, fields: &[&str]) -> Cmd {
    request("HDEL", (key, fields))
}

/// Removes a group; replies 1 if there was one.
pub(crate) fn destroy_group(stream: &str, group: &str) -> Cmd {
    request("XGROUP", ("DESTROY", stream, group))
}
