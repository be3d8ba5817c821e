//! The one writing connection in the hands of whoever has it.
//!
//! Keep: a turn ends by putting the connection back without a transaction, whatever happened to its user, and one that
//! was claimed looks at the queue afterwards.

use std::{sync::Arc, time::Duration};

use eventbus::BoxError;
use rusqlite::config::DbConfig;

use crate::{
    blocking::blocking,
    commit_guard::GuardedConnection,
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

/// The connection, until this is dropped.
pub(crate) struct WritePermit {
    /// Taken only when it is dropped.
    connection: Option<GuardedConnection>,
    writer: Arc<Writer>,
    is_handed_off: bool,
    /// What is attached until it ends.
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
        self.connection.as_ref().expect("it is put back only when the turn ends")
    }

    pub(crate) const fn writer(&self) -> &Arc<Writer> {
        &self.writer
    }

    /// Says whether it is claimed by somebody else than who runs the queue.
    pub(crate) const fn set_handed_off(&mut self, is_handed_off: bool) {
        self.is_handed_off = is_handed_off;
    }

    pub(crate) const fn context(&self) -> ExecutionContext {
        self.context
    }

    /// On a thread SQLite may sleep until another process is done; in a task it gives up at once.
    pub(crate) fn set_context(&mut self, context: ExecutionContext) {
        self.context = context;
        let timeout = match context {
            ExecutionContext::Task => Duration::ZERO,
            ExecutionContext::Thread => self.writer.busy_timeout(),
        };
        // it cannot fail; if it did, a busy database would be reported sooner or later than it should
        let _ = self.connection().busy_timeout(timeout);
    }

    /// Begins a transaction, on a thread if another process has to be waited for.
    ///
    /// # Errors
    /// What SQLite said, or that the runtime ended.
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
            begun.map(|()| writer.new_handoff(self))
        });
        let handoff = begin.await??;
        Ok(handoff.take().ok_or(SqliteTransactionError::TimedOut { limit })?)
    }

    /// Attaches a database that is only read, until the turn ends, and returns the name of its schema.
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
