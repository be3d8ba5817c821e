//! Reading streams without a group, in pages.

use eventbus::support::PAGE_BYTES;
use eventbus_redis_core::script::READ_PAGE;
use redis::{FromRedisValue, ParsingError, ScriptInvocation, Value, from_redis_value};

use crate::reply::Entry;

/// A page of entries of a stream, in order.
#[derive(Debug, Default)]
pub(crate) struct EntryPage {
    pub(crate) entries: Vec<Entry>,
    /// Set if more entries follow.
    pub(crate) has_more: bool,
}

/// The reply to [`page`] and [`newest`].
impl FromRedisValue for EntryPage {
    fn from_redis_value(reply: Value) -> Result<Self, ParsingError> {
        let (entries, has_more) = from_redis_value(reply)?;
        Ok(Self { entries, has_more })
    }
}

/// Reads entries after `after`, or from the oldest one on, up to `through` or the newest one: at most `count`, and none
/// after the one that reaches [`PAGE_BYTES`].
pub(crate) fn page(
    stream: &str,
    after: Option<&str>,
    through: Option<&str>,
    count: usize,
) -> ScriptInvocation<'static> {
    range_script(stream, "XRANGE", &exclusive(after, "-"), through.unwrap_or("+"), count)
}

/// Reads the newest entries after an id, newest first, with the limits of [`page`].
pub(crate) fn newest(stream: &str, after: Option<&str>, count: usize) -> ScriptInvocation<'static> {
    range_script(stream, "XREVRANGE", "+", &exclusive(after, "-"), count)
}

/// Reads the newest entries before an id, or of all, newest first, with the limits of [`page`].
pub(crate) fn newest_before(stream: &str, before: Option<&str>, count: usize) -> ScriptInvocation<'static> {
    range_script(stream, "XREVRANGE", &exclusive(before, "+"), "-", count)
}

fn range_script(stream: &str, command: &str, from: &str, to: &str, count: usize) -> ScriptInvocation<'static> {
    let mut script = READ_PAGE.key(stream);
    script.arg(command).arg(from).arg(to).arg(count).arg(PAGE_BYTES);
    script
}

fn exclusive(id: Option<&str>, all: &str) -> String {
    id.map_or_else(|| all.to_owned(), |id| format!("({id}"))
}
