//! The place of a stored event: version, position and time, as the server returns them.

use eventbus::{BoxError, EventId, NewEvent, Position, RecordedEvent, StreamId, Version};
use sqlx::{Row as _, postgres::PgRow};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::record::decode_time;

/// Version, position and time that the server gave an event.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredAt {
    event_id: EventId,
    version: Version,
    position: Position,
    recorded_at: OffsetDateTime,
}

impl StoredAt {
    /// Reads a row of `append.sql` or `append_many.sql`.
    pub(super) fn decode(row: &PgRow) -> Result<Self, BoxError> {
        let number = |column: usize| -> Result<u64, BoxError> { Ok(u64::try_from(row.try_get::<i64, _>(column)?)?) };
        let event_id = EventId::from(row.try_get::<Uuid, _>(0)?);
        let recorded_at = decode_time(row.try_get_unchecked(3)?)?;
        Ok(Self { event_id, version: number(1)?.into(), position: Position::new(number(2)?), recorded_at })
    }

    /// Returns `true` if the row is that of `event`.
    pub(super) fn is_of(&self, event: &NewEvent) -> bool {
        self.event_id == event.event_id()
    }

    pub(super) fn into_record(self, event: NewEvent, stream: &StreamId) -> RecordedEvent {
        let record = event.recorded_as(stream.clone(), self.version, Some(self.position));
        record.with_recorded_at(Some(self.recorded_at))
    }
}
