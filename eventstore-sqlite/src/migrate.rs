//! Makes the tables, and migrates those of an older release.

use std::path::Path;

use eventbus::support::{Migration, MigrationKind, SchemaState};
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior};

use crate::{
    config::SqliteEventStoreConfig, error::SqliteConnectError, migration_step::MigrationStep, query::query_rows,
};

/// The steps of this release, oldest first. The first is breaking: no release works without it.
pub(crate) const STEPS: &[MigrationStep] =
    &[MigrationStep::new(1, "initial", MigrationKind::Breaking, include_str!("../migrations/0001_initial.sql"))];

/// The number of the newest step.
pub(crate) const NEWEST: u32 = STEPS[STEPS.len() - 1].version();

/// Checks that the database is one for this store, runs `before_writing`, then the missing steps.
///
/// All of them run in one transaction, which also keeps other processes out.
pub(crate) fn migrate(
    connection: &mut Connection,
    path: &Path,
    config: &SqliteEventStoreConfig,
    steps: &[MigrationStep],
    before_writing: impl FnOnce(&Connection) -> Result<(), SqliteConnectError>,
) -> Result<(), SqliteConnectError> {
    let fault = |error| SqliteConnectError::from_sqlite(path, error);
    refuse_foreign_tables(connection, path, config)?;
    let up_to_date = missing_steps(connection, path, steps)?.is_empty();
    if !up_to_date && !config.migrate {
        return Err(not_migrated(connection, path, steps));
    }
    before_writing(connection)?;
    if up_to_date {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fault)?;
    // read again inside the transaction: a different process may have been first
    let missing = missing_steps(&transaction, path, steps)?;
    transaction.execute(include_str!("sql/create_migrations.sql"), []).map_err(fault)?;
    for step in missing {
        run_step(&transaction, &step).map_err(|error| SqliteConnectError::Migration {
            path: path.to_owned(),
            migration: step.name(),
            source: error.into(),
        })?;
        tracing::debug!(path = %path.display(), migration = step.name(), "event store migrated");
    }
    transaction.commit().map_err(fault)
}

fn not_migrated(connection: &Connection, path: &Path, steps: &[MigrationStep]) -> SqliteConnectError {
    let newest = "SELECT coalesce(max(version), 0) FROM eventbus_migrations";
    // without the table no migration has run
    let found = connection.query_row(newest, [], |row| row.get(0)).unwrap_or(0);
    SqliteConnectError::NotMigrated {
        path: path.to_owned(),
        found,
        needed: steps.last().map_or(0, MigrationStep::version),
    }
}

/// Returns the steps that the database has and those of this release; fails if this release cannot work with them.
pub(crate) fn schema_state(
    connection: &Connection,
    path: &Path,
    config: &SqliteEventStoreConfig,
) -> Result<SchemaState, SqliteConnectError> {
    refuse_foreign_tables(connection, path, config)?;
    let missing = missing_steps(connection, path, STEPS)?;
    let known =
        STEPS.iter().map(|step| Migration { version: step.version(), name: step.name().to_owned(), kind: step.kind() });
    let applied = match missing.len() == STEPS.len() {
        true => Vec::new(),
        false => applied_migrations(connection).map_err(|error| SqliteConnectError::from_sqlite(path, error))?,
    };
    Ok(SchemaState { applied, known: known.collect() })
}

fn applied_migrations(connection: &Connection) -> rusqlite::Result<Vec<Migration>> {
    query_rows(connection, include_str!("sql/applied_migrations.sql"), [], |row| {
        Ok(Migration { version: row.get(0)?, name: row.get(1)?, kind: MigrationKind::parse(&row.get::<_, String>(2)?) })
    })
}

fn run_step(transaction: &Transaction<'_>, step: &MigrationStep) -> rusqlite::Result<()> {
    transaction.execute_batch(step.sql())?;
    let record = include_str!("sql/record_migration.sql");
    transaction.execute(record, (step.version(), step.name(), step.kind().as_str()))?;
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

/// Returns the steps that the database does not have; fails if a release with these steps cannot work with it.
fn missing_steps(
    connection: &Connection,
    path: &Path,
    steps: &[MigrationStep],
) -> Result<Vec<MigrationStep>, SqliteConnectError> {
    let fault = |error| SqliteConnectError::from_sqlite(path, error);
    let sql = include_str!("sql/migration_columns.sql");
    let columns: Vec<String> =
        query_rows::<_, rusqlite::Error>(connection, sql, [], |row| row.get(0)).map_err(fault)?;
    if columns.is_empty() {
        return Ok(steps.to_vec());
    }
    let has = |name: &str| columns.iter().any(|column| column == name);
    if !has("kind") {
        let found = match has("version") && has("name") {
            true => describe_newest(connection).map_err(fault)?,
            false => format!("the columns of its table `eventbus_migrations` are {}", columns.join(", ")),
        };
        return Err(SqliteConnectError::OldLayout { path: path.to_owned(), found });
    }
    let sql = include_str!("sql/applied_migrations.sql");
    let read = |row: &rusqlite::Row<'_>| rusqlite::Result::Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let applied: Vec<(i64, String, String)> = query_rows(connection, sql, [], read).map_err(fault)?;
    let known = steps.last().map_or(0, MigrationStep::version);
    let is_breaking = |kind: &str| MigrationKind::parse(kind) == MigrationKind::Breaking;
    let unknown = applied.iter().find(|(version, _, kind)| *version > known.into() && is_breaking(kind));
    if let Some((breaking, name, _)) = unknown {
        let (path, name) = (path.to_owned(), name.clone());
        return Err(SqliteConnectError::SchemaTooNew { path, breaking: *breaking, name, known });
    }
    let has = |step: &MigrationStep| applied.iter().any(|(version, ..)| *version == i64::from(step.version()));
    Ok(steps.iter().filter(|step| !has(step)).copied().collect())
}

fn describe_newest(connection: &Connection) -> rusqlite::Result<String> {
    let found = connection.query_row(include_str!("sql/newest_migration.sql"), [], |row| row.get(0)).optional()?;
    Ok(found.unwrap_or_else(|| "its table `eventbus_migrations` is empty".into()))
}

#[cfg(test)]
mod tests;
