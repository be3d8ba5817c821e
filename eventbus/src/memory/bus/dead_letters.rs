//! The dead letters of the in-process bus: entries of the log that a group gave up, and rows of the store.
//!
//! A dead letter is in the log until its row is written; for ever if there is no store to write it to, or the event is
//! not from that store.
//!
//! Invariant: a dead letter has the same id in the log and in the store. A running group learns of each row that waits
//! again, also if the caller of the replay is gone, or the store's answer was lost: it reads the rows only at its start.

use std::{pin::pin, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use parking_lot::MutexGuard;
use time::OffsetDateTime;
use tokio::sync::oneshot;

use super::{
    InMemoryEventBus,
    dead_letter_id::DeadLetterId,
    inner::BusInner,
    log::EntryLog,
    settings::{DEFAULT_GROUP, DESTINATION},
    store_access::{read_event_at, read_events_at},
};
use crate::{
    domain::{error::BoxError, record::RecordedEvent, stream::Position},
    port::{
        DeadDelivery, DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters, EventStore,
        MessageId, ReadError, attempts::DeliveryAttempts,
    },
    support::PAGE_BYTES,
};

/// The number of rows of the store that are read at once; the least number with a filter.
const PAGE_ROWS: usize = 100;
/// The most rows of the store that are read at once.
const PAGE_ROWS_MAX: usize = 1_000;
/// The pause between two reads of a row whose replay had no answer.
const DOUBT_INTERVAL: Duration = Duration::from_secs(1);
/// The real time for which a description of the bus waits for the store's reply with the number of dead letters: less
/// than metrics and health wait for the description.
const COUNT_TIMEOUT: Duration = Duration::from_secs(1);

/// Counts the dead letters in the store, up to `at_most`; `None` if it does not answer within [`COUNT_TIMEOUT`].
pub(super) async fn count_stored(inner: &BusInner, at_most: u64) -> Option<u64> {
    let Some(store) = inner.store() else {
        return Some(0);
    };
    let count = tokio::time::timeout(COUNT_TIMEOUT, store.count_dead_deliveries(at_most)).await;
    let count = count.inspect_err(|_| tracing::debug!("dead letters not counted within {COUNT_TIMEOUT:?}")).ok()?;
    count.inspect_err(|error| tracing::debug!(%error, "dead letters not counted")).ok()
}

fn unavailable(source: impl Into<BoxError>) -> DeadLetterError {
    DeadLetterError::Unavailable { destination: DESTINATION.clone(), source: source.into() }
}

fn outcome_unknown(source: impl Into<BoxError>) -> DeadLetterError {
    DeadLetterError::OutcomeUnknown { destination: DESTINATION.clone(), source: source.into() }
}

/// Returns the event of a dead letter; `None` if the store has lost it, or cannot read it any more.
fn none_if_corrupt(read: Result<Option<RecordedEvent>, ReadError>) -> Result<Option<RecordedEvent>, DeadLetterError> {
    match read {
        Err(ReadError::Corrupt { .. }) => Ok(None),
        read => read.map_err(unavailable),
    }
}

/// Returns a dead letter in the store, with its event as it was read.
fn to_dead_letter(
    dead: &DeadDelivery,
    read: Result<Option<RecordedEvent>, ReadError>,
) -> Result<DeadLetter, DeadLetterError> {
    let record = none_if_corrupt(read)?;
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

fn open_log(inner: &BusInner) -> Result<MutexGuard<'_, EntryLog>, DeadLetterError> {
    match inner.consuming().is_closed() {
        true => Err(DeadLetterError::ShutDown { destination: DESTINATION.clone() }),
        false => Ok(inner.log()),
    }
}

/// Returns a page of up to `limit` dead letters that match, oldest first, and `true` if there are more.
async fn list(
    inner: &BusInner,
    filter: &DeadLetterFilter,
    after: Option<&DeadLetterId>,
    limit: usize,
) -> Result<(Vec<(DeadLetterId, DeadLetter)>, bool), DeadLetterError> {
    // the log first: a dead letter that moves to the store meanwhile is seen twice, and not missed
    let mut dead_letters = open_log(inner)?.list_dead_letters(after, filter, limit.saturating_add(1));
    if let Some(store) = inner.store() {
        let (mut budget, mut last) = (PageBudget::new(limit), after.map(DeadLetterId::as_delivery));
        // one more than fits shows that there are more; with a filter it reads more, as some do not match
        let least = if *filter == DeadLetterFilter::default() { 1 } else { PAGE_ROWS };
        let page_rows = limit.saturating_add(1).clamp(least, PAGE_ROWS_MAX);
        'pages: loop {
            let page = store.dead_deliveries(last.as_ref(), page_rows).await.map_err(unavailable)?;
            let is_last = page.len() < page_rows;
            last = page.last().cloned().or(last);
            let positions = page.iter().map(|dead| dead.position).collect();
            let mut page = pin!(read_events_at(&*store, positions).zip(stream::iter(page)));
            while let Some(((_, read), dead)) = page.next().await {
                let (id, dead_letter) = (DeadLetterId::from_dead_delivery(&dead), to_dead_letter(&dead, read)?);
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
async fn end_dead_letter(inner: &Arc<BusInner>, id: &DeadLetterId, is_replay: bool) -> Result<bool, DeadLetterError> {
    if open_log(inner)?.end_dead_letter(id, is_replay) {
        // the group has an entry to take, or progress to save
        inner.notify_published();
        return Ok(true);
    }
    let (Some(store), Some(position)) = (inner.store(), id.position()) else {
        return Ok(false);
    };
    let Some(dead) = find_stored(&*store, id, position).await? else {
        return Ok(false);
    };
    if !is_replay {
        return store.end_dead_delivery(id.group(), position, None).await.map_err(outcome_unknown);
    }
    if none_if_corrupt(read_event_at(&*store, position).await)?.is_none() {
        let id = MessageId::new(id.to_string());
        return Err(DeadLetterError::Empty { destination: DESTINATION.clone(), id });
    }
    let (answer, answered) = oneshot::channel();
    let replay = replay_stored(Arc::clone(inner), store, id.clone(), position, dead.attempts.done, answer);
    tokio::spawn(replay);
    answered.await.unwrap_or_else(|error| Err(outcome_unknown(error)))
}

/// Returns the row of a dead letter; `None` if it is gone.
async fn find_stored(
    store: &dyn EventStore,
    id: &DeadLetterId,
    position: Position,
) -> Result<Option<DeadDelivery>, DeadLetterError> {
    let dead = store.dead_delivery(id.group(), position).await.map_err(unavailable)?;
    Ok(dead.filter(|dead| DeadLetterId::from_dead_delivery(dead) == *id))
}

/// Replays a dead letter in the store, and then in its group. Without an answer of the store it reads the waiting rows until
/// it knows the outcome, or the bus closes.
async fn replay_stored(
    inner: Arc<BusInner>,
    store: Arc<dyn EventStore>,
    id: DeadLetterId,
    position: Position,
    done: Vec<String>,
    answer: oneshot::Sender<Result<bool, DeadLetterError>>,
) {
    let attempts = DeliveryAttempts::replayed(done);
    let ended = store.end_dead_delivery(id.group(), position, Some(&attempts)).await;
    let tell_group = || {
        inner.log().cursor(id.group()).replay_stored(position, attempts);
        inner.notify_published();
    };
    match ended {
        Ok(is_replayed) => {
            if is_replayed {
                tell_group();
            }
            drop(answer.send(Ok(is_replayed))); // the caller may be gone
        }
        Err(error) => {
            drop(answer.send(Err(outcome_unknown(error))));
            while !inner.consuming().is_closed() {
                match store.waiting_deliveries(id.group()).await {
                    Ok(waiting) if waiting.iter().any(|row| row.position == position) => return tell_group(),
                    // it is a dead letter still, or was discarded, or replayed and handled since
                    Ok(_) => break,
                    Err(_) => inner.settings().clock.sleep(DOUBT_INTERVAL).await,
                }
            }
        }
    }
}

/// Returns the time of the newest dead letter; later ones are newer, also after the clock was set back.
async fn newest_dead_letter(inner: &BusInner) -> Result<OffsetDateTime, DeadLetterError> {
    let mut newest = open_log(inner)?.newest_dead_letter();
    let Some(store) = inner.store() else {
        return Ok(newest);
    };
    let mut after = DeadLetterId::of_entry(&DEFAULT_GROUP, newest, 0, Some(Position::START)).as_delivery();
    while let Some(last) = store.dead_deliveries(Some(&after), PAGE_ROWS).await.map_err(unavailable)?.pop() {
        newest = newest.max(last.dead_since);
        after = last;
    }
    open_log(inner)?.raise_dead_letter(newest);
    Ok(newest)
}

/// Replays or discards the matching dead letters that exist now; returns how many.
async fn end_all(inner: &Arc<BusInner>, filter: &DeadLetterFilter, is_replay: bool) -> Result<u64, DeadLetterError> {
    let last = newest_dead_letter(inner).await?;
    let (mut after, mut ended) = (None, 0);
    loop {
        let (page, has_more) = list(inner, filter, after.as_ref(), PAGE_ROWS).await?;
        for (id, _) in page.iter().filter(|(id, _)| id.since() <= last) {
            ended += match end_dead_letter(inner, id, is_replay).await {
                // a dead letter without an event does not hold up the rest
                Err(DeadLetterError::Empty { .. }) => 0,
                is_ended => u64::from(is_ended?),
            };
        }
        after = page.into_iter().next_back().map(|(id, _)| id).or(after);
        if !has_more || after.as_ref().is_some_and(|after| after.since() > last) {
            return Ok(ended);
        }
    }
}

#[async_trait]
impl DeadLetters for InMemoryEventBus {
    async fn list_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        after: Option<&MessageId>,
        limit: usize,
    ) -> Result<DeadLetterPage, DeadLetterError> {
        let after = after.map(DeadLetterId::parse).transpose()?;
        let (dead_letters, has_more) = list(&self.inner, filter, after.as_ref(), limit.max(1)).await?;
        let next = dead_letters.last().filter(|_| has_more).map(|(_, dead_letter)| dead_letter.id.clone());
        Ok(DeadLetterPage::new(dead_letters.into_iter().map(|(_, dead_letter)| dead_letter).collect(), next))
    }

    async fn find_dead_letter(&self, id: &MessageId) -> Result<Option<DeadLetter>, DeadLetterError> {
        let id = DeadLetterId::parse(id)?;
        let in_log = open_log(&self.inner)?.dead_letter(&id);
        if in_log.is_some() {
            return Ok(in_log);
        }
        let (Some(store), Some(position)) = (self.inner.store(), id.position()) else {
            return Ok(None);
        };
        match find_stored(&*store, &id, position).await? {
            Some(dead) => to_dead_letter(&dead, read_event_at(&*store, dead.position).await).map(Some),
            None => Ok(None),
        }
    }

    async fn replay(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        end_dead_letter(&self.inner, &DeadLetterId::parse(id)?, true).await
    }

    async fn replay_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        end_all(&self.inner, filter, true).await
    }

    async fn discard(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        end_dead_letter(&self.inner, &DeadLetterId::parse(id)?, false).await
    }

    async fn discard_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        end_all(&self.inner, filter, false).await
    }
}
