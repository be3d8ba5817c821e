//! Appending to several streams by one script, all or none.
//!
//! Invariant: the script adds events only if each stream still has the version that was read before, and no stored
//! event has one of the ids. So the store may send it again if it gets no answer: a first copy that runs late changes
//! nothing.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_trait::async_trait;
use eventbus::{
    BoxError, EventId, ExpectedVersion, Position, RecordedEvent, StreamId, Version,
    event::UniqueChange,
    port::{Append, AppendError, MultiStreamAppends, ReadError},
    repository::IdempotencyKey,
    store::{
        Boundaries as _, BoundaryCondition, Handled, HandledCommand, HandledDelivery, MultiStreamAppend,
        MultiStreamOutcome, UniqueKey, UniqueValues,
    },
    support::{
        Backoff, BackoffTimer, MultiStreamDecision, boundary_moved, check_multi_stream, decide_multi_stream,
        last_of_each_name, unique_changes,
    },
};
use eventbus_redis_core::{error::boxed, reply::request, script::Lua};
use uuid::Uuid;

use crate::{
    RedisEventStore, RedisTransaction, RedisTransactionError,
    commands::millis,
    commit::{
        SHADOW_BATCH_MAX,
        command::{command_field, parse_command},
        delivery_note, parse_delivery_note, tags,
    },
    keys::event_keys,
    script::{FORGET_COMMANDS, FORGET_DELIVERIES},
};

/// The most attempts of a multi-stream append while other writers change its streams.
const ATTEMPTS_MAX: u32 = 50;
/// Notes that one `ZSCAN` reads.
const SCAN_BATCH_MAX: usize = 1_000;
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(50));

#[async_trait]
impl MultiStreamAppends for RedisEventStore {
    async fn append_streams(&self, multi: MultiStreamAppend) -> Result<MultiStreamOutcome, AppendError> {
        check_multi_stream(&multi)?;
        Work::Append(&multi).run(self).await
    }

    async fn is_handled(&self, delivery: &HandledDelivery) -> Result<bool, ReadError> {
        let HandledDelivery { handler, stream, event_id } = delivery;
        let note = delivery_note(handler, stream, *event_id);
        let command = request("ZSCORE", (self.inner().keys().deliveries(), note));
        let noted: Option<String> = self
            .inner()
            .connection()
            .query_idempotent(&command)
            .await
            .map_err(|error| ReadError::Unavailable(boxed(error)))?;
        Ok(noted.is_some())
    }

    async fn handled_deliveries(&self, events: &[(StreamId, EventId)]) -> Result<Vec<HandledDelivery>, ReadError> {
        let wanted: HashMap<_, _> = events.iter().map(|event| (event_keys(&event.0)(event.1), event)).collect();
        let (key, mut cursor, mut found) = (self.inner().keys().deliveries(), 0_u64, HashSet::new());
        loop {
            let scan = request("ZSCAN", (&key, cursor, "COUNT", SCAN_BATCH_MAX));
            let scanned = self.inner().connection().query_idempotent(&scan).await;
            let (next, notes): (u64, Vec<(Vec<u8>, String)>) =
                scanned.map_err(|error| ReadError::Unavailable(boxed(error)))?;
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
        let found: Option<String> = self
            .inner()
            .connection()
            .query_idempotent(&command)
            .await
            .map_err(|error| ReadError::Unavailable(boxed(error)))?;
        let damaged = || ReadError::corrupt(format!("the command `{key}`"), "neither a fingerprint nor an answer");
        found.map(|note| parse_command(tenant_id, key, &note).ok_or_else(damaged)).transpose()
    }

    async fn forget_commands(&self, older_than: Duration) -> Result<u64, BoxError> {
        let keys = self.inner().keys();
        forget(self, &FORGET_COMMANDS, &[keys.commands(), keys.command_times()], older_than).await
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
        script.arg(millis(older_than)).arg(SHADOW_BATCH_MAX);
        // never sent twice: a second run would not count what the first removed
        let forgotten: u64 =
            store.inner().connection().run(&script).await.map_err(RedisTransactionError::unavailable)?;
        all += forgotten;
        if forgotten < SHADOW_BATCH_MAX as u64 {
            return Ok(all);
        }
    }
}

#[async_trait]
impl UniqueValues for RedisEventStore {
    async fn find_holder(&self, key: &UniqueKey) -> Result<Option<StreamId>, ReadError> {
        let holders = self.inner().keys().unique_holders(key.tenant_id(), &key.scope());
        let command = request("HGET", (holders, key.value()));
        let found: Option<String> = self
            .inner()
            .connection()
            .query_idempotent(&command)
            .await
            .map_err(|error| ReadError::Unavailable(boxed(error)))?;
        let Some(id) = found else { return Ok(None) };
        let stream = StreamId::parse(key.aggregate_type(), &id);
        let stream =
            stream.map_err(|source| ReadError::corrupt(format!("the holder of a `{}`", key.scope()), source))?;
        Ok(Some(stream.with_tenant_id(key.tenant_id())))
    }

    async fn assign(&self, stream: &StreamId, version: Version, changes: &[UniqueChange]) -> Result<(), AppendError> {
        Work::Assign { stream, version, changes: &last_of_each_name(changes) }.run(self).await.map(drop)
    }
}

/// The work that one script commits.
#[derive(Clone, Copy)]
enum Work<'a> {
    Append(&'a MultiStreamAppend),
    Assign { stream: &'a StreamId, version: Version, changes: &'a [UniqueChange] },
}

impl Work<'_> {
    /// Reads, and sends the script, until no other commit is first.
    async fn run(self, store: &RedisEventStore) -> Result<MultiStreamOutcome, AppendError> {
        let mut backoff = BackoffTimer::new(BACKOFF);
        let mut doubt = None;
        for _ in 0..ATTEMPTS_MAX {
            match self.attempt(store).await {
                Ok(Ok(outcome)) => return Ok(outcome),
                // an earlier effect of the same command may be the reason
                Err(_) if self.is_handled_command(store).await => return Ok(MultiStreamOutcome::AlreadyHandled),
                // final, also for a script that runs late: the stream never has the version again that was read before,
                // and the boundary keeps its further events, which are not its own, as a script first checks for these
                Err(error) if error.is_conflict() => return Err(error),
                Err(error) => {
                    let unknown =
                        doubt.map(|unknown: RedisTransactionError| AppendError::OutcomeUnknown(unknown.into()));
                    return Err(unknown.unwrap_or(error));
                }
                Ok(Err(error @ RedisTransactionError::OutcomeUnknown(_))) => doubt = Some(error),
                Ok(Err(error)) if !is_contention(&error) => {
                    return Err(match doubt {
                        Some(unknown) => AppendError::OutcomeUnknown(unknown.into()),
                        None => self.append_error(error),
                    });
                }
                Ok(Err(_)) => {}
            }
            store.inner().config().clock.sleep(backoff.next_jittered()).await;
        }
        Err(match doubt {
            Some(unknown) => AppendError::OutcomeUnknown(unknown.into()),
            None => AppendError::Unavailable("the streams changed under each attempt".into()),
        })
    }

    /// Maps an error of the script: a damaged key is refused until an operator repairs it.
    fn append_error(self, error: RedisTransactionError) -> AppendError {
        let stream = match self {
            Self::Append(multi) => multi.appends.first().map(|append| &append.stream),
            Self::Assign { stream, .. } => Some(stream),
        };
        match (&error, stream) {
            (RedisTransactionError::EffectRefused { .. }, Some(stream)) => {
                AppendError::Refused { stream: stream.clone(), source: error.into() }
            }
            _ => AppendError::Unavailable(error.into()),
        }
    }

    /// Returns `true` if it is a command that took effect.
    async fn is_handled_command(self, store: &RedisEventStore) -> bool {
        let Self::Append(MultiStreamAppend { handled: Some(Handled::Command(command)), .. }) = self else {
            return false;
        };
        store.find_command(command.tenant_id, &command.key).await.is_ok_and(|found| found.is_some())
    }

    /// The inner error comes from the script; the outer one is about an append.
    async fn attempt(
        self,
        store: &RedisEventStore,
    ) -> Result<Result<MultiStreamOutcome, RedisTransactionError>, AppendError> {
        match self {
            Self::Append(multi) => try_append_streams(store, multi).await,
            Self::Assign { stream, version, changes } => {
                let mut transaction = RedisTransaction::new(store.inner(), None);
                let expected = ExpectedVersion::Exact(version);
                transaction.try_append(Append { stream: stream.clone(), expected, events: Vec::new() }).await?;
                transaction.assign(stream, changes).await?;
                Ok(transaction.commit_at().await.map(|_| MultiStreamOutcome::Appended(Vec::new())))
            }
        }
    }
}

/// Reads the streams, and sends the script. The inner error comes from the script; the outer one is about an append.
async fn try_append_streams(
    store: &RedisEventStore,
    multi: &MultiStreamAppend,
) -> Result<Result<MultiStreamOutcome, RedisTransactionError>, AppendError> {
    let mut transaction = RedisTransaction::new(store.inner(), None);
    match &multi.handled {
        Some(Handled::Delivery(delivery)) => match transaction.note_delivery(delivery).await {
            Ok(true) => {}
            Ok(false) => return Ok(Ok(MultiStreamOutcome::AlreadyHandled)),
            Err(error) => return Ok(Err(error)),
        },
        Some(Handled::Command(command)) => {
            let found = store.find_command(command.tenant_id, &command.key).await;
            if found.map_err(|error| AppendError::Unavailable(error.into()))?.is_some() {
                return Ok(Ok(MultiStreamOutcome::AlreadyHandled));
            }
            transaction.note_command(command.clone());
        }
        None => {}
    }
    // first: a value that one append gives back may be taken by another one
    for Append { stream, events, .. } in &multi.appends {
        transaction.give_back_values(stream, &unique_changes(events)).await?;
    }
    let mut attempts = Vec::with_capacity(multi.appends.len());
    for append in &multi.appends {
        attempts.push(transaction.try_append(append.clone()).await);
    }
    let planned = match (decide_multi_stream(&multi.appends, attempts), &multi.condition) {
        (Ok(MultiStreamDecision::Repeated(first)), _) => return Ok(Ok(MultiStreamOutcome::Appended(first))),
        (Ok(MultiStreamDecision::Commit(planned)), _) => planned,
        // the script would compare the boundary before the values
        (Err(AppendError::Taken { .. }), Some(condition)) if is_moved(store, condition).await? => {
            return Err(boundary_moved(condition));
        }
        (Err(error), _) => return Err(error),
    };
    if let Some(condition) = &multi.condition {
        transaction.require(condition.clone());
    }
    match (transaction.commit_at().await, &multi.condition) {
        (Err(RedisTransactionError::Changed { key }), Some(condition))
            if tags::counted_keys(condition, store.inner().keys()).any(|counted| counted == key) =>
        {
            Err(boundary_moved(condition))
        }
        (committed, _) => Ok(committed.map(|last| MultiStreamOutcome::Appended(with_positions(planned, last)))),
    }
}

/// Returns `true` if an item of the condition may have further events.
async fn is_moved(store: &RedisEventStore, condition: &BoundaryCondition) -> Result<bool, AppendError> {
    let now = store.count_tagged(&condition.boundary).await;
    let now = now.map_err(|error| AppendError::Unavailable(error.into()))?;
    Ok(condition.is_moved(|tag| now.tag_counts().find(|(counted, _)| *counted == tag).map_or(0, |(_, count)| count)))
}

/// Gives the events of a commit their positions, which end at `last`.
fn with_positions(planned: Vec<Vec<RecordedEvent>>, last: Option<u64>) -> Vec<Vec<RecordedEvent>> {
    let events = planned.iter().map(|events| events.len() as u64).sum::<u64>();
    let mut position = last.unwrap_or_default().saturating_sub(events);
    let mut place = |event: RecordedEvent| {
        position += 1;
        event.with_position(Some(Position::new(position)))
    };
    planned.into_iter().map(|events| events.into_iter().map(&mut place).collect()).collect()
}

/// Returns `true` if a different commit was first.
fn is_contention(error: &RedisTransactionError) -> bool {
    matches!(error, RedisTransactionError::Changed { .. } | RedisTransactionError::Superseded)
}
