//! Appending in a transaction of the caller.
//!
//! Invariant: the append runs within a savepoint, so that an error leaves the transaction as it was, and a transaction
//! that stored no events does not delay the feed.

use eventbus::{
    BoxError, RecordedEvent,
    port::{Append, AppendError},
    store::MultiStreamAppend,
};
use sqlx::{Executor as _, PgConnection, Row as _, SqlStr, postgres::PgRow};

use super::{
    AppendResult, check_append,
    entry::conflict_error,
    executor::StreamContention,
    multi_stream::{MultiStreamStatement, Sent},
    stored_at::StoredAt,
};
use crate::{
    columns::single_stream_append,
    resolve::{self, AppendResolution},
    statement_error::StatementError,
    statements::Claim,
    store_inner::StoreInner,
};

/// On a standby every transaction is read-only: that is a fault of the server, not a choice of the transaction.
const SET_SAVEPOINT: &str = "SAVEPOINT eventbus_append; SELECT current_setting('synchronous_commit'), \
    current_setting('transaction_read_only')::boolean AND NOT pg_is_in_recovery()";
const ROLL_BACK_AND_RELEASE: SqlStr =
    SqlStr::from_static("ROLLBACK TO SAVEPOINT eventbus_append; RELEASE SAVEPOINT eventbus_append");
const RELEASE_SAVEPOINT: &str =
    "RELEASE SAVEPOINT eventbus_append; SET LOCAL eventbus.appended_{namespace} = '{schema}'";
const ROLL_BACK_TO_SAVEPOINT: SqlStr = SqlStr::from_static("ROLLBACK TO SAVEPOINT eventbus_append");

/// The most attempts of an append that the server does not store though its stream is at the expected version.
const APPEND_ATTEMPTS_MAX: usize = 5;

/// The reason why events cannot be appended in a transaction; the transaction is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PgAppendInError {
    /// The connection is not in a transaction.
    #[error("the connection is not in a transaction; to repair: begin one, for example with `Connection::begin`")]
    NoTransaction,
    /// An earlier statement of the transaction failed: the transaction can only be rolled back.
    #[error("the transaction has failed before; to repair: roll it back, and make it again")]
    Failed,
    /// The transaction only reads.
    #[error("the transaction only reads; to repair: append in one that writes (`begin_transaction`, not `begin_read`)")]
    ReadOnly,
    /// The commit would not wait for the disk: a crash would lose events that readers have seen.
    #[error(
        "`synchronous_commit` is off in this transaction; to repair: SET LOCAL synchronous_commit = on, or ALTER ROLE … \
         SET synchronous_commit = on"
    )]
    SynchronousCommitOff,
}

/// Appends in the transaction that `connection` is in.
pub(crate) async fn append_in_transaction(
    store: &StoreInner,
    connection: &mut PgConnection,
    append: Append,
) -> AppendResult {
    if append.events.is_empty() {
        return Ok(Vec::new());
    }
    check_append(&append)?;
    let mut transactional = TransactionalAppend { store, connection, append };
    transactional.set_savepoint().await?;
    let result = transactional.append().await;
    let end = match result {
        Ok((true, _)) => store.transaction_statements().get(RELEASE_SAVEPOINT),
        _ => ROLL_BACK_AND_RELEASE,
    };
    // the error of the append comes first: if the connection broke, the end fails too
    let ended = transactional.execute(end).await;
    let (_, records) = result?;
    ended?;
    Ok(records)
}

struct TransactionalAppend<'a> {
    store: &'a StoreInner,
    connection: &'a mut PgConnection,
    append: Append,
}

impl TransactionalAppend<'_> {
    /// Sets the savepoint, which fails outside of a transaction, and checks `synchronous_commit`.
    async fn set_savepoint(&mut self) -> Result<(), AppendError> {
        let rows = self.connection.fetch_all(sqlx::raw_sql(SET_SAVEPOINT)).await;
        let rows = rows.map_err(|error| match error.as_database_error().and_then(|error| error.code()).as_deref() {
            Some("25P01") => self.refused_error(PgAppendInError::NoTransaction.into()),
            Some("25P02") => self.refused_error(PgAppendInError::Failed.into()),
            _ => self.append_error(StatementError::from_driver(error)),
        })?;
        let decode = |row: &PgRow| -> sqlx::Result<_> { Ok((row.try_get::<&str, _>(0)? == "off", row.try_get(1)?)) };
        let settings = rows.first().map(decode).transpose();
        let fault = match settings.map_err(|error| AppendError::Unavailable(error.into()))? {
            Some((_, true)) => PgAppendInError::ReadOnly,
            Some((true, _)) => PgAppendInError::SynchronousCommitOff,
            _ => return Ok(()),
        };
        self.execute(ROLL_BACK_AND_RELEASE).await?;
        Err(self.refused_error(fault.into()))
    }

    /// Appends, and returns `true` with the records if this call stored them, `false` if they were stored before.
    async fn append(&mut self) -> Result<(bool, Vec<RecordedEvent>), AppendError> {
        if self.append.changes_indexes() {
            return self.append_with_indexes().await;
        }
        let lists_types = !self.store.listed_types().has_all(&self.append.events);
        for attempt in 0..APPEND_ATTEMPTS_MAX {
            let Append { stream, expected, events } = &self.append;
            // a stream without events may have a row, which `append_streams.sql` made
            let claim = if attempt % 2 == 1 { Claim::of_row(*expected) } else { Claim::new(*expected) };
            let statements = self.store.transaction_statements();
            let query = single_stream_append(statements, stream, claim, &events.iter(), lists_types);
            match self.connection.fetch_all(query).await.map_err(StatementError::from_driver) {
                Ok(rows) if !rows.is_empty() => {
                    let records = self.decode_records(&rows)?;
                    if lists_types {
                        self.mark_types_listed(&rows)?;
                    }
                    return Ok((true, records));
                }
                Ok(_) => {}
                Err(StatementError::DuplicateEventId(_)) => self.execute(ROLL_BACK_TO_SAVEPOINT).await?,
                Err(fault) => return Err(self.append_error(fault)),
            }
            match self.resolve().await? {
                AppendResolution::Stored(records) => return Ok((false, records)),
                AppendResolution::Taken(error) => return Err(error),
                AppendResolution::Corrupt(error) => return Err(self.refused_error(error.into())),
                AppendResolution::Conflict(actual) => return Err(conflict_error(&self.append, actual)),
                AppendResolution::Retry => {}
            }
        }
        Err(AppendError::Unavailable(StreamContention.into()))
    }

    /// As [`append`](Self::append), for events that take or give back unique values, or have tags.
    async fn append_with_indexes(&mut self) -> Result<(bool, Vec<RecordedEvent>), AppendError> {
        let statement = MultiStreamStatement::new(self.store, MultiStreamAppend::single(self.append.clone()));
        for attempt in 0..APPEND_ATTEMPTS_MAX {
            let query = statement.query(self.store.transaction_statements());
            let refused = match self.connection.fetch_all(query).await.map_err(StatementError::from_driver) {
                Ok(rows) => match statement.decode(&rows).map_err(AppendError::Unavailable)? {
                    Sent::Done(outcome) => return Ok((true, outcome.into_records())),
                    Sent::Repeated => None,
                    Sent::TakenFromNew(_) if attempt == 0 => continue,
                    Sent::Failed(_, error) | Sent::BoundaryMoved { error, .. } | Sent::TakenFromNew(error) => {
                        Some(error)
                    }
                },
                Err(StatementError::DuplicateEventId(_) | StatementError::TransactionConflict(_)) => {
                    self.execute(ROLL_BACK_TO_SAVEPOINT).await?;
                    None
                }
                Err(fault) => return Err(self.append_error(fault)),
            };
            match (self.resolve().await?, refused) {
                (AppendResolution::Stored(records), _) => return Ok((false, records)),
                (AppendResolution::Taken(error), _) | (_, Some(error)) => return Err(error),
                (AppendResolution::Corrupt(error), None) => return Err(self.refused_error(error.into())),
                (AppendResolution::Conflict(_) | AppendResolution::Retry, None) => {}
            }
        }
        Err(AppendError::Unavailable(StreamContention.into()))
    }

    /// Remembers the types that committed transactions have listed; this one may be rolled back.
    fn mark_types_listed(&self, rows: &[PgRow]) -> Result<(), AppendError> {
        for (row, event) in rows.iter().zip(&self.append.events) {
            if row.try_get("is_listed").map_err(|error| AppendError::Unavailable(error.into()))? {
                self.store.listed_types().add(event.event_type(), event.schema_version());
            }
        }
        Ok(())
    }

    fn decode_records(&self, rows: &[PgRow]) -> AppendResult {
        let stored: Result<Vec<_>, BoxError> = rows.iter().map(StoredAt::decode).collect();
        let stored = stored.map_err(AppendError::Unavailable)?;
        let Append { stream, events, .. } = &self.append;
        let recorded = events.iter().zip(stored);
        let recorded = recorded.map(|(event, place)| place.into_record(event.clone(), stream));
        Ok(recorded.collect())
    }

    async fn resolve(&mut self) -> Result<AppendResolution, AppendError> {
        let appends = std::iter::once(&self.append);
        let query = resolve::query(self.store.transaction_statements(), appends.clone());
        let rows = self.connection.fetch_all(query).await;
        let rows = rows.map_err(|error| self.append_error(StatementError::from_driver(error)))?;
        let resolution = resolve::decide(&rows, appends).map_err(AppendError::Unavailable)?.pop();
        Ok(resolution.unwrap_or(AppendResolution::Retry))
    }

    async fn execute(&mut self, sql: SqlStr) -> Result<(), AppendError> {
        let done = self.connection.execute(sqlx::raw_sql(sql)).await;
        done.map(drop).map_err(|error| AppendError::Unavailable(error.into()))
    }

    fn refused_error(&self, source: BoxError) -> AppendError {
        AppendError::Refused { stream: self.append.stream.clone(), source }
    }

    /// Turns a fault into the error of the append: never in doubt, since no answer means no commit either.
    fn append_error(&self, fault: StatementError) -> AppendError {
        match fault {
            StatementError::Refused(source) => self.refused_error(source),
            fault => AppendError::Unavailable(fault.into()),
        }
    }
}
