#![doc = include_str!("../README.md")]
//!
//! Invariant: a test process registers as a client of a server before it reads the notice of that server; the
//! supervisor, which stops unused servers, removes the notice before it looks for clients. In any other order a test
//! can join a server that is about to stop.

mod actor;
mod error;
#[doc(hidden)]
pub mod internal;
#[cfg(unix)]
mod local;
#[cfg(not(unix))]
#[path = "no_local.rs"]
mod local;
mod name;
mod port;
mod postgres;
mod redis;
mod server;
mod url;

use std::sync::OnceLock;

use crate::{
    error::{Error, expect, refuse},
    server::Server,
};

pub use crate::{
    local::{PrivatePostgres, PrivateRedis},
    postgres::Postgres,
    redis::Redis,
};

/// Creates an empty database for one test, on the server of [`postgres_url`].
///
/// The call blocks the thread for some tens of milliseconds. The first call in a workspace also starts the server,
/// which takes about two seconds.
///
/// # Panics
/// If no server is available, or it does not create the database: the user of `DATABASE_URL` needs the right
/// `CREATEDB`.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")] // #[tokio::test]
/// # async fn main() -> eventbus::Result<()> {
/// use eventstore_postgres::PgEventStore;
///
/// let (orders, bills) = (eventbus_test::postgres(), eventbus_test::postgres());
/// assert_ne!(orders.url(), bills.url());
/// let store = PgEventStore::connect(orders.url()).await?;
/// # drop(store);
/// # Ok(())
/// # }
/// ```
#[must_use]
#[track_caller]
pub fn postgres() -> Postgres {
    expect(Postgres::create(postgres_url()))
}

/// Makes up a key prefix for one test, on the server of [`redis_url`].
///
/// # Panics
/// If no server is available.
///
/// # Examples
/// ```
/// # #[tokio::main(flavor = "current_thread")] // #[tokio::test]
/// # async fn main() -> eventbus::Result<()> {
/// use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
///
/// let redis = eventbus_test::redis();
/// let config = RedisEventBusConfig {
///     redis_url: redis.url().into(),
///     stream_prefix: redis.prefix().into(),
///     ..Default::default()
/// };
/// let bus = RedisEventBus::connect(config).await?;
/// # drop(bus);
/// # Ok(())
/// # }
/// ```
#[must_use]
#[track_caller]
pub fn redis() -> Redis {
    Redis::new(redis_url(), name::unique("test"))
}

/// Returns the URL of a PostgreSQL server; starts one if none runs yet.
///
/// The URL is `DATABASE_URL` if that is set. Otherwise it names a superuser and the database `postgres` of a server
/// that all tests share. That server syncs no writes to disk, although `synchronous_commit` is on.
///
/// # Panics
/// If no server is available; the message says what to set or to install.
#[must_use]
#[track_caller]
pub fn postgres_url() -> &'static str {
    static URL: OnceLock<Result<String, Error>> = OnceLock::new();
    open(URL.get_or_init(|| url_of(Server::Postgres)))
}

/// Returns the URL of a Redis server; starts one if none runs yet.
///
/// The URL is `REDIS_URL` if that is set.
///
/// # Panics
/// If no server is available; the message says what to set or to install.
#[must_use]
#[track_caller]
pub fn redis_url() -> &'static str {
    static URL: OnceLock<Result<String, Error>> = OnceLock::new();
    open(URL.get_or_init(|| url_of(Server::Redis)))
}

/// Returns [`postgres_url`] with its database replaced by `name`, otherwise unchanged.
///
/// The caller creates and drops that database; [`postgres`] does both.
///
/// # Panics
/// Like [`postgres_url`], and if `DATABASE_URL` is not a URL.
///
/// # Examples
/// ```
/// let url = eventbus_test::database_url_for("orders");
/// assert!(url.starts_with("postgres") && url.contains("/orders"));
/// ```
#[must_use]
#[track_caller]
pub fn database_url_for(name: &str) -> String {
    expect(url::with_database(postgres_url(), name))
}

/// Returns a name that no other call returns, in any process, now or later, and that no other name begins with.
///
/// The name is `prefix` turned into a lower-case identifier, an underscore and sixteen letters and digits. It has at
/// most 63 bytes, is valid without quotes as a database or schema name, and can be a stream or key prefix.
///
/// # Examples
/// ```
/// let name = eventbus_test::unique_name("Orders");
/// assert!(name.starts_with("orders_"));
/// assert_ne!(name, eventbus_test::unique_name("Orders"));
/// ```
#[must_use]
pub fn unique_name(prefix: &str) -> String {
    name::unique(prefix)
}

/// Starts a PostgreSQL server for the caller alone, for tests that crash it.
///
/// Unlike the shared server, it syncs its writes, as in production. It needs the installed binaries even if
/// `DATABASE_URL` is set. The start takes about two seconds.
///
/// # Panics
/// If PostgreSQL is not installed or does not start.
///
/// # Examples
/// ```no_run
/// let mut server = eventbus_test::private_postgres();
/// server.stop(); // crashes it
/// server.start(); // with the same URL and all committed data
/// ```
#[must_use]
#[track_caller]
pub fn private_postgres() -> PrivatePostgres {
    private_postgres_with(&[])
}

/// Starts a [`private_postgres`] with further arguments, such as `["-c", "wal_writer_delay=10s"]`.
///
/// # Panics
/// Like [`private_postgres`].
#[must_use]
#[track_caller]
pub fn private_postgres_with(arguments: &[&str]) -> PrivatePostgres {
    expect(PrivatePostgres::launch_with(arguments))
}

/// Starts a Redis server for the caller alone, for tests that kill, pause or empty it.
///
/// It needs the installed binary even if `REDIS_URL` is set. The start takes about 20 ms.
///
/// # Panics
/// If Redis is not installed or does not start.
///
/// # Examples
/// ```
/// let mut server = eventbus_test::private_redis();
/// server.stop(); // kills it
/// server.start(); // with the same URL and all acknowledged data
/// server.pause(); // it answers nothing until `resume`
/// ```
#[must_use]
#[track_caller]
pub fn private_redis() -> PrivateRedis {
    private_redis_with(&[])
}

/// Starts a [`private_redis`] with further arguments, such as `["--unixsocket", path]`.
///
/// With these arguments the server must still answer `PING` on its port, without a password and without TLS.
///
/// # Panics
/// Like [`private_redis`].
#[must_use]
#[track_caller]
pub fn private_redis_with(arguments: &[&str]) -> PrivateRedis {
    expect(PrivateRedis::launch_with(arguments))
}

/// Returns the URL of a server: from the environment, else that of the workspace's server, which it starts on demand.
fn url_of(server: Server) -> Result<String, Error> {
    match server.given_url() {
        Some(url) => url.into_string().map_err(|_| Error::NotAUrl { variable: server.variable() }),
        None => local::shared_url(server),
    }
}

#[track_caller]
fn open(url: &'static Result<String, Error>) -> &'static str {
    match url {
        Ok(url) => url,
        Err(error) => refuse(error),
    }
}
