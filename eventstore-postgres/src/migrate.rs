//! Creates and upgrades the tables.
//!
//! Invariant: all migrations run in one transaction that begins with the lock, so that processes which start together
//! migrate one after the other; a released migration is never edited, a change is a new one.

use std::fmt::Write;

use eventbus::BoxError;
use sqlx::{Row as _, postgres::PgRow};

use crate::{error::PgConnectError, schema::Schema, setup_session::SetupSession};

/// Name and text of each migration of this release, oldest first; the first has version 1.
const MIGRATIONS: [(&str, &str); NEWEST_VERSION as usize] =
    [("initial", include_str!("../migrations/0001_initial.sql"))];

/// The migration that this release needs.
const NEWEST_VERSION: u32 = 1;

/// Its two-number key never meets the locks of the feed, which have one-number keys.
const MIGRATION_LOCK: &str = "SELECT pg_advisory_xact_lock(1702260324, {namespace})";
const CREATE_SCHEMA: &str = "CREATE SCHEMA IF NOT EXISTS {schema}";
const CREATE_TABLE: &str = include_str!("sql/migrations_table.sql");

fn record_sql(version: u32, name: &str) -> String {
    format!("INSERT INTO {{schema}}.migrations (version, name) VALUES ({version}, '{name}') ON CONFLICT DO NOTHING")
}

/// Returns the statements of [`run`] as one text, which may run again.
pub(crate) fn script(schema: &Schema) -> String {
    let mut script = format!("BEGIN;\n\n{MIGRATION_LOCK};\n{CREATE_SCHEMA};\n{};\n", CREATE_TABLE.trim());
    for (version, (name, sql)) in (1..).zip(MIGRATIONS) {
        // writing to a string cannot fail
        let _ = write!(script, "\n-- Migration {version}: {name}\n\n{sql}\n{};\n", record_sql(version, name));
    }
    script.push_str("\nCOMMIT;\n");
    schema.fill_placeholders(&script)
}

/// Runs the migrations that the database does not have.
pub(crate) async fn run(session: &mut SetupSession, schema: &Schema) -> Result<(), PgConnectError> {
    if find_applied_version(session, schema).await? == NEWEST_VERSION {
        return Ok(()); // the usual case takes no lock and needs no right to create
    }
    let statement = |sql: &str| schema.statement(sql);
    session.run(statement("BEGIN")).await?;
    session.run(statement(MIGRATION_LOCK)).await?;
    // a role without CREATE on the database fails even with IF NOT EXISTS
    if !has(session, schema, "schema_exists").await? {
        session.run(statement(CREATE_SCHEMA)).await?;
    }
    session.run(statement(CREATE_TABLE)).await?;
    let found = find_applied_version(session, schema).await?;
    for (version, (name, sql)) in (1..).zip(MIGRATIONS).filter(|(version, _)| *version > found) {
        session.run(statement(sql)).await?;
        session.run(statement(&record_sql(version, name))).await?;
        tracing::info!(schema = schema.name(), migration = name, "migrated");
    }
    session.run(statement("COMMIT")).await
}

/// Checks that the tables are those of this release.
pub(crate) async fn check(session: &mut SetupSession, schema: &Schema) -> Result<(), PgConnectError> {
    let found = find_applied_version(session, schema).await?;
    if found < NEWEST_VERSION {
        return Err(PgConnectError::NotMigrated { schema: schema.name().into(), found, needed: NEWEST_VERSION });
    }
    Ok(())
}

/// Returns a column of `tables_present.sql`.
async fn has(session: &mut SetupSession, schema: &Schema, column: &str) -> Result<bool, PgConnectError> {
    let query = sqlx::query(include_str!("sql/tables_present.sql")).bind(schema.name());
    session.fetch_one(query, |row| row.try_get(column)).await
}

/// Returns the newest migration of the database; 0 is none.
async fn find_applied_version(session: &mut SetupSession, schema: &Schema) -> Result<u32, PgConnectError> {
    if !has(session, schema, "migrations_exist").await? {
        return Ok(0);
    }
    let query = sqlx::query(schema.statement(include_str!("sql/migrated.sql")));
    let version = |row: &PgRow| Ok::<_, BoxError>(u32::try_from(row.try_get::<Option<i32>, _>(0)?.unwrap_or(0))?);
    let found = session.fetch_one(query, version).await?;
    if found > NEWEST_VERSION {
        return Err(PgConnectError::SchemaTooNew { schema: schema.name().into(), found, known: NEWEST_VERSION });
    }
    Ok(found)
}
