//! A PostgreSQL database to examine.

use std::time::Duration;

use eventbus::support::is_this_machine;
use eventstore_postgres::sqlx::{self, Connection as _, PgConnection, PgPool};

use super::{config::DoctorConfig, outcome::CheckError, postgres_session::PgSession, statement::Database as _};

/// A PostgreSQL database, and the schema of the store in it.
#[derive(Debug, Clone)]
pub(crate) struct PostgresTarget {
    pool: PgPool,
    schema: String,
}

impl PostgresTarget {
    pub(crate) const fn new(pool: PgPool, schema: String) -> Self {
        Self { pool, schema }
    }

    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }

    pub(crate) const fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Returns `true` if the server runs on this machine.
    pub(crate) fn is_local(&self) -> bool {
        let options = self.pool.connect_options();
        let host = options.get_host();
        options.get_socket().is_some() || host.starts_with('/') || is_this_machine(host)
    }

    /// Fails at once if nothing listens at the address. The pool would try to connect until its timeout.
    pub(crate) async fn connect_once(&self) -> Result<(), CheckError> {
        match PgConnection::connect_with(&self.pool.connect_options()).await {
            Err(error @ sqlx::Error::Io(_)) => Err(error.into()),
            Ok(connection) => Ok(connection.close().await?),
            // the pool may have a connection, though the server grants no further one
            Err(_) => Ok(()),
        }
    }

    /// Begins a read-only transaction with the usual time limit.
    pub(crate) async fn session(&self, config: &DoctorConfig) -> Result<PgSession, CheckError> {
        self.session_within(config.statement_timeout).await
    }

    /// Begins a read-only transaction with a time limit for each of its statements.
    pub(crate) async fn session_within(&self, limit: Duration) -> Result<PgSession, CheckError> {
        PgSession::begin(&self.pool, &self.schema, limit).await
    }

    /// Returns `true` if the schema has a table of events.
    pub(crate) async fn has_store(&self, config: &DoctorConfig) -> Result<bool, CheckError> {
        let mut session = self.session(config).await?;
        let found = "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = {schema_text} AND c.relname = 'events'";
        Ok(!session.query(found, config).await?.is_empty())
    }
}
