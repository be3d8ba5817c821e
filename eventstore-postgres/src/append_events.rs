//! The port of appending: many appends at once, each with its own result.

use std::time::Duration;

use async_trait::async_trait;
use eventbus::{
    BoxError, EventId, ExpectedVersion, NewEvent, RecordedEvent, StreamId, Version,
    event::UniqueChange,
    port::{Append, AppendError, AppendEvents, MultiStreamAppends, ReadError},
    repository::IdempotencyKey,
    store::{HandledCommand, HandledDelivery, MultiStreamAppend, MultiStreamOutcome, UniqueKey, UniqueValues},
    support::check_multi_stream,
};

use sqlx::Row as _;
use uuid::Uuid;

use crate::{
    append::{self, AppendResult, MultiStreamStatement, check_append},
    config::microseconds,
    store::PgEventStore,
    stream_numbers::decode_stream,
};

/// The most deliveries or commands that one statement deletes.
const FORGET_BATCH_MAX: i64 = 10_000;

#[async_trait]
impl MultiStreamAppends for PgEventStore {
    async fn append_streams(&self, multi: MultiStreamAppend) -> Result<MultiStreamOutcome, AppendError> {
        check_multi_stream(&multi)?;
        MultiStreamStatement::new(self.inner(), multi).run().await
    }

    async fn is_handled(&self, delivery: &HandledDelivery) -> Result<bool, ReadError> {
        append::is_handled(self.inner(), delivery).await
    }

    async fn handled_deliveries(&self, events: &[(StreamId, EventId)]) -> Result<Vec<HandledDelivery>, ReadError> {
        append::handled_deliveries(self.inner(), events).await
    }

    async fn forget_deliveries(&self, older_than: Duration) -> Result<u64, BoxError> {
        forget(self, include_str!("sql/forget_deliveries.sql"), older_than).await
    }

    async fn find_command(
        &self,
        tenant_id: Option<Uuid>,
        key: &IdempotencyKey,
    ) -> Result<Option<HandledCommand>, ReadError> {
        append::find_command(self.inner(), tenant_id, key).await
    }

    async fn forget_commands(&self, older_than: Duration) -> Result<u64, BoxError> {
        forget(self, include_str!("sql/forget_commands.sql"), older_than).await
    }
}

/// Deletes old deliveries or commands with the statement `sql`, and returns their number.
async fn forget(store: &PgEventStore, sql: &'static str, older_than: Duration) -> Result<u64, BoxError> {
    let microseconds = microseconds(older_than);
    let mut forgotten = 0;
    loop {
        let query = store.inner().statements().query(sql).bind(microseconds).bind(FORGET_BATCH_MAX);
        let counts: Vec<i64> = store.inner().fetch(query, |row| Ok(row.try_get(0)?)).await?;
        let batch = *counts.first().ok_or("no answer")?;
        forgotten += u64::try_from(batch)?;
        if batch < FORGET_BATCH_MAX {
            return Ok(forgotten);
        }
    }
}

#[async_trait]
impl UniqueValues for PgEventStore {
    async fn find_holder(&self, key: &UniqueKey) -> Result<Option<StreamId>, ReadError> {
        // no stream can hold it, and the server would refuse the statement
        if key.value().contains('\0') {
            return Ok(None);
        }
        let query = self.inner().statements().query(include_str!("sql/stream_of_unique_value.sql"));
        let query = query.bind(key.value()).bind(key.scope()).bind(key.tenant_or_nil());
        let rows = self.inner().connections().fetch_all(query).await?;
        let place = || format!("the stream that holds a `{}`", key.scope());
        let found = rows.first().map(|row| decode_stream(row, 0)).transpose();
        found.map_err(|source| ReadError::corrupt(place(), source))
    }

    async fn assign(&self, stream: &StreamId, version: Version, changes: &[UniqueChange]) -> Result<(), AppendError> {
        MultiStreamStatement::assign(self.inner(), stream.clone(), version, changes).run().await.map(drop)
    }
}

/// Appends events that take or give back unique values, or have tags.
async fn append_with_indexes(store: &PgEventStore, append: Append) -> AppendResult {
    let statement = MultiStreamStatement::new(store.inner(), MultiStreamAppend::single(append));
    // boxed: most appends do not come here, and the future of each would hold this one, 5 kB
    let outcome = Box::pin(statement.run()).await?;
    Ok(outcome.into_records())
}

#[async_trait]
impl AppendEvents for PgEventStore {
    async fn append(
        &self,
        stream: &StreamId,
        expected: ExpectedVersion,
        events: Vec<NewEvent>,
    ) -> Result<Vec<RecordedEvent>, AppendError> {
        let append = Append { stream: stream.clone(), expected, events };
        check_append(&append)?;
        if append.events.is_empty() {
            return Ok(Vec::new());
        }
        if append.changes_indexes() {
            return append_with_indexes(self, append).await;
        }
        self.group_commit().append_one(append).await
    }

    async fn append_many(&self, appends: Vec<Append>) -> Vec<Result<Vec<RecordedEvent>, AppendError>> {
        let mut results: Vec<AppendResult> = Vec::with_capacity(appends.len());
        let mut request = self.group_commit().new_request();
        for append in appends {
            let number = results.len();
            results.push(check_append(&append).map(|()| Vec::new()));
            if append.events.is_empty() || results[number].is_err() {
                continue;
            }
            if append.changes_indexes() {
                // before the next ones, which may be for the same streams
                self.group_commit().append(request.take(), &mut results).await;
                results[number] = append_with_indexes(self, append).await;
                continue;
            }
            if !request.has_room_for(&append) {
                // before the next ones, which may be for the same streams
                self.group_commit().append(request.take(), &mut results).await;
            }
            request.push(number, append);
        }
        self.group_commit().append(request.take(), &mut results).await;
        results
    }
}
