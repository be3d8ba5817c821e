//! The connections of a store's statements.
//!
//! The driver's pool sends a ping over each connection that it takes back, which makes a small statement a tenth more
//! expensive. So a connection of the store's own pool stays out of the driver's pool between statements, for a time.
//!
//! Invariant: a connection that is dropped in the middle of a statement is closed.
//!
//! Invariant: no statement waits while a connection is unused: at most as many are out of the driver's pool as it may
//! open, and a statement that finds an unused one takes it.
//!
//! Real time, not the given clock: connections to PostgreSQL.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use sqlx::{PgConnection, PgPool, Postgres, pool::PoolConnection};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout},
};

use crate::last_fault::LastFault;

/// A connection that was idle for longer than this is pinged before it is used.
const PING_AFTER_IDLE: Duration = Duration::from_secs(1);

/// The time limit of the answer to a ping over a connection without a statement; the connection is closed after it.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// The longest time that a connection stays out of the driver's pool, which closes connections that reach their maximal
/// age.
const OUT_OF_POOL_MAX: Duration = Duration::from_secs(10);

/// Returns `true` if a connection that was idle for this time is pinged before it is used: it was idle for long, or when a
/// statement on a different one got no answer, as the server may have closed both.
pub(crate) fn is_doubtful(idle_for: Duration, last_unanswered: &LastFault) -> bool {
    idle_for > PING_AFTER_IDLE || last_unanswered.is_within(idle_for)
}

/// A pool of connections for statements.
#[derive(Debug)]
pub(crate) struct StatementPool {
    pool: PgPool,
    /// One permit for each connection in use.
    permits: Arc<Semaphore>,
    /// Unused connections, the last used one last. Locked to take or keep one, never while it runs a statement.
    unused: Mutex<Vec<OutOfPool>>,
    connect_timeout: Duration,
    /// A statement got no answer.
    last_unanswered: Arc<LastFault>,
}

/// A connection that is not in the driver's pool.
#[derive(Debug)]
struct OutOfPool {
    connection: PoolConnection<Postgres>,
    taken_at: Instant,
    idle_since: Instant,
}

impl StatementPool {
    pub(crate) fn new(pool: PgPool, connect_timeout: Duration, last_unanswered: Arc<LastFault>) -> Self {
        let permits = Arc::new(Semaphore::new(pool.options().get_max_connections() as usize));
        Self { pool, permits, unused: Mutex::default(), connect_timeout, last_unanswered }
    }

    /// Takes a connection; waits for one as long as for a new one.
    pub(crate) async fn check_out(self: &Arc<Self>) -> Result<CheckedOutConnection, sqlx::Error> {
        let permits = || Arc::clone(&self.permits);
        let permit = match permits().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => match timeout(self.connect_timeout, permits().acquire_owned()).await {
                Ok(permit) => permit.map_err(|_| sqlx::Error::PoolClosed)?,
                Err(_) => return Err(sqlx::Error::PoolTimedOut),
            },
        };
        let unused = self.unused.lock().pop();
        // a doubtful one goes back to the driver's pool, which pings it
        let fresh = unused.filter(|unused| !is_doubtful(unused.idle_since.elapsed(), &self.last_unanswered));
        let (connection, taken_at) = match fresh {
            Some(OutOfPool { connection, taken_at, .. }) => (connection, taken_at),
            None => (self.pool.acquire().await?, Instant::now()),
        };
        let home = Home { pool: Arc::clone(self), taken_at, _permit: permit };
        Ok(CheckedOutConnection { connection: Some(connection), home: Some(home) })
    }

    /// Closes all connections once their statements have ended.
    pub(crate) async fn close(&self) {
        self.permits.close();
        self.unused.lock().clear();
        self.pool.close().await;
    }

    fn put_back(&self, connection: PoolConnection<Postgres>, taken_at: Instant) {
        let idle_since = Instant::now();
        let mut unused = self.unused.lock();
        let is_stale = |unused: &OutOfPool| idle_since - unused.idle_since > PING_AFTER_IDLE;
        let stale = unused.first().is_some_and(is_stale).then(|| unused.remove(0));
        if idle_since - taken_at <= OUT_OF_POOL_MAX && !self.permits.is_closed() {
            unused.push(OutOfPool { connection, taken_at, idle_since });
        }
        drop(unused);
        drop(stale);
    }
}

impl Drop for StatementPool {
    fn drop(&mut self) {
        // detached: the driver's pool takes a connection back in a task, and the runtime may be gone
        self.unused.get_mut().drain(..).for_each(|unused| drop(unused.connection.detach()));
    }
}

/// A connection in use. Dropped in the middle of a statement, also by a caller that stops waiting, it is closed.
#[derive(Debug)]
pub(crate) struct CheckedOutConnection {
    /// `None` once it is returned.
    connection: Option<PoolConnection<Postgres>>,
    /// `None` for a connection of the application's pool.
    home: Option<Home>,
}

/// Where a connection goes back to.
#[derive(Debug)]
struct Home {
    pool: Arc<StatementPool>,
    taken_at: Instant,
    _permit: OwnedSemaphorePermit,
}

impl CheckedOutConnection {
    /// Takes a connection of the application's pool; dropped, it is closed.
    pub(crate) fn new(connection: PoolConnection<Postgres>) -> Self {
        Self { connection: Some(connection), home: None }
    }

    pub(crate) fn get(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("it is returned by value")
    }

    /// Notes that a statement got no answer: the other connections of the pool are pinged before they are used.
    pub(crate) fn suspect_others(&self) {
        if let Some(home) = &self.home {
            home.pool.last_unanswered.note();
        }
    }

    /// Returns the connection to its pool: no statement and no transaction is open on it.
    pub(crate) fn return_to_pool(mut self) {
        if let (Some(connection), Some(home)) = (self.connection.take(), self.home.take()) {
            home.pool.put_back(connection, home.taken_at);
        }
    }
}

impl Drop for CheckedOutConnection {
    fn drop(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.close_on_drop();
        }
    }
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection as _, postgres::PgPoolOptions};

    use super::*;

    fn pool(max_connections: u32) -> Arc<StatementPool> {
        let pool = PgPoolOptions::new().max_connections(max_connections).test_before_acquire(false);
        let pool = pool.connect_lazy(eventbus_test::postgres_url()).unwrap();
        Arc::new(StatementPool::new(pool, Duration::from_secs(60), Arc::default()))
    }

    async fn backend(connection: &mut CheckedOutConnection) -> i32 {
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(connection.get()).await.unwrap()
    }

    #[tokio::test]
    async fn statements_follow_each_other_on_a_connection_that_stays_out_of_the_drivers_pool() {
        let pool = pool(2);
        let mut first = pool.check_out().await.unwrap();
        let pid = backend(&mut first).await;
        first.return_to_pool();
        assert_eq!((pool.pool.size(), pool.pool.num_idle()), (1, 0));
        let mut second = pool.check_out().await.unwrap();
        assert_eq!(backend(&mut second).await, pid);
        // in the middle of a statement
        drop(second);
        assert_ne!(backend(&mut pool.check_out().await.unwrap()).await, pid);
    }

    #[tokio::test]
    async fn a_statement_waits_for_a_connection_and_gets_the_next_one() {
        let pool = pool(1);
        let first = pool.check_out().await.unwrap();
        let mut second = std::pin::pin!(pool.check_out());
        assert!(futures_util::poll!(&mut second).is_pending());
        first.return_to_pool();
        second.await.unwrap().return_to_pool();
    }

    #[tokio::test]
    async fn a_connection_that_was_idle_for_long_is_pinged() {
        let pool = pool(1);
        let mut first = pool.check_out().await.unwrap();
        let pid = backend(&mut first).await;
        first.return_to_pool();
        pool.unused.lock()[0].idle_since -= 2 * PING_AFTER_IDLE;
        let mut admin = PgConnection::connect(eventbus_test::postgres_url()).await.unwrap();
        let end = sqlx::query("SELECT pg_terminate_backend($1, 60000)").bind(pid);
        end.execute(&mut admin).await.unwrap();
        assert_ne!(backend(&mut pool.check_out().await.unwrap()).await, pid);
    }

    #[tokio::test]
    async fn a_closed_pool_has_no_connections_and_opens_none() {
        let pool = pool(2);
        let (used, unused) = (pool.check_out().await.unwrap(), pool.check_out().await.unwrap());
        unused.return_to_pool();
        let close = pool.close();
        tokio::join!(close, async { used.return_to_pool() });
        assert_eq!((pool.pool.size(), pool.unused.lock().len()), (0, 0));
        assert!(matches!(pool.check_out().await, Err(sqlx::Error::PoolClosed)));
    }

    #[test]
    fn a_pool_may_be_dropped_without_a_runtime() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let pool = runtime.block_on(async {
            let pool = pool(1);
            pool.check_out().await.unwrap().return_to_pool();
            pool
        });
        drop(runtime);
        drop(pool);
    }
}
