//! Creates and upgrades the tables.
//!
//! Invariant: one process at a time migrates, see [`MigrationLock`]. A step inside a transaction commits with its
//! record, and writes the record first: of two processes that run it all the same, the second fails at the key.
//!
//! Real time, not the given clock: locks of other sessions.

use std::{fmt::Write, time::Duration};

use eventbus::{
    BoxError,
    support::{Migration, MigrationKind, SchemaState},
};
use sqlx::{Row as _, SqlStr, postgres::PgRow};
use tokio::time::{Instant, sleep};

use crate::{
    config::{PgEventStoreConfig, milliseconds},
    connector::Connector,
    error::PgConnectError,
    migration_lock::{MIGRATION_LOCK_CLASS, MigrationLock, POLL_PAUSE, find_blocker, try_lock},
    migration_step::{MigrationBody, MigrationStep},
    schema::Schema,
    setup_session::{LockTimeout, SetupSession},
};

/// The steps of this release, oldest first. The first is breaking: no release works without it.
pub(crate) const STEPS: &[MigrationStep] =
    &[MigrationStep::inside(1, "initial", MigrationKind::Breaking, include_str!("../migrations/0001_initial.sql"))];

/// The number of the newest step.
pub(crate) const NEWEST: u32 = STEPS[STEPS.len() - 1].version();

const CREATE_SCHEMA: &str = "CREATE SCHEMA IF NOT EXISTS {schema}";
const CREATE_TABLE: &str = include_str!("sql/migrations_table.sql");
/// A step that waits for a table also blocks the writers behind it, so it soon gives up and tries again.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '500ms'";
const LOCK_PAUSE: Duration = Duration::from_secs(1);
/// The time limit of one statement outside of a transaction: an index of a large table takes long.
const OUTSIDE_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);

fn record_sql(step: &MigrationStep) -> String {
    let (version, name, kind) = (step.version(), step.name(), step.kind().as_str());
    format!("INSERT INTO {{schema}}.migrations (version, name, kind) VALUES ({version}, '{name}', '{kind}')")
}

/// Returns the statement that ends a script if a different session migrates; waiting for that session could deadlock,
/// see [`MigrationLock`].
fn lock_guard(lock: &str) -> String {
    format!(
        "DO $$\nBEGIN\n    IF NOT pg_try_advisory_{lock}({MIGRATION_LOCK_CLASS}, {{namespace}}) THEN\n        \
         RAISE 'a different session migrates this schema: run this again when it has ended';\n    END IF;\nEND\n$$;\n"
    )
}

/// Returns the statements of [`Migrator::run`] as one text, which may run again.
///
/// Each record needs the record before, so that a client that goes on after an error skips no step.
pub(crate) fn script(schema: &Schema, steps: &[MigrationStep]) -> String {
    let mut script = String::from(include_str!("sql/script_header.sql"));
    // writing to a string cannot fail
    let _ =
        write!(script, "\nBEGIN;\n{}{CREATE_SCHEMA};\n{};\nCOMMIT;\n", lock_guard("xact_lock"), CREATE_TABLE.trim());
    for step in steps {
        let (version, name, kind) = (step.version(), step.name(), step.kind().as_str());
        let has_former = match version {
            1 => "true".into(),
            _ => format!("EXISTS (SELECT FROM {{schema}}.migrations WHERE version = {})", version - 1),
        };
        let record = |is_done: &str| {
            format!(
                "INSERT INTO {{schema}}.migrations (version, name, kind)\nSELECT {version}, '{name}', '{kind}'\n\
                 WHERE {has_former} AND ({is_done})\nON CONFLICT DO NOTHING;"
            )
        };
        let _ = match step.body() {
            MigrationBody::Inside(sql) => write!(
                script,
                "\n-- Migration {version}: {name} ({kind})\n\nBEGIN;\n{LOCK_TIMEOUT};\n{}{}\n{}\nCOMMIT;\n",
                lock_guard("xact_lock"),
                sql.trim(),
                record("true")
            ),
            MigrationBody::Outside { statements, is_done } => write!(
                script,
                "\n-- Migration {version}: {name} ({kind}), outside of a transaction\n\n{}{};\n{}\n\
                 SELECT pg_advisory_unlock({MIGRATION_LOCK_CLASS}, {{namespace}});\n",
                lock_guard("lock"),
                statements.join(";\n"),
                record(is_done)
            ),
        };
    }
    schema.fill_placeholders(&script)
}

/// The tables of the schema, and the steps that the database has recorded.
struct FoundTables {
    has_schema: bool,
    has_migrations: bool,
    /// Version, name and kind of each step in the database, oldest first.
    applied: Vec<(u32, String, MigrationKind)>,
}

/// Creates and upgrades the tables of one schema, by the steps of one release.
pub(crate) struct Migrator<'a> {
    config: &'a PgEventStoreConfig,
    connector: &'a Connector,
    schema: &'a Schema,
    steps: &'a [MigrationStep],
}

impl<'a> Migrator<'a> {
    pub(crate) const fn new(
        config: &'a PgEventStoreConfig,
        connector: &'a Connector,
        schema: &'a Schema,
        steps: &'a [MigrationStep],
    ) -> Self {
        Self { config, connector, schema, steps }
    }

    /// Runs the steps that the database does not have.
    pub(crate) async fn run(&self, session: &mut SetupSession) -> Result<(), PgConnectError> {
        let tables = self.find_tables(session).await?;
        if self.missing(&tables).next().is_none() {
            return Ok(()); // the usual case takes no lock and needs no right to create
        }
        if self.connector.is_shared() {
            return self.run_missing_on_one_connection(session, &tables).await;
        }
        let mut lock = MigrationLock::acquire(self.config, self.connector, self.schema).await?;
        let migrated = lock.hold(self.schema, self.run_missing(session)).await;
        lock.release().await;
        migrated
    }

    /// Checks that the tables are those of this release, or of a later one that this release can work with.
    pub(crate) async fn check(&self, session: &mut SetupSession) -> Result<(), PgConnectError> {
        let tables = self.find_tables(session).await?;
        match self.missing(&tables).next() {
            Some(_) => Err(self.not_migrated(&tables)),
            None => Ok(()),
        }
    }

    /// Returns the steps that the database has and those of this release; fails if this release cannot work with them.
    pub(crate) async fn state(&self, session: &mut SetupSession) -> Result<SchemaState, PgConnectError> {
        let tables = self.find_tables(session).await?;
        let applied = tables.applied.into_iter().map(|(version, name, kind)| Migration { version, name, kind });
        let known = self.steps.iter().map(|step| Migration {
            version: step.version(),
            name: step.name().to_owned(),
            kind: step.kind(),
        });
        Ok(SchemaState { applied: applied.collect(), known: known.collect() })
    }

    fn not_migrated(&self, tables: &FoundTables) -> PgConnectError {
        let found = tables.applied.last().map_or(0, |(version, ..)| *version);
        PgConnectError::NotMigrated { schema: self.schema.name().into(), found, needed: self.known() }
    }

    /// Returns the newest step of this release.
    fn known(&self) -> u32 {
        self.steps.last().map_or(0, MigrationStep::version)
    }

    fn missing<'s>(&'s self, tables: &'s FoundTables) -> impl Iterator<Item = &'s MigrationStep> {
        let has = |version| tables.applied.iter().any(|(applied, ..)| *applied == version);
        self.steps.iter().filter(move |step| !has(step.version()))
    }

    async fn run_missing(&self, session: &mut SetupSession) -> Result<(), PgConnectError> {
        // read again under the lock: a different process may have been first
        let mut tables = self.find_tables(session).await?;
        let missing: Vec<_> = self.missing(&tables).copied().collect();
        for step in missing {
            let ran = match step.body() {
                MigrationBody::Inside(sql) => self.run_inside(session, Some(&tables), &step, sql).await,
                MigrationBody::Outside { statements, is_done } => self.run_outside(&step, statements, is_done).await,
            };
            ran.map_err(|error| self.failed(&step, error))?;
            (tables.has_schema, tables.has_migrations) = (true, true);
            tracing::info!(schema = self.schema.name(), migration = step.name(), "migrated");
        }
        Ok(())
    }

    /// Runs the missing steps on the session's connection alone: the application's pool may have no second one.
    ///
    /// So each step takes the lock in its own transaction. A step outside of a transaction has none: a lock of the
    /// session could stay with a connection of the pool or of a pooler.
    async fn run_missing_on_one_connection(
        &self,
        session: &mut SetupSession,
        tables: &FoundTables,
    ) -> Result<(), PgConnectError> {
        for step in self.missing(tables) {
            let MigrationBody::Inside(sql) = step.body() else {
                return Err(self.not_migrated(&self.find_tables(session).await?));
            };
            self.run_inside(session, None, step, sql).await.map_err(|error| self.failed(step, error))?;
            tracing::info!(schema = self.schema.name(), migration = step.name(), "migrated");
        }
        Ok(())
    }

    /// Runs a step in a transaction; tries again while sessions hold locks on the tables, or the lock of the
    /// migrations. Without `tables`, the lock is not held yet.
    async fn run_inside(
        &self,
        session: &mut SetupSession,
        tables: Option<&FoundTables>,
        step: &MigrationStep,
        sql: &str,
    ) -> Result<(), PgConnectError> {
        let started = Instant::now();
        loop {
            let (pause, blocker) = match self.try_inside(session, tables, step, sql).await {
                Ok(true) => return Ok(()),
                Ok(false) => (POLL_PAUSE, include_str!("sql/migration_holder.sql")),
                Err(PgConnectError::Refused { source, .. }) if source.is::<LockTimeout>() => {
                    let (schema, migration) = (self.schema.name(), step.name());
                    tracing::info!(schema, migration, error = source, "a table is locked");
                    (LOCK_PAUSE, include_str!("sql/table_holder.sql"))
                }
                Err(error) => return Err(error),
            };
            let waited = started.elapsed();
            session.run(self.schema.statement("ROLLBACK")).await?;
            if waited >= self.config.migration_timeout {
                let holder = find_blocker(session, self.schema, blocker).await?;
                return Err(PgConnectError::MigrationBlocked { schema: self.schema.name().into(), holder, waited });
            }
            sleep(pause.min(self.config.migration_timeout - waited)).await;
        }
    }

    /// Returns `false`, within the transaction, if a different session holds the lock of the migrations.
    async fn try_inside(
        &self,
        session: &mut SetupSession,
        tables: Option<&FoundTables>,
        step: &MigrationStep,
        sql: &str,
    ) -> Result<bool, PgConnectError> {
        let statement = |sql: &str| self.schema.statement(sql);
        session.run(statement("BEGIN ISOLATION LEVEL READ COMMITTED")).await?;
        session.run(statement(LOCK_TIMEOUT)).await?;
        let locked;
        let tables = match tables {
            Some(tables) => tables,
            None => {
                session.run(self.statement_timeout()).await?;
                if !try_lock(session, self.schema).await? {
                    return Ok(false);
                }
                // read again under the lock: a different process may have been first
                locked = self.find_tables(session).await?;
                if self.missing(&locked).all(|missing| missing.version() != step.version()) {
                    return session.run(statement("ROLLBACK")).await.map(|()| true);
                }
                &locked
            }
        };
        // a role without CREATE on the database fails even with IF NOT EXISTS
        if !tables.has_schema {
            session.run(statement(CREATE_SCHEMA)).await?;
        }
        if !tables.has_migrations {
            session.run(statement(CREATE_TABLE)).await?;
        }
        session.run(statement(&record_sql(step))).await?;
        session.run(statement(sql)).await?;
        session.run(statement("COMMIT")).await.map(|()| true)
    }

    /// Returns the limit that connections of the store's own have from the start.
    fn statement_timeout(&self) -> SqlStr {
        let limit = milliseconds(self.config.statement_timeout);
        self.schema.statement(&format!(
            "SET LOCAL statement_timeout = {limit}; SET LOCAL idle_in_transaction_session_timeout = {limit}"
        ))
    }

    /// Runs a step outside of a transaction, on a connection without the usual time limit of statements; a step that
    /// was done, but not recorded, is only recorded.
    async fn run_outside(
        &self,
        step: &MigrationStep,
        statements: &[&str],
        is_done: &str,
    ) -> Result<(), PgConnectError> {
        let mut session = SetupSession::open_with_limit(self.config, self.connector, OUTSIDE_TIMEOUT).await?;
        if !self.is_done(&mut session, is_done).await? {
            for statement in statements {
                session.run(self.schema.statement(statement)).await?;
            }
            if !self.is_done(&mut session, is_done).await? {
                return Err(session.refused_error("its statements ran, and did not have their effect"));
            }
        }
        session.run(self.schema.statement(&record_sql(step))).await?;
        session.close().await;
        Ok(())
    }

    async fn is_done(&self, session: &mut SetupSession, is_done: &str) -> Result<bool, PgConnectError> {
        let query = sqlx::query(self.schema.statement(&format!("SELECT {is_done}")));
        session.fetch_one(query, |row| row.try_get(0)).await
    }

    fn failed(&self, step: &MigrationStep, error: PgConnectError) -> PgConnectError {
        match error {
            PgConnectError::Refused { source, .. } => PgConnectError::MigrationFailed {
                schema: self.schema.name().into(),
                version: step.version(),
                name: step.name(),
                source,
            },
            other => other,
        }
    }

    /// Reads which steps the database has; fails if this release cannot work with it.
    async fn find_tables(&self, session: &mut SetupSession) -> Result<FoundTables, PgConnectError> {
        let query = sqlx::query(include_str!("sql/migration_columns.sql")).bind(self.schema.name());
        let (has_schema, columns) = session
            .fetch_one(query, |row| Ok::<_, sqlx::Error>((row.try_get(0)?, row.try_get::<Option<Vec<String>>, _>(1)?)))
            .await?;
        let Some(columns) = columns else {
            return Ok(FoundTables { has_schema, has_migrations: false, applied: Vec::new() });
        };
        let has = |name: &str| columns.iter().any(|column| column == name);
        if !has("kind") {
            let found = match has("version") && has("name") {
                true => self.describe_newest(session).await?,
                false => format!("the columns of its table `migrations` are {}", columns.join(", ")),
            };
            return Err(PgConnectError::OldLayout { schema: self.schema.name().into(), found });
        }
        let query = sqlx::query(self.schema.statement(include_str!("sql/applied_migrations.sql")));
        let applied = session.fetch_all(query, decode_applied).await?;
        let unknown =
            applied.iter().find(|(version, _, kind)| *version > self.known() && *kind == MigrationKind::Breaking);
        if let Some((breaking, name, _)) = unknown {
            return Err(PgConnectError::SchemaTooNew {
                schema: self.schema.name().into(),
                breaking: *breaking,
                name: name.clone(),
                known: self.known(),
            });
        }
        Ok(FoundTables { has_schema, has_migrations: true, applied })
    }

    async fn describe_newest(&self, session: &mut SetupSession) -> Result<String, PgConnectError> {
        let query = sqlx::query(self.schema.statement(include_str!("sql/newest_migration.sql")));
        let found = session.fetch_optional(query, |row| row.try_get(0)).await?;
        Ok(found.unwrap_or_else(|| "its table `migrations` is empty".into()))
    }
}

fn decode_applied(row: &PgRow) -> Result<(u32, String, MigrationKind), BoxError> {
    let version = u32::try_from(row.try_get::<i32, _>(0)?)?;
    Ok((version, row.try_get(1)?, MigrationKind::parse(row.try_get(2)?)))
}

#[cfg(test)]
mod tests;
