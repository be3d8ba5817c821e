//! The dead letters of the in-process bus: entries of the log that a group gave up, and rows of the store.
//!
//! A dead letter is in the log until its row is written; for ever if there is no store to write it to, or the event is
//! not of that store.
//!
//! Invariant: a dead letter has the same id in the log and in the store.

use std::{
    fmt,
    sync::MutexGuard,
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use time::OffsetDateTime;

use super::{
    BusInner, DEFAULT_GROUP, DESTINATION, InMemoryEventBus, consume::read_event_at, group_cursor::GroupCursor,
    log::EntryLog,
};
use crate::{
    domain::{name::Name, record::RecordedEvent, stream::Position},
    port::{
        DeadDelivery, DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters, DeliveryAttempts,
        EventStore, MessageId, PAGE_BYTES, ReadError,
    },
};

/// Rows of the store that are read at once.
const PAGE_ROWS: usize = 100;

/// The time when an entry became a dead letter, in microseconds since 1970; unique in one log.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeadLetterTime(u64);

impl DeadLetterTime {
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
struct DeadLetterId {
    micros: u64,
    location: DeadLetterLocation,
    group: Name,
}

impl DeadLetterId {
    fn parse(id: &MessageId) -> Result<Self, DeadLetterError> {
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

    /// Returns the location of the entry with this number, or with this position if it came from the feed.
    fn location_of(number: u64, position: Option<Position>) -> DeadLetterLocation {
        position.map_or(DeadLetterLocation::OnlyInLog(number), DeadLetterLocation::Stored)
    }

    fn from_dead_delivery(dead: &DeadDelivery) -> Self {
        let micros = (dead.dead_since - OffsetDateTime::UNIX_EPOCH).whole_microseconds();
        let micros = u64::try_from(micros).unwrap_or_default();
        Self { micros, location: DeadLetterLocation::Stored(dead.position), group: dead.group.clone() }
    }

    fn dead_since(&self) -> OffsetDateTime {
        DeadLetterTime(self.micros).as_date_time()
    }

    /// Returns the key to list the store's dead letters after this one.
    fn as_delivery(&self) -> DeadDelivery {
        let position = match self.location {
            DeadLetterLocation::Stored(position) => position,
            DeadLetterLocation::OnlyInLog(_) => Position::START,
        };
        DeadDelivery {
            group: self.group.clone(),
            position,
            attempts: DeliveryAttempts::default(),
            dead_since: self.dead_since(),
        }
    }

    /// Returns the dead letter with this id.
    fn to_dead_letter(
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

impl EntryLog {
    /// Makes an entry of a group a dead letter.
    pub(super) fn move_to_dead_letters(&mut self, group: &Name, number: u64, delivery_attempts: DeliveryAttempts) {
        let (handler, error, attempts) =
            (delivery_attempts.handlers(), delivery_attempts.errors(), delivery_attempts.most_attempts());
        // unique, also in one microsecond and after the clock was set back
        self.last_dead_letter_micros = self.micros().max(self.last_dead_letter_micros + 1);
        let dead_letter_time = DeadLetterTime(self.last_dead_letter_micros);
        let location = DeadLetterId::location_of(
            number,
            self.cursor(group).move_to_dead_letters(number, delivery_attempts, dead_letter_time),
        );
        let dead_letter = DeadLetterId { micros: dead_letter_time.0, location, group: group.clone() };
        if let Some(entry) = self.entries.get(&number) {
            let (event_type, aggregate) = (entry.record.event_type(), entry.record.metadata().stream());
            tracing::error!(
                %group, id = %entry.id, %dead_letter, handler, error, attempts, %event_type, %aggregate,
                "delivery given up: it is a dead letter now"
            );
        }
    }

    fn micros(&self) -> u64 {
        let micros = (self.clock.now() - OffsetDateTime::UNIX_EPOCH).whole_microseconds();
        u64::try_from(micros).unwrap_or_default()
    }

    /// Returns up to `limit` dead letters in the log after `after` that match, oldest first.
    fn list_in_log(
        &self,
        after: Option<&DeadLetterId>,
        filter: &DeadLetterFilter,
        limit: usize,
    ) -> Vec<(DeadLetterId, DeadLetter)> {
        let ids = self.groups.iter().flat_map(|(group, cursor)| {
            cursor.dead_letters().map(|(number, dead_letter_time, delivery_attempts, position)| {
                (
                    DeadLetterId {
                        micros: dead_letter_time.0,
                        location: DeadLetterId::location_of(number, position),
                        group: group.clone(),
                    },
                    number,
                    delivery_attempts,
                )
            })
        });
        let mut ids: Vec<_> = ids.filter(|(id, ..)| after.is_none_or(|after| id > after)).collect();
        ids.sort_unstable_by(|(one, ..), (two, ..)| one.cmp(two));
        let dead_letters = ids.into_iter().filter_map(|(id, number, delivery_attempts)| {
            let entry = self.entries.get(&number)?;
            let dead_letter = id.to_dead_letter(Some(&entry.record), Some(&entry.id), delivery_attempts);
            Some((id, dead_letter))
        });
        dead_letters.filter(|(_, dead_letter)| filter.matches(dead_letter)).take(limit).collect()
    }

    /// Returns the number of a dead letter in the log, and the attempts of its handlers.
    fn find_in_log(&self, id: &DeadLetterId) -> Option<(u64, &DeliveryAttempts)> {
        let mut dead = self.groups.get(&id.group)?.dead_letters();
        dead.find_map(|(number, dead_letter_time, delivery_attempts, position)| {
            (dead_letter_time.0 == id.micros && DeadLetterId::location_of(number, position) == id.location)
                .then_some((number, delivery_attempts))
        })
    }
}

impl BusInner {
    /// Counts the dead letters in the store; 0 if it does not answer.
    pub(super) async fn count_stored_dead_letters(&self) -> u64 {
        let Some(resume) = self.resume().clone() else {
            return 0;
        };
        let count = resume.store.count_dead_deliveries().await;
        count.inspect_err(|error| tracing::debug!(%error, "dead letters not counted")).unwrap_or_default()
    }
}

fn unavailable(source: impl Into<crate::domain::error::BoxError>) -> DeadLetterError {
    DeadLetterError::Unavailable { destination: DESTINATION.clone(), source: source.into() }
}

/// Returns the event of a dead letter; `None` if the store has lost it, or cannot read it any more.
fn none_if_corrupt(read: Result<Option<RecordedEvent>, ReadError>) -> Result<Option<RecordedEvent>, DeadLetterError> {
    match read {
        Err(ReadError::Corrupt { .. }) => Ok(None),
        read => read.map_err(unavailable),
    }
}

/// Loads a dead letter in the store, with its event.
async fn load_dead_letter(store: &dyn EventStore, dead: &DeadDelivery) -> Result<DeadLetter, DeadLetterError> {
    let record = none_if_corrupt(read_event_at(store, dead.position).await)?;
    Ok(DeadLetterId::from_dead_delivery(dead).to_dead_letter(record.as_ref(), None, &dead.attempts))
}

/// The room that is left on a page of dead letters.
struct PageBudget {
    dead_letters: usize,
    bytes: usize,
}

impl PageBudget {
    const fn new(dead_letters: usize) -> Self {
        Self { dead_letters, bytes: PAGE_BYTES }
    }

    /// Takes the room for a dead letter; returns `false` if the page is full.
    fn take(&mut self, dead_letter: &DeadLetter) -> bool {
        if self.dead_letters == 0 || self.bytes == 0 {
            return false;
        }
        self.dead_letters -= 1;
        self.bytes = self.bytes.saturating_sub(dead_letter.bytes());
        true
    }
}

impl InMemoryEventBus {
    fn open_log(&self) -> Result<MutexGuard<'_, EntryLog>, DeadLetterError> {
        match self.inner.consuming.is_closed() {
            true => Err(DeadLetterError::ShutDown { destination: DESTINATION.clone() }),
            false => Ok(self.inner.log()),
        }
    }

    fn store(&self) -> Option<std::sync::Arc<dyn EventStore>> {
        self.inner.resume().as_ref().map(|resume| std::sync::Arc::clone(&resume.store))
    }

    /// Returns a page of up to `limit` dead letters that match, oldest first, and `true` if there are more.
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&DeadLetterId>,
        limit: usize,
    ) -> Result<(Vec<(DeadLetterId, DeadLetter)>, bool), DeadLetterError> {
        // the log first: a dead letter that moves to the store meanwhile is seen twice, and not missed
        let mut dead_letters = self.open_log()?.list_in_log(after, filter, limit.saturating_add(1));
        if let Some(store) = self.store() {
            let (mut budget, mut last) = (PageBudget::new(limit), after.map(DeadLetterId::as_delivery));
            'pages: loop {
                let page = store.dead_deliveries(last.as_ref(), PAGE_ROWS).await.map_err(unavailable)?;
                let is_last = page.len() < PAGE_ROWS;
                last = page.last().cloned().or(last);
                for dead in page {
                    let (id, dead_letter) =
                        (DeadLetterId::from_dead_delivery(&dead), load_dead_letter(&*store, &dead).await?);
                    if filter.matches(&dead_letter) && !dead_letters.iter().any(|(known, _)| *known == id) {
                        let is_taken = budget.take(&dead_letter);
                        dead_letters.push((id, dead_letter));
                        if !is_taken {
                            break 'pages; // this one, beyond the page, shows that there are more
                        }
                    }
                }
                if is_last {
                    break;
                }
            }
        }
        dead_letters.sort_by(|(one, _), (two, _)| one.cmp(two));
        let (found, mut budget) = (dead_letters.len(), PageBudget::new(limit));
        let count = dead_letters.iter().take_while(|(_, dead_letter)| budget.take(dead_letter)).count();
        dead_letters.truncate(count);
        Ok((dead_letters, found > count))
    }

    /// Replays or discards a dead letter; returns `false` if it is gone.
    async fn end_dead_letter(&self, id: &DeadLetterId, is_replay: bool) -> Result<bool, DeadLetterError> {
        if self.end_in_log(id, if is_replay { GroupCursor::replay } else { GroupCursor::acknowledge })? {
            return Ok(true);
        }
        let (Some(store), DeadLetterLocation::Stored(position)) = (self.store(), id.location) else {
            return Ok(false);
        };
        let group = &id.group;
        let dead = store.dead_delivery(group, position).await.map_err(unavailable)?;
        let Some(dead) = dead.filter(|dead| DeadLetterId::from_dead_delivery(dead) == *id) else {
            return Ok(false);
        };
        if !is_replay {
            return store.end_dead_delivery(group, position, None).await.map_err(unavailable);
        }
        if none_if_corrupt(read_event_at(&*store, position).await)?.is_none() {
            let id = MessageId::new(id.to_string());
            return Err(DeadLetterError::Empty { destination: DESTINATION.clone(), id });
        }
        let delivery_attempts = DeliveryAttempts::replayed(dead.attempts.done);
        if !store.end_dead_delivery(group, position, Some(&delivery_attempts)).await.map_err(unavailable)? {
            return Ok(false);
        }
        let mut log = self.inner.log();
        let cursor = log.cursor(group);
        // a group that is loaded later finds the row
        if cursor.is_loaded && !cursor.replay_in_place(position, &delivery_attempts) {
            cursor.replayed.push_back((position, delivery_attempts));
        }
        drop(log);
        self.inner.published.send_replace(());
        Ok(true)
    }

    /// Replays or discards a dead letter in the log; returns `false` if it is not there.
    fn end_in_log(&self, id: &DeadLetterId, end: fn(&mut GroupCursor, u64)) -> Result<bool, DeadLetterError> {
        let mut log = self.open_log()?;
        let Some((number, _)) = log.find_in_log(id) else {
            return Ok(false);
        };
        end(log.cursor(&id.group), number);
        drop(log);
        // the group has an entry to take, or progress to save
        self.inner.published.send_replace(());
        Ok(true)
    }

    /// Returns the time of the newest dead letter; later ones are newer, also after the clock was set back.
    async fn newest_dead_letter_micros(&self) -> Result<u64, DeadLetterError> {
        let mut newest = {
            let mut log = self.open_log()?;
            log.last_dead_letter_micros = log.micros().max(log.last_dead_letter_micros);
            log.last_dead_letter_micros
        };
        let Some(store) = self.store() else {
            return Ok(newest);
        };
        let first = DeadLetterId {
            micros: newest,
            location: DeadLetterLocation::Stored(Position::START),
            group: DEFAULT_GROUP.clone(),
        };
        let mut after = first.as_delivery();
        while let Some(last) = store.dead_deliveries(Some(&after), PAGE_ROWS).await.map_err(unavailable)?.pop() {
            newest = newest.max(DeadLetterId::from_dead_delivery(&last).micros);
            after = last;
        }
        let mut log = self.open_log()?;
        log.last_dead_letter_micros = log.last_dead_letter_micros.max(newest);
        Ok(newest)
    }

    /// Replays or discards the matching dead letters that exist now; returns how many.
    async fn end_all(&self, filter: &DeadLetterFilter, is_replay: bool) -> Result<u64, DeadLetterError> {
        let last = self.newest_dead_letter_micros().await?;
        let (mut after, mut ended) = (None, 0);
        loop {
            let (page, has_more) = self.list(filter, after.as_ref(), PAGE_ROWS).await?;
            for (id, _) in page.iter().filter(|(id, _)| id.micros <= last) {
                ended += match self.end_dead_letter(id, is_replay).await {
                    // a dead letter without an event does not hold up the rest
                    Err(DeadLetterError::Empty { .. }) => 0,
                    is_ended => u64::from(is_ended?),
                };
            }
            after = page.into_iter().next_back().map(|(id, _)| id).or(after);
            if !has_more || after.as_ref().is_some_and(|after| after.micros > last) {
                return Ok(ended);
            }
        }
    }
}

#[async_trait]
impl DeadLetters for InMemoryEventBus {
    async fn dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<DeadLetterPage, DeadLetterError> {
        let after = after.map(DeadLetterId::parse).transpose()?;
        let (dead_letters, has_more) = self.list(filter, after.as_ref(), limit.max(1)).await?;
        let next = dead_letters.last().filter(|_| has_more).map(|(_, dead_letter)| dead_letter.id.clone());
        Ok(DeadLetterPage::new(dead_letters.into_iter().map(|(_, dead_letter)| dead_letter).collect(), next))
    }

    async fn dead_letter(&self, id: &MessageId) -> Result<Option<DeadLetter>, DeadLetterError> {
        let id = DeadLetterId::parse(id)?;
        {
            let log = self.open_log()?;
            let entry = |(number, delivery_attempts)| log.entries.get(&number).map(|entry| (entry, delivery_attempts));
            if let Some((entry, delivery_attempts)) = log.find_in_log(&id).and_then(entry) {
                return Ok(Some(id.to_dead_letter(Some(&entry.record), Some(&entry.id), delivery_attempts)));
            }
        }
        let (Some(store), DeadLetterLocation::Stored(position)) = (self.store(), id.location) else {
            return Ok(None);
        };
        let dead = store.dead_delivery(&id.group, position).await.map_err(unavailable)?;
        match dead.filter(|dead| DeadLetterId::from_dead_delivery(dead) == id) {
            Some(dead) => load_dead_letter(&*store, &dead).await.map(Some),
            None => Ok(None),
        }
    }

    async fn replay(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        self.end_dead_letter(&DeadLetterId::parse(id)?, true).await
    }

    async fn replay_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        self.end_all(filter, true).await
    }

    async fn discard(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        self.end_dead_letter(&DeadLetterId::parse(id)?, false).await
    }

    async fn discard_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        self.end_all(filter, false).await
    }
}
