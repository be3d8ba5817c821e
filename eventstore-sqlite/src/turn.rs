//! The one writing connection in the hands of whoever has it.
//!
//! Keep: a turn ends by putting the connection back without a transaction, whatever happened to its user, and one that
//! was claimed looks at the queue afterwards.

use std::{sync::Arc, time::Duration};

use eventbus::BoxError;
use rusqlite::config::DbConfig;

use crate::{
    blocking::blocking,
    error::{SqliteTransactionError, is_busy},
    seal::Sealed,
    writer::Writer,
};

const ATTACH_WRITE: DbConfig = DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE;

/// Where the connection is used: in a caller's task, which must not block for long, or on a thread that may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Context {
    Task,
    Thread,
}

/// The connection, until this is dropped.
pub(crate) struct Turn {
    /// Taken only when it is dropped.
    connection: Option<Sealed>,
    writer: Arc<Writer>,
    is_claimed: bool,
    /// What is attached until it ends.
    attached: Vec<String>,
    context: Context,
}

impl Turn {
    pub(crate) fn new(connection: Sealed, writer: Arc<Writer>) -> Self {
        Self { connection: Some(connection), writer, is_claimed: false, attached: Vec::new(), context: Context::Task }
    }

    pub(crate) fn connection(&self) -> &Sealed {
        self.connection.as_ref().expect("it is put back only when the turn ends")
    }

    pub(crate) const fn writer(&self) -> &Arc<Writer> {
        &self.writer
    }

    /// Says whether it is claimed by somebody else than who runs the queue.
    pub(crate) const fn set_claimed(&mut self, is_claimed: bool) {
        self.is_claimed = is_claimed;
    }

    pub(crate) const fn context(&self) -> Context {
        self.context
    }

    /// On a thread SQLite may sleep until another process is done; in a task it gives up at once.
    pub(crate) fn wait_when_busy(&mut self, context: Context) {
        self.context = context;
        let timeout = match context {
            Context::Task => Duration::ZERO,
            Context::Thread => self.writer.busy_timeout(),
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
            self.wait_when_busy(Context::Thread);
            let begun = self.connection().begin();
            self.wait_when_busy(Context::Task);
            let writer = Arc::clone(&self.writer);
            begun.map(|()| writer.offer(self))
        });
        let offer = begin.await??;
        Ok(offer.take().ok_or(SqliteTransactionError::TimedOut { limit })?)
    }

    /// Attaches a database that is only read, until the turn ends, and returns the name of its schema.
    pub(crate) fn attach(&mut self, database: &str) -> rusqlite::Result<String> {
        if let Some(known) = self.attached.iter().position(|known| known == database) {
            return Ok(schema(known));
        }
        let schema = schema(self.attached.len());
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

fn schema(number: usize) -> String {
    format!("eventbus_copy_{number}")
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else {
            return;
        };
        connection.reset();
        for schema in (0..self.attached.len()).map(schema) {
            let detached = connection.execute(&format!("DETACH {schema}"), []);
            if let Err(error) = detached {
                tracing::warn!(%error, schema, "a database stays attached");
            }
        }
        self.writer.put_back(connection);
        if self.is_claimed {
            self.writer.start(false);
        }
    }
}
