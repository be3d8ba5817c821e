//! The write connection while one user has it.
//!
//! Invariant: a permit ends by putting the connection back without an open transaction, even if its user panicked, and
//! a permit that was handed off checks the queue afterwards.

use std::{sync::Arc, time::Duration};

use eventbus::BoxError;
use rusqlite::config::DbConfig;

use crate::{
    blocking::blocking,
    connection::GuardedConnection,
    error::{SqliteTransactionError, is_busy},
    writer::Writer,
};

const ATTACH_WRITE: DbConfig = DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE;

/// Where the connection is used: in a caller's task, which must not block for long, or on a thread that may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExecutionContext {
    Task,
    Thread,
}

/// The write connection, until this is dropped.
pub(crate) struct WritePermit {
    /// `None` only during the drop.
    connection: Option<GuardedConnection>,
    writer: Arc<Writer>,
    is_handed_off: bool,
    /// Databases that are attached until the permit ends.
    attached: Vec<String>,
    context: ExecutionContext,
}

impl WritePermit {
    pub(crate) fn new(connection: GuardedConnection, writer: Arc<Writer>) -> Self {
        Self {
            connection: Some(connection),
            writer,
            is_handed_off: false,
            attached: Vec::new(),
            context: ExecutionContext::Task,
        }
    }

    pub(crate) fn connection(&self) -> &GuardedConnection {
        self.connection.as_ref().expect("the connection is put back only when the permit is dropped")
    }

    pub(crate) const fn writer(&self) -> &Arc<Writer> {
        &self.writer
    }

    /// Sets whether a waiter has the permit, and not the drainer of the queue.
    pub(crate) const fn set_handed_off(&mut self, is_handed_off: bool) {
        self.is_handed_off = is_handed_off;
    }

    pub(crate) const fn context(&self) -> ExecutionContext {
        self.context
    }

    /// Sets the context: on a thread SQLite may sleep until other processes have written; in a task it gives up at
    /// once.
    pub(crate) fn set_context(&mut self, context: ExecutionContext) {
        self.context = context;
        let timeout = match context {
            ExecutionContext::Task => Duration::ZERO,
            ExecutionContext::Thread => self.writer.busy_timeout(),
        };
        // it cannot fail; if it did, a busy database would be reported sooner or later than it should
        let _ = self.connection().busy_timeout(timeout);
    }

    /// Begins a transaction; if a different process writes, waits for it on a thread.
    ///
    /// # Errors
    /// If the file is lost, SQLite refuses, the runtime ended, or the caller's task was not polled in time.
    pub(crate) async fn begin(mut self) -> Result<Self, BoxError> {
        self.writer.files().check_if_lost()?;
        match self.connection().begin() {
            Ok(()) => return Ok(self),
            Err(error) if !is_busy(&error) => return Err(error.into()),
            Err(_) => {}
        }
        let limit = self.writer.transaction_timeout();
        let begin = blocking(move || {
            self.set_context(ExecutionContext::Thread);
            let begun = self.connection().begin();
            self.set_context(ExecutionContext::Task);
            let writer = Arc::clone(&self.writer);
            // not the permit itself: the caller may never be polled again, and then the watchdog takes it back
            begun.map(|()| writer.new_handoff(self))
        });
        let handoff = begin.await??;
        Ok(handoff.take().ok_or(SqliteTransactionError::TimedOut { limit })?)
    }

    /// Attaches a database read-only until the permit ends, and returns the name of its schema.
    pub(crate) fn attach(&mut self, database: &str) -> rusqlite::Result<String> {
        if let Some(known) = self.attached.iter().position(|known| known == database) {
            return Ok(attached_schema(known));
        }
        let schema = attached_schema(self.attached.len());
        let connection = self.connection();
        let could_write = connection.db_config(ATTACH_WRITE)?;
        connection.set_db_config(ATTACH_WRITE, false)?;
        let result = connection.execute(&format!("ATTACH ?1 AS {schema}"), [database]);
        connection.set_db_config(ATTACH_WRITE, could_write)?;
        result?;
        self.attached.push(database.to_owned());
        Ok(schema)
    }
}

fn attached_schema(number: usize) -> String {
    format!("eventbus_copy_{number}")
}

impl Drop for WritePermit {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        connection.reset();
        for schema in (0..self.attached.len()).map(attached_schema) {
            let detached = connection.execute(&format!("DETACH {schema}"), []);
            if let Err(error) = detached {
                tracing::warn!(%error, schema, "a database stays attached");
            }
        }
        self.writer.return_connection(connection);
        if self.is_handed_off {
            self.writer.start_draining(false);
        }
    }
}
