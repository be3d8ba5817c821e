//! The place of a stored event: version, position, time and slot, as the server returns them.

use eventbus::{BoxError, EventId, NewEvent, Position, RecordedEvent, StreamId, Version};
use sqlx::{Row as _, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::record::{decode_time, slot_of};

/// Version, position, time and slot that the server gave an event.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredAt {
    event_id: EventId,
    version: Version,
    position: Position,
    recorded_at: OffsetDateTime,
    slot: u8,
}

impl StoredAt {
    /// Reads a row of `append.sql` or `append_many.sql`.
    pub(super) fn decode(row: &PgRow) -> Result<Self, BoxError> {
        Self::decode_with(row, 4)
    }

    /// Reads a row that has the number of the stream in a column.
    pub(super) fn decode_with(row: &PgRow, stream_no: usize) -> Result<Self, BoxError> {
        let number = |column: usize| -> Result<u64, BoxError> { Ok(u64::try_from(row.try_get::<i64, _>(column)?)?) };
        let event_id = EventId::from(row.try_get::<Uuid, _>(0)?);
        let recorded_at = decode_time(row.try_get_unchecked(3)?)?;
        let (version, position, slot) =
            (number(1)?.into(), Position::new(number(2)?), slot_of(row.try_get(stream_no)?));
        Ok(Self { event_id, version, position, recorded_at, slot })
    }

    /// Returns `true` if the row is that of `event`.
    pub(super) fn is_of(&self, event: &NewEvent) -> bool {
        self.event_id == event.event_id()
    }

    pub(super) fn into_record(self, event: NewEvent, stream: &StreamId) -> RecordedEvent {
        let record = event.recorded_as(stream.clone(), self.version, Some(self.position));
        record.with_recorded_at(Some(self.recorded_at)).with_slot(self.slot)
    }
}
