//! The backlog of a group: a stream of events that only this group handles.
//!
//! A new group begins with the oldest event of each store that publishes here. If the stream was trimmed or lost, a
//! process with the store copies the missing events to the backlog. Events that the group skipped get there too, once
//! it announces their type for the first time: from the stream or, if that was trimmed, from the store.
//!
//! Invariant: the script that fills a backlog moves the fill's position, so any number of processes may fill one.

use std::time::Duration;

use eventbus::{
    Name, Position, RecordedEvent,
    delivery::StopSignal,
    handler::HandlerStart,
    port::{Announced, BacklogFill, FillOutcome, PublishError, SkippedBefore},
};
use redis::ScriptInvocation;
use tracing::Span;
use uuid::Uuid;

use crate::{
    command,
    error::CommandError,
    group,
    inner::BusInner,
    keys::{self, field},
    partition_hash::partition_of,
    publish,
    relay::STORE_FIELD_INDEX,
    reply::request,
    script::{self, PASSED_BYTES_MAX},
    trace::TraceCarrier,
};

/// The number of stream entries that one script call reads: the server runs no other command meanwhile.
const BACKLOG_COPY_BATCH: usize = 200;

/// The state of a group's backlog.
///
/// | state | event | next state |
/// |---|---|---|
/// | `None` | the stream lacks events of a new group, or a group announces a type that it skipped | `Unfinished` |
/// | `Unfinished` | every fill and copy has ended, and the group has finished every entry | `Finished` |
/// | `Finished` | the script that found it finished has removed the backlog's keys | `None` |
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum BacklogState {
    /// The group has no backlog.
    None,
    /// Fills or copies are under way, or the group has unfinished entries in the backlog.
    Unfinished {
        /// Set while the backlog comes before the group's streams: the group is new, and some remaining entry waits
        /// neither for a retry, nor for an absent member or an operator.
        is_first: bool,
        /// The stores with missing events that have no live process, separated by spaces.
        missing_stores: String,
        /// The number of unfinished entries, without those that are not filled in yet.
        remaining: u64,
        /// The copies still to make: the number of a stream, and an event type.
        pending_copies: Vec<(usize, String)>,
    },
    /// The group has finished the backlog, and the server has removed it.
    Finished,
}

/// Lists the fills that the groups need of a store.
pub(crate) async fn list_fills(bus: &BusInner, store: Uuid) -> Result<Vec<BacklogFill>, PublishError> {
    publish::ensure_publishing(bus)?;
    let mut all = Vec::new();
    for (number, part) in bus.partitions_or_self().into_iter().enumerate() {
        let mut list = script::backlog::LIST_FILLS.key(keys::fills(part.stream()));
        let found: Vec<(String, String, String, String)> = bus
            .connection()
            .run_idempotent(list.arg(store.to_string()))
            .await
            .map_err(|error| publish::publish_error(part, error))?;
        all.extend(found.into_iter().filter_map(|found| parse_fill(store, number, found)));
    }
    Ok(all)
}

/// Adds the next events of a fill to the backlog, and moves the position of the fill, in one script.
pub(crate) async fn fill(
    bus: &BusInner,
    fill: &BacklogFill,
    through: Position,
    events: &[RecordedEvent],
) -> Result<FillOutcome, PublishError> {
    publish::ensure_publishing(bus)?;
    let parts = bus.partitions_or_self();
    let Some(part) = parts.get(fill.part) else {
        return Ok(FillOutcome::Moved); // the number of partitions was changed
    };
    let is_here = |event: &&RecordedEvent| {
        parts.len() == 1 || partition_of(event.metadata().stream(), bus.config().partitions) as usize == fill.part
    };
    let event_type = fill.event_type.as_ref().map_or("", Name::as_str);
    let store = fill.store.to_string();
    let mut add = script::backlog::FILL_BACKLOG.key(keys::fills(part.stream()));
    add.key(keys::backlog(bus.base_stream(), &fill.group));
    add.arg(format!("fill {store} {}\n{event_type}", fill.group)).arg(fill.group.as_str());
    add.arg(fill.after.get()).arg(through.get());
    let carrier = TraceCarrier::for_span(part, &Span::none());
    let events: Vec<RecordedEvent> = events.iter().filter(is_here).cloned().collect();
    for event in &events {
        let refused = |source| PublishError::Refused {
            destination: part.destination().clone(),
            event_id: Some(event.metadata().event_id()),
            source,
        };
        let mut fields = publish::encode(part, event, &carrier).map_err(refused)?;
        fields.insert(STORE_FIELD_INDEX, (field::STORE, store.as_bytes().into()));
        command::add_fields(&mut add, &fields);
    }
    let outcome: String =
        bus.connection().run(&add).await.map_err(|error| publish::publish_error_of(part, error, &events))?;
    Ok(match outcome.as_str() {
        "filled" => FillOutcome::Done,
        "full" => FillOutcome::Full,
        _ => FillOutcome::Moved,
    })
}

fn parse_fill(
    store: Uuid,
    part: usize,
    (group, event_type, at, through): (String, String, String, String),
) -> Option<BacklogFill> {
    let position = |text: &str| text.parse().ok().map(Position::new);
    let event_type = match event_type.as_str() {
        "" => None,
        name => Some(Name::new("event type", name).ok()?),
    };
    let (after, through) = (position(&at)?, position(&through)?);
    Some(BacklogFill { store, group: Name::new("group", group).ok()?, event_type, after, through, part })
}

/// Loads the state of a group's backlog; the server removes a backlog that is finished.
pub(crate) async fn inspect_backlog(bus: &BusInner, group: &Name) -> Result<BacklogState, CommandError> {
    inspect_backlog_as(bus, group, None).await
}

/// Loads the state for a consumer of the backlog. The caller passes how many of its entries wait for a retry, or behind
/// one that does.
pub(crate) async fn inspect_backlog_as(
    bus: &BusInner,
    group: &Name,
    consumer: Option<(&str, usize)>,
) -> Result<BacklogState, CommandError> {
    let backlog = keys::backlog(bus.base_stream(), group);
    let mut inspect = script::backlog::INSPECT_BACKLOG.key(&backlog);
    inspect.key(keys::retry(&backlog, &bus.config().retry_key_prefix, group)).key(keys::members(&backlog, group));
    inspect.key(keys::floors(&backlog)).key(keys::lease(&backlog, group)).key(keys::relay(&backlog));
    inspect.key(keys::retried(&backlog));
    for part in bus.partitions_or_self() {
        inspect.key(keys::fills(part.stream()));
    }
    inspect.arg(group.as_str());
    if let Some((name, retried)) = consumer {
        inspect.arg(name).arg(retried);
    }
    let mut reply: Vec<String> = bus.connection().run_idempotent(&inspect).await?;
    let copies = reply.split_off(5.min(reply.len()));
    let copy = |text: String| {
        let (number, event_type) = text.split_once(' ')?;
        Some((number.parse().ok()?, event_type.to_owned()))
    };
    let copies = copies.into_iter().filter_map(copy).collect();
    let mut is_first = reply.get(1).is_some_and(|flag| flag == "1");
    let missing_stores = reply.get(2).cloned().unwrap_or_default();
    let number = |at: usize| reply.get(at).and_then(|count| count.parse::<u64>().ok()).unwrap_or_default();
    let (remaining, must_stay) = (number(3), number(4));
    if is_first && must_stay > 0 {
        // entries may use up their attempts meanwhile: the gate still holds back the aggregates of the rest
        is_first = group::count_staying(bus, &backlog, group, false, must_stay).await? < must_stay;
    }
    Ok(match reply.first().map(String::as_str) {
        Some("more") => BacklogState::Unfinished { is_first, missing_stores, remaining, pending_copies: copies },
        Some("finished") => BacklogState::Finished,
        _ => BacklogState::None,
    })
}

/// Returns `true` if a group has a backlog that comes before the group's streams.
pub(crate) async fn is_backlog_first(bus: &BusInner, group: &Name) -> Result<bool, CommandError> {
    let backlog = inspect_backlog(bus, group).await?;
    Ok(matches!(backlog, BacklogState::Unfinished { is_first: true, missing_stores, .. } if missing_stores.is_empty()))
}

/// Copies the events of a type that a group skipped from a stream to its backlog, as far as there is room.
pub(crate) async fn copy_to_backlog(
    bus: &BusInner,
    group: &Name,
    (number, event_type): &(usize, String),
    stop: &StopSignal,
) -> Result<(), CommandError> {
    let parts = bus.partitions_or_self();
    let Some(part) = parts.get(*number) else {
        return Ok(());
    };
    loop {
        let mut copy = script::backlog::COPY_TO_BACKLOG.key(part.stream());
        copy.key(keys::fills(part.stream())).key(keys::backlog(bus.base_stream(), group));
        copy.arg(group.as_str()).arg(event_type).arg(BACKLOG_COPY_BATCH).arg(PASSED_BYTES_MAX);
        if !bus.connection().run::<bool>(&copy).await? || stop.is_stopped() {
            return Ok(());
        }
    }
}

/// What an announcement records while some of its types are undecided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AnnounceMode {
    /// Nothing, also if no type is undecided.
    Check,
    /// Nothing.
    AllOrNone,
    /// The other types.
    Each,
}

/// Announces the types that groups handle, unless some have skipped events that need a decision: then it announces none
/// of all groups, and returns those.
pub(crate) async fn announce_all(bus: &BusInner, announced: &[Announced]) -> Result<Vec<SkippedBefore>, CommandError> {
    let has_groups = announced.iter().any(|one| one.group != announced[0].group);
    // a script changes one group
    if has_groups {
        let undecided = announce(bus, announced, AnnounceMode::Check).await?;
        if !undecided.is_empty() {
            return Ok(undecided);
        }
    }
    announce(bus, announced, AnnounceMode::AllOrNone).await
}

/// Announces the types that groups handle, and returns those with skipped events that need a decision: it announces the
/// others.
pub(crate) async fn announce_each(bus: &BusInner, announced: &[Announced]) -> Result<Vec<SkippedBefore>, CommandError> {
    announce(bus, announced, AnnounceMode::Each).await
}

async fn announce(
    bus: &BusInner,
    announced: &[Announced],
    mode: AnnounceMode,
) -> Result<Vec<SkippedBefore>, CommandError> {
    let mut older = Vec::new();
    let mut groups: Vec<&Name> = announced.iter().map(|announced| &announced.group).collect();
    groups.sort();
    groups.dedup();
    for group in groups {
        let of_group = announced.iter().filter(|announced| announced.group == *group);
        let undecided: Vec<(String, u64, u64)> =
            bus.connection().run_idempotent(&announce_script(bus, group, of_group, mode)).await?;
        older.extend(undecided.into_iter().map(|(event_type, count, age)| SkippedBefore {
            group: group.clone(),
            event_type,
            count,
            age: Duration::from_millis(age),
        }));
    }
    Ok(older)
}

fn announce_script<'a>(
    bus: &BusInner,
    group: &Name,
    announced: impl Iterator<Item = &'a Announced>,
    mode: AnnounceMode,
) -> ScriptInvocation<'static> {
    let mut announce = script::backlog::ANNOUNCE.key(keys::known_types(bus.base_stream(), group));
    for part in bus.partitions_or_self() {
        let stream = part.stream();
        announce.key(stream).key(keys::relay(stream)).key(keys::skipped(stream, group)).key(keys::fills(stream));
    }
    let within = bus.config().deliver_skipped_within.as_millis();
    announce.arg(group.as_str()).arg(u64::try_from(within).unwrap_or(u64::MAX));
    announce.arg(match mode {
        AnnounceMode::Check => "check",
        AnnounceMode::AllOrNone => "all",
        AnnounceMode::Each => "each",
    });
    for Announced { event_type, schema_version, start, .. } in announced {
        announce.arg(event_type.as_ref().map_or("*", Name::as_str)).arg(schema_version);
        announce.arg(match start {
            Some(HandlerStart::Oldest) => "oldest",
            Some(HandlerStart::Now) => "now",
            None => "",
        });
    }
    announce
}

/// Returns `true` if the server still has the types that a group announced.
pub(crate) async fn has_recorded_types(
    bus: &BusInner,
    group: &Name,
    recorded_types: &[String],
) -> Result<bool, CommandError> {
    if recorded_types.is_empty() {
        return Ok(true);
    }
    let command = request("HMGET", (keys::known_types(bus.base_stream(), group), recorded_types));
    let found: Vec<Option<String>> = bus.connection().query_idempotent(&command).await?;
    Ok(found.iter().all(Option::is_some))
}

/// Returns the fields that the server stores for an announcement: without the types that have undecided older events.
pub(crate) fn types_to_record(announced: &[Announced], undecided: &[SkippedBefore]) -> Vec<String> {
    let is_decided = |announced: &&Announced| match &announced.event_type {
        Some(name) => undecided.iter().all(|skipped| skipped.event_type != name.as_str()),
        None => undecided.is_empty(),
    };
    let field = |announced: &Announced| match &announced.event_type {
        Some(name) => format!("{name}@{}", announced.schema_version),
        None => "*".to_owned(),
    };
    announced.iter().filter(is_decided).map(field).collect()
}

#[cfg(test)]
mod tests {
    use redis::{Value, aio::MultiplexedConnection};

    use super::*;
    use crate::{RedisEventBusConfig, partition::layout};

    /// Returns the most memory that the server has used so far.
    async fn peak_memory(connection: &mut MultiplexedConnection) -> u64 {
        let info: String = redis::cmd("INFO").arg("memory").query_async(connection).await.unwrap();
        info.lines().find_map(|line| line.strip_prefix("used_memory_peak:")?.trim().parse().ok()).unwrap()
    }

    /// Fails if a script reads the attempts of all entries at once.
    #[tokio::test]
    async fn a_backlog_of_which_all_entries_stay_pending_no_longer_comes_first() {
        let server = eventbus_test::private_redis();
        let config = RedisEventBusConfig { redis_url: server.url().into(), ..RedisEventBusConfig::default() };
        let bus = BusInner::new(config).unwrap();
        layout::join(&bus).await.unwrap();
        let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
        let group = bus.default_group();
        let backlog = keys::backlog(bus.base_stream(), group);
        let retry = keys::retry(&backlog, &bus.config().retry_key_prefix, group);
        let mut fill = redis::pipe();
        fill.cmd("HSET").arg(keys::fills(bus.stream()));
        fill.arg(format!("open {group}")).arg(1).arg(format!("first {group}")).arg(1);
        fill.cmd("XGROUP").arg("CREATE").arg(&backlog).arg(group.as_str()).arg("0").arg("MKSTREAM");
        for number in 1..=600 {
            fill.cmd("XADD").arg(&backlog).arg(format!("{number}-0")).arg("number").arg(number);
        }
        fill.cmd("XREADGROUP").arg("GROUP").arg(group.as_str()).arg("one").arg("STREAMS").arg(&backlog).arg(">");
        let _: Value = fill.query_async(&mut connection).await.unwrap();
        let exhausted = format!(r#"{{"attempts":1,"error":"{}","is_exhausted":true}}"#, "x".repeat(32 * 1024));
        for number in 1..=600 {
            let mut note = redis::cmd("HSET");
            note.arg(&retry).arg(format!("{number}-0")).arg(&exhausted);
            let _: u64 = note.query_async(&mut connection).await.unwrap();
        }
        let expected = |is_first| BacklogState::Unfinished {
            is_first,
            missing_stores: String::new(),
            remaining: 600,
            pending_copies: Vec::new(),
        };
        let before = peak_memory(&mut connection).await;
        assert_eq!(inspect_backlog(&bus, group).await.unwrap(), expected(false));
        let grown = peak_memory(&mut connection).await - before;
        assert!(grown < 4 * 1024 * 1024, "{grown} bytes");
        for (command, attempts) in [("HSET", Some(r#"{"attempts":1,"next_at":1}"#)), ("HDEL", None)] {
            let mut change = redis::cmd(command);
            change.arg(&retry).arg("600-0").arg(attempts);
            let _: u64 = change.query_async(&mut connection).await.unwrap();
            assert_eq!(inspect_backlog(&bus, group).await.unwrap(), expected(true), "{command}");
        }
    }
}
