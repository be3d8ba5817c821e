//! The commands of `RedisStreams`, and the parsers of their replies.

use std::time::Duration;

use redis::{Cmd, Pipeline};

use super::GroupRead;
use crate::reply::{Entry, request};

/// Claims entries that have been pending for `idle`, from an id on.
pub(crate) fn claim(reader: GroupRead<'_>, idle: Duration, from: &str) -> Cmd {
    let GroupRead { stream, group, consumer, count } = reader;
    let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX).min(LONGEST_IDLE_MS);
    request("XAUTOCLAIM", (stream, group, consumer, idle, from, "COUNT", count))
}

/// The reply of [`claim`]: the id at which to continue, `0-0` at the end; the entries; entries that were deleted while they
/// were pending.
pub(crate) type ClaimReply = (String, Vec<Entry>, Vec<String>);

/// The longest idle time that the server takes.
const LONGEST_IDLE_MS: u64 = i64::MAX as u64;

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

/// Removes a field of a hash.
pub(crate) fn delete_field(key: &str, field: &str) -> Cmd {
    request("HDEL", (key, field))
}

/// Removes a group; replies 1 if there was one.
pub(crate) fn destroy_group(stream: &str, group: &str) -> Cmd {
    request("XGROUP", ("DESTROY", stream, group))
}
