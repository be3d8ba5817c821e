//! The database of one test.

use std::{fmt, thread};

use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use crate::{
    error::{Error, refuse},
    name,
    server::Server,
    url,
};

/// The database of one test. Dropping this value drops the database, also if the test panics or connections are open.
///
/// If the test process is killed, the database stays: on a server that this crate started, until the server stops; on
/// the server of `DATABASE_URL`, until you drop it. Its name begins with `test_`.
///
/// Dropping the value panics if the database cannot be dropped, unless the test has panicked already.
///
/// # Examples
/// ```
/// let database = eventbus_test::postgres();
/// assert!(database.url().contains("/test_"));
/// ```
pub struct Postgres {
    name: String,
    url: String,
    /// The URL of the database from which this one is created and dropped.
    admin_url: String,
}

impl Postgres {
    pub(crate) fn create(admin_url: &str) -> Result<Self, Error> {
        let name = name::unique("test");
        let url = url::with_database(admin_url, &name)?;
        run(admin_url, &format!("CREATE DATABASE {name}"))?;
        Ok(Self { name, url, admin_url: admin_url.to_owned() })
    }

    /// Returns the URL of the database, which the stores and `sqlx` take.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let dropped = run(&self.admin_url, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        if let Err(error) = dropped
            && !thread::panicking()
        {
            refuse(&error);
        }
    }
}

/// The URL may hold a password.
impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Runs a statement in a thread with a runtime of its own: `drop` cannot await, and the test's runtime may have one
/// thread or be shutting down.
fn run(url: &str, sql: &str) -> Result<(), Error> {
    let run = || -> Result<(), sqlx::Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut connection = PgConnection::connect(url).await?;
            connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await?;
            connection.close().await
        })
    };
    let ran = thread::scope(|scope| scope.spawn(run).join());
    let ran = ran.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    ran.map_err(|source| Error::Refused { server: Server::Postgres, doing: sql.to_owned(), source: source.into() })
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    async fn exists(database: &str) -> bool {
        let mut admin = PgConnection::connect(crate::postgres_url()).await.unwrap();
        let find = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)");
        find.bind(database).fetch_one(&mut admin).await.unwrap()
    }

    #[tokio::test]
    async fn two_values_have_two_databases() {
        for _ in 0..2 {
            let database = crate::postgres();
            let mut connection = PgConnection::connect(database.url()).await.unwrap();
            let of_second = crate::postgres();
            let mut second = PgConnection::connect(of_second.url()).await.unwrap();
            for connection in [&mut connection, &mut second] {
                connection.execute("CREATE TABLE sums (cents bigint)").await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_database_is_gone_after_drop_although_connections_are_open_and_the_test_panics() {
        let database = crate::postgres();
        let name = database.name.clone();
        let _connection = PgConnection::connect(database.url()).await.unwrap();
        assert!(exists(&name).await);
        let panicked = catch_unwind(AssertUnwindSafe(move || {
            let _database = database;
            std::panic::resume_unwind(Box::new("the test fails"));
        }));
        assert!(panicked.is_err());
        assert!(!exists(&name).await);
    }

    #[test]
    fn a_database_that_cannot_be_created_fails_with_the_reason() {
        let url = format!("postgres://postgres@127.0.0.1:{}/postgres", crate::internal::closed_port());
        let error = Postgres::create(&url).unwrap_err().to_string();
        assert!(error.starts_with("cannot CREATE DATABASE test_") && error.contains("refused"), "{error}");
    }
}
