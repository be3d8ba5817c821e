//! The connections of a store, and the time limits on everything that goes through them.
//!
//! Keep: no statement without a time limit, and no connection back to the pool in the middle of one.

use std::time::Duration;

use sqlx::{
    Connection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow},
};
use tokio::time::timeout;

use crate::{
    config::PgEventStoreConfig,
    fault::{Fault, NoAnswerWithin},
};

/// A statement with its parameters.
pub(crate) type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// A connection that was idle this long is asked whether it still lives; one used just now is taken as it is.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct Connections {
    pool: PgPool,
    answer_timeout: Duration,
}

impl Connections {
    /// Prepares the connections; each is opened when it is first needed.
    pub(crate) fn new(config: &PgEventStoreConfig, options: PgConnectOptions) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(config.max_connections)
            .acquire_timeout(config.connect_timeout)
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for > TRUSTED_IDLE {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .after_connect(|connection, _| Box::pin(refuse_standby(connection)))
            .connect_lazy_with(options);
        Self { pool, answer_timeout: config.answer_timeout() }
    }

    /// Runs one statement and reads its answer to the end, which is when it is committed.
    pub(crate) async fn fetch_all(&self, query: Query<'_>) -> Result<Vec<PgRow>, Fault> {
        let connection = self.pool.acquire().await;
        let mut lease =
            Lease { connection: connection.map_err(|error| Fault::NotSent(error.into()))?, is_midway: true };
        let answer = timeout(self.answer_timeout, query.fetch_all(&mut *lease.connection)).await;
        let answer = match answer {
            Ok(answer) => answer.map_err(Fault::of_statement),
            Err(_) => Err(Fault::NoAnswer(NoAnswerWithin(self.answer_timeout).into())),
        };
        lease.is_midway = matches!(answer, Err(Fault::NoAnswer(_)));
        answer
    }

    /// Closes all connections once their statements are done.
    pub(crate) async fn close(&self) {
        self.pool.close().await;
    }
}

/// A connection in use; given up in the middle of a statement, also by a caller who stops waiting, it is closed.
struct Lease {
    connection: PoolConnection<Postgres>,
    is_midway: bool,
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_midway {
            self.connection.close_on_drop();
        }
    }
}

/// After a failover the same address may be a standby, where the locks behind the feed cannot be seen.
async fn refuse_standby(connection: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
    if sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(connection).await? {
        return Err(sqlx::Error::Protocol("the server is a standby".into()));
    }
    Ok(())
}
