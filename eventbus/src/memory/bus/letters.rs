//! The dead letters of the in-process bus: entries of the log that a group gave up.

use std::{
    sync::MutexGuard,
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use time::OffsetDateTime;

use super::{
    DESTINATION, InMemoryEventBus,
    cursor::Cursor,
    log::{Entry, Log},
};
use crate::{
    domain::name::Name,
    port::{DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters, MessageId, Tries},
};

/// What is known of a dead letter beside its entry and its tries.
#[derive(Debug)]
pub(super) struct Buried {
    /// Its place among the dead letters, in the order they died.
    serial: u64,
    at: OffsetDateTime,
}

/// The entry that a dead letter is, of a group.
struct Place {
    group: Name,
    number: u64,
}

impl Log {
    /// Makes an entry of a group a dead letter.
    pub(super) fn bury(&mut self, group: &Name, number: u64, tries: Tries) {
        if let Some(entry) = self.entries.get(&number) {
            let (event_type, aggregate) = (entry.record.event_type(), entry.record.metadata().stream());
            tracing::error!(
                %group, handler = tries.handlers(), %event_type, %aggregate, id = %entry.id, error = tries.errors(),
                attempts = tries.most_attempts(), "delivery given up: it is a dead letter now"
            );
        }
        self.buried += 1;
        let buried = Buried { serial: self.buried, at: self.clock.now() };
        self.cursor(group).bury(number, tries, buried);
    }

    /// The dead letters with these serials that match, oldest first.
    fn letters(&self, is_wanted: impl Fn(u64) -> bool, filter: &DeadLetterFilter) -> Vec<(u64, Place, DeadLetter)> {
        let mut letters = Vec::new();
        for (group, cursor) in &self.groups {
            for (number, buried, tries) in cursor.dead().filter(|(_, buried, _)| is_wanted(buried.serial)) {
                let letter = self.entries.get(&number).map(|entry| letter(group, entry, buried, tries));
                if let Some(letter) = letter.filter(|letter| filter.matches(letter)) {
                    letters.push((buried.serial, Place { group: group.clone(), number }, letter));
                }
            }
        }
        letters.sort_unstable_by_key(|(serial, ..)| *serial);
        letters
    }
}

fn letter(group: &Name, entry: &Entry, buried: &Buried, tries: &Tries) -> DeadLetter {
    let mut letter = DeadLetter::new(MessageId::new(buried.serial.to_string()));
    letter.original_message_id = Some(entry.id.clone());
    letter.record = Some(entry.record.clone());
    letter.event_type = Some(entry.record.event_type().to_string());
    letter.aggregate_id = Some(entry.record.metadata().aggregate_id().to_string());
    letter.error = Some(tries.errors());
    letter.handler = Some(tries.handlers());
    letter.group = Some(group.to_string());
    letter.attempts = Some(tries.most_attempts());
    letter.retry_count = Some(tries.most_attempts().saturating_sub(1));
    let at = |millis: u64| OffsetDateTime::from(UNIX_EPOCH + Duration::from_millis(millis));
    letter.first_failed_at = tries.first_failed_at.map(at);
    letter.last_failed_at = tries.last_failed_at.map(at);
    letter.dead_lettered_at = Some(buried.at);
    letter.done_handlers.clone_from(&tries.done);
    letter
}

fn serial(id: &MessageId) -> Result<u64, DeadLetterError> {
    let invalid = || DeadLetterError::InvalidId { destination: DESTINATION.clone(), id: id.clone() };
    id.as_str().parse().map_err(|_| invalid())
}

impl InMemoryEventBus {
    fn open_log(&self) -> Result<MutexGuard<'_, Log>, DeadLetterError> {
        match self.shared.consuming.is_closed() {
            true => Err(DeadLetterError::ShutDown { destination: DESTINATION.clone() }),
            false => Ok(self.shared.log()),
        }
    }

    /// Does away with dead letters in one of two ways; returns how many.
    fn end(
        &self,
        is_wanted: impl Fn(u64) -> bool,
        filter: &DeadLetterFilter,
        end: fn(&mut Cursor, u64),
    ) -> Result<u64, DeadLetterError> {
        let mut log = self.open_log()?;
        let letters = log.letters(is_wanted, filter);
        for (_, place, _) in &letters {
            end(log.cursor(&place.group), place.number);
        }
        drop(log);
        // there is something to take, or a checkpoint to save
        self.shared.published.send_replace(());
        Ok(letters.len() as u64)
    }

    fn end_one(&self, id: &MessageId, end: fn(&mut Cursor, u64)) -> Result<bool, DeadLetterError> {
        let wanted = serial(id)?;
        Ok(self.end(|serial| serial == wanted, &DeadLetterFilter::default(), end)? > 0)
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
        let after = after.map_or(Ok(0), serial)?;
        let letters = self.open_log()?.letters(|serial| serial > after, filter);
        let mut letters: Vec<_> = letters.into_iter().map(|(_, _, letter)| letter).collect();
        let has_more = letters.len() > limit.max(1);
        letters.truncate(limit.max(1));
        let next = letters.last().filter(|_| has_more).map(|letter| letter.id.clone());
        Ok(DeadLetterPage::new(letters, next))
    }

    async fn dead_letter(&self, id: &MessageId) -> Result<Option<DeadLetter>, DeadLetterError> {
        let wanted = serial(id)?;
        let mut found = self.open_log()?.letters(|serial| serial == wanted, &DeadLetterFilter::default());
        Ok(found.pop().map(|(_, _, letter)| letter))
    }

    async fn replay(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        self.end_one(id, Cursor::revive)
    }

    async fn replay_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        self.end(|_| true, filter, Cursor::revive)
    }

    /// From then on the checkpoint of the group may pass it.
    async fn discard(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        self.end_one(id, Cursor::finish)
    }

    async fn discard_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        self.end(|_| true, filter, Cursor::finish)
    }
}
