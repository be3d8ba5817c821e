//! Creating and retiring consumer groups on request.

use eventbus::{Name, Position, port::MessageId};
use redis::ScriptInvocation;
use time::OffsetDateTime;

use crate::{
    RedisCommandError, command,
    entry_id::EntryId,
    error::CommandError,
    inner::BusInner,
    keys::{self, FORMAT},
    script::{self, PASSED_BYTES_MAX},
};

/// Entries that one script searches for a position.
const POSITION_SEARCH_PAGE: usize = 500;
/// Entries that one script counts.
const COUNT_PAGE: usize = 1_000;

/// Start of a consumer group.
///
/// A group that its first consumer creates begins with the oldest entry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupStart {
    /// The oldest entry of the stream.
    Beginning,
    /// The next entry that is published.
    Now,
    /// The first entry after this one.
    After(MessageId),
    /// The first entry published at this time or later, by the server's clock, to the millisecond.
    AtTime(OffsetDateTime),
    /// The first entry whose event has a higher position in its store; if there is none, the next entry that is
    /// published. Until then the group passes over entries without a position, which other publishers added.
    Position(Position),
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
    /// The start is not the id of an entry.
    #[error("`{id}` is no id of an entry of `{stream}`")]
    InvalidStart {
        /// The stream.
        stream: String,
        /// The id.
        id: MessageId,
    },
    /// The command to the server failed.
    #[error(transparent)]
    Command(#[from] RedisCommandError),
}

/// Creates a group; returns `true` if it is new.
pub(crate) async fn create_group(bus: &BusInner, group: &Name, start: GroupStart) -> Result<bool, GroupError> {
    let start = match &start {
        GroupStart::Beginning => EntryId::ZERO.to_string(),
        GroupStart::Now => "$".into(),
        GroupStart::After(id) => parse_entry_id(bus, id)?.to_string(),
        GroupStart::AtTime(at) => id_before_time(*at).to_string(),
        GroupStart::Position(position) => id_before_position(bus, *position).await?,
    };
    Ok(bus.run(&create_group_script(bus, group, &start)).await?)
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

fn parse_entry_id(bus: &BusInner, id: &MessageId) -> Result<EntryId, GroupError> {
    let parsed = id.as_str().parse();
    parsed.map_err(|_| GroupError::InvalidStart { stream: bus.stream().to_owned(), id: id.clone() })
}

/// Returns the id before the first entry with a higher position, or the end of the stream.
async fn id_before_position(bus: &BusInner, position: Position) -> Result<String, RedisCommandError> {
    let mut after = EntryId::ZERO.to_string();
    loop {
        let mut find = script::group::FIND_POSITION.prepare_invoke();
        find.key(bus.stream()).arg(after).arg(position.get()).arg(POSITION_SEARCH_PAGE).arg(PASSED_BYTES_MAX);
        let (goes_on, id): (bool, String) = bus.run(&find).await?;
        if !goes_on {
            return Ok(id);
        }
        after = id;
    }
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

/// Returns the highest id of an entry before a time.
fn id_before_time(at: OffsetDateTime) -> EntryId {
    let ms = at.unix_timestamp_nanos().div_euclid(1_000_000);
    // ids are in milliseconds: an entry of the same millisecond counts as later
    EntryId { ms: u64::try_from(ms).unwrap_or_default(), number: 0 }.previous()
}
