//! The dead letters of the in-process bus: entries of the log that a group gave up.

use async_trait::async_trait;
use parking_lot::MutexGuard;

use super::{InMemoryEventBus, dead_letter_id::DeadLetterId, inner::BusInner, log::EntryLog, settings::DESTINATION};
use crate::{
    port::{DeadLetter, DeadLetterError, DeadLetterFilter, DeadLetterPage, DeadLetters, MessageId},
    support::PAGE_BYTES,
};

fn open_log(inner: &BusInner) -> Result<MutexGuard<'_, EntryLog>, DeadLetterError> {
    match inner.consuming().is_closed() {
        true => Err(DeadLetterError::ShutDown { destination: DESTINATION.clone() }),
        false => Ok(inner.log()),
    }
}

/// Replays or discards a dead letter; returns `false` if it is gone.
fn end_dead_letter(inner: &BusInner, id: &MessageId, is_replay: bool) -> Result<bool, DeadLetterError> {
    let id = DeadLetterId::parse(id)?;
    let is_ended = open_log(inner)?.end_dead_letter(&id, is_replay);
    if is_ended {
        inner.notify_published(); // the group has an entry to take
    }
    Ok(is_ended)
}

/// Replays or discards the matching dead letters that exist now; returns how many.
fn end_all(inner: &BusInner, filter: &DeadLetterFilter, is_replay: bool) -> Result<u64, DeadLetterError> {
    let ended = {
        let mut log = open_log(inner)?;
        let ids = log.list_dead_letters(None, filter).map(|(id, _)| id).collect::<Vec<_>>();
        ids.iter().filter(|id| log.end_dead_letter(id, is_replay)).count() as u64
    };
    inner.notify_published();
    Ok(ended)
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
        let log = open_log(&self.inner)?;
        let (mut page, mut bytes_left, mut next) = (Vec::<DeadLetter>::new(), PAGE_BYTES, None);
        for (_, dead_letter) in log.list_dead_letters(after.as_ref(), filter) {
            if page.len() >= limit.max(1) || bytes_left == 0 {
                next = page.last().map(|last| last.id.clone());
                break;
            }
            bytes_left = bytes_left.saturating_sub(dead_letter.bytes());
            page.push(dead_letter);
        }
        Ok(DeadLetterPage::new(page, next))
    }

    async fn find_dead_letter(&self, id: &MessageId) -> Result<Option<DeadLetter>, DeadLetterError> {
        let id = DeadLetterId::parse(id)?;
        Ok(open_log(&self.inner)?.dead_letter(&id))
    }

    async fn replay(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        end_dead_letter(&self.inner, id, true)
    }

    async fn replay_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        end_all(&self.inner, filter, true)
    }

    async fn discard(&self, id: &MessageId) -> Result<bool, DeadLetterError> {
        end_dead_letter(&self.inner, id, false)
    }

    async fn discard_all(&self, filter: &DeadLetterFilter) -> Result<u64, DeadLetterError> {
        end_all(&self.inner, filter, false)
    }
}
