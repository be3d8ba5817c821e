//! The file with the copies of a shadow, beside the store's own, and the row that registers it.
//!
//! On its connections, its database is `main`, and the store is attached for reading: so a table name refers to the
//! copy if there is one, else to the live table.
//!
//! Invariant: no name of a file is used twice. A former owner may still have the file open, and SQLite deletes logs by
//! name.
//!
//! Real time, not the given clock: the name of a file is unique among processes.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use eventbus::{Name, Position, port::Shadow};
use parking_lot::Mutex;
use rusqlite::{Connection, OpenFlags, Row, config::DbConfig};
use uuid::Uuid;

use crate::{
    connection::{GuardedConnection, READ_WRITE, roll_back},
    error::SqliteTransactionError,
    location::DatabaseLocation,
    query::{path_parameter, query_rows, query_value},
    row::to_position,
    schema::{TableDefinitions, check_table},
};

/// Idle connections to copies.
pub(crate) struct ShadowDatabases {
    live_location: DatabaseLocation,
    busy_timeout: Duration,
    /// Locked to take or return a connection, never while it runs a statement.
    idle: Mutex<HashMap<Name, IdleShadow>>,
}

struct IdleShadow {
    file: String,
    connection: Option<GuardedConnection>,
}

impl ShadowDatabases {
    pub(crate) fn new(live: DatabaseLocation, busy_timeout: Duration) -> Self {
        Self { live_location: live, busy_timeout, idle: Mutex::default() }
    }

    /// Returns a name for a file that was never used before.
    pub(crate) fn new_file_name(&self, shadow: &Name) -> String {
        let clean = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
        let readable: String = shadow.chars().map(clean).take(64).collect();
        let store = self.live_location.path().file_name().unwrap_or_default().to_string_lossy();
        let id = Uuid::now_v7().simple();
        if self.live_location.is_memory() { id.to_string() } else { format!("{store}.{readable}.{id}.rebuild") }
    }

    /// Returns `true` if a file may still exist; a database in memory is lost with the row that names it.
    pub(crate) fn has_file(&self, file: &str) -> bool {
        self.live_location.is_memory() || self.location(file).is_ok_and(|place| place.path().exists())
    }

    /// Returns the file of a shadow if this process has used it already.
    pub(crate) fn idle_file(&self, shadow: &Name) -> Option<String> {
        self.idle.lock().get(shadow).map(|idle| idle.file.clone())
    }

    pub(crate) fn database_path(&self, file: &str) -> Result<PathBuf, SqliteTransactionError> {
        Ok(self.location(file)?.database().into_owned())
    }

    fn location(&self, file: &str) -> Result<DatabaseLocation, SqliteTransactionError> {
        match &self.live_location {
            DatabaseLocation::Memory(_) => {
                Uuid::parse_str(file).map(DatabaseLocation::Memory).map_err(|_| missing_shadow(file))
            }
            DatabaseLocation::File(live) if Path::new(file).file_name().is_some_and(|name| name == file) => {
                Ok(DatabaseLocation::File(live.with_file_name(file)))
            }
            DatabaseLocation::File(_) => Err(missing_shadow(file)),
        }
    }

    /// Creates the copies, or opens existing ones, and returns the position up to which they are filled. `None` if the
    /// live tables have changed since the copies were made.
    pub(crate) fn open_or_create(
        &self,
        shadow: &Name,
        file: String,
        tables: &[String],
    ) -> Result<Option<Position>, SqliteTransactionError> {
        let connection = self.open(&file, true)?;
        // after opening: copies in memory end with their last connection
        self.idle.lock().remove(shadow);
        connection.execute_batch("BEGIN IMMEDIATE")?;
        let made = create_tables(&connection, shadow, tables);
        if let Ok(Some(_)) = made {
            connection.execute_batch("COMMIT")?;
            set_foreign_keys(&connection)?;
            self.idle.lock().insert(shadow.clone(), IdleShadow { file, connection: Some(connection) });
        } else {
            roll_back(&connection);
        }
        made
    }

    /// Begins a transaction; waits for an open one on the same copies.
    pub(crate) fn begin(
        self: &Arc<Self>,
        shadow: &Name,
        file: String,
    ) -> Result<ShadowConnection, SqliteTransactionError> {
        let idle =
            self.idle.lock().get_mut(shadow).filter(|idle| idle.file == file).and_then(|idle| idle.connection.take());
        let connection = match idle {
            Some(connection) => connection,
            None => {
                let connection = self.open(&file, false)?;
                set_foreign_keys(&connection)?;
                connection
            }
        };
        let (databases, shadow) = (Arc::clone(self), shadow.clone());
        let shadow_connection = ShadowConnection { connection: Some(connection), databases, shadow, file };
        shadow_connection.connection().begin(self.busy_timeout)?;
        Ok(shadow_connection)
    }

    /// Closes the connection and removes the files.
    pub(crate) fn remove(&self, shadow: &Name, file: &str) -> Result<(), SqliteTransactionError> {
        self.idle.lock().remove(shadow);
        if self.live_location.is_memory() {
            return Ok(());
        }
        let path = self.location(file)?.path().to_owned();
        for suffix in ["", "-wal", "-shm"] {
            let mut path = path.clone().into_os_string();
            path.push(suffix);
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                    return Err(SqliteTransactionError::ShadowFile { path: path.into(), source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn open(&self, file: &str, create: bool) -> Result<GuardedConnection, SqliteTransactionError> {
        let place = self.location(file)?;
        if !create && !self.has_file(file) {
            return Err(missing_shadow(file));
        }
        let mut flags = READ_WRITE;
        flags.set(OpenFlags::SQLITE_OPEN_CREATE, create || place.is_memory());
        let connection = Connection::open_with_flags(place.database(), flags)?;
        connection.busy_timeout(self.busy_timeout)?;
        if !self.live_location.is_memory() {
            if create {
                // before the first page, and before SQLite creates the log, which gets the mode of this file
                self.copy_mode_to(place.path());
            }
            // after a power failure, filling goes on from the position that the copies then have
            connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL")?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_ATTACH_WRITE, false)?;
        }
        let live = self.live_location.database();
        connection.execute("ATTACH ?1 AS eventbus_live", [path_parameter(&live)])?;
        Ok(GuardedConnection::new(connection)?)
    }

    /// Gives a new file of copies the mode of the store's file, as SQLite does for its log: both hold the same data.
    /// The group is the group of this process; if the mode cannot be set, the default mode stays.
    fn copy_mode_to(&self, file: &Path) {
        if let Ok(live) = std::fs::metadata(self.live_location.path()) {
            let _ = std::fs::set_permissions(file, live.permissions());
        }
    }

    fn return_connection(&self, shadow: &Name, file: &str, connection: GuardedConnection) {
        if let Some(idle) = self.idle.lock().get_mut(shadow).filter(|idle| idle.file == file) {
            idle.connection = Some(connection);
        }
    }
}

pub(crate) fn missing_shadow(name: &str) -> SqliteTransactionError {
    SqliteTransactionError::NoShadow { name: name.to_owned() }
}

/// A registered shadow.
pub(crate) struct ShadowRow {
    pub(crate) file: String,
    /// Set if its rows have replaced the live ones.
    pub(crate) has_replaced_live: bool,
}

pub(crate) fn find_row(connection: &Connection, shadow: &Name) -> rusqlite::Result<Option<ShadowRow>> {
    let read =
        |row: &Row<'_>| -> rusqlite::Result<_> { Ok(ShadowRow { file: row.get(0)?, has_replaced_live: row.get(1)? }) };
    Ok(query_rows(connection, include_str!("sql/shadow_file.sql"), [shadow.as_str()], read)?.pop())
}

/// Refuses tables that cannot have copies.
pub(crate) fn check_tables(shadow: &Shadow) -> Result<(), SqliteTransactionError> {
    shadow.tables.iter().try_for_each(|table| check_table(table))
}

/// Creates the tables and stores their definition, unless they exist; `None` if they exist with a different definition.
fn create_tables(
    connection: &Connection,
    shadow: &Name,
    tables: &[String],
) -> Result<Option<Position>, SqliteTransactionError> {
    connection.execute_batch(include_str!("sql/create_shadow.sql"))?;
    let wanted = TableDefinitions::from_live_tables(connection, tables)?;
    let found: Option<String> = query_value(connection, "SELECT definition FROM eventbus_shadow", [])?;
    match found {
        None => {
            wanted.create(connection)?;
            let note = "INSERT INTO eventbus_shadow (only_row, definition) VALUES (1, ?1)";
            connection.execute(note, [wanted.as_text()])?;
        }
        Some(found) if found == wanted.as_text() => {}
        Some(_) => return Ok(None),
    }
    let position: Option<i64> = query_value(connection, include_str!("sql/shadow_position.sql"), [shadow.as_str()])?;
    let position = to_position(position.unwrap_or_default(), || format!("shadow `{shadow}`"))?;
    Ok(Some(position))
}

/// Enforces foreign keys as on the live tables, so that a `DELETE` cascades; but not if a copy refers to a table
/// without a copy, because SQLite would then refuse the writes to it.
fn set_foreign_keys(connection: &Connection) -> rusqlite::Result<()> {
    let have_parents: Option<bool> = query_value(connection, include_str!("sql/copies_have_parents.sql"), [])?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, have_parents.unwrap_or(false)).map(drop)
}

/// A connection to copies in a transaction, until this is dropped.
pub(crate) struct ShadowConnection {
    /// `None` only during the drop.
    connection: Option<GuardedConnection>,
    databases: Arc<ShadowDatabases>,
    shadow: Name,
    file: String,
}

impl ShadowConnection {
    pub(crate) fn connection(&self) -> &GuardedConnection {
        self.connection.as_ref().expect("the connection is put back only on drop")
    }
}

impl Drop for ShadowConnection {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.reset();
            self.databases.return_connection(&self.shadow, &self.file, connection);
        }
    }
}
