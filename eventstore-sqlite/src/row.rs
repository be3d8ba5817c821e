//! Rows: conversion between events, positions, times and epochs and their columns.

use eventbus::{
    BoxError, EventId, Metadata, NewEvent, Position, RecordedEvent, StreamId, Version,
    event::{Attributes, Tag},
    port::ReadError,
    support::{EventTypeNames, collect_page},
};
use rusqlite::{Connection, Params, Row, params, types::FromSql};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::query::{QueryError, execute};

/// Maximum number of events on a page, which also ends after [`PAGE_BYTES`](eventbus::support::PAGE_BYTES).
pub(crate) const PAGE_EVENTS_MAX: i64 = 1_000;

/// Inserts an event of the stream with a number, and returns its position.
pub(crate) fn insert_event(
    connection: &Connection,
    stream_no: i64,
    version: Version,
    event: &NewEvent,
    recorded_at: OffsetDateTime,
) -> rusqlite::Result<Position> {
    let context = event.context();
    let attributes = &context.attributes;
    let tags = (!event.tags().is_empty()).then(|| to_json_array(event.tags()));
    let columns = params![
        stream_no,
        version.as_i64(),
        to_micros(event.occurred_at()),
        to_micros(recorded_at),
        event.event_id().as_uuid().into_bytes(),
        event.correlation_id().into_bytes(),
        event.schema_version(),
        event.event_type().as_str(),
        event.payload(),
        context.causation_id.as_ref().map(Uuid::as_bytes),
        context.actor_id.as_deref(),
        (!attributes.is_empty()).then(|| attributes.as_json()),
        event.original_recorded_at().map(to_micros),
        tags,
    ];
    match tags {
        Some(_) => execute(connection, include_str!("sql/insert_event_with_tags.sql"), columns)?,
        None => execute(connection, include_str!("sql/insert_event.sql"), &columns[..columns.len() - 1])?,
    };
    // negative only after 2^63 events
    Ok(Position::new(connection.last_insert_rowid().cast_unsigned()))
}

/// Returns tags as their column: a JSON array.
pub(crate) fn to_json_array<'t>(tags: impl IntoIterator<Item = &'t Tag>) -> String {
    tags.into_iter().map(Tag::as_str).collect::<serde_json::Value>().to_string()
}

/// Returns the columns that name a stream: aggregate id, aggregate type and tenant, which is the nil UUID for none.
pub(crate) fn stream_columns(stream: &StreamId) -> (&str, &str, [u8; 16]) {
    (stream.aggregate_id().as_str(), stream.aggregate_type().as_str(), stream.tenant_or_nil().into_bytes())
}

/// Lists the type of an event, in the transaction that stored it at `position`.
pub(crate) fn insert_type(connection: &Connection, event: &NewEvent, position: Position) -> rusqlite::Result<()> {
    let row = (event.event_type().as_str(), event.schema_version(), position.as_i64());
    execute(connection, include_str!("sql/list_event_type.sql"), row).map(drop)
}

/// Converts a time to its column; the years -9999 to 9999 fit easily into 64 bits of microseconds.
pub(crate) fn to_micros(time: OffsetDateTime) -> i64 {
    i64::try_from(time.unix_timestamp_nanos().div_euclid(1_000)).unwrap_or(i64::MAX)
}

pub(crate) fn from_micros(micros: i64) -> Result<OffsetDateTime, time::error::ComponentRange> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000)
}

/// Converts a stored position; `place` names it in the error.
pub(crate) fn to_position(stored: i64, place: impl FnOnce() -> String) -> Result<Position, ReadError> {
    let position = u64::try_from(stored).map(Position::new);
    position.map_err(|source| ReadError::corrupt(place(), source))
}

/// Converts an epoch to its column: one that does not fit was never issued, and no row has one below zero.
pub(crate) fn epoch_to_i64(epoch: u64) -> i64 {
    i64::try_from(epoch).unwrap_or(-1)
}

/// Runs a statement that reads a page, and returns `true` if there may be more.
pub(crate) fn query_page(
    connection: &Connection,
    sql: &str,
    parameters: impl Params,
) -> Result<(Vec<RecordedEvent>, bool), QueryError> {
    let mut statement = connection.prepare_cached(sql)?;
    // a damaged row ends the page after the events before it; a failed statement fails the page
    let (mut failure, mut decoder) = (None, EventDecoder::default());
    let rows = statement.query_and_then(parameters, |row| Ok::<_, rusqlite::Error>(decoder.read(row)))?;
    let rows = rows.map_while(|row| row.map_err(|error| failure = Some(error)).ok());
    let page = collect_page(rows, PAGE_EVENTS_MAX as usize)?;
    failure.map_or(Ok(page), |error| Err(error.into()))
}

/// Reads the event of a row that has the columns of `sql/read_feed.sql`, in that order.
pub(crate) fn read_event(row: &Row<'_>) -> Result<RecordedEvent, QueryError> {
    EventDecoder::default().read(row)
}

/// Decodes the rows of a page; a name or a stream that repeats in consecutive rows is decoded once.
#[derive(Default)]
struct EventDecoder {
    event_types: EventTypeNames,
    last_stream: Option<StreamId>,
}

impl EventDecoder {
    fn read(&mut self, row: &Row<'_>) -> Result<RecordedEvent, QueryError> {
        let position: i64 = row.get(0)?;
        let event = self.decode(row, position).map_err(|source| ReadError::Corrupt {
            place: format!("position {position}"),
            position: u64::try_from(position).ok().map(Position::new),
            source,
        });
        Ok(event?)
    }

    fn stream(&mut self, row: &Row<'_>) -> Result<StreamId, BoxError> {
        let columns @ [of_type, id, tenant] = [5, 6, 11];
        let (of_type, id, tenant_id) = (get_text(row, of_type)?, get_text(row, id)?, get_uuid(row, tenant)?);
        let is_last = |last: &StreamId| {
            *last.aggregate_type() == of_type
                && last.aggregate_id().as_str() == id
                && last.tenant_or_nil() == tenant_id.unwrap_or_default()
        };
        if let Some(last) = self.last_stream.as_ref().filter(|last| is_last(last)) {
            return Ok(last.clone());
        }
        Ok(self.last_stream.insert(get_stream(row, columns)?).clone())
    }

    fn decode(&mut self, row: &Row<'_>, position: i64) -> Result<RecordedEvent, BoxError> {
        let stream = self.stream(row)?;
        let version = Version::new(get_counter(row, 1)?);
        if version == Version::NONE {
            return Err("the version is 0, versions start at 1".into());
        }
        let schema_version = u32::try_from(get_column::<i64>(row, 4)?)?;
        if schema_version == 0 {
            return Err("the schema version is 0, schema versions start at 1".into());
        }
        let metadata = Metadata::new(
            EventId::from(get_uuid(row, 3)?.ok_or("the event id is null")?),
            self.event_types.name(get_text(row, 7)?)?.clone(),
            stream,
            version,
            from_micros(get_column(row, 2)?)?,
        )
        .with_schema_version(schema_version)
        .with_position(Some(Position::new(u64::try_from(position)?)))
        .with_recorded_at(Some(from_micros(get_column(row, 14)?)?))
        .with_original_recorded_at(get_column::<Option<i64>>(row, 15)?.map(from_micros).transpose()?)
        .with_sealed_fields(get_column(row, 16)?)
        .with_correlation_id(get_uuid(row, 9)?.ok_or("the correlation id is null")?)
        .with_causation_id(get_uuid(row, 10)?)
        .with_actor_id(get_optional_text(row, 12)?)
        .with_attributes(match get_optional_text(row, 13)? {
            Some(json) => Attributes::parse(json)?,
            None => Attributes::EMPTY,
        });
        let payload = get_text(row, 8)?;
        if !is_object(payload) {
            return Err("the payload is not a JSON object".into());
        }
        Ok(RecordedEvent::new(metadata, payload))
    }
}

/// Returns `true` if a text can be a JSON object; decoding shows if it is one.
pub(crate) fn is_object(text: &str) -> bool {
    let text = text.trim_matches([' ', '\t', '\n', '\r']);
    text.starts_with('{') && text.ends_with('}')
}

/// Decodes the stream that three columns name: aggregate type, aggregate id and tenant.
pub(crate) fn get_stream(row: &Row<'_>, [of_type, id, tenant]: [usize; 3]) -> Result<StreamId, BoxError> {
    let stream = StreamId::parse(get_text(row, of_type)?, get_text(row, id)?)?;
    Ok(stream.with_tenant_id(get_uuid(row, tenant)?))
}

fn get_column<T: FromSql>(row: &Row<'_>, column: usize) -> Result<T, BoxError> {
    row.get(column).map_err(|error| column_error(row, column, error))
}

fn get_text<'r>(row: &'r Row<'_>, column: usize) -> Result<&'r str, BoxError> {
    row.get_ref(column)?.as_str().map_err(|error| column_error(row, column, error))
}

fn get_optional_text<'r>(row: &'r Row<'_>, column: usize) -> Result<Option<&'r str>, BoxError> {
    row.get_ref(column)?.as_str_or_null().map_err(|error| column_error(row, column, error))
}

fn get_counter(row: &Row<'_>, column: usize) -> Result<u64, BoxError> {
    u64::try_from(get_column::<i64>(row, column)?).map_err(|error| column_error(row, column, error))
}

fn get_uuid(row: &Row<'_>, column: usize) -> Result<Option<Uuid>, BoxError> {
    let bytes = row.get_ref(column)?.as_blob_or_null().map_err(|error| column_error(row, column, error))?;
    bytes.map(|bytes| Uuid::from_slice(bytes).map_err(|error| column_error(row, column, error))).transpose()
}

fn column_error(row: &Row<'_>, column: usize, error: impl Into<BoxError>) -> BoxError {
    let name = row.as_ref().column_name(column).unwrap_or("?");
    format!("column `{name}`: {}", error.into()).into()
}
