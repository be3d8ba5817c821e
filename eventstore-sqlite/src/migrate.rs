//! Makes the tables, and migrates those of an older release.
//!
//! A migration is never edited once released: a change is a new file and a new line in [`MIGRATIONS`].

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

use crate::{config::SqliteEventStoreConfig, error::SqliteConnectError};

/// In order; the first has version 1.
const MIGRATIONS: &[(&str, &str)] = &[("initial", include_str!("../migrations/0001_initial.sql"))];

/// Checks that the database is one for this store, runs `before_writing`, then the missing migrations.
///
/// All of them run in one transaction, which also keeps other processes out.
pub(crate) fn migrate(
    connection: &mut Connection,
    path: &Path,
    config: &SqliteEventStoreConfig,
    before_writing: impl FnOnce(&Connection) -> Result<(), SqliteConnectError>,
) -> Result<(), SqliteConnectError> {
    let fault = |error| SqliteConnectError::from_sqlite(path, error);
    refuse_foreign_tables(connection, path, config)?;
    let known = MIGRATIONS.len() as i64;
    let up_to_date = schema_version(connection, path)? == known;
    before_writing(connection)?;
    if up_to_date {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fault)?;
    transaction.execute(include_str!("sql/create_migrations.sql"), []).map_err(fault)?;
    // read again inside the transaction: a different process may have been first
    let found = schema_version(&transaction, path)?;
    for (version, (name, sql)) in (1..).zip(MIGRATIONS) {
        if version > found {
            apply_migration(&transaction, version, name, sql).map_err(|error| SqliteConnectError::Migration {
                path: path.to_owned(),
                migration: name,
                source: error.into(),
            })?;
        }
    }
    transaction.commit().map_err(fault)?;
    tracing::debug!(path = %path.display(), from = found, to = known, "event store migrated");
    Ok(())
}

fn apply_migration(transaction: &Transaction<'_>, version: i64, name: &str, sql: &str) -> rusqlite::Result<()> {
    transaction.execute_batch(sql)?;
    let record = include_str!("sql/record_migration.sql");
    transaction.execute(record, (version, name))?;
    Ok(())
}

fn refuse_foreign_tables(
    connection: &Connection,
    path: &Path,
    config: &SqliteEventStoreConfig,
) -> Result<(), SqliteConnectError> {
    let foreign_table = connection
        .query_row(include_str!("sql/foreign_table.sql"), [], |row| row.get(0))
        .optional()
        .map_err(|error| SqliteConnectError::from_sqlite(path, error))?;
    match foreign_table {
        Some(table) if !config.share_database => {
            Err(SqliteConnectError::ForeignDatabase { path: path.to_owned(), table })
        }
        _ => Ok(()),
    }
}

/// Returns the version of the tables; 0 if there are none.
fn schema_version(connection: &Connection, path: &Path) -> Result<i64, SqliteConnectError> {
    let ask = |sql| connection.query_row(sql, [], |row| row.get::<_, i64>(0));
    let fault = |error| SqliteConnectError::from_sqlite(path, error);
    if ask(include_str!("sql/has_migrations.sql")).map_err(fault)? == 0 {
        return Ok(0);
    }
    let found = ask(include_str!("sql/schema_version.sql")).map_err(fault)?;
    let known = MIGRATIONS.len() as i64;
    if found > known {
        return Err(SqliteConnectError::NewerSchema { path: path.to_owned(), found, known });
    }
    Ok(found)
}
