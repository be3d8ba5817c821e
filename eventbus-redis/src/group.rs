//! Creating and retiring consumer groups on request.
//!
//! | state of a group | event | next state |
//! |---|---|---|
//! | absent | a bus connects | unjoined: does not count |
//! | absent, unjoined | a consumer joins, or an operator creates it | listed: trimming keeps its unfinished entries |
//! | listed | the server loses the group | missing: trimming stops |
//! | missing | a consumer, an operator or a resync creates it | listed, at its low-water mark |
//! | listed, missing | an operator retires it | absent |

use std::collections::BTreeSet;

use eventbus::{
    BoxError, Name, Position,
    handler::HandlerStart,
    port::{Announced, EventStore, MessageId},
};
use redis::{RedisResult, ScriptInvocation, Value};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    RedisCommandError,
    command::{self, GroupState},
    entry_id::EntryId,
    error::CommandError,
    inner::BusInner,
    keys::{self, FORMAT},
    reply::request,
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

/// Reasons why a store was not retired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetireStoreError {
    /// A process with the store has filled backlogs within the last 30 s. Stop that process first.
    #[error("store {store} is in use: a process with it brings events to `{stream}`")]
    InUse {
        /// The stream.
        stream: String,
        /// The store.
        store: Uuid,
    },
    /// The command to the server failed.
    #[error(transparent)]
    Command(#[from] RedisCommandError),
}

/// Creates a group in each partition; returns `true` if it is new in one of them.
pub(crate) async fn create_group(bus: &BusInner, group: &Name, start: GroupStart) -> Result<bool, GroupError> {
    let mut is_new = false;
    for part in bus.partitions_or_self() {
        let start = match &start {
            GroupStart::Beginning => EntryId::ZERO.to_string(),
            GroupStart::Now => "$".into(),
            GroupStart::After(id) => parse_entry_id(bus, id)?.to_string(),
            GroupStart::AtTime(at) => id_before_time(*at).to_string(),
            GroupStart::Position(position) => id_before_position(part, *position).await?,
        };
        is_new |= part.run::<bool>(&create_group_script(part, group, &start, GroupCreation::Listed)).await?;
    }
    Ok(is_new)
}

/// Forgets a type that a group announced, in each partition and in its backlog; returns `true` if it was known.
pub(crate) async fn forget_event_type(
    bus: &BusInner,
    group: &Name,
    event_type: &str,
) -> Result<bool, RedisCommandError> {
    let mut was_known = false;
    let backlog = keys::backlog(bus.base_stream(), group);
    for stream in bus.partitions_or_self().into_iter().map(BusInner::stream).chain([&*backlog]) {
        let mut from = "-".to_owned();
        while !from.is_empty() {
            let mut forget = script::group::FORGET_TYPE.key(keys::known_types(bus.base_stream(), group));
            forget.key(stream).key(keys::relay(stream)).arg(group.as_str()).arg(event_type);
            forget.arg(from).arg(PASSED_BYTES_MAX);
            let is_known: bool;
            (is_known, from) = bus.run(&forget).await?;
            was_known |= is_known;
        }
    }
    Ok(was_known)
}

/// Removes a group from each partition; returns the sums of its unfinished entries.
pub(crate) async fn retire_group(bus: &BusInner, group: &Name) -> Result<RetiredGroup, GroupError> {
    let mut all = None;
    for part in bus.partitions_or_self() {
        match retire_in_stream(part, group).await {
            Ok(part) => {
                let all = all.get_or_insert(RetiredGroup { pending: 0, unread: 0 });
                all.pending += part.pending;
                all.unread += part.unread;
            }
            Err(GroupError::NotFound { .. }) => {} // an earlier call may have ended half way
            Err(error) => return Err(error),
        }
    }
    all.ok_or_else(|| GroupError::NotFound { stream: bus.stream().to_owned(), group: group.clone() })
}

/// Returns the groups that a partition lists and the server does not have, by name.
pub(crate) async fn lost_groups(bus: &BusInner) -> Result<Vec<Name>, RedisCommandError> {
    let mut lost = BTreeSet::new();
    for part in bus.partitions_or_self() {
        let listed: Vec<String> = bus.query_idempotent(&request("HKEYS", keys::floors(part.stream()))).await?;
        let groups = load_groups(part).await.map_err(|error| bus.command_error(error))?;
        lost.extend(listed.into_iter().filter(|name| groups.iter().all(|group| group.name != *name)));
    }
    Ok(lost.into_iter().filter_map(|name| Name::new("consumer group", name).ok()).collect())
}

/// Returns the groups that count in no partition, by name: a bus created each while it connected, and no consumer has
/// joined it.
pub(crate) async fn unjoined_groups(bus: &BusInner) -> Result<Vec<Name>, RedisCommandError> {
    let (mut unjoined, mut joined) = (BTreeSet::new(), BTreeSet::new());
    for part in bus.partitions_or_self() {
        let names = |key| request("HKEYS", key);
        let created: Vec<String> = bus.query_idempotent(&names(keys::unjoined(part.stream()))).await?;
        let listed: Vec<String> = bus.query_idempotent(&names(keys::floors(part.stream()))).await?;
        for group in load_groups(part).await.map_err(|error| bus.command_error(error))? {
            let counts = group.has_begun() || listed.contains(&group.name) || !created.contains(&group.name);
            if counts {
                joined.insert(group.name)
            } else {
                unjoined.insert(group.name)
            };
        }
    }
    Ok(unjoined.difference(&joined).filter_map(|name| Name::new("consumer group", name.as_str()).ok()).collect())
}

async fn load_groups(bus: &BusInner) -> Result<Vec<GroupState>, CommandError> {
    let commands = command::inspect_groups(bus.stream());
    let replies: Vec<RedisResult<Value>> = bus.connection().query_all_idempotent(&commands).await?;
    Ok(command::parse_groups(replies.into_iter().next().unwrap_or(Ok(Value::Nil)))?)
}

/// Forgets a store in each partition, and its copies of dead letters; returns `true` if it was known.
pub(crate) async fn retire_store(bus: &BusInner, store: Uuid) -> Result<bool, RetireStoreError> {
    let mut was_known = false;
    for part in bus.partitions_or_self() {
        let mut retire = script::group::RETIRE_STORE.key(keys::relay(part.stream()));
        retire.key(keys::fills(part.stream())).arg(store.to_string());
        let outcome: String = bus.run_idempotent(&retire).await?;
        if outcome == "live" {
            return Err(RetireStoreError::InUse { stream: part.stream().to_owned(), store });
        }
        was_known |= outcome == "known";
    }
    let copies = keys::dead_letter_copies(&bus.config().dlq_stream_name());
    let forget = request("HDEL", (copies, store.to_string()));
    was_known |= bus.query_idempotent::<u64>(&forget).await? > 0;
    Ok(was_known)
}

/// Creator of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GroupCreation {
    /// A bus that connects: the group does not count until a consumer joins it.
    Unjoined = 0,
    /// An operator, who chooses the start.
    Listed = 1,
    /// A consumer, which needs all events of the stores.
    WithBacklog = 2,
}

/// Prepares creating a group for its consumers, listed in the floors: with the oldest event, or with the next one
/// if all its handlers request that.
pub(crate) fn create_joined_group_script(bus: &BusInner, group: &Name) -> ScriptInvocation<'static> {
    match bus.is_backlog() {
        true => create_group_script(bus, group, "0-0", GroupCreation::Listed),
        false if bus.subscribers().start_now(group) => create_group_script(bus, group, "$", GroupCreation::WithBacklog),
        false => create_group_script(bus, group, "0-0", GroupCreation::WithBacklog),
    }
}

/// Prepares creating a group unless it exists.
pub(crate) fn create_group_script(
    bus: &BusInner,
    group: &Name,
    start: &str,
    joining: GroupCreation,
) -> ScriptInvocation<'static> {
    let mut create = script::group::CREATE_GROUP.key(bus.stream());
    create.key(keys::floors(bus.stream())).key(keys::relay(bus.stream()));
    create.key(keys::meta(bus.bus_stream())).arg(group.as_str()).arg(start).arg(joining as u8);
    FORMAT.add_arguments(&mut create);
    create
}

async fn retire_in_stream(bus: &BusInner, group: &Name) -> Result<RetiredGroup, GroupError> {
    let (stream, prefix) = (bus.stream(), &bus.config().retry_key_prefix);
    let mut retire = script::group::RETIRE_GROUP.prepare_invoke();
    retire.key(stream).key(keys::floors(stream));
    retire.key(keys::retry(stream, prefix, group)).key(keys::members(bus.base_stream(), group));
    retire.key(keys::lease(stream, group));
    retire.key(keys::known_types(bus.base_stream(), group)).key(keys::skipped(stream, group));
    let backlog = keys::backlog(bus.base_stream(), group);
    retire.key(&backlog).key(keys::members(&backlog, group)).key(keys::retry(&backlog, prefix, group));
    retire.key(keys::floors(&backlog)).key(keys::lease(&backlog, group)).key(keys::relay(&backlog));
    retire.key(keys::retried(&backlog));
    retire.arg(group.as_str());
    let (outcome, count, last, unread): (String, u64, String, i64) = bus.run(&retire).await?;
    let (stream, group) = (stream.to_owned(), group.clone());
    match outcome.as_str() {
        "retired" => {}
        "live" => return Err(GroupError::InUse { stream: bus.base_stream().to_owned(), group, consumers: count }),
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

/// Warns of groups that no consumer has joined yet, if the store, or without one the stream, has events for them: a group
/// with a new name handles again what it has handled under the former one. Call it before this process publishes.
pub(crate) async fn warn_of_new_groups(
    bus: &BusInner,
    announced: &[Announced],
    store: Option<&dyn EventStore>,
) -> Result<(), BoxError> {
    let (stream, connection) = (bus.stream(), bus.connection());
    // a group begins on all partitions
    let Some(part) = bus.partitions_or_self().into_iter().next() else { return Ok(()) };
    let listed: Vec<String> =
        part.connection().query_idempotent(&request("HKEYS", keys::floors(part.stream()))).await?;
    let known = load_groups(part).await?;
    let has_begun = |group: &Name| {
        listed.iter().any(|name| name == group.as_str())
            || known.iter().any(|known| known.name == group.as_str() && known.has_begun())
    };
    let groups: BTreeSet<&Name> = announced.iter().map(|announced| &announced.group).collect();
    for group in groups.into_iter().filter(|group| !has_begun(group)) {
        let of_group: Vec<_> = announced.iter().filter(|announced| announced.group == *group).cloned().collect();
        if of_group.iter().all(|announced| announced.start == Some(HandlerStart::Now)) {
            continue;
        }
        let has_events = match store {
            Some(store) => Announced::match_stored(&of_group, store).await?,
            None => connection.query_idempotent::<u64>(&request("XLEN", stream)).await? > 0,
        };
        if has_events {
            tracing::warn!(
                %group,
                "the group is new, so its handlers run for the stored events; if it was renamed, stop the process and give \
                 it the former name; `start = \"now\"` on all its handlers skips them"
            );
        }
    }
    Ok(())
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

/// Counts the entries of a group that stay pending, page by page on the server, until it has found `enough`; with
/// `is_exhausted`, only those that used up their attempts.
pub(crate) async fn count_staying(
    bus: &BusInner,
    stream: &str,
    group: &Name,
    is_exhausted: bool,
    enough: u64,
) -> Result<u64, CommandError> {
    let retry = keys::retry(stream, &bus.config().retry_key_prefix, group);
    let (mut staying, mut from) = (0, "-".to_owned());
    while !from.is_empty() && staying < enough {
        let mut count = script::group::COUNT_STAYING.key(stream);
        count.key(&retry).arg(group.as_str()).arg(&from).arg(command::SCRIPT_BATCH_MAX).arg(u8::from(is_exhausted));
        let found: u64;
        (from, found) = bus.connection().run_idempotent(&count).await?;
        staying += found;
    }
    Ok(staying)
}

/// Returns the highest id of an entry before a time.
fn id_before_time(at: OffsetDateTime) -> EntryId {
    let ms = at.unix_timestamp_nanos().div_euclid(1_000_000);
    // ids are in milliseconds: an entry of the same millisecond counts as later
    EntryId { ms: u64::try_from(ms).unwrap_or_default(), number: 0 }.previous()
}
