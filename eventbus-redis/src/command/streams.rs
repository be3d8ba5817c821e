//! The commands of `RedisStreams`, and the parsers of their replies.

use std::time::Duration;

use redis::{Cmd, Pipeline, RedisResult, ScriptInvocation, Value, cmd};

use super::{GroupRead, SCRIPT_BATCH_MAX};
use crate::{
    reply::{Entry, parse_entry, parse_value},
    script,
};

/// Claims entries that have been pending for `idle`, from `from` on: at most as many as the reader's `count`, and none
/// after the one that reaches `bytes`.
pub(crate) fn claim_page(reader: GroupRead<'_>, idle: Duration, from: &str, bytes: usize) -> ScriptInvocation<'static> {
    let GroupRead { stream, group, consumer, count } = reader;
    let mut script = script::streams::CLAIM_PAGE.key(stream);
    let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
    script.arg(group).arg(consumer).arg(idle).arg(from).arg(SCRIPT_BATCH_MAX).arg(count).arg(bytes);
    script
}

/// The reply of [`claim_page`].
pub(crate) struct ClaimPageReply {
    /// The id at which the next page begins; `-` at the end.
    pub(crate) next: String,
    /// The entries, each with its number of deliveries.
    pub(crate) entries: Vec<(Entry, u64)>,
    /// Entries that were deleted while they were pending.
    pub(crate) deleted: Vec<String>,
    pub(crate) bytes: usize,
}

/// Parses the reply of [`claim_page`].
pub(crate) fn parse_claim_page(reply: Value) -> RedisResult<ClaimPageReply> {
    let (next, entries, deliveries, deleted, bytes): (_, Vec<Value>, Vec<u64>, _, _) = parse_value(reply)?;
    let entries = entries.into_iter().zip(deliveries).map(|(value, deliveries)| Ok((parse_entry(value)?, deliveries)));
    Ok(ClaimPageReply { next, entries: entries.collect::<RedisResult<_>>()?, deleted, bytes })
}

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
    let mut command = cmd("XLEN");
    command.arg(stream);
    command
}

/// Reads the members of a set.
pub(crate) fn members(key: &str) -> Cmd {
    let mut command = cmd("SMEMBERS");
    command.arg(key);
    command
}

/// Removes fields of a hash.
pub(crate) fn delete_fields(key: &str, fields: &[&str]) -> Cmd {
    let mut command = cmd("HDEL");
    command.arg(key).arg(fields);
    command
}
