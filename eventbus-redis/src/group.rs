//! Creating and retiring consumer groups on request.

use eventbus::Name;
use redis::ScriptInvocation;

use crate::{
    RedisCommandError, command,
    error::CommandError,
    inner::BusInner,
    keys::{self, FORMAT},
    script::{self, PASSED_BYTES_MAX},
};

/// Entries that one script counts.
const COUNT_PAGE: usize = 1_000;

/// Start of a consumer group.
///
/// A group that its first consumer creates begins with the oldest entry, or with the next one if all its handlers have
/// `start = "now"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupStart {
    /// The oldest entry of the stream.
    Beginning,
    /// The next entry that is published.
    Now,
}

/// Unfinished entries of a retired group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct RetiredGroup {
    /// Entries it had read and not acknowledged.
    pub pending: u64,
    /// Entries it had not read.
    pub unread: u64,
}

/// Reasons why a group was not created or retired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GroupError {
    /// There is no such group.
    #[error("stream `{stream}` has no consumer group `{group}`")]
    NotFound {
        /// The stream.
        stream: String,
        /// The group.
        group: Name,
    },
    /// Live consumers of the group would create it again. Stop them first.
    #[error("consumer group `{group}` of `{stream}` is in use, live consumers: {consumers}")]
    InUse {
        /// The stream.
        stream: String,
        /// The group.
        group: Name,
        /// Number of live consumers.
        consumers: u64,
    },
    /// The command to the server failed.
    #[error(transparent)]
    Command(#[from] RedisCommandError),
}

/// Creates a group; returns `true` if it is new.
pub(crate) async fn create_group(bus: &BusInner, group: &Name, start: GroupStart) -> Result<bool, GroupError> {
    let start = match start {
        GroupStart::Beginning => "0-0",
        GroupStart::Now => "$",
    };
    Ok(bus.run(&create_group_script(bus, group, start)).await?)
}

/// Prepares creating a group for its consumers: with the oldest entry, or with the next one if all its handlers request
/// that.
pub(crate) fn create_joined_group_script(bus: &BusInner, group: &Name) -> ScriptInvocation<'static> {
    create_group_script(bus, group, if bus.subscribers().start_now(group) { "$" } else { "0-0" })
}

/// Prepares creating a group unless it exists.
fn create_group_script(bus: &BusInner, group: &Name, start: &str) -> ScriptInvocation<'static> {
    let mut create = script::group::CREATE_GROUP.key(bus.stream());
    create.key(keys::meta(bus.stream())).arg(group.as_str()).arg(start);
    FORMAT.add_arguments(&mut create);
    create
}

/// Removes a group; returns the numbers of its unfinished entries.
pub(crate) async fn retire_group(bus: &BusInner, group: &Name) -> Result<RetiredGroup, GroupError> {
    let stream = bus.stream();
    let mut retire = script::group::RETIRE_GROUP.key(stream);
    retire.key(keys::retry(stream, &bus.config().retry_key_prefix, group)).key(keys::members(stream, group));
    retire.arg(group.as_str());
    let (outcome, count, last, unread): (String, u64, String, i64) = bus.run(&retire).await?;
    let (stream, group) = (stream.to_owned(), group.clone());
    match outcome.as_str() {
        "retired" => {}
        "live" => return Err(GroupError::InUse { stream: stream.to_owned(), group, consumers: count }),
        _ => return Err(GroupError::NotFound { stream, group }),
    }
    let unread = match u64::try_from(unread) {
        Ok(unread) => unread,
        // the server does not know the number
        Err(_) => count_after(bus, &last).await.map_err(|error| bus.command_error(error))?,
    };
    Ok(RetiredGroup { pending: count, unread })
}

/// Counts the entries after an id, page by page on the server.
pub(crate) async fn count_after(bus: &BusInner, id: &str) -> Result<u64, CommandError> {
    let (mut unread, mut after) = (0, id.to_owned());
    loop {
        let (found, last) = count_page(bus, &after, COUNT_PAGE).await?;
        unread += found;
        if found == 0 {
            return Ok(unread);
        }
        after = last;
    }
}

/// Returns `true` if there is an entry after an id; the server sends none.
pub(crate) async fn has_after(bus: &BusInner, id: &str) -> Result<bool, CommandError> {
    Ok(count_page(bus, id, 1).await?.0 > 0)
}

/// Counts up to `most` entries after an id, and returns the id of the last one.
async fn count_page(bus: &BusInner, after: &str, most: usize) -> Result<(u64, String), CommandError> {
    let mut count = script::group::COUNT_AFTER.key(bus.stream());
    count.arg(after).arg(most).arg(PASSED_BYTES_MAX);
    bus.connection().run_idempotent(&count).await
}

/// Counts the entries of a group that used up their attempts and stay pending, page by page on the server.
pub(crate) async fn count_exhausted(bus: &BusInner, group: &Name) -> Result<u64, CommandError> {
    let retry = keys::retry(bus.stream(), &bus.config().retry_key_prefix, group);
    let (mut exhausted, mut from) = (0, "-".to_owned());
    while !from.is_empty() {
        let mut count = script::group::COUNT_EXHAUSTED.key(bus.stream());
        count.key(&retry).arg(group.as_str()).arg(&from).arg(command::SCRIPT_BATCH_MAX);
        let found: u64;
        (from, found) = bus.connection().run_idempotent(&count).await?;
        exhausted += found;
    }
    Ok(exhausted)
}
