//! Visiting the events of one stream, or of the feed: only the columns that a fold needs, read ahead by one chunk.
//!
//! Invariant: a row that is damaged, or before which an event is missing, is not visited: the pages of
//! [`read`](crate::read) and [`feed`](crate::feed) reach it and name the fault.

use std::{
    collections::{HashMap, hash_map::Entry},
    future::poll_fn,
    mem,
    ops::{ControlFlow, Range},
    pin::pin,
    sync::Arc,
    task::Poll,
};

use eventbus::{
    BoxError, EventId, Name, Position, StreamId, Version,
    event::EventFields,
    port::{Direction, FeedFilter, ReadError, ReadFeed as _, ReadStream as _},
    store::{VisitEvent, VisitFeedEvent, VisitedEvent, VisitedFeedEvent, visit_feed_records, visit_records},
    support::{EventTypeNames, PAGE_BYTES},
};
use rusqlite::{Connection, Row, Rows, params};
use uuid::Uuid;

use crate::{
    filter::FilterParameters,
    query::QueryError,
    row::{get_stream, is_object, stream_columns},
    search::{SEARCH_POSITIONS_MAX, load_head},
    store::SqliteEventStore,
};

/// The most events of a chunk, which also ends with the event that reaches [`PAGE_BYTES`].
const EVENTS_MAX: i64 = 1_000;
/// The column from which on a row has the fields of its event.
const FIRST_FIELD: usize = 2;
/// The most streams that a visit of the feed remembers: about 3 MB.
const REMEMBERED_MAX: usize = 16_384;

pub(crate) async fn visit_stream(
    store: &SqliteEventStore,
    stream: &StreamId,
    from: Version,
    visit: &mut VisitEvent<'_>,
) -> Result<(), ReadError> {
    let load = |first: Version| {
        let stream = stream.clone();
        store.readers().read(move |connection| StreamChunk::load(connection, &stream, first))
    };
    let first = load(from.max(Version::FIRST)).await?;
    let load_next = |chunk: &mut StreamChunk| (chunk.end == ChunkEnd::Full).then(|| load(chunk.next));
    match visit_chunks(first, load_next, |chunk| chunk.visit(visit)).await? {
        Some(last) if last.end == ChunkEnd::AtFault => {
            visit_records(store.read_stream(stream, last.next, Direction::Forward), visit).await
        }
        _ => Ok(()),
    }
}

pub(crate) async fn visit_feed(
    store: &SqliteEventStore,
    after: Position,
    through: Position,
    filter: &FeedFilter,
    visit: &mut VisitFeedEvent<'_>,
) -> Result<(), ReadError> {
    let wanted = FilterParameters::new(filter);
    if filter.is_all() || wanted.tags.is_some() {
        return visit_feed_records(store.read_feed(after, through, filter), visit).await;
    }
    let wanted = Arc::new(wanted);
    let load = |after: Position, streams: Streams| {
        let wanted = Arc::clone(&wanted);
        store.readers().read(move |connection| FeedChunk::load(connection, after, through, &wanted, streams))
    };
    let first = load(after, Streams::default()).await?;
    let load_next =
        |chunk: &mut FeedChunk| (chunk.end == ChunkEnd::Full).then(|| load(chunk.next, mem::take(&mut chunk.streams)));
    match visit_chunks(first, load_next, |chunk| chunk.visit(visit)).await? {
        Some(last) if last.end == ChunkEnd::AtFault => {
            visit_feed_records(store.read_feed(last.next, through, filter), visit).await
        }
        _ => Ok(()),
    }
}

/// Visits chunks, while another thread loads the next one. Returns the last chunk; `None` if the visitor broke off.
async fn visit_chunks<C, F: Future<Output = Result<C, ReadError>>>(
    mut chunk: C,
    load_next: impl Fn(&mut C) -> Option<F>,
    mut visit: impl FnMut(&C) -> ControlFlow<()>,
) -> Result<Option<C>, ReadError> {
    while let Some(following) = load_next(&mut chunk) {
        let mut following = pin!(following);
        // the first poll starts it
        let started = poll_fn(|context| Poll::Ready(following.as_mut().poll(context))).await;
        if visit(&chunk).is_break() {
            return Ok(None);
        }
        chunk = match started {
            Poll::Ready(loaded) => loaded?,
            Poll::Pending => following.await?,
        };
    }
    Ok(visit(&chunk).is_continue().then_some(chunk))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkEnd {
    /// More events may follow.
    Full,
    /// No event follows.
    Last,
    /// The next row is damaged, or does not have the next version.
    AtFault,
}

/// Adds rows to a chunk with `push`, which returns `true` if the chunk is full, or fails if the row cannot be visited.
fn push_rows(
    mut rows: Rows<'_>,
    mut push: impl FnMut(&Row<'_>) -> Result<bool, BoxError>,
) -> Result<ChunkEnd, QueryError> {
    let mut count = 0;
    while let Some(row) = rows.next()? {
        count += 1;
        match push(row) {
            Ok(false) => {}
            Ok(true) => return Ok(ChunkEnd::Full),
            Err(_) => return Ok(ChunkEnd::AtFault),
        }
    }
    Ok(if count < EVENTS_MAX { ChunkEnd::Last } else { ChunkEnd::Full })
}

/// Consecutive events of a stream.
struct StreamChunk {
    events: Vec<(Version, EventId, ChunkFields)>,
    fields: FieldBuffer,
    /// The version after the events.
    next: Version,
    end: ChunkEnd,
}

impl StreamChunk {
    fn load(connection: &Connection, stream: &StreamId, first: Version) -> Result<Self, QueryError> {
        let (id, of_type, tenant) = stream_columns(stream);
        let mut statement = connection.prepare_cached(include_str!("sql/visit.sql"))?;
        let rows = statement.query((id, of_type, tenant, first.as_i64(), EVENTS_MAX))?;
        let mut chunk = Self { events: Vec::new(), fields: FieldBuffer::default(), next: first, end: ChunkEnd::Full };
        chunk.end = push_rows(rows, |row| {
            chunk.push(row)?;
            Ok(chunk.fields.is_full())
        })?;
        Ok(chunk)
    }

    fn push(&mut self, row: &Row<'_>) -> Result<(), BoxError> {
        if row.get::<_, i64>(0)? != self.next.as_i64() {
            return Err("not the next version".into());
        }
        let event_id = EventId::from(Uuid::from_slice(row.get_ref(1)?.as_blob()?)?);
        self.events.push((self.next, event_id, self.fields.push(row)?));
        self.next = self.next.next();
        Ok(())
    }

    fn visit(&self, visit: &mut VisitEvent<'_>) -> ControlFlow<()> {
        self.events.iter().try_for_each(|(version, event_id, fields)| {
            visit(VisitedEvent { version: *version, event_id: *event_id, fields: self.fields.get(fields) })
        })
    }
}

/// Events of the feed that match a filter.
struct FeedChunk {
    events: Vec<(Position, StreamId, ChunkFields)>,
    fields: FieldBuffer,
    streams: Streams,
    /// The position after which the next chunk begins.
    next: Position,
    end: ChunkEnd,
}

impl FeedChunk {
    fn load(
        connection: &Connection,
        after: Position,
        through: Position,
        filter: &FilterParameters,
        streams: Streams,
    ) -> Result<Self, QueryError> {
        let through = through.min(load_head(connection)?).as_i64();
        let searched = after.as_i64().saturating_add(SEARCH_POSITIONS_MAX).min(through);
        let FilterParameters { aggregate_types, event_types, slots, .. } = filter;
        let mut statement = connection.prepare_cached(include_str!("sql/visit_feed.sql"))?;
        let (after_number, tenant) = (after.as_i64(), filter.tenant());
        let parameters = params![after_number, searched, aggregate_types, event_types, tenant, EVENTS_MAX, slots];
        let rows = statement.query(parameters)?;
        let (events, fields) = (Vec::new(), FieldBuffer::default());
        let mut chunk = Self { events, fields, streams, next: after, end: ChunkEnd::Full };
        chunk.end = push_rows(rows, |row| {
            chunk.push(row)?;
            Ok(chunk.fields.is_full())
        })?;
        // the last of the positions that were searched, not of all
        if chunk.end == ChunkEnd::Last
            && searched < through
            && let Ok(next) = u64::try_from(searched)
        {
            (chunk.next, chunk.end) = (Position::new(next), ChunkEnd::Full);
        }
        Ok(chunk)
    }

    fn push(&mut self, row: &Row<'_>) -> Result<(), BoxError> {
        let position = Position::new(u64::try_from(row.get::<_, i64>(0)?)?);
        let stream = self.streams.get(row.get(1)?, row)?;
        self.events.push((position, stream, self.fields.push(row)?));
        self.next = position;
        Ok(())
    }

    fn visit(&self, visit: &mut VisitFeedEvent<'_>) -> ControlFlow<()> {
        self.events.iter().try_for_each(|(position, stream, fields)| {
            visit(VisitedFeedEvent { position: *position, stream, fields: self.fields.get(fields) })
        })
    }
}

/// The streams that a visit has met, by number: the stream of a number never changes.
#[derive(Default)]
struct Streams(HashMap<i64, StreamId>);

impl Streams {
    /// Returns the stream of a row of `sql/visit_feed.sql`.
    fn get(&mut self, number: i64, row: &Row<'_>) -> Result<StreamId, BoxError> {
        if self.0.len() == REMEMBERED_MAX && !self.0.contains_key(&number) {
            self.0.clear();
        }
        let stream = match self.0.entry(number) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(get_stream(row, [6, 7, 8])?),
        };
        Ok(stream.clone())
    }
}

/// The fields of the events of a chunk.
#[derive(Default)]
struct FieldBuffer {
    names: EventTypeNames,
    /// The payloads, one after the other.
    payloads: String,
}

/// The fields of an event in a [`FieldBuffer`].
struct ChunkFields {
    event_type: Name,
    schema_version: u32,
    has_sealed_fields: bool,
    payload: Range<usize>,
}

impl FieldBuffer {
    /// Returns `true` if no further event belongs to the chunk.
    const fn is_full(&self) -> bool {
        self.payloads.len() >= PAGE_BYTES
    }

    /// Adds the fields that a row has in the columns from [`FIRST_FIELD`].
    fn push(&mut self, row: &Row<'_>) -> Result<ChunkFields, BoxError> {
        let event_type = self.names.name(row.get_ref(FIRST_FIELD)?.as_str()?)?.clone();
        let schema_version = u32::try_from(row.get::<_, i64>(FIRST_FIELD + 1)?)?;
        let has_sealed_fields = row.get(FIRST_FIELD + 2)?;
        let json = row.get_ref(FIRST_FIELD + 3)?.as_str()?;
        if schema_version == 0 || !is_object(json) {
            return Err("damaged".into());
        }
        let payload = self.payloads.len()..self.payloads.len() + json.len();
        self.payloads.push_str(json);
        Ok(ChunkFields { event_type, schema_version, has_sealed_fields, payload })
    }

    fn get<'f>(&'f self, of: &'f ChunkFields) -> EventFields<'f> {
        EventFields {
            event_type: &of.event_type,
            schema_version: of.schema_version,
            has_sealed_fields: of.has_sealed_fields,
            payload: &self.payloads[of.payload.clone()],
        }
    }
}
