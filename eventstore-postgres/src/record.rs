//! Decoding rows into recorded events.
//!
//! Decoding checks each column, since other programs can write rows too; the error of an invalid row names its place.

use eventbus::{
    BoxError, EventId, Metadata, Position, RecordedEvent, StreamId, Version,
    event::{Attributes, EventFields},
    port::ReadError,
    support::{EventTypeNames, collect_page},
};
use sqlx::{Row, ValueRef as _, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::stream_numbers::PageStreams;

/// The most events of a page; fewer if their payloads have more than [`PAGE_BYTES`](eventbus::support::PAGE_BYTES).
pub(crate) const PAGE_EVENTS_MAX: i64 = 1_000;

/// The number of columns of `record.sql`.
pub(crate) const RECORD_COLUMNS: usize = 15;

/// The column of `record.sql` that holds the number of the stream, the last one.
const STREAM_NO_COLUMN: usize = RECORD_COLUMNS - 1;

/// The column of `record.sql` that holds the payload.
pub(crate) const PAYLOAD_COLUMN: usize = 7;

/// The column of `visited.sql` that holds the payload.
pub(crate) const VISITED_PAYLOAD_COLUMN: usize = 5;

/// Midnight of 2000-01-01, from which the server counts, in microseconds since 1970.
const SERVER_EPOCH: i128 = 946_684_800_000_000;

/// Returns the position in a row whose columns from `first` on are those of `record.sql`; `None` if there is no event.
pub(crate) fn read_position(row: &PgRow, first: usize) -> Result<Option<i64>, sqlx::Error> {
    row.try_get(first)
}

/// Decodes the event of `stream` in the columns of `record.sql`, the first of which is column `first`.
pub(crate) fn decode_event(row: &PgRow, first: usize, stream: &StreamId) -> Result<RecordedEvent, ReadError> {
    decode_event_with(row, first, stream, &mut EventTypeNames::default())
}

fn decode_event_with(
    row: &PgRow,
    first: usize,
    stream: &StreamId,
    names: &mut EventTypeNames,
) -> Result<RecordedEvent, ReadError> {
    corrupt_at_position(row, first, RowColumns::at(row, first).event(stream.clone(), names))
}

/// Returns the bytes of the payload in a column.
pub(crate) fn payload_bytes(row: &PgRow, column: usize) -> usize {
    // `json` is sent as its text
    row.try_get_unchecked::<&[u8], _>(column).map_or(0, <[u8]>::len)
}

/// Returns the number of the stream of an event.
pub(crate) fn decode_stream_no(row: &PgRow) -> Result<i64, sqlx::Error> {
    row.try_get_unchecked(STREAM_NO_COLUMN)
}

/// Returns the slot of the stream with a number: the lowest 8 bits, as in the statements.
pub(crate) const fn slot_of(stream_no: i64) -> u8 {
    stream_no.to_le_bytes()[0]
}

/// Returns `true` if the former event of the row's stream is stored. In a page of the whole feed only the first row has
/// this column, in the others it is null.
pub(crate) fn decode_has_former(row: &PgRow) -> Result<bool, sqlx::Error> {
    row.try_get::<Option<bool>, _>(RECORD_COLUMNS).map(Option::unwrap_or_default)
}

/// Returns the position up to which the statement of a page of tagged events searched.
pub(crate) fn decode_reach(row: &PgRow) -> Result<i64, sqlx::Error> {
    row.try_get(RECORD_COLUMNS)
}

/// Column of a page of a boundary from which on the stream of the event stands.
pub(crate) const BOUNDARY_STREAM_COLUMN: usize = RECORD_COLUMNS + 1;

/// Returns the counts of the tags, which stand in the first row of a page of a boundary, behind the stream.
pub(crate) fn decode_counts(row: &PgRow) -> Result<Vec<u64>, sqlx::Error> {
    let counts: Vec<i64> = row.try_get(BOUNDARY_STREAM_COLUMN + 3)?;
    Ok(counts.into_iter().map(|count| u64::try_from(count).unwrap_or_default()).collect())
}

/// Decodes an event of the feed.
pub(crate) fn decode_feed_event(
    row: &PgRow,
    streams: &PageStreams,
    names: &mut EventTypeNames,
) -> Result<RecordedEvent, ReadError> {
    let stream = decode_stream_no(row).map_err(BoxError::from).and_then(|number| streams.get(number));
    corrupt_at_position(row, 0, stream.and_then(|stream| RowColumns::at(row, 0).event(stream.clone(), names)))
}

fn corrupt_at_position<T>(row: &PgRow, first: usize, decoded: Result<T, BoxError>) -> Result<T, ReadError> {
    decoded.map_err(|source| {
        let position = read_position(row, first).ok().flatten();
        ReadError::Corrupt {
            place: position.map_or_else(|| "an unknown position".into(), |position| format!("position {position}")),
            position: position.and_then(|position| u64::try_from(position).ok()).map(Position::new),
            source,
        }
    })
}

/// Decodes the events of a page of `stream`; `true` if there may be more.
pub(crate) fn decode_stream_page(rows: &[PgRow], stream: &StreamId) -> Result<(Vec<RecordedEvent>, bool), ReadError> {
    let mut names = EventTypeNames::default();
    collect_page(rows.iter().map(|row| decode_event_with(row, 0, stream, &mut names)), PAGE_EVENTS_MAX as usize)
}

/// Decodes the events of a page of the feed; `true` if there may be more.
pub(crate) fn decode_feed_page(rows: &[PgRow], streams: &PageStreams) -> Result<(Vec<RecordedEvent>, bool), ReadError> {
    let mut names = EventTypeNames::default();
    collect_page(rows.iter().map(|row| decode_feed_event(row, streams, &mut names)), PAGE_EVENTS_MAX as usize)
}

/// The columns of a row, taken one after the other in the order of `record.sql`, as the server sends them.
///
/// [`Row::try_get`] would check the type of each column in each row, which takes longer than decoding it.
pub(crate) struct RowColumns<'r> {
    row: &'r PgRow,
    next: usize,
}

impl<'r> RowColumns<'r> {
    /// Begins at a column, counted from 0.
    pub(crate) const fn at(row: &'r PgRow, column: usize) -> Self {
        Self { row, next: column }
    }

    pub(crate) fn number(&mut self) -> Result<i64, BoxError> {
        self.required(decode_i64)
    }

    pub(crate) fn event_id(&mut self) -> Result<EventId, BoxError> {
        self.required(decode_uuid).map(EventId::from)
    }

    /// Takes the columns of `fields.sql`.
    pub(crate) fn fields<'e>(&mut self, names: &'e mut EventTypeNames) -> Result<EventFields<'e>, BoxError>
    where
        'r: 'e,
    {
        let event_type = names.name(self.required(decode_text)?)?;
        let schema_version = self.required(decode_schema_version)?;
        let has_sealed_fields = self.required(fixed)? != [0];
        let payload = self.required(decode_payload)?;
        Ok(EventFields { event_type, schema_version, has_sealed_fields, payload })
    }

    /// Takes the bytes of a column; `None` if it is null.
    fn take(&mut self) -> Result<Option<&'r [u8]>, BoxError> {
        self.next += 1;
        let value = self.row.try_get_raw(self.next - 1)?;
        Ok(if value.is_null() { None } else { Some(value.as_bytes()?) })
    }

    fn optional<T>(&mut self, decode: impl FnOnce(&'r [u8]) -> Result<T, BoxError>) -> Result<Option<T>, BoxError> {
        self.take()?.map(decode).transpose()
    }

    fn required<T>(&mut self, decode: impl FnOnce(&'r [u8]) -> Result<T, BoxError>) -> Result<T, BoxError> {
        let column = self.next;
        let value = self.take()?.ok_or_else(|| format!("its column {column} is null"))?;
        decode(value)
    }

    fn event(&mut self, stream: StreamId, names: &mut EventTypeNames) -> Result<RecordedEvent, BoxError> {
        let position = Position::new(positive_number("position", self.number()?)?);
        let version = Version::new(positive_number("version", self.number()?)?);
        let occurred_at = decode_time(self.required(decode_i64)?)?;
        let event_id = self.event_id()?;
        let correlation_id = self.required(decode_uuid)?;
        let schema_version = self.required(decode_schema_version)?;
        let event_type = names.name(self.required(decode_text)?)?.clone();
        let payload = self.required(decode_payload)?;
        let causation_id = self.optional(decode_uuid)?;
        let actor_id = self.optional(decode_text)?;
        let attributes = self.optional(decode_text)?.map(Attributes::parse).transpose()?.unwrap_or(Attributes::EMPTY);
        let recorded_at = decode_time(self.required(decode_i64)?)?;
        let original_recorded_at = self.optional(decode_i64)?.map(decode_time).transpose()?;
        let has_sealed_fields = self.required(fixed)? != [0];
        let slot = slot_of(self.number()?);
        let metadata = Metadata::new(event_id, event_type, stream, version, occurred_at)
            .with_recorded_at(Some(recorded_at))
            .with_original_recorded_at(original_recorded_at)
            .with_sealed_fields(has_sealed_fields)
            .with_schema_version(schema_version)
            .with_position(Some(position))
            .with_correlation_id(correlation_id)
            .with_causation_id(causation_id)
            .with_actor_id(actor_id)
            .with_attributes(attributes);
        Ok(RecordedEvent::new(metadata, payload).with_slot(slot))
    }
}

/// Decodes a value of a fixed number of bytes.
fn fixed<const BYTES: usize>(value: &[u8]) -> Result<[u8; BYTES], BoxError> {
    value.try_into().map_err(|_| format!("a column has {} bytes instead of {BYTES}", value.len()).into())
}

/// Decodes an integer, or a time as its number.
fn decode_i64(value: &[u8]) -> Result<i64, BoxError> {
    fixed(value).map(i64::from_be_bytes)
}

fn decode_uuid(value: &[u8]) -> Result<Uuid, BoxError> {
    fixed(value).map(Uuid::from_bytes)
}

/// Decodes text, or `json` as its text.
fn decode_text(value: &[u8]) -> Result<&str, BoxError> {
    Ok(std::str::from_utf8(value)?)
}

fn decode_schema_version(value: &[u8]) -> Result<u32, BoxError> {
    let version = i32::from_be_bytes(fixed(value)?);
    Ok(u32::try_from(positive_number("schema version", version.into())?)?)
}

/// Decodes a valid JSON text that is an object.
fn decode_payload(value: &[u8]) -> Result<&str, BoxError> {
    let json = decode_text(value)?;
    if json.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{') {
        Ok(json)
    } else {
        Err("its payload is not a JSON object".into())
    }
}

/// Decodes the version of a stream from the first column.
pub(crate) fn decode_stream_version(row: &PgRow, stream: &StreamId) -> Result<Version, ReadError> {
    let corrupt = |source: BoxError| ReadError::corrupt(format!("stream `{stream}`"), source);
    let version: i64 = row.try_get(0).map_err(|error| corrupt(error.into()))?;
    u64::try_from(version).map(Version::new).map_err(|_| corrupt(format!("its version is {version}").into()))
}

/// Decodes a column that holds a position.
pub(crate) fn decode_position(row: &PgRow, column: usize) -> Result<Position, BoxError> {
    Ok(Position::new(u64::try_from(row.try_get::<i64, _>(column)?)?))
}

/// Returns a number that counts from 1; an error if it is lower.
fn positive_number(what: &str, number: i64) -> Result<u64, String> {
    match u64::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("its {what} is {number}")),
    }
}

/// Decodes a time; fails for one beyond the range of `time`, which is smaller than the server's, and for an infinity.
pub(crate) fn decode_time(microseconds: i64) -> Result<OffsetDateTime, time::error::ComponentRange> {
    OffsetDateTime::from_unix_timestamp_nanos((SERVER_EPOCH + i128::from(microseconds)) * 1_000)
}
