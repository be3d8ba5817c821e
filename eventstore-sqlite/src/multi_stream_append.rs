//! Appending to several streams in one transaction, all or none.

use std::time::Duration;

use async_trait::async_trait;
use eventbus::{
    BoxError, EventId, Name, StreamId,
    port::{Append, AppendError, MultiStreamAppends, ReadError, Transaction as _},
    repository::IdempotencyKey,
    store::{Handled, HandledCommand, HandledDelivery, MultiStreamAppend, MultiStreamOutcome},
    support::{
        MultiStreamDecision, StreamAttempt, boundary_moved, check_multi_stream, decide_multi_stream, unique_changes,
    },
};

use rusqlite::{Connection, Row};
use uuid::Uuid;

use crate::{
    error::append_error,
    lease::ttl_micros,
    query::{QueryError, execute, query_rows, query_value},
    row::stream_columns,
    store::SqliteEventStore,
    transaction::SqliteTransaction,
};

/// Maximum number of deliveries or commands that are deleted at once, so that appends need not wait for all of them.
const FORGET_BATCH_MAX: u32 = 1_000;

#[async_trait]
impl MultiStreamAppends for SqliteEventStore {
    async fn append_streams(&self, multi: MultiStreamAppend) -> Result<MultiStreamOutcome, AppendError> {
        check_multi_stream(&multi)?;
        let MultiStreamAppend { appends, handled, condition } = multi;
        let fault = |error: BoxError| append_error(appends.first().map(|append| &append.stream), error);
        let mut transaction = self.begin_transaction().await.map_err(fault)?;
        let is_first = match &handled {
            Some(Handled::Delivery(HandledDelivery { handler, stream, event_id })) => {
                transaction.is_first(handler, stream, *event_id).await
            }
            Some(Handled::Command(command)) => transaction.note_command(command),
            None => Ok(true),
        };
        if !is_first.map_err(fault)? {
            return Ok(MultiStreamOutcome::AlreadyHandled);
        }
        // before the appends count their own events
        let moved = match &condition {
            Some(condition) => transaction.is_moved(condition, &appends)?.then(|| boundary_moved(condition)),
            None => None,
        };
        // first: a value that one append gives back may be taken by another one
        for Append { stream, events, .. } in &appends {
            transaction.give_back_values(stream, &unique_changes(events))?;
        }
        let mut attempts = Vec::with_capacity(appends.len());
        for append in &appends {
            attempts.push(try_append(self, &mut transaction, append).await);
        }
        let decision = match (decide_multi_stream(&appends, attempts), moved) {
            // repeats and conflicts come first
            (Ok(MultiStreamDecision::Commit(_)) | Err(AppendError::Taken { .. }), Some(moved)) => return Err(moved),
            (decision, _) => decision?,
        };
        match decision {
            MultiStreamDecision::Repeated(first) => Ok(MultiStreamOutcome::Appended(first)),
            MultiStreamDecision::Commit(records) => {
                transaction.commit_append().await?;
                Ok(MultiStreamOutcome::Appended(records))
            }
        }
    }

    async fn is_handled(&self, delivery: &HandledDelivery) -> Result<bool, ReadError> {
        let HandledDelivery { handler, stream, event_id } = delivery.clone();
        let found = self.readers().read(move |connection| {
            let (aggregate_id, aggregate_type, tenant) = stream_columns(&stream);
            let row = (handler.as_str(), event_id.as_uuid().into_bytes(), aggregate_id, aggregate_type, tenant);
            Ok(query_value::<i64>(connection, include_str!("sql/is_handled.sql"), row)?)
        });
        Ok(found.await?.is_some())
    }

    async fn handled_deliveries(&self, events: &[(StreamId, EventId)]) -> Result<Vec<HandledDelivery>, ReadError> {
        let events = events.to_vec();
        let found = self.readers().read(move |connection| {
            let (mut found, mut handler) = (Vec::new(), String::new());
            // the primary key begins with the handler
            while let Some(next) = query_value(connection, include_str!("sql/next_handler.sql"), [&handler])? {
                handler = next;
                for (stream, event_id) in &events {
                    let (aggregate_id, aggregate_type, tenant) = stream_columns(stream);
                    let row = (&handler, event_id.as_uuid().into_bytes(), aggregate_id, aggregate_type, tenant);
                    if query_value::<i64>(connection, include_str!("sql/is_handled.sql"), row)?.is_some() {
                        found.push((handler.clone(), stream.clone(), *event_id));
                    }
                }
            }
            Ok(found)
        });
        let delivery = |(handler, stream, event_id)| {
            let handler = Name::new("handler", handler);
            let handler = handler.map_err(|error| ReadError::corrupt("the notes of handled deliveries", error))?;
            Ok(HandledDelivery { handler, stream, event_id })
        };
        found.await?.into_iter().map(delivery).collect()
    }

    async fn forget_deliveries(&self, older_than: Duration) -> Result<u64, BoxError> {
        forget(self, include_str!("sql/forget_deliveries.sql"), older_than).await
    }

    async fn find_command(
        &self,
        tenant_id: Option<Uuid>,
        key: &IdempotencyKey,
    ) -> Result<Option<HandledCommand>, ReadError> {
        let key = key.clone();
        let found = self.readers().read(move |connection| {
            let row = (key.as_str(), tenant_id.unwrap_or_default().into_bytes());
            let decode = |row: &Row<'_>| -> Result<HandledCommand, QueryError> {
                let (request, answer) = (Uuid::from_bytes(row.get(0)?), row.get(1)?);
                Ok(HandledCommand { tenant_id, key: key.clone(), request, answer })
            };
            Ok(query_rows(connection, include_str!("sql/find_command.sql"), row, decode)?.pop())
        });
        Ok(found.await?)
    }

    async fn forget_commands(&self, older_than: Duration) -> Result<u64, BoxError> {
        forget(self, include_str!("sql/forget_commands.sql"), older_than).await
    }
}

/// Deletes old deliveries or commands with the statement `sql`, and returns their number.
async fn forget(store: &SqliteEventStore, sql: &'static str, older_than: Duration) -> Result<u64, BoxError> {
    let older_than = ttl_micros(older_than);
    let delete = move |connection: &Connection| execute(connection, sql, (older_than, FORGET_BATCH_MAX));
    let mut all = 0;
    loop {
        let forgotten = store.writer().write(delete).await?;
        all += forgotten as u64;
        if forgotten < FORGET_BATCH_MAX as usize {
            return Ok(all);
        }
    }
}

async fn try_append(
    store: &SqliteEventStore,
    transaction: &mut SqliteTransaction,
    append: &Append,
) -> Result<StreamAttempt, AppendError> {
    if let Some(checked) = store.writer().check(append.clone())? {
        let (events, is_new) = transaction.try_append(checked).await?;
        return Ok(if is_new { StreamAttempt::Now(events) } else { StreamAttempt::Before(events) });
    }
    let Append { stream, expected, .. } = append;
    let actual = transaction.stream_version(stream).map_err(|error| append_error(Some(stream), error))?;
    match expected.matches(actual) {
        true => Ok(StreamAttempt::Now(Vec::new())),
        false => Err(AppendError::Conflict { stream: stream.clone(), expected: *expected, actual }),
    }
}
