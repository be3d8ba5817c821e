//! The dead letters of the in-process bus: entries of the log that a group gave up, and rows of the store.
//!
//! A dead letter is in the log until its row is written, for ever where there is no store to write it to or the event is
//! not of that store. It has the same id in both.

use std::{
    fmt,
    sync::MutexGuard,
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use time::OffsetDateTime;

use super::{DEFAULT_GROUP, DESTINATION, InMemoryEventBus, Shared, consume::event_at, cursor::Cursor, log::Log};
use crate::{
    domain::{name::Name, record::RecordedEvent, stream::Position},
    port::{
        DeadDelivery, DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters, EventStore,
        MessageId, PAGE_BYTES, ReadError, Tries,
    },
};

/// How many rows are read at once.
const PAGE: usize = 100;

/// When an entry became a dead letter, in microseconds since 1970: no two of one log have the same.
#[derive(Debug, Clone, Copy)]
pub(super) struct Buried(u64);

impl Buried {
    pub(super) fn since(&self) -> OffsetDateTime {
        (UNIX_EPOCH + Duration::from_micros(self.0)).into()
    }
}

/// Where a dead letter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// An event of the store: in a row, or on its way there.
    Stored(Position),
    /// An entry of the log that no store holds.
    Held(u64),
}

/// The id of a dead letter: `1795157844243000-17-mail`, or with `n17` for an entry that no store holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    micros: u64,
    place: Place,
    group: Name,
}

impl Id {
    fn parse(id: &MessageId) -> Result<Self, DeadLetterError> {
        let read = || {
            let mut parts = id.as_str().splitn(3, '-');
            let (micros, place, group) = (parts.next()?, parts.next()?, parts.next()?);
            let place = match place.strip_prefix('n') {
                Some(number) => Place::Held(number.parse().ok()?),
                None => Place::Stored(Position::new(place.parse().ok()?)),
            };
            Some(Self { micros: micros.parse().ok()?, place, group: Name::new("consumer group", group).ok()? })
        };
        read().ok_or_else(|| DeadLetterError::InvalidId { destination: DESTINATION.clone(), id: id.clone() })
    }

    /// The place of an entry with this number in the log, and this position if it came from the feed.
    fn place(number: u64, position: Option<Position>) -> Place {
        position.map_or(Place::Held(number), Place::Stored)
    }

    fn of(dead: &DeadDelivery) -> Self {
        let micros = (dead.dead_since - OffsetDateTime::UNIX_EPOCH).whole_microseconds();
        let micros = u64::try_from(micros).unwrap_or_default();
        Self { micros, place: Place::Stored(dead.position), group: dead.group.clone() }
    }

    fn since(&self) -> OffsetDateTime {
        Buried(self.micros).since()
    }

    /// What the store lists the dead letters after this one by.
    fn as_delivery(&self) -> DeadDelivery {
        let position = match self.place {
            Place::Stored(position) => position,
            Place::Held(_) => Position::START,
        };
        DeadDelivery { group: self.group.clone(), position, tries: Tries::default(), dead_since: self.since() }
    }

    /// The dead letter with this id.
    fn letter(&self, record: Option<&RecordedEvent>, original: Option<&MessageId>, tries: &Tries) -> DeadLetter {
        let mut letter = DeadLetter::new(MessageId::new(self.to_string()));
        letter.original_message_id = original.cloned();
        letter.event_type = record.map(|record| record.event_type().to_string());
        letter.aggregate_id = record.map(|record| record.metadata().aggregate_id().to_string());
        letter.record = record.cloned();
        letter.error = Some(tries.errors());
        letter.handler = Some(tries.handlers());
        letter.group = Some(self.group.to_string());
        letter.attempts = Some(tries.most_attempts());
        letter.retry_count = Some(tries.most_attempts().saturating_sub(1));
        let at = |millis: u64| OffsetDateTime::from(UNIX_EPOCH + Duration::from_millis(millis));
        letter.first_failed_at = tries.first_failed_at.map(at);
        letter.last_failed_at = tries.last_failed_at.map(at);
        letter.dead_lettered_at = Some(self.since());
        letter.done_handlers.clone_from(&tries.done);
        letter
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Stored(position) => write!(f, "{}-{position}-{}", self.micros, self.group),
            Place::Held(number) => write!(f, "{}-n{number}-{}", self.micros, self.group),
        }
    }
}

impl Log {
    /// Makes an entry of a group a dead letter.
    pub(super) fn bury(&mut self, group: &Name, number: u64, tries: Tries) {
        let (handler, error, attempts) = (tries.handlers(), tries.errors(), tries.most_attempts());
        self.last_death = self.micros().max(self.last_death + 1);
        let buried = Buried(self.last_death);
        let place = Id::place(number, self.cursor(group).bury(number, tries, buried));
        let dead_letter = Id { micros: buried.0, place, group: group.clone() };
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

    /// Up to `limit` dead letters in the log after this one that match, oldest first.
    fn held_after(&self, after: Option<&Id>, filter: &DeadLetterFilter, limit: usize) -> Vec<(Id, DeadLetter)> {
        let ids = self.groups.iter().flat_map(|(group, cursor)| {
            cursor.dead().map(|(number, buried, tries, position)| {
                (Id { micros: buried.0, place: Id::place(number, position), group: group.clone() }, number, tries)
            })
        });
        let mut ids: Vec<_> = ids.filter(|(id, ..)| after.is_none_or(|after| id > after)).collect();
        ids.sort_unstable_by(|(one, ..), (two, ..)| one.cmp(two));
        let letters = ids.into_iter().filter_map(|(id, number, tries)| {
            let entry = self.entries.get(&number)?;
            let letter = id.letter(Some(&entry.record), Some(&entry.id), tries);
            Some((id, letter))
        });
        letters.filter(|(_, letter)| filter.matches(letter)).take(limit).collect()
    }

    /// The number of a dead letter in the log, and what its handlers made of it.
    fn held(&self, id: &Id) -> Option<(u64, &Tries)> {
        let mut dead = self.groups.get(&id.group)?.dead();
        dead.find_map(|(number, buried, tries, position)| {
            (buried.0 == id.micros && Id::place(number, position) == id.place).then_some((number, tries))
        })
    }
}

impl Shared {
    /// How many dead letters the store keeps; none if it cannot be asked.
    pub(super) async fn count_dead(&self) -> u64 {
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

/// The event of a dead letter; `None` if the store has lost it, or cannot read it any more.
fn readable(read: Result<Option<RecordedEvent>, ReadError>) -> Result<Option<RecordedEvent>, DeadLetterError> {
    match read {
        Err(ReadError::Corrupt { .. }) => Ok(None),
        read => read.map_err(unavailable),
    }
}

/// A dead letter in the store, with its event.
async fn stored(store: &dyn EventStore, dead: &DeadDelivery) -> Result<DeadLetter, DeadLetterError> {
    let record = readable(event_at(store, dead.position).await)?;
    Ok(Id::of(dead).letter(record.as_ref(), None, &dead.tries))
}

/// What a page of dead letters still takes.
struct Room {
    letters: usize,
    bytes: usize,
}

impl Room {
    const fn new(letters: usize) -> Self {
        Self { letters, bytes: PAGE_BYTES }
    }

    /// Whether the page takes one more.
    fn take(&mut self, letter: &DeadLetter) -> bool {
        if self.letters == 0 || self.bytes == 0 {
            return false;
        }
        self.letters -= 1;
        self.bytes = self.bytes.saturating_sub(letter.bytes());
        true
    }
}

impl InMemoryEventBus {
    fn open_log(&self) -> Result<MutexGuard<'_, Log>, DeadLetterError> {
        match self.shared.consuming.is_closed() {
            true => Err(DeadLetterError::ShutDown { destination: DESTINATION.clone() }),
            false => Ok(self.shared.log()),
        }
    }

    fn store(&self) -> Option<std::sync::Arc<dyn EventStore>> {
        self.shared.resume().as_ref().map(|resume| std::sync::Arc::clone(&resume.store))
    }

    /// A page of up to `limit` dead letters that match, oldest first, and whether there are more.
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&Id>,
        limit: usize,
    ) -> Result<(Vec<(Id, DeadLetter)>, bool), DeadLetterError> {
        // the log first: what is moved to the store meanwhile is seen twice, and not missed
        let mut letters = self.open_log()?.held_after(after, filter, limit.saturating_add(1));
        if let Some(store) = self.store() {
            let (mut room, mut last) = (Room::new(limit), after.map(Id::as_delivery));
            'pages: loop {
                let page = store.dead_deliveries(last.as_ref(), PAGE).await.map_err(unavailable)?;
                let is_last = page.len() < PAGE;
                last = page.last().cloned().or(last);
                for dead in page {
                    let (id, letter) = (Id::of(&dead), stored(&*store, &dead).await?);
                    if filter.matches(&letter) && !letters.iter().any(|(known, _)| *known == id) {
                        let is_taken = room.take(&letter);
                        letters.push((id, letter));
                        if !is_taken {
                            break 'pages; // one more tells that there are more
                        }
                    }
                }
                if is_last {
                    break;
                }
            }
        }
        letters.sort_by(|(one, _), (two, _)| one.cmp(two));
        let (found, mut room) = (letters.len(), Room::new(limit));
        let count = letters.iter().take_while(|(_, letter)| room.take(letter)).count();
        letters.truncate(count);
        Ok((letters, found > count))
    }

    /// Does away with a dead letter: it is delivered again, or discarded.
    async fn end(&self, id: &Id, is_again: bool) -> Result<bool, DeadLetterError> {
        if self.end_held(id, if is_again { Cursor::revive } else { Cursor::finish })? {
            return Ok(true);
        }
        let (Some(store), Place::Stored(position)) = (self.store(), id.place) else {
            return Ok(false);
        };
        let group = &id.group;
        let dead = store.dead_delivery(group, position).await.map_err(unavailable)?;
        let Some(dead) = dead.filter(|dead| Id::of(dead) == *id) else {
            return Ok(false);
        };
        if !is_again {
            return store.end_dead_delivery(group, position, None).await.map_err(unavailable);
        }
        if readable(event_at(&*store, position).await)?.is_none() {
            let id = MessageId::new(id.to_string());
            return Err(DeadLetterError::Empty { destination: DESTINATION.clone(), id });
        }
        let tries = Tries::anew(dead.tries.done);
        if !store.end_dead_delivery(group, position, Some(&tries)).await.map_err(unavailable)? {
            return Ok(false);
        }
        let mut log = self.shared.log();
        let cursor = log.cursor(group);
        // a group that is loaded later finds the row
        if cursor.is_loaded && !cursor.is_delivered_again(position, &tries) {
            cursor.revived.push_back((position, tries));
        }
        drop(log);
        self.shared.published.send_replace(());
        Ok(true)
    }

    /// Does away with a dead letter that is in the log.
    fn end_held(&self, id: &Id, end: fn(&mut Cursor, u64)) -> Result<bool, DeadLetterError> {
        let mut log = self.open_log()?;
        let Some((number, _)) = log.held(id) else {
            return Ok(false);
        };
        end(log.cursor(&id.group), number);
        drop(log);
        // there is something to take, or progress to save
        self.shared.published.send_replace(());
        Ok(true)
    }

    /// When the newest dead letter was given up; whatever is given up from now on is newer, also after the clock was set
    /// back.
    async fn newest(&self) -> Result<u64, DeadLetterError> {
        let mut newest = {
            let mut log = self.open_log()?;
            log.last_death = log.micros().max(log.last_death);
            log.last_death
        };
        let Some(store) = self.store() else {
            return Ok(newest);
        };
        let first = Id { micros: newest, place: Place::Stored(Position::START), group: DEFAULT_GROUP.clone() };
        let mut after = first.as_delivery();
        while let Some(last) = store.dead_deliveries(Some(&after), PAGE).await.map_err(unavailable)?.pop() {
            newest = newest.max(Id::of(&last).micros);
            after = last;
        }
        let mut log = self.open_log()?;
        log.last_death = log.last_death.max(newest);
        Ok(newest)
    }

    /// Does away with the dead letters that are there now; returns how many.
    async fn end_all(&self, filter: &DeadLetterFilter, is_again: bool) -> Result<u64, DeadLetterError> {
        let last = self.newest().await?;
        let (mut after, mut ended) = (None, 0);
        loop {
            let (page, has_more) = self.list(filter, after.as_ref(), PAGE).await?;
            for (id, _) in page.iter().filter(|(id, _)| id.micros <= last) {
                ended += match self.end(id, is_again).await {
                    // it keeps none of the others
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
        let after = after.map(Id::parse).transpose()?;
        let (letters, has_more) = self.list(filter, after.as_ref(), limit.max(1)).await?;
        let next = letters.last().filter(|_| has_more).map(|(_, letter)| letter.id.clone());
        Ok(DeadLetterPage::new(letters.into_iter().map(|(_, letter)| letter).collect(), next))
    }

    async fn dead_letter(&self, id: &MessageId) -> Result<Option<DeadLetter>, DeadLetterError> {
        let id = Id::parse(id)?;
        {
            let log = self.open_log()?;
            let entry = |(number, tries)| log.entries.get(&number).map(|entry| (entry, tries));
            if let Some((entry, tries)) = log.held(&id).and_then(entry) {
                return Ok(Some(id.letter(Some(&entry.record), Some(&entry.id), tries)));
            }
        }
        let (Some(store), Place::Stored(position)) = (self.store(), id.place) else {
            return Ok(None);
        };
        let dead = store.dead_delivery(&id.group, position).await.map_err(unavailable)?;
        match dead.filter(|dead| Id::of(dead) == id) {
            Some(dead) => stored(&*store, &dead).await.map(Some),
            None => Ok(None),
        }
    }

    async fn replay(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        self.end(&Id::parse(id)?, true).await
    }

    async fn replay_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        self.end_all(filter, true).await
    }

    async fn discard(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        self.end(&Id::parse(id)?, false).await
    }

    async fn discard_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        self.end_all(filter, false).await
    }
}
