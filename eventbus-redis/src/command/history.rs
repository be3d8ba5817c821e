//! Reading the stream without a group.

use std::time::Duration;

use redis::{Cmd, Pipeline, cmd};

/// Entries after an id, or from the oldest on; up to one, or to the newest.
pub(crate) fn range(stream: &str, after: Option<&str>, through: Option<&str>, count: usize) -> Cmd {
    let mut command = cmd("XRANGE");
    command.arg(stream).arg(beyond(after)).arg(through.unwrap_or("+")).arg("COUNT").arg(limit(count));
    command
}

/// The newest entries, the newest first, that are after an id.
pub(crate) fn newest(stream: &str, after: Option<&str>, count: usize) -> Cmd {
    let mut command = cmd("XREVRANGE");
    command.arg(stream).arg("+").arg(beyond(after)).arg("COUNT").arg(limit(count));
    command
}

/// What reads several streams at the same instant.
pub(crate) fn at_once(reads: impl IntoIterator<Item = Cmd>) -> Pipeline {
    let mut pipeline = redis::pipe();
    pipeline.atomic();
    for read in reads {
        pipeline.add_command(read);
    }
    pipeline
}

/// Entries after an id, waited for.
pub(crate) fn wait(streams: &[&str], after: Option<&str>, count: usize, block: Duration) -> Cmd {
    let mut command = cmd("XREAD");
    // 0 would wait for ever
    let ms = u64::try_from(block.as_millis()).unwrap_or(u64::MAX).max(1);
    command.arg("COUNT").arg(limit(count)).arg("BLOCK").arg(ms);
    command.arg("STREAMS").arg(streams);
    for _ in streams {
        command.arg(after.unwrap_or("0-0"));
    }
    command
}

fn beyond(after: Option<&str>) -> String {
    after.map_or_else(|| "-".to_owned(), |id| format!("({id}"))
}

/// The server counts with a sign.
fn limit(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
