//! Deliveries that a transaction handles, for the commit to note.

use eventbus::{EventId, Name, StreamId};
use eventbus_redis_core::program::AtomicProgram;

use super::TransactionLocks;
use crate::{
    RedisTransactionError,
    inner::StoreInner,
    keys::{StoreKeys, event_keys},
    script::LOCK_DELIVERY,
};

/// Returns the note of a delivery.
pub(crate) fn delivery_note(handler: &Name, stream: &StreamId, event: EventId) -> Vec<u8> {
    // names have no control characters, so a zero byte separates
    [handler.as_bytes(), &[0], &event_keys(stream)(event)].concat()
}

/// Returns the handler of a note, and the key of its event; `None` if it is no note of a delivery.
pub(crate) fn parse_delivery_note(note: &[u8]) -> Option<(Name, [u8; 16])> {
    let (handler, event) = note.split_last_chunk()?;
    let handler = std::str::from_utf8(handler.strip_suffix(&[0])?).ok()?;
    Some((Name::new("handler", handler).ok()?, *event))
}

/// Notes of deliveries: the handler, and the key of the event within the store.
#[derive(Debug, Default)]
pub(crate) struct HandledDeliveries(Vec<Vec<u8>>);

impl HandledDeliveries {
    /// Plans the note of a delivery. Returns `false` if it is noted already.
    pub(crate) async fn note(
        &mut self,
        inner: &StoreInner,
        locks: &mut TransactionLocks,
        handler: &Name,
        stream: &StreamId,
        event: EventId,
    ) -> Result<bool, RedisTransactionError> {
        let note = delivery_note(handler, stream, event);
        if self.0.contains(&note) {
            return Ok(false);
        }
        let keys = inner.keys();
        let lock = keys.transaction_lock("delivery", &format!("{event}:{stream}:{handler}"));
        let mut script = LOCK_DELIVERY.prepare_invoke();
        script.key(keys.deliveries()).key(&lock);
        script.arg(&note).arg(locks.token()).arg(locks.ttl_ms());
        let is_first = locks.acquire(lock, &script).await?;
        if is_first {
            self.0.push(note);
        }
        Ok(is_first)
    }

    /// Adds the steps that check that no commit has noted the deliveries.
    pub(crate) fn add_checks(&self, keys: &StoreKeys, program: &mut AtomicProgram) {
        for note in &self.0 {
            program.step("first").key(&keys.deliveries()).arg(note);
        }
    }

    pub(crate) fn add_writes(&self, keys: &StoreKeys, program: &mut AtomicProgram) {
        for note in &self.0 {
            program.step("note").key(&keys.deliveries()).arg(note);
        }
    }
}
