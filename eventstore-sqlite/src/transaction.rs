//! The open transaction that handlers and projections write in.
//!
//! Real time, not the given clock: the duration of commits.

use std::{any::Any, ops::Deref, sync::Arc, time::Instant};

use async_trait::async_trait;
use eventbus::{
    BoxError, EventId, ExpectedVersion, Name, Position, RecordedEvent, StreamId, Version,
    event::{TAGS_MAX, Tag, UniqueChange},
    port::{Append, AppendError, Lease, ReadError, Shadow, Transaction},
    store::{BoundaryCondition, HandledCommand},
    support::{no_such_event, too_many_tags},
};
use rusqlite::{Connection, Params, ffi::SQLITE_CONSTRAINT_COMMITHOOK};
use uuid::Uuid;

use crate::{
    blocking::blocking,
    checked_append::{AppendOutcome, CheckedAppend, StreamRow, stream_version},
    error::{SqliteTransactionError, append_error},
    query::{QueryError, execute, query_value},
    row::{epoch_to_i64, stream_columns},
    schema::{check_name, check_table, replace_rows},
    shadow_databases,
    store_inner::StoreInner,
    tag_rows::{self, StoredTags},
    value_rows,
    writer::{CheckedOutConnection, ConnectionGuard, EndReason, HeldConnection, INLINE_EVENTS_MAX, Writer},
};

/// An open transaction of a [`SqliteEventStore`](crate::SqliteEventStore): handlers and projections take it by `&mut`,
/// and [`begin_transaction`](crate::SqliteEventStore::begin_transaction) begins one for other code.
///
/// The writes of a handler commit together with the record that the event was handled, or not at all. The transaction
/// holds the only connection that writes, so all appends of the process wait for it: keep it short, and do not wait for
/// a network in it. After [`transaction_timeout`](crate::SqliteEventStoreConfig::transaction_timeout) the store rolls
/// it back.
///
/// Leave `BEGIN`, `COMMIT` and `ROLLBACK` to the store: a `COMMIT` or `ROLLBACK` statement rolls the transaction back.
/// Append with [`append_in`](crate::SqliteEventStore::append_in): the store refuses other appends of the same task,
/// which would wait for the transaction.
///
/// # Examples
/// ```
/// use eventbus::prelude::*;
/// use eventstore_sqlite::{SqliteTransaction, SqliteTransactionError};
///
/// #[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
/// #[event(aggregate_type = "Order")]
/// struct OrderCreated {
///     total_cents: i64,
/// }
///
/// #[handler]
/// async fn list_order(
///     event: &OrderCreated,
///     meta: &Metadata,
///     tx: &mut SqliteTransaction,
/// ) -> Result<(), SqliteTransactionError> {
///     let row = (meta.aggregate_id().as_str(), event.total_cents);
///     tx.execute("INSERT INTO orders (id, total_cents) VALUES (?1, ?2)", row)?;
///     Ok(())
/// }
/// # fn main() {}
/// ```
#[derive(derive_more::Debug)]
#[debug("SqliteTransaction({store:?})")]
pub struct SqliteTransaction {
    checked_out: Arc<CheckedOutConnection>,
    store: Arc<StoreInner>,
    has_appended: bool,
    /// The event types that it lists, with their schema versions.
    new_event_types: Vec<(Name, u32)>,
}

/// The connection of a transaction, borrowed for some statements. It cannot be kept across an `await`.
///
/// Do not change state that outlives a transaction (pragmas, hooks, temporary tables, attached databases): the store
/// goes on with the same connection.
#[derive(derive_more::Debug)]
#[debug("SqliteTransactionConnection")]
pub struct SqliteTransactionConnection<'t>(ConnectionGuard<'t>);

impl Deref for SqliteTransactionConnection<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.0
    }
}

impl SqliteTransaction {
    /// Begins a transaction on the tables of the store.
    pub(crate) async fn begin(store: &Arc<StoreInner>) -> Result<Self, BoxError> {
        let permit = store.writer().begin_transaction().await?;
        Ok(Self::new(Arc::clone(store), HeldConnection::Live(Box::new(permit))))
    }

    pub(crate) fn new(store: Arc<StoreInner>, held: HeldConnection) -> Self {
        Self { checked_out: store.writer().check_out(held), store, has_appended: false, new_event_types: Vec::new() }
    }

    /// Returns the connection, for work that [`execute`](Self::execute) does not cover.
    ///
    /// # Errors
    /// [`SqliteTransactionError`] if the transaction has ended: its deadline passed, or it was rolled back.
    pub fn connection(&mut self) -> Result<SqliteTransactionConnection<'_>, SqliteTransactionError> {
        self.checked_out.set_user();
        self.checked_out.lock_connection().map(SqliteTransactionConnection)
    }

    /// Runs one statement, keeps it prepared, and returns the number of changed rows.
    ///
    /// # Errors
    /// [`SqliteTransactionError`] if SQLite refuses it, or the transaction has ended.
    pub fn execute(&mut self, sql: &str, parameters: impl Params) -> Result<usize, SqliteTransactionError> {
        let connection = self.connection()?;
        Ok(execute(&connection, sql, parameters)?)
    }

    /// Runs several statements without parameters and commits, on a thread that may block. They have no time limit: an
    /// index of millions of rows takes its time.
    pub(crate) async fn set_up(self, statements: &str) -> Result<(), BoxError> {
        self.checked_out.set_user();
        self.checked_out.stop_deadline();
        let (checked_out, statements) = (Arc::clone(&self.checked_out), statements.to_owned());
        let writer = Arc::clone(self.store.writer());
        // the commit too: in a task that is no longer polled, the transaction would keep the connection
        let run = move || {
            let connection = checked_out.lock_connection()?;
            connection.execute_batch(&statements).map_err(|error| match error.sqlite_error() {
                // the hook of the connection turned a `COMMIT` into a rollback
                Some(refused) if refused.extended_code == SQLITE_CONSTRAINT_COMMITHOOK => {
                    SqliteTransactionError::RolledBack
                }
                _ => error.into(),
            })?;
            drop(connection);
            commit(&writer, checked_out.take()?, false)
        };
        blocking(run).await?
    }

    /// Commits a transaction of the caller's own. The store commits the transactions of handlers and projections
    /// itself.
    ///
    /// # Errors
    /// If the transaction has ended before: no change is stored. If `COMMIT` fails or the file is lost: the outcome is
    /// unknown.
    pub async fn commit(self) -> Result<(), BoxError> {
        let held = self.checked_out.take()?;
        let appended = self.has_appended;
        let (writer, lists) = (Arc::clone(self.store.writer()), self.new_event_types.clone());
        let at_once = matches!(held, HeldConnection::Live(_)) && !writer.has_slow_commits();
        let commit = move |held| {
            commit(&writer, held, appended)?;
            lists.iter().for_each(|(event_type, version)| writer.listed_types().add(event_type, *version));
            Ok(())
        };
        if at_once { commit(held) } else { blocking(move || commit(held)).await? }
    }

    /// Commits the appends of the store's own transaction.
    pub(crate) async fn commit_append(self) -> Result<(), AppendError> {
        self.commit().await.map_err(|error| match error.is::<SqliteTransactionError>() {
            // over before `COMMIT` was sent
            true => AppendError::Unavailable(error),
            false => AppendError::OutcomeUnknown(error),
        })
    }

    pub(crate) async fn append(&mut self, append: CheckedAppend) -> Result<Vec<RecordedEvent>, AppendError> {
        Ok(self.try_append(append).await?.0)
    }

    /// Returns the version of a stream, with the appends of this transaction.
    pub(crate) fn stream_version(&mut self, stream: &StreamId) -> Result<Version, BoxError> {
        let connection = self.connection()?;
        stream_version(&connection, stream).map_err(|error| ReadError::from(error).into())
    }

    /// Appends, and returns `true` with the records if this call stored them, `false` if they were stored before.
    pub(crate) async fn try_append(
        &mut self,
        append: CheckedAppend,
    ) -> Result<(Vec<RecordedEvent>, bool), AppendError> {
        self.checked_out.set_user();
        let checked_out = Arc::clone(&self.checked_out);
        let large = append.len() > INLINE_EVENTS_MAX;
        let run = move || {
            let outcome = run_append(&checked_out, &append)?;
            let (is_new, lists) = match outcome {
                AppendOutcome::Appended { has_new_types: lists, .. } => (true, lists),
                AppendOutcome::AlreadyStored(_) => (false, false),
            };
            Ok((append.into_records(outcome), is_new, lists))
        };
        let ran = if large {
            blocking(run).await.unwrap_or_else(|ended| {
                self.checked_out.end(EndReason::RolledBack);
                Err(AppendError::Unavailable(ended.into()))
            })
        } else {
            run()
        };
        let (recorded, is_new, lists) = ran?;
        self.has_appended |= is_new;
        if lists {
            let types = recorded.iter().map(RecordedEvent::metadata);
            self.new_event_types.extend(types.map(|event| (event.event_type().clone(), event.schema_version())));
        }
        Ok((recorded, is_new))
    }

    /// Changes the unique values of a stream whose events are stored already.
    pub(crate) fn assign(
        &mut self,
        stream: &StreamId,
        version: Version,
        changes: &[UniqueChange],
    ) -> Result<(), AppendError> {
        let connection = self.connection().map_err(|over| append_error(Some(stream), over))?;
        let found = find_stream(&connection, stream)?;
        let actual = found.as_ref().map_or(Version::NONE, |found| found.version);
        let (true, Some(found)) = (actual == version, found) else {
            let expected = ExpectedVersion::Exact(version);
            return Err(AppendError::Conflict { stream: stream.clone(), expected, actual });
        };
        if let Some(change) =
            value_rows::find_taken(&connection, stream, Some(found.number), changes).map_err(unavailable)?
        {
            return Err(AppendError::Taken { stream: stream.clone(), name: change.name().clone() });
        }
        value_rows::make_changes(&connection, stream, found.number, changes).map_err(unavailable)
    }

    /// Gives back the values of the stream that the changes are about, so that another append of the transaction can
    /// take them.
    pub(crate) fn give_back_values(&mut self, stream: &StreamId, changes: &[UniqueChange]) -> Result<(), AppendError> {
        if changes.is_empty() {
            return Ok(());
        }
        let connection = self.connection().map_err(|over| append_error(Some(stream), over))?;
        let Some(found) = find_stream(&connection, stream)? else { return Ok(()) };
        value_rows::give_back(&connection, stream, found.number, changes).map_err(unavailable)
    }

    /// Returns `true` if the boundary of a condition may have further events. `appends` are those that depend on it.
    pub(crate) fn is_moved(&mut self, condition: &BoundaryCondition, appends: &[Append]) -> Result<bool, AppendError> {
        let stream = appends.first().map(|append| &append.stream);
        let connection = self.connection().map_err(|over| append_error(stream, over))?;
        tag_rows::is_moved(&connection, condition).map_err(|error| append_error(stream, ReadError::from(error)))
    }

    /// Adds a tag to an event that is stored; returns `false` if the event has it.
    pub(crate) fn add_tag(&mut self, event: &RecordedEvent, tag: &Tag) -> Result<bool, AppendError> {
        let stream = event.metadata().stream();
        let fault = |error: QueryError| append_error(Some(stream), ReadError::from(error));
        let connection = self.connection().map_err(|over| append_error(Some(stream), over))?;
        let Some(stored) = StoredTags::find(&connection, event).map_err(fault)? else {
            return Err(no_such_event(event));
        };
        if stored.tags.contains(tag) {
            return Ok(false);
        }
        if stored.tags.len() >= TAGS_MAX {
            return Err(too_many_tags(event));
        }
        stored.add(&connection, stream.tenant_or_nil(), tag).map_err(fault)?;
        Ok(true)
    }

    /// Notes that a command took effect; returns `false` if one with its key did before.
    pub(crate) fn note_command(&mut self, command: &HandledCommand) -> Result<bool, BoxError> {
        let HandledCommand { tenant_id, key, request, answer } = command;
        let row = (key.as_str(), tenant_id.unwrap_or_default().into_bytes(), request.into_bytes(), answer);
        let connection = self.connection()?;
        Ok(execute(&connection, include_str!("sql/note_command.sql"), row)? == 1)
    }

    pub(crate) fn belongs_to(&self, store: &Arc<StoreInner>) -> bool {
        Arc::ptr_eq(&self.store, store)
    }
}

fn find_stream(connection: &Connection, stream: &StreamId) -> Result<Option<StreamRow>, AppendError> {
    StreamRow::find(connection, stream).map_err(unavailable)?.map_err(|corrupt| append_error(Some(stream), corrupt))
}

fn unavailable(error: rusqlite::Error) -> AppendError {
    AppendError::Unavailable(error.into())
}

/// Appends, and ends the transaction if the append spoiled it.
fn run_append(checked_out: &Arc<CheckedOutConnection>, append: &CheckedAppend) -> Result<AppendOutcome, AppendError> {
    let guard = checked_out.lock_connection().map_err(|over| append_error(Some(append.stream()), over))?;
    if matches!(guard.held(), HeldConnection::Shadow { .. }) {
        return Err(append.refused_error(SqliteTransactionError::InShadow { what: "append_in" }));
    }
    let ran = append.run(&guard);
    drop(guard);
    ran.unwrap_or_else(|error| {
        checked_out.end(EndReason::RolledBack);
        Err(AppendError::Unavailable(error.into()))
    })
}

#[async_trait]
impl Transaction for SqliteTransaction {
    fn as_any_mut(&mut self) -> &mut (dyn Any + Send) {
        self.checked_out.set_user();
        self
    }

    fn is_late(&self) -> bool {
        self.checked_out.expired().is_some()
    }

    async fn advance(&mut self, lease: &Lease, from: Position, to: Position) -> Result<bool, BoxError> {
        let connection = self.connection()?;
        let sql = match connection.0.held() {
            HeldConnection::Live(_) => include_str!("sql/advance.sql"),
            HeldConnection::Shadow { .. } => include_str!("sql/advance_shadow.sql"),
        };
        let parameters = (lease.role.as_str(), epoch_to_i64(lease.epoch), from.as_i64(), to.as_i64());
        Ok(execute(&connection, sql, parameters)? == 1)
    }

    async fn is_first(&mut self, handler: &Name, stream: &StreamId, event: EventId) -> Result<bool, BoxError> {
        let connection = self.connection()?;
        if matches!(connection.0.held(), HeldConnection::Shadow { .. }) {
            return Err(SqliteTransactionError::InShadow { what: "is_first" }.into());
        }
        let (event, (aggregate_id, aggregate_type, tenant)) = (event.as_uuid(), stream_columns(stream));
        let row = (handler.as_str(), event.as_bytes(), aggregate_id, aggregate_type, tenant);
        Ok(execute(&connection, include_str!("sql/note_delivery.sql"), row)? == 1)
    }

    async fn append(&mut self, append: Append) -> Result<(), AppendError> {
        match self.store.writer().check(append)? {
            Some(append) => Self::append(self, append).await.map(drop),
            None => Ok(()),
        }
    }

    async fn replace_rows(&mut self, shadow: &Shadow) -> Result<Position, BoxError> {
        shadow_databases::check_tables(shadow)?;
        let (checked_out, store, shadow) = (Arc::clone(&self.checked_out), Arc::clone(&self.store), shadow.clone());
        checked_out.set_user();
        // copying may take long, and the user of the transaction cannot shorten it
        checked_out.stop_deadline();
        let replaced = blocking(move || {
            let replaced = replace_live_rows(&checked_out, &store, &shadow);
            // on this thread, which completes also if the caller's future is dropped
            checked_out.restart_deadline();
            store.writer().watch_transaction(&checked_out);
            replaced
        });
        Ok(replaced.await??)
    }

    async fn has_table(&mut self, table: &str, column: Option<&str>) -> Result<bool, BoxError> {
        check_table(table)?;
        column.map_or(Ok(()), check_name)?;
        let connection = self.connection()?;
        let found = query_value(&connection, include_str!("sql/has_table.sql"), (table, column))?;
        Ok(found.unwrap_or(false))
    }

    async fn has_rows(&mut self, table: &str) -> Result<bool, BoxError> {
        if !self.has_table(table, None).await? {
            return Ok(false);
        }
        let sql = format!("SELECT EXISTS (SELECT 1 FROM \"{table}\")");
        Ok(query_value(&*self.connection()?, &sql, ())?.unwrap_or(false))
    }

    async fn delete_rows(&mut self, table: &str, column: &str, value: &str) -> Result<(), BoxError> {
        check_table(table)?;
        check_name(column)?;
        // with the table: SQLite reads a quoted name that is no column as a string. No text equals a BLOB, which holds
        // an id as its letters, or as the bytes of a UUID
        let sql = format!("DELETE FROM \"{table}\" WHERE \"{table}\".\"{column}\" IN (?1, CAST(?1 AS BLOB), ?2)");
        let uuid = Uuid::try_parse(value).ok().map(Uuid::into_bytes);
        self.execute(&sql, (value, uuid))?;
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<(), BoxError> {
        Self::commit(*self).await
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the connection goes back when it is dropped here")]
fn commit(writer: &Writer, held: HeldConnection, has_appended: bool) -> Result<(), BoxError> {
    let started = Instant::now();
    held.connection().commit()?;
    if let HeldConnection::Live(_) = held {
        writer.files().check()?;
        writer.record_commit(has_appended, Some(started.elapsed()));
    }
    Ok(())
}

fn replace_live_rows(
    checked_out: &CheckedOutConnection,
    store: &StoreInner,
    shadow: &Shadow,
) -> Result<Position, SqliteTransactionError> {
    let mut guard = checked_out.lock_connection()?;
    let databases = store.shadow_databases();
    let found = shadow_databases::find_row(&guard, &shadow.name)?.filter(|found| databases.has_file(&found.file));
    let file = found.ok_or_else(|| shadow_databases::missing_shadow(&shadow.name))?.file;
    let database = databases.database_path(&file)?;
    let copies = match guard.held_mut() {
        HeldConnection::Live(permit) => permit.attach(&database)?,
        HeldConnection::Shadow { .. } => return Err(SqliteTransactionError::InShadow { what: "replace_rows" }),
    };
    replace_rows(&guard, &copies, &shadow.tables)?;
    guard.execute(include_str!("sql/shadow_has_served.sql"), (shadow.name.as_str(), file.as_str()))?;
    let sql = format!("SELECT position FROM {copies}.eventbus_shadow_checkpoints WHERE name = ?1");
    let filled: Option<i64> = query_value(&guard, &sql, [shadow.name.as_str()])?;
    // a negative position is damage: begin at the start
    Ok(filled.and_then(|filled| u64::try_from(filled).ok()).map_or(Position::START, Position::new))
}

impl Drop for SqliteTransaction {
    fn drop(&mut self) {
        self.checked_out.end(EndReason::RolledBack);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::SqliteEventStore;

    #[tokio::test]
    async fn a_commit_of_a_transaction_that_is_over_has_a_known_outcome() {
        let store = SqliteEventStore::in_memory().await.unwrap();
        for end in [EndReason::RolledBack, EndReason::TimedOut(Duration::from_secs(5))] {
            let transaction = store.begin_transaction().await.unwrap();
            transaction.checked_out.end(end);
            let error = transaction.commit_append().await.unwrap_err();
            assert!(matches!(error, AppendError::Unavailable(_)), "{error:?}");
        }
    }
}
