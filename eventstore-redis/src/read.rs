//! Reads one stream, in pages.

use eventbus::{
    BoxError, RecordedEvent, StreamId, Version,
    port::{Direction, ReadError, RecordStream},
    support::{PAGE_BYTES, Page, StreamCursor, paged, paged_after},
};
use eventbus_redis_core::{
    error::{CommandError, boxed},
    reply::{self, Entry},
    script::READ_PAGE,
};
use redis::{Cmd, FromRedisValue, RedisResult, ToRedisArgs, Value};

use crate::{
    commands, entry,
    error::{CorruptEntry, corrupt_key, corrupt_last_entry, read_error},
    inner::StoreInner,
    script::STREAM_VERSION,
};

/// Most events of a page; fewer if they have more than [`PAGE_BYTES`].
pub(crate) const PAGE_EVENTS_MAX: usize = 256;

/// Returns the events of a stream from a version on.
pub(crate) fn read_stream<'s>(
    inner: &'s StoreInner,
    stream: &StreamId,
    from: Version,
    direction: Direction,
) -> RecordStream<'s> {
    let reading = StreamRead { key: inner.keys().stream(stream), stream: stream.clone(), direction };
    paged(StreamCursor::new(from), move |cursor| {
        let reading = reading.clone();
        async move { read_page(inner, &reading, cursor).await }
    })
}

/// Returns the events of a stream whose first page is already read.
pub(crate) fn read_after<'s>(inner: &'s StoreInner, stream: &StreamId, first: Page<StreamCursor>) -> RecordStream<'s> {
    let key = inner.keys().stream(stream);
    let reading = StreamRead { key, stream: stream.clone(), direction: Direction::Forward };
    paged_after(first, move |cursor| {
        let reading = reading.clone();
        async move { read_page(inner, &reading, cursor).await }
    })
}

#[derive(Clone)]
struct StreamRead {
    key: String,
    stream: StreamId,
    direction: Direction,
}

/// Returns the version of a stream, which is the number of its entries.
pub(crate) async fn stream_version(inner: &StoreInner, stream: &StreamId) -> Result<Version, ReadError> {
    let key = inner.keys().stream(stream);
    let mut script = STREAM_VERSION.prepare_invoke();
    script.key(&key);
    let found: Vec<String> =
        inner.connection().run_idempotent(&script).await.map_err(|error| read_error(&key, error))?;
    match &found.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["ok", version] => version.parse().map(Version::new).map_err(|error| corrupt_key(&key, BoxError::from(error))),
        found => Err(corrupt_last_entry(&key, found.last().unwrap_or(&"")).into()),
    }
}

async fn read_page(
    inner: &StoreInner,
    reading: &StreamRead,
    cursor: StreamCursor,
) -> Result<Page<StreamCursor>, ReadError> {
    let StreamRead { key, stream, direction } = reading;
    let (command, to) = match direction {
        Direction::Forward => ("XRANGE", "+"),
        Direction::Backward => ("XREVRANGE", "-"),
    };
    let (entries, has_more) = query_page(inner, key, command, cursor.start().get(), to).await?;
    decode_page(key, stream, *direction, cursor, entries, has_more)
}

/// Reads a page of a stream by a command, `XRANGE` or `XREVRANGE`. Returns its entries, and whether there are more.
pub(crate) async fn query_page(
    inner: &StoreInner,
    key: &str,
    command: &'static str,
    from: u64,
    to: impl ToRedisArgs,
) -> Result<(Value, bool), ReadError> {
    let mut script = READ_PAGE.key(key);
    script.arg(command).arg(from).arg(to).arg(PAGE_EVENTS_MAX).arg(PAGE_BYTES);
    inner.connection().run_idempotent(&script).await.map_err(|error| read_error(key, error))
}

/// Decodes the entries of the page at a cursor.
pub(crate) fn decode_page(
    key: &str,
    stream: &StreamId,
    direction: Direction,
    cursor: StreamCursor,
    entries: Value,
    has_more: bool,
) -> Result<Page<StreamCursor>, ReadError> {
    let entries = parse_entries(key, Ok(entries))?;
    let mut events: Vec<_> =
        entries.into_iter().map(|found| entry::read(key, stream, found)).collect::<Result<_, _>>()?;
    let next = cursor.after_page(direction, &mut events, has_more).map_err(|missing| missing_event(key, missing))?;
    Ok((events, next))
}

fn missing_event(key: &str, version: Version) -> ReadError {
    CorruptEntry::new(key, &format!("{version}-0"), "the event is missing: a foreign client removed it").into()
}

/// Sends a command that reads entries of a stream.
pub(crate) async fn query_entries(inner: &StoreInner, key: &str, command: &Cmd) -> Result<Vec<Entry>, ReadError> {
    let reply = inner.connection().query_idempotent(command).await.map_err(|error| read_error(key, error))?;
    parse_entries(key, Ok(reply))
}

/// Sends a command that only reads.
pub(crate) async fn query<T: FromRedisValue>(inner: &StoreInner, command: &Cmd) -> Result<T, ReadError> {
    inner.connection().query_idempotent(command).await.map_err(|error| ReadError::Unavailable(boxed(error)))
}

/// Sends commands that only read, in one round trip.
pub(crate) async fn query_all(
    inner: &StoreInner,
    commands: impl Iterator<Item = Cmd>,
) -> Result<Vec<RedisResult<Value>>, ReadError> {
    let mut pipeline = redis::pipe();
    pipeline.ignore_errors();
    for command in commands {
        pipeline.add_command(command);
    }
    inner.connection().query_all_idempotent(&pipeline).await.map_err(|error| ReadError::Unavailable(boxed(error)))
}

/// Parses the entries of a stream.
pub(crate) fn parse_entries(key: &str, reply: RedisResult<Value>) -> Result<Vec<Entry>, ReadError> {
    let reply = reply.map_err(|error| read_error(key, CommandError::Sent(error)))?;
    reply::parse_value(reply).map_err(|error| corrupt_key(key, error))
}

/// Loads the events of pointers, in their order.
pub(crate) async fn load_events(
    inner: &StoreInner,
    pointers: &[entry::FeedPointer],
) -> Result<Vec<RecordedEvent>, ReadError> {
    let mut events = Vec::with_capacity(pointers.len());
    load_sound_events(inner, pointers, &mut events).await.map(|()| events)
}

/// Loads the events of pointers, in their order, up to one that is missing or damaged. One command reads each run of
/// consecutive versions of a stream.
pub(crate) async fn load_sound_events(
    inner: &StoreInner,
    pointers: &[entry::FeedPointer],
    events: &mut Vec<RecordedEvent>,
) -> Result<(), ReadError> {
    let follows = |one: &entry::FeedPointer, next: &entry::FeedPointer| {
        one.version.checked_add(1) == Some(next.version) && one.stream == next.stream
    };
    let runs: Vec<_> = pointers.chunk_by(follows).collect();
    if runs.is_empty() {
        return Ok(());
    }
    let key_of = |run: &[entry::FeedPointer]| inner.keys().stream(&run[0].stream);
    let range = |run: &&[_]| commands::range(&key_of(run), run[0].version, run[run.len() - 1].version, run.len());
    let replies = query_all(inner, runs.iter().map(range)).await?;
    for (run, reply) in runs.into_iter().zip(replies) {
        let key = key_of(run);
        let mut entries = parse_entries(&key, reply)?.into_iter();
        for pointer in run {
            let version = Version::new(pointer.version);
            let found = entries.next().ok_or_else(|| missing_event(&key, version))?;
            let id = found.id.clone();
            // the range skips a missing version
            if entry::number_of(&id).is_ok_and(|number| number > pointer.version) {
                return Err(missing_event(&key, version));
            }
            let event = entry::read(&key, &pointer.stream, found)?;
            if event.version() != version || event.position().is_none_or(|at| at != pointer.position) {
                let source = format!("it is not the event of position {}", pointer.position);
                return Err(CorruptEntry::new(&key, &id, source).into());
            }
            events.push(event);
        }
    }
    Ok(())
}
