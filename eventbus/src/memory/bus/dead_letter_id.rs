//! The id of a dead letter of the in-process bus.

use time::OffsetDateTime;

use super::{log_entry::LogEntry, settings::DESTINATION};
use crate::{
    domain::name::Name,
    port::{DeadLetter, DeadLetterError, MessageId, attempts::DeliveryAttempts},
};

/// The id of a dead letter: `1795157844243000-17-mail`, with the time, the number of the entry in the log, and the group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, derive_more::Display)]
#[display("{}-{number}-{group}", since.unix_timestamp_nanos() / 1_000)]
pub(super) struct DeadLetterId {
    /// When the entry became a dead letter, in whole microseconds; unique in one log.
    since: OffsetDateTime,
    number: u64,
    group: Name,
}

impl DeadLetterId {
    pub(super) fn new(group: &Name, since: OffsetDateTime, number: u64) -> Self {
        Self { since, number, group: group.clone() }
    }

    pub(super) fn parse(id: &MessageId) -> Result<Self, DeadLetterError> {
        let read = || {
            let mut parts = id.as_str().splitn(3, '-');
            let (micros, number, group) = (parts.next()?, parts.next()?, parts.next()?);
            let nanos = i128::from(micros.parse::<u64>().ok()?) * 1_000;
            let since = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
            Some(Self { since, number: number.parse().ok()?, group: Name::new("consumer group", group).ok()? })
        };
        read().ok_or_else(|| DeadLetterError::InvalidId { destination: DESTINATION.clone(), id: id.clone() })
    }

    pub(super) const fn since(&self) -> OffsetDateTime {
        self.since
    }

    /// Returns the number of the entry in the log.
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn group(&self) -> &Name {
        &self.group
    }

    /// Returns the dead letter with this id.
    pub(super) fn to_dead_letter(&self, entry: &LogEntry, delivery_attempts: &DeliveryAttempts) -> DeadLetter {
        let record = &entry.record;
        let mut dead_letter = DeadLetter::new(MessageId::new(self.to_string()));
        dead_letter.original_message_id = Some(entry.id.clone());
        dead_letter.event_type = Some(record.event_type().to_string());
        dead_letter.aggregate_id = Some(record.metadata().aggregate_id().to_string());
        dead_letter.record = Some(record.clone());
        dead_letter.error = Some(delivery_attempts.errors());
        dead_letter.handler = Some(delivery_attempts.handlers());
        dead_letter.group = Some(self.group.to_string());
        dead_letter.attempts = Some(delivery_attempts.most_attempts());
        dead_letter.retry_count = Some(delivery_attempts.most_attempts().saturating_sub(1));
        // the clock of a bus may show a time beyond the year 9999
        let at = |millis: u64| OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok();
        dead_letter.first_failed_at = delivery_attempts.first_failed_at.and_then(at);
        dead_letter.last_failed_at = delivery_attempts.last_failed_at.and_then(at);
        dead_letter.dead_lettered_at = Some(self.since);
        dead_letter.done_handlers.clone_from(&delivery_attempts.done);
        dead_letter
    }
}
