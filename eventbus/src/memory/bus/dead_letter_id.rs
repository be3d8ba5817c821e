//! The id of a dead letter of the in-process bus: the same in the log and in the store.

use time::OffsetDateTime;

use super::settings::DESTINATION;
use crate::{
    domain::{name::Name, record::RecordedEvent, stream::Position},
    port::{DeadDelivery, DeadLetter, DeadLetterError, MessageId, attempts::DeliveryAttempts},
};

/// The location of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, derive_more::Display)]
enum DeadLetterLocation {
    /// An event of the store: in a row, or on its way there.
    Stored(Position),
    /// An entry of the log that no store holds.
    #[display("n{_0}")]
    OnlyInLog(u64),
}

/// The id of a dead letter: `1795157844243000-17-mail`, or with `n17` for an entry that no store holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, derive_more::Display)]
#[display("{}-{location}-{group}", since.unix_timestamp_nanos() / 1_000)]
pub(super) struct DeadLetterId {
    /// When the entry became a dead letter, in whole microseconds; unique in one log.
    since: OffsetDateTime,
    location: DeadLetterLocation,
    group: Name,
}

impl DeadLetterId {
    pub(super) fn parse(id: &MessageId) -> Result<Self, DeadLetterError> {
        let read = || {
            let mut parts = id.as_str().splitn(3, '-');
            let (micros, location, group) = (parts.next()?, parts.next()?, parts.next()?);
            let location = match location.strip_prefix('n') {
                Some(number) => DeadLetterLocation::OnlyInLog(number.parse().ok()?),
                None => DeadLetterLocation::Stored(Position::new(location.parse().ok()?)),
            };
            let nanos = i128::from(micros.parse::<u64>().ok()?) * 1_000;
            let since = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
            Some(Self { since, location, group: Name::new("consumer group", group).ok()? })
        };
        read().ok_or_else(|| DeadLetterError::InvalidId { destination: DESTINATION.clone(), id: id.clone() })
    }

    /// Creates the id of an entry with this number, and with this position if it came from the feed.
    pub(super) fn of_entry(group: &Name, since: OffsetDateTime, number: u64, position: Option<Position>) -> Self {
        let location = position.map_or(DeadLetterLocation::OnlyInLog(number), DeadLetterLocation::Stored);
        Self { since, location, group: group.clone() }
    }

    pub(super) fn from_dead_delivery(dead: &DeadDelivery) -> Self {
        let location = DeadLetterLocation::Stored(dead.position);
        Self { since: dead.dead_since, location, group: dead.group.clone() }
    }

    pub(super) const fn since(&self) -> OffsetDateTime {
        self.since
    }

    pub(super) const fn group(&self) -> &Name {
        &self.group
    }

    /// Returns the position of an event of the store.
    pub(super) const fn position(&self) -> Option<Position> {
        match self.location {
            DeadLetterLocation::Stored(position) => Some(position),
            DeadLetterLocation::OnlyInLog(_) => None,
        }
    }

    /// Returns the key to list the store's dead letters after this one.
    pub(super) fn as_delivery(&self) -> DeadDelivery {
        DeadDelivery {
            group: self.group.clone(),
            position: self.position().unwrap_or(Position::START),
            attempts: DeliveryAttempts::default(),
            dead_since: self.since,
        }
    }

    /// Returns the dead letter with this id.
    pub(super) fn to_dead_letter(
        &self,
        record: Option<&RecordedEvent>,
        original: Option<&MessageId>,
        delivery_attempts: &DeliveryAttempts,
    ) -> DeadLetter {
        let mut dead_letter = DeadLetter::new(MessageId::new(self.to_string()));
        dead_letter.original_message_id = original.cloned();
        dead_letter.event_type = record.map(|record| record.event_type().to_string());
        dead_letter.aggregate_id = record.map(|record| record.metadata().aggregate_id().to_string());
        dead_letter.record = record.cloned();
        dead_letter.error = Some(delivery_attempts.errors());
        dead_letter.handler = Some(delivery_attempts.handlers());
        dead_letter.group = Some(self.group.to_string());
        dead_letter.attempts = Some(delivery_attempts.most_attempts());
        dead_letter.retry_count = Some(delivery_attempts.most_attempts().saturating_sub(1));
        // a row that other software wrote may have a time beyond the year 9999
        let at = |millis: u64| OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok();
        dead_letter.first_failed_at = delivery_attempts.first_failed_at.and_then(at);
        dead_letter.last_failed_at = delivery_attempts.last_failed_at.and_then(at);
        dead_letter.dead_lettered_at = Some(self.since);
        dead_letter.done_handlers.clone_from(&delivery_attempts.done);
        dead_letter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_no_calendar_has_is_left_out() {
        let since = OffsetDateTime::UNIX_EPOCH;
        let id = DeadLetterId::of_entry(&Name::from_static("mail"), since, 0, Some(Position::new(17)));
        let times = |millis| {
            let attempts = DeliveryAttempts {
                first_failed_at: Some(0),
                last_failed_at: Some(millis),
                ..DeliveryAttempts::default()
            };
            let dead_letter = id.to_dead_letter(None, None, &attempts);
            (dead_letter.first_failed_at, dead_letter.last_failed_at)
        };
        assert_eq!(times(2_000), (Some(since), Some(since + time::Duration::SECOND * 2)));
        assert_eq!(times(u64::MAX), (Some(since), None));
    }
}
