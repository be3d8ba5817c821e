//! Appending to several streams by one script, all or none, and the notes of what such appends handle.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_trait::async_trait;
use eventbus::{
    BoxError, EventId, StreamId, Uuid,
    port::{Append, AppendError, EventStore as _, MultiStreamAppends, ReadError},
    repository::IdempotencyKey,
    store::{HandledCommand, HandledDelivery, MultiStreamAppend, MultiStreamOutcome},
    support::{MissingIndex, check_indexes, check_multi_stream, unique_changes},
};
use eventbus_redis_core::{error::boxed, reply::request, script::Lua};

use crate::{
    RedisEventStore,
    append::append_together,
    commands::millis,
    keys::event_keys,
    notes::{command_field, delivery_note, parse_command, parse_delivery_note},
    read::query,
    script::{FORGET_COMMANDS, FORGET_DELIVERIES},
    value_change::ValueChange,
};

/// Notes that one `ZSCAN` reads.
const SCAN_BATCH_MAX: usize = 1_000;
/// Most notes that one script removes.
const FORGET_BATCH_MAX: usize = 1_000;

#[async_trait]
impl MultiStreamAppends for RedisEventStore {
    async fn append_streams(&self, multi: MultiStreamAppend) -> Result<MultiStreamOutcome, AppendError> {
        check_multi_stream(&multi)?;
        let MultiStreamAppend { appends, handled, condition } = multi;
        for Append { stream, events, .. } in &appends {
            check_indexes(self, stream, events)?;
        }
        if condition.is_some() {
            return Err(no_condition(self, &appends));
        }
        let changes = appends.iter().flat_map(|Append { stream, events, .. }| {
            unique_changes(events).into_iter().map(|change| ValueChange::new(stream.clone(), change))
        });
        let changes: Vec<_> = changes.collect();
        append_together(self.inner(), appends, handled.as_ref(), &changes).await
    }

    async fn is_handled(&self, delivery: &HandledDelivery) -> Result<bool, ReadError> {
        let command = request("ZSCORE", (self.inner().keys().deliveries(), delivery_note(delivery)));
        let noted: Option<String> = query(self.inner(), &command).await?;
        Ok(noted.is_some())
    }

    async fn handled_deliveries(&self, events: &[(StreamId, EventId)]) -> Result<Vec<HandledDelivery>, ReadError> {
        let wanted: HashMap<_, _> = events.iter().map(|event| (event_keys(&event.0)(event.1), event)).collect();
        let (key, mut cursor, mut found) = (self.inner().keys().deliveries(), 0_u64, HashSet::new());
        loop {
            let scan = request("ZSCAN", (&key, cursor, "COUNT", SCAN_BATCH_MAX));
            let (next, notes): (u64, Vec<(Vec<u8>, String)>) = query(self.inner(), &scan).await?;
            for (note, _) in notes {
                // a scan may return a note twice
                if let Some((handler, event)) = parse_delivery_note(&note)
                    && let Some((stream, event_id)) = wanted.get(&event)
                {
                    found.insert(HandledDelivery { handler, stream: stream.clone(), event_id: *event_id });
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(found.into_iter().collect());
            }
        }
    }

    async fn forget_deliveries(&self, older_than: Duration) -> Result<u64, BoxError> {
        let keys = self.inner().keys();
        forget(self, &FORGET_DELIVERIES, &[keys.deliveries()], older_than).await
    }

    async fn find_command(
        &self,
        tenant_id: Option<Uuid>,
        key: &IdempotencyKey,
    ) -> Result<Option<HandledCommand>, ReadError> {
        let command = request("HGET", (self.inner().keys().commands(), command_field(tenant_id, key)));
        let found: Option<String> = query(self.inner(), &command).await?;
        let damaged = || ReadError::corrupt(format!("the command `{key}`"), "neither a fingerprint nor an answer");
        found.map(|note| parse_command(tenant_id, key, &note).ok_or_else(damaged)).transpose()
    }

    async fn forget_commands(&self, older_than: Duration) -> Result<u64, BoxError> {
        let keys = self.inner().keys();
        forget(self, &FORGET_COMMANDS, &[keys.commands(), keys.command_times()], older_than).await
    }
}

/// Returns the error of a condition on tags, which the store does not have.
fn no_condition(store: &RedisEventStore, appends: &[Append]) -> AppendError {
    let source = MissingIndex { store: store.describe(), missing: "tags" }.into();
    match appends.first() {
        Some(Append { stream, .. }) => AppendError::Refused { stream: stream.clone(), source },
        None => AppendError::Unavailable(source),
    }
}

/// Removes notes that are older than `older_than`, and returns their number.
async fn forget(store: &RedisEventStore, script: &Lua, keys: &[String], older_than: Duration) -> Result<u64, BoxError> {
    let mut all = 0;
    loop {
        let mut script = script.prepare_invoke();
        for key in keys {
            script.key(key);
        }
        script.arg(millis(older_than)).arg(FORGET_BATCH_MAX);
        // never sent twice: a second run would not count what the first removed
        let forgotten: u64 = store.inner().connection().run(&script).await.map_err(boxed)?;
        all += forgotten;
        if forgotten < FORGET_BATCH_MAX as u64 {
            return Ok(all);
        }
    }
}
