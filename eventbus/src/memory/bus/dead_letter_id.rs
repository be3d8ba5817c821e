//! The id of a dead letter of the in-process bus: the same in the log and in the store.

use std::{
    fmt,
    time::{Duration, UNIX_EPOCH},
};

use time::OffsetDateTime;

use super::settings::DESTINATION;
use crate::{
    domain::{name::Name, record::RecordedEvent, stream::Position},
    port::{DeadDelivery, DeadLetter, DeadLetterError, MessageId, attempts::DeliveryAttempts},
};

/// The time when an entry became a dead letter, in microseconds since 1970; unique in one log.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeadLetterTime(u64);

impl DeadLetterTime {
    pub(super) const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    pub(super) fn as_date_time(&self) -> OffsetDateTime {
        (UNIX_EPOCH + Duration::from_micros(self.0)).into()
    }
}

/// The location of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum DeadLetterLocation {
    /// An event of the store: in a row, or on its way there.
    Stored(Position),
    /// An entry of the log that no store holds.
    OnlyInLog(u64),
}

/// The id of a dead letter: `1795157844243000-17-mail`, or with `n17` for an entry that no store holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct DeadLetterId {
    micros: u64,
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
            Some(Self { micros: micros.parse().ok()?, location, group: Name::new("consumer group", group).ok()? })
        };
        read().ok_or_else(|| DeadLetterError::InvalidId { destination: DESTINATION.clone(), id: id.clone() })
    }

    /// Creates the id of an entry with this number, and with this position if it came from the feed.
    pub(super) fn of_entry(group: &Name, time: DeadLetterTime, number: u64, position: Option<Position>) -> Self {
        let location = position.map_or(DeadLetterLocation::OnlyInLog(number), DeadLetterLocation::Stored);
        Self { micros: time.0, location, group: group.clone() }
    }

    pub(super) fn from_dead_delivery(dead: &DeadDelivery) -> Self {
        let micros = (dead.dead_since - OffsetDateTime::UNIX_EPOCH).whole_microseconds();
        let micros = u64::try_from(micros).unwrap_or_default();
        Self { micros, location: DeadLetterLocation::Stored(dead.position), group: dead.group.clone() }
    }

    pub(super) const fn micros(&self) -> u64 {
        self.micros
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

    fn dead_since(&self) -> OffsetDateTime {
        DeadLetterTime(self.micros).as_date_time()
    }

    /// Returns the key to list the store's dead letters after this one.
    pub(super) fn as_delivery(&self) -> DeadDelivery {
        DeadDelivery {
            group: self.group.clone(),
            position: self.position().unwrap_or(Position::START),
            attempts: DeliveryAttempts::default(),
            dead_since: self.dead_since(),
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
        let at = |millis: u64| OffsetDateTime::from(UNIX_EPOCH + Duration::from_millis(millis));
        dead_letter.first_failed_at = delivery_attempts.first_failed_at.map(at);
        dead_letter.last_failed_at = delivery_attempts.last_failed_at.map(at);
        dead_letter.dead_lettered_at = Some(self.dead_since());
        dead_letter.done_handlers.clone_from(&delivery_attempts.done);
        dead_letter
    }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.location {
            DeadLetterLocation::Stored(position) => write!(f, "{}-{position}-{}", self.micros, self.group),
            DeadLetterLocation::OnlyInLog(number) => write!(f, "{}-n{number}-{}", self.micros, self.group),
        }
    }
}
