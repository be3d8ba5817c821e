//! Creates and upgrades the tables.
//!
//! Invariant: all migrations run in one transaction that begins with the lock, so that processes which start together
//! migrate one after the other; a released migration is never edited, a change is a new one.

use std::fmt::Write;

use crate::{error::PgConnectError, schema::Schema, setup_session::SetupSession};

struct Migration {
    version: u32,
    name: &'static str,
    sql: &'static str,
}

/// All migrations of this release, oldest first.
const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "events", sql: include_str!("../migrations/0001_events.sql") },
    Migration { version: 2, name: "delivery", sql: include_str!("../migrations/0002_delivery.sql") },
    Migration { version: 3, name: "lease renewals", sql: include_str!("../migrations/0003_lease_renewals.sql") },
    Migration { version: 4, name: "notes", sql: include_str!("../migrations/0004_notes.sql") },
    Migration {
        version: 5,
        name: "unfinished_deliveries",
        sql: include_str!("../migrations/0005_unfinished_deliveries.sql"),
    },
    Migration { version: 6, name: "event types", sql: include_str!("../migrations/0006_event_types.sql") },
];

/// The migration that this release needs.
const NEWEST_VERSION: u32 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// Its two-number key never meets the locks of the feed, which have one-number keys.
const MIGRATION_LOCK: &str = "SELECT pg_advisory_xact_lock(1702260324, {namespace})";
const CREATE_SCHEMA: &str = "CREATE SCHEMA IF NOT EXISTS {schema}";
const CREATE_TABLE: &str = include_str!("sql/migrations_table.sql");

impl Migration {
    fn record_sql(&self) -> String {
        format!(
            "INSERT INTO {{schema}}.migrations (version, name) VALUES ({}, '{}') ON CONFLICT DO NOTHING",
            self.version, self.name
        )
    }
}

/// Returns the statements of [`run`] as one text, which may run again.
pub(crate) fn script(schema: &Schema) -> String {
    let mut script = format!("BEGIN;\n\n{MIGRATION_LOCK};\n{CREATE_SCHEMA};\n{};\n", CREATE_TABLE.trim());
    for migration in MIGRATIONS {
        let Migration { version, name, sql } = migration;
        // writing to a string cannot fail
        let _ = write!(script, "\n-- Migration {version}: {name}\n\n{sql}\n{};\n", migration.record_sql());
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
    if !find_existing(session, schema).await?.schema {
        session.run(statement(CREATE_SCHEMA)).await?;
    }
    session.run(statement(CREATE_TABLE)).await?;
    let found = find_applied_version(session, schema).await?;
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > found) {
        session.run(statement(migration.sql)).await?;
        session.run(statement(&migration.record_sql())).await?;
        tracing::info!(schema = schema.name(), migration = migration.name, "migrated");
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

struct ExistingObjects {
    schema: bool,
    migrations: bool,
}

async fn find_existing(session: &mut SetupSession, schema: &Schema) -> Result<ExistingObjects, PgConnectError> {
    let query = sqlx::query(include_str!("sql/tables_present.sql")).bind(schema.name());
    let row = session.fetch_one(query).await?;
    let flag = |name| sqlx::Row::try_get(&row, name).map_err(|error| session.unreadable_answer(error));
    Ok(ExistingObjects { schema: flag("schema_exists")?, migrations: flag("migrations_exist")? })
}

/// Returns the newest migration of the database; 0 is none.
async fn find_applied_version(session: &mut SetupSession, schema: &Schema) -> Result<u32, PgConnectError> {
    if !find_existing(session, schema).await?.migrations {
        return Ok(0);
    }
    let query = sqlx::query(schema.statement(include_str!("sql/migrated.sql")));
    let row = session.fetch_one(query).await?;
    let version: Option<i32> = sqlx::Row::try_get(&row, 0).map_err(|error| session.unreadable_answer(error))?;
    let found = u32::try_from(version.unwrap_or(0)).map_err(|error| session.unreadable_answer(error))?;
    if found > NEWEST_VERSION {
        return Err(PgConnectError::SchemaTooNew { schema: schema.name().into(), found, known: NEWEST_VERSION });
    }
    Ok(found)
}
