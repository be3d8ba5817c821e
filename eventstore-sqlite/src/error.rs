//! The errors of opening a store and of its transactions, and the meaning of SQLite's errors to callers.

use std::{error::Error, path::PathBuf, sync::Arc, time::Duration};

use eventbus::{
    BoxError, StreamId,
    port::{AppendError, ReadError, ServerFault},
    support::source_chain,
};
use rusqlite::ErrorCode;

use crate::files::SqliteFileError;

/// Error of opening a store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteConnectError {
    /// The URL does not name a SQLite store, or is given where a path is expected.
    #[error("`{url}` opens no SQLite event store: {reason}; write `sqlite:path/to/file` or `sqlite::memory:`")]
    InvalidUrl {
        /// The URL, without secrets.
        url: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// The configuration is invalid.
    #[error("invalid configuration of a SQLite event store: {what}")]
    InvalidConfig {
        /// The field, and the rule that it breaks.
        what: &'static str,
    },
    /// The file exists, but it is not a SQLite database.
    #[error("`{}` is not a SQLite database", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// The error of SQLite.
        source: BoxError,
    },
    /// The file is the database of a different application.
    #[error(
        "`{}` is a database without an event store and with a table `{table}`; if it is the right one, set `share_database`",
        path.display()
    )]
    ForeignDatabase {
        /// The file.
        path: PathBuf,
        /// One of the tables it holds.
        table: String,
    },
    /// The file lacks tables of this release, and the configuration does not let the store create them.
    #[error(
        "`{}` is at migration {found}, this release needs {needed}: an application creates the \
         tables when it opens the file with `migrate`, and so does the command `eventbus migrate`",
        path.display()
    )]
    NotMigrated {
        /// The file.
        path: PathBuf,
        /// The newest migration in the file; 0 is none.
        found: i64,
        /// The newest migration of this release.
        needed: u32,
    },
    /// A newer release of this crate changed the tables in a way that this release cannot work with.
    #[error(
        "`{}` has the breaking migration {breaking} `{name}`, this release knows migrations up to {known}: upgrade \
         eventstore-sqlite",
        path.display()
    )]
    SchemaTooNew {
        /// The file.
        path: PathBuf,
        /// The first migration in the file that this release does not know and cannot work with.
        breaking: i64,
        /// Its name.
        name: String,
        /// The newest migration of this release.
        known: u32,
    },
    /// A program from before the first release, or a different application, made the tables.
    #[error(
        "`{}` has tables that were made before the first release, or by a different application: {found}; export the \
         events with the program that stored them, or start with a new file",
        path.display()
    )]
    OldLayout {
        /// The file.
        path: PathBuf,
        /// What shows it.
        found: String,
    },
    /// The store could not create or migrate its tables; they are unchanged.
    #[error("migration `{migration}` of `{}` failed", path.display())]
    Migration {
        /// The file.
        path: PathBuf,
        /// The migration that failed.
        migration: &'static str,
        /// The error of SQLite.
        source: BoxError,
    },
    /// The file cannot be written, or SQLite cannot create files beside it. Without
    /// [`migrate`](crate::SqliteEventStoreConfig::migrate) a store opens a file that it can only read, and its writes
    /// fail.
    #[error("`{}` or its directory is read-only", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// The error of SQLite.
        source: BoxError,
    },
    /// The file system, for example a network file system, does not support a write-ahead log.
    #[error("`{}` cannot have a write-ahead log (journal mode stays `{mode}`); use a local file system", path.display())]
    NoWriteAheadLog {
        /// The file.
        path: PathBuf,
        /// The journal mode it is in.
        mode: String,
    },
    /// The file cannot be opened, or a different process keeps it locked.
    #[error("`{}` cannot be opened", path.display())]
    Unavailable {
        /// The file.
        path: PathBuf,
        /// The error of SQLite or the operating system.
        source: BoxError,
    },
}

/// Error of an operation in a transaction.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SqliteTransactionError {
    /// The operation would wait for a transaction that its own task has open.
    #[error(
        "this task has a transaction of the store open, for which the call would wait: use `append_in` with the \
         transaction, and make other writes after it"
    )]
    InsideTransaction,
    /// The transaction was open for too long, while all appends of the process waited for it.
    #[error("the transaction is rolled back: it was open for longer than {limit:?}, the `transaction_timeout`")]
    TimedOut {
        /// The longest time that it may be open.
        limit: Duration,
    },
    /// A statement of the user ended the transaction, or SQLite did, for example after `ON CONFLICT ROLLBACK` or on a
    /// full disk.
    #[error("the transaction is rolled back already; leave begin, commit and rollback to the store")]
    RolledBack,
    /// A different store began the transaction.
    #[error("the transaction belongs to another store")]
    OtherStore,
    /// The name is not allowed for a table or column here.
    #[error("`{name}` cannot be the name of a table or column here: {reason}")]
    InvalidName {
        /// The name.
        name: String,
        /// The rule that it breaks.
        reason: &'static str,
    },
    /// There is no such table.
    #[error("there is no table `{table}`")]
    NoTable {
        /// Its name.
        table: String,
    },
    /// The copies of a rebuild do not exist, or no longer exist.
    #[error("there are no copies of the tables of `{name}`")]
    NoShadow {
        /// The name of the shadow.
        name: String,
    },
    /// The operation is not available in a rebuild, which fills only copies.
    #[error("`{what}` needs a transaction on the live tables, this one is on copies")]
    InShadow {
        /// The operation.
        what: &'static str,
    },
    /// A file of copies cannot be removed.
    #[error("`{}` cannot be removed", path.display())]
    ShadowFile {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The file of the copies holds data that the store did not write.
    #[error("the copies are damaged")]
    Damaged(#[from] ReadError),
    /// SQLite refuses a statement.
    #[error("SQLite refuses the statement")]
    Sqlite(#[from] rusqlite::Error),
}

impl SqliteConnectError {
    pub(crate) fn from_sqlite(path: &std::path::Path, error: rusqlite::Error) -> Self {
        let path = path.to_owned();
        let code = error.sqlite_error_code();
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        let source = match directory.map(std::path::Path::try_exists) {
            Some(Ok(false)) => "its directory does not exist".into(),
            _ if path.is_dir() => "it is a directory".into(),
            _ => error.into(),
        };
        match code {
            Some(ErrorCode::NotADatabase) => Self::NotADatabase { path, source },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly { path, source },
            _ => Self::Unavailable { path, source },
        }
    }
}

/// Maps the error of a transaction to the error of its append to `stream`. The outcome is never unknown, as `COMMIT`
/// was not sent yet.
pub(crate) fn append_error(stream: Option<&StreamId>, source: impl Into<BoxError>) -> AppendError {
    let source = source.into();
    let is_wrong_call = matches!(
        source.downcast_ref(),
        Some(
            SqliteTransactionError::InsideTransaction
                | SqliteTransactionError::OtherStore
                | SqliteTransactionError::InShadow { .. }
        )
    );
    let is_corrupt = matches!(source.downcast_ref(), Some(ReadError::Corrupt { .. }));
    match stream.filter(|_| is_wrong_call || is_corrupt) {
        Some(stream) => AppendError::Refused { stream: stream.clone(), source },
        None => AppendError::Unavailable(source),
    }
}

/// Returns `true` if a different connection holds a lock that this one needs: waiting helps.
pub(crate) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Returns the fault of the database that an error or one of its sources reports: a different connection keeps it
/// locked, the disk is full, the file cannot be read or written, or is gone.
pub(crate) fn server_fault(error: &(dyn Error + 'static)) -> Option<ServerFault> {
    source_chain(error).find_map(|error| {
        if error.is::<SqliteFileError>() {
            return Some(ServerFault::new("file removed or replaced"));
        }
        let shared = error.downcast_ref::<Arc<rusqlite::Error>>().map(|error| &**error);
        fault_of_code(error.downcast_ref::<rusqlite::Error>().or(shared)?.sqlite_error_code()?)
    })
}

fn fault_of_code(code: ErrorCode) -> Option<ServerFault> {
    Some(ServerFault::new(match code {
        ErrorCode::DatabaseBusy => "SQLITE_BUSY",
        ErrorCode::DatabaseLocked => "SQLITE_LOCKED",
        ErrorCode::FileLockingProtocolFailed => "SQLITE_PROTOCOL",
        ErrorCode::DiskFull => "SQLITE_FULL",
        ErrorCode::SystemIoFailure => "SQLITE_IOERR",
        ErrorCode::CannotOpen => "SQLITE_CANTOPEN",
        ErrorCode::OutOfMemory => "SQLITE_NOMEM",
        _ => return None,
    }))
}

/// Returns `true` if the events are the cause, not the database: a retry would fail again.
pub(crate) fn is_caused_by_events(error: &rusqlite::Error) -> bool {
    server_fault(error).is_none()
        && matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch)
        )
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi;

    use super::*;

    fn failure(code: i32) -> rusqlite::Error {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), None)
    }

    #[test]
    fn faults_of_the_database_are_told_from_refusals() {
        for code in [ffi::SQLITE_BUSY, ffi::SQLITE_LOCKED, ffi::SQLITE_FULL, ffi::SQLITE_IOERR, ffi::SQLITE_IOERR_FSYNC]
        {
            let plain = BoxError::from(failure(code));
            let shared: BoxError = Box::new(Arc::new(failure(code)));
            let wrapped = BoxError::from(SqliteTransactionError::from(failure(code)));
            for error in [plain, shared, wrapped] {
                assert!(server_fault(&*error).is_some(), "{error:?}");
            }
        }
        for code in [ffi::SQLITE_CONSTRAINT_UNIQUE, ffi::SQLITE_ERROR, ffi::SQLITE_INTERRUPT, ffi::SQLITE_TOOBIG] {
            assert_eq!(server_fault(&failure(code)), None, "{code}");
        }
        let removed = BoxError::from(SqliteFileError::Removed { path: "events.db".into() });
        assert!(server_fault(&*removed).is_some(), "the handler is run again when the file is back");
        let late = SqliteTransactionError::TimedOut { limit: Duration::from_secs(5) };
        assert_eq!(server_fault(&late), None);
    }
}
