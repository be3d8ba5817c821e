//! The dead letters of a store's handlers: rows that operators list, replay and discard, with their events.

use std::sync::Arc;

use async_trait::async_trait;
use time::OffsetDateTime;

use crate::{
    domain::{error::BoxError, name::Name, record::RecordedEvent, stream::Position},
    port::{
        DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters, EventStore, HandlerProgress,
        MessageId, ReadError,
        attempts::DeliveryAttempts,
        handler_progress::{DeadRow, HandlerProgressError},
    },
    support::PAGE_BYTES,
};

/// What takes the place of a destination's name in errors.
pub(super) static DESTINATION: Name = Name::from_static("store");

/// The rows of one request.
const PAGE_ROWS: usize = 100;

/// The dead letters of the handlers of a store.
///
/// Their ids are time, position and handler: `1795231024077000-17-send_receipt`, in microseconds of the Unix clock.
#[derive(Clone)]
pub(crate) struct StoredDeadLetters(pub(super) Arc<dyn EventStore>);

/// The id of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, derive_more::Display)]
#[display("{}-{position}-{handler}", since.unix_timestamp_nanos() / 1_000)]
struct DeadLetterId {
    since: OffsetDateTime,
    position: Position,
    handler: Name,
}

impl DeadLetterId {
    fn parse(id: &MessageId) -> Result<Self, DeadLetterError> {
        let read = || {
            let mut parts = id.as_str().splitn(3, '-');
            let (micros, position, handler) = (parts.next()?, parts.next()?, parts.next()?);
            let nanos = i128::from(micros.parse::<u64>().ok()?) * 1_000;
            let since = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
            let (position, handler) = (Position::new(position.parse().ok()?), Name::new("handler", handler).ok()?);
            Some(Self { since, position, handler })
        };
        read().ok_or_else(|| DeadLetterError::InvalidId { destination: DESTINATION.clone(), id: id.clone() })
    }

    fn of(dead: &DeadRow) -> Self {
        Self { since: dead.dead_since, position: dead.position, handler: dead.handler.clone() }
    }

    /// Returns a row that only says where the next page begins.
    fn to_row(&self) -> DeadRow {
        DeadRow {
            handler: self.handler.clone(),
            position: self.position,
            attempts: DeliveryAttempts::default(),
            dead_since: self.since,
            is_held: false,
        }
    }
}

/// Returns the id of a dead letter, as the log names it.
pub(super) fn id_of(handler: &Name, position: Position, since: OffsetDateTime) -> MessageId {
    MessageId::new(DeadLetterId { since, position, handler: handler.clone() }.to_string())
}

fn to_dead_letter(dead: &DeadRow, group: &Name, record: Option<RecordedEvent>) -> DeadLetter {
    let attempts = &dead.attempts;
    let mut dead_letter = DeadLetter::new(MessageId::new(DeadLetterId::of(dead).to_string()));
    dead_letter.event_type = record.as_ref().map(|record| record.event_type().to_string());
    dead_letter.aggregate_id = record.as_ref().map(|record| record.metadata().aggregate_id().to_string());
    dead_letter.record = record;
    dead_letter.error = Some(attempts.errors());
    dead_letter.handler = Some(dead.handler.to_string());
    dead_letter.group = Some(group.to_string());
    dead_letter.attempts = Some(attempts.most_attempts());
    dead_letter.retry_count = Some(attempts.most_attempts().saturating_sub(1));
    // a row that other software wrote may have a time beyond the year 9999
    let at = |millis: u64| OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok();
    dead_letter.first_failed_at = attempts.first_failed_at.and_then(at);
    dead_letter.last_failed_at = attempts.last_failed_at.and_then(at);
    dead_letter.dead_lettered_at = Some(dead.dead_since);
    dead_letter
}

fn unavailable(source: impl Into<BoxError>) -> DeadLetterError {
    DeadLetterError::Unavailable { destination: DESTINATION.clone(), source: source.into() }
}

fn outcome_unknown(error: HandlerProgressError) -> DeadLetterError {
    DeadLetterError::OutcomeUnknown { destination: DESTINATION.clone(), source: error.source }
}

impl StoredDeadLetters {
    fn progress(&self) -> Result<&dyn HandlerProgress, DeadLetterError> {
        self.0.handler_progress().ok_or_else(|| DeadLetterError::Unsupported { destination: DESTINATION.clone() })
    }

    async fn show(&self, dead: &DeadRow) -> Result<DeadLetter, DeadLetterError> {
        let record = match self.0.read_events_at(&[dead.position]).await.pop() {
            Some(Ok(record)) => record,
            Some(Err(ReadError::Corrupt { .. })) | None => None,
            Some(Err(error)) => return Err(unavailable(error)),
        };
        let group = match record {
            Some(_) => self.group_of(&dead.handler).await?,
            None => dead.handler.clone(),
        };
        Ok(to_dead_letter(dead, &group, record))
    }

    async fn group_of(&self, handler: &Name) -> Result<Name, DeadLetterError> {
        let listed = self.progress()?.list_handlers().await.map_err(unavailable)?;
        let found = listed.into_iter().find(|listed| listed.noted.name == *handler);
        Ok(found.map_or_else(|| handler.clone(), |listed| listed.noted.group))
    }

    async fn find(&self, id: &DeadLetterId) -> Result<Option<DeadRow>, DeadLetterError> {
        let found = self.progress()?.dead_row(&id.handler, id.position).await.map_err(unavailable)?;
        Ok(found.filter(|dead| DeadLetterId::of(dead) == *id))
    }

    /// Returns the matching dead letters after a row, up to `limit`, and whether there are more.
    async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<DeadRow>,
        limit: usize,
    ) -> Result<(Vec<DeadLetter>, bool), DeadLetterError> {
        let (mut after, mut dead_letters, mut bytes) = (after, Vec::<DeadLetter>::new(), 0);
        loop {
            let page = self.progress()?.dead_rows(after.as_ref(), PAGE_ROWS).await.map_err(unavailable)?;
            for dead in &page {
                let dead_letter = self.show(dead).await?;
                if !filter.matches(&dead_letter) {
                    continue;
                }
                if dead_letters.len() == limit || bytes >= PAGE_BYTES {
                    return Ok((dead_letters, true));
                }
                bytes += dead_letter.bytes();
                dead_letters.push(dead_letter);
            }
            if page.len() < PAGE_ROWS {
                return Ok((dead_letters, false));
            }
            after = page.into_iter().next_back();
        }
    }

    async fn end(&self, id: &DeadLetterId, is_replay: bool) -> Result<bool, DeadLetterError> {
        let Some(dead) = self.find(id).await? else { return Ok(false) };
        if !is_replay {
            return self.progress()?.discard_dead(&id.handler, id.position).await.map_err(outcome_unknown);
        }
        if self.show(&dead).await?.record.is_none() {
            let id = MessageId::new(id.to_string());
            return Err(DeadLetterError::Empty { destination: DESTINATION.clone(), id });
        }
        self.progress()?.replay_dead(&id.handler, id.position).await.map_err(outcome_unknown)
    }

    /// Ends the matching dead letters that exist now, each once.
    async fn end_all(&self, filter: &DeadLetterFilter, is_replay: bool) -> Result<u64, DeadLetterError> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let (page, has_more) = self.list(filter, after.take(), PAGE_ROWS).await?;
            for dead_letter in page {
                all.push(DeadLetterId::parse(&dead_letter.id)?);
            }
            after = all.last().map(DeadLetterId::to_row);
            if !has_more {
                break;
            }
        }
        let mut ended = 0;
        for id in all {
            ended += match self.end(&id, is_replay).await {
                // a dead letter without an event does not hold up the rest
                Err(DeadLetterError::Empty { .. }) => 0,
                is_ended => u64::from(is_ended?),
            };
        }
        Ok(ended)
    }
}

#[async_trait]
impl DeadLetters for StoredDeadLetters {
    async fn list_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<DeadLetterPage, DeadLetterError> {
        let after = after.map(DeadLetterId::parse).transpose()?.map(|id| id.to_row());
        let (dead_letters, has_more) = self.list(filter, after, limit.max(1)).await?;
        let next = dead_letters.last().filter(|_| has_more).map(|dead_letter| dead_letter.id.clone());
        Ok(DeadLetterPage::new(dead_letters, next))
    }

    async fn find_dead_letter(&self, id: &MessageId) -> Result<Option<DeadLetter>, DeadLetterError> {
        match self.find(&DeadLetterId::parse(id)?).await? {
            Some(dead) => self.show(&dead).await.map(Some),
            None => Ok(None),
        }
    }

    async fn replay(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        self.end(&DeadLetterId::parse(id)?, true).await
    }

    async fn replay_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        self.end_all(filter, true).await
    }

    async fn discard(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        self.end(&DeadLetterId::parse(id)?, false).await
    }

    async fn discard_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        self.end_all(filter, false).await
    }
}
