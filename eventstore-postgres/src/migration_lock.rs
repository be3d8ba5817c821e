//! The lock of the process that migrates.
//!
//! Invariant: no session waits for the lock in a statement, and the holder's transaction has no snapshot between its
//! statements. `CREATE INDEX CONCURRENTLY` waits for all transactions with an older snapshot: a session that waited for
//! the lock would wait for the holder, and the holder for that session, without an end, since the server does not see
//! this deadlock.
//!
//! Real time, not the given clock: locks of other processes.

use std::{pin::pin, time::Duration};

use sqlx::Row as _;
use tokio::time::{Instant, sleep};

use crate::{
    config::PgEventStoreConfig, connector::Connector, error::PgConnectError, schema::Schema,
    setup_session::SetupSession,
};

/// The first number of the lock's key, the second is that of the schema: a two-number key never meets the locks of the
/// feed, which have one-number keys.
pub(crate) const MIGRATION_LOCK_CLASS: u32 = 1_702_260_324;
pub(crate) const POLL_PAUSE: Duration = Duration::from_millis(100);
/// Well below the time after which the server ends the transaction of a holder that is gone.
const PING_PAUSE: Duration = if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(10) };
/// A utility statement: it takes no snapshot.
const KEEP_ALIVE: &str = "SET LOCAL idle_in_transaction_session_timeout = '60s'";

/// The lock of the migrations of one schema, held by a transaction on a connection of its own.
///
/// The session does not hold it: a pooler that shares connections between transactions would pass the lock on with the
/// connection.
pub(crate) struct MigrationLock {
    session: SetupSession,
}

impl MigrationLock {
    /// Waits for the lock until the `migration_timeout`.
    pub(crate) async fn acquire(
        config: &PgEventStoreConfig,
        connector: &Connector,
        schema: &Schema,
    ) -> Result<Self, PgConnectError> {
        let mut session = SetupSession::open(config, connector).await?;
        let started = Instant::now();
        loop {
            session.run(schema.statement("BEGIN ISOLATION LEVEL READ COMMITTED")).await?;
            if try_lock(&mut session, schema).await? {
                session.run(schema.statement(KEEP_ALIVE)).await?;
                return Ok(Self { session });
            }
            session.run(schema.statement("ROLLBACK")).await?;
            let waited = started.elapsed();
            if waited >= config.migration_timeout {
                let holder = find_blocker(&mut session, schema, include_str!("sql/migration_holder.sql")).await?;
                return Err(PgConnectError::MigrationBlocked { schema: schema.name().into(), holder, waited });
            }
            sleep(POLL_PAUSE.min(config.migration_timeout - waited)).await;
        }
    }

    /// Runs `work` under the lock; fails if the lock is lost meanwhile.
    pub(crate) async fn hold<T>(
        &mut self,
        schema: &Schema,
        work: impl Future<Output = Result<T, PgConnectError>>,
    ) -> Result<T, PgConnectError> {
        let mut work = pin!(work);
        loop {
            // the pings prove that the lock is still held, and keep the server from ending its transaction
            tokio::select! {
                done = &mut work => return done,
                () = sleep(PING_PAUSE) => self.session.run(schema.statement(KEEP_ALIVE)).await?,
            }
        }
    }

    /// Releases the lock: the end of the connection ends its transaction.
    pub(crate) async fn release(self) {
        self.session.close().await;
    }
}

/// Takes the lock for the session's transaction; returns `false` if a different session has it.
pub(crate) async fn try_lock(session: &mut SetupSession, schema: &Schema) -> Result<bool, PgConnectError> {
    let attempt = sqlx::query(schema.statement(include_str!("sql/try_migration_lock.sql")));
    session.fetch_one(attempt, |row| row.try_get(0)).await
}

/// Describes the session that holds a lock, which a text of `sql/` finds.
pub(crate) async fn find_blocker(
    session: &mut SetupSession,
    schema: &Schema,
    sql: &'static str,
) -> Result<String, PgConnectError> {
    let query = sqlx::query(schema.statement(sql));
    let describe = |row: &sqlx::postgres::PgRow| {
        let (pid, application, seconds): (i32, String, f64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok::<_, sqlx::Error>(format!("backend {pid} (`{application}`, in a transaction for {seconds:.0} s)"))
    };
    let found = session.fetch_optional(query, describe).await?;
    Ok(found.unwrap_or_else(|| "a session that has just ended".into()))
}
