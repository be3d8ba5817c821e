//! Visiting the events of one stream: only the columns that a fold needs, read ahead by one chunk.
//!
//! Invariant: a row that cannot be visited, as it is damaged or an earlier one is missing, is left to the pages of
//! [`read`](crate::read), which name what is wrong.

use std::{
    future::poll_fn,
    ops::{ControlFlow, Range},
    pin::pin,
    task::Poll,
};

use eventbus::{
    BoxError, EventId, Name, StreamId, Version,
    event::EventFields,
    port::{Direction, ReadError, ReadStream as _},
    store::{VisitEvent, VisitedEvent, visit_records},
    support::{EventTypeNames, PAGE_BYTES},
};
use rusqlite::{Connection, Row};
use uuid::Uuid;

use crate::{
    query::QueryError,
    row::{is_object, stream_columns},
    store::SqliteEventStore,
};

/// The most events of a chunk, which also ends with the event that reaches [`PAGE_BYTES`].
const EVENTS_MAX: i64 = 1_000;

pub(crate) async fn visit_stream(
    store: &SqliteEventStore,
    stream: &StreamId,
    from: Version,
    visit: &mut VisitEvent<'_>,
) -> Result<(), ReadError> {
    let load = |first: Version| {
        let stream = stream.clone();
        store.readers().read(move |connection| Chunk::load(connection, &stream, first))
    };
    let mut chunk = load(from.max(Version::FIRST)).await?;
    while chunk.end == ChunkEnd::Full {
        let mut following = pin!(load(chunk.next));
        // the first poll starts it: another thread reads on while the events are visited
        let started = poll_fn(|context| Poll::Ready(following.as_mut().poll(context))).await;
        if chunk.visit(visit).is_break() {
            return Ok(());
        }
        chunk = match started {
            Poll::Ready(loaded) => loaded?,
            Poll::Pending => following.await?,
        };
    }
    match (chunk.visit(visit), chunk.end) {
        (ControlFlow::Continue(()), ChunkEnd::AtFault) => {
            visit_records(store.read_stream(stream, chunk.next, Direction::Forward), visit).await
        }
        _ => Ok(()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkEnd {
    /// More events may follow.
    Full,
    OfStream,
    /// The next row is damaged, or not that of the next version.
    AtFault,
}

/// Consecutive events of a stream.
struct Chunk {
    events: Vec<ChunkEvent>,
    names: EventTypeNames,
    /// The payloads, one after the other.
    payloads: String,
    /// The version after the events.
    next: Version,
    end: ChunkEnd,
}

struct ChunkEvent {
    version: Version,
    event_id: EventId,
    event_type: Name,
    schema_version: u32,
    has_sealed_fields: bool,
    payload: Range<usize>,
}

impl Chunk {
    fn load(connection: &Connection, stream: &StreamId, first: Version) -> Result<Self, QueryError> {
        let (id, of_type, tenant) = stream_columns(stream);
        let mut statement = connection.prepare_cached(include_str!("sql/visit.sql"))?;
        let mut rows = statement.query((id, of_type, tenant, first.as_i64(), EVENTS_MAX))?;
        let (events, names, payloads) = (Vec::new(), EventTypeNames::default(), String::new());
        let mut chunk = Self { events, names, payloads, next: first, end: ChunkEnd::Full };
        while let Some(row) = rows.next()? {
            if chunk.push(row).is_err() {
                chunk.end = ChunkEnd::AtFault;
                return Ok(chunk);
            }
            if chunk.payloads.len() >= PAGE_BYTES {
                return Ok(chunk);
            }
        }
        if chunk.events.len() < EVENTS_MAX as usize {
            chunk.end = ChunkEnd::OfStream;
        }
        Ok(chunk)
    }

    fn push(&mut self, row: &Row<'_>) -> Result<(), BoxError> {
        if row.get::<_, i64>(0)? != self.next.as_i64() {
            return Err("not the next version".into());
        }
        let event_type = self.names.name(row.get_ref(1)?.as_str()?)?.clone();
        let schema_version = u32::try_from(row.get::<_, i64>(2)?)?;
        let has_sealed_fields = row.get(3)?;
        let event_id = EventId::from(Uuid::from_slice(row.get_ref(4)?.as_blob()?)?);
        let json = row.get_ref(5)?.as_str()?;
        if schema_version == 0 || !is_object(json) {
            return Err("damaged".into());
        }
        let payload = self.payloads.len()..self.payloads.len() + json.len();
        self.payloads.push_str(json);
        let version = self.next;
        self.events.push(ChunkEvent { version, event_id, event_type, schema_version, has_sealed_fields, payload });
        self.next = self.next.next();
        Ok(())
    }

    fn visit(&self, visit: &mut VisitEvent<'_>) -> ControlFlow<()> {
        self.events.iter().try_for_each(|event| {
            let fields = EventFields {
                event_type: &event.event_type,
                schema_version: event.schema_version,
                has_sealed_fields: event.has_sealed_fields,
                payload: &self.payloads[event.payload.clone()],
            };
            visit(VisitedEvent { version: event.version, event_id: event.event_id, fields })
        })
    }
}
