//! Reading streams without a group, in pages.

use std::time::Duration;

use eventbus::support::PAGE_BYTES;
use eventbus_redis_core::script::READ_PAGE;
use redis::{Cmd, RedisResult, ScriptInvocation, Value, cmd};

use crate::reply::{Entry, parse_range_entries, parse_value};

/// A page of entries of streams, in order.
#[derive(Debug, Default)]
pub(crate) struct EntryPage {
    pub(crate) entries: Vec<Entry>,
    /// Set if more entries follow.
    pub(crate) has_more: bool,
}

impl EntryPage {
    /// Parses the reply of [`page`] and [`newest`].
    pub(crate) fn parse(reply: Value) -> RedisResult<Self> {
        let (entries, has_more): (Value, bool) = parse_value(reply)?;
        Ok(Self { entries: parse_range_entries(entries)?, has_more })
    }
}

/// Reads entries after `after`, or from the oldest one on, up to `through` or the newest one: at most `count`, and none
/// after the one that reaches [`PAGE_BYTES`]. Of several streams it reads the oldest entries of all, all streams at the
/// same instant: otherwise an entry added between two reads could have a lower id than one already read.
pub(crate) fn page<S: AsRef<str>>(
    streams: &[S],
    after: Option<&str>,
    through: Option<&str>,
    count: usize,
) -> ScriptInvocation<'static> {
    range_script(streams, "XRANGE", &exclusive_start(after), through.unwrap_or("+"), count)
}

/// Reads the newest entries after an id, newest first, with the limits of [`page`].
pub(crate) fn newest<S: AsRef<str>>(streams: &[S], after: Option<&str>, count: usize) -> ScriptInvocation<'static> {
    range_script(streams, "XREVRANGE", "+", &exclusive_start(after), count)
}

fn range_script<S: AsRef<str>>(
    streams: &[S],
    command: &str,
    from: &str,
    to: &str,
    count: usize,
) -> ScriptInvocation<'static> {
    let mut script = READ_PAGE.prepare_invoke();
    for stream in streams {
        script.key(stream.as_ref());
    }
    script.arg(command).arg(from).arg(to).arg(count).arg(PAGE_BYTES);
    script
}

/// Waits until one of some streams has an entry after an id; replies with the first one.
pub(crate) fn wait<S: AsRef<str>>(streams: &[S], after: Option<&str>, block: Duration) -> Cmd {
    let mut command = cmd("XREAD");
    // 0 would block for ever
    let ms = u64::try_from(block.as_millis()).unwrap_or(u64::MAX).max(1);
    command.arg("COUNT").arg(1).arg("BLOCK").arg(ms).arg("STREAMS");
    for stream in streams {
        command.arg(stream.as_ref());
    }
    for _ in streams {
        command.arg(after.unwrap_or("0-0"));
    }
    command
}

fn exclusive_start(after: Option<&str>) -> String {
    after.map_or_else(|| "-".to_owned(), |id| format!("({id}"))
}
