//! Private, throw-away PostgreSQL and Redis servers for tests.
//!
//! Every test that needs a server asks here for its URL. `DATABASE_URL` and `REDIS_URL` win, each on its own; without
//! them the first test to ask starts the server from the installed binaries, on a free port and with an empty data
//! folder in the temp folder, and every other test process of the same checkout joins it. A missing binary is
//! installed with `apt-get` where that is possible (root, and `TEST_SERVERS_NO_INSTALL` not set), else the error says
//! what to do. A supervisor stops the server some seconds after the last process that asked for it is gone, however
//! it went (five, unless `TEST_SERVERS_GRACE_SECONDS` says otherwise).
//!
//! The servers are shared and hold no secrets: keep tests apart with [`unique_name`] (a database, a schema, a stream
//! prefix each), and take a [`private_redis`] or a [`private_postgres`] for a test that kills or pauses one.
//!
//! Invariant: a client registers first, then reads the notice; the supervisor removes the notice first, then looks for
//! clients. In any other order a test can join a server that is about to stop.

mod actor;
mod error;
#[cfg(unix)]
mod local;
#[cfg(not(unix))]
#[path = "no_local.rs"]
mod local;
mod name;
mod port;
mod server;
mod url;

use std::sync::OnceLock;

use crate::{error::Error, server::Server};

pub use crate::{
    actor::Actor,
    local::{PrivatePostgres, PrivateRedis},
};

/// Returns the URL of a PostgreSQL server, starting one if there is none yet.
///
/// It names a superuser and the database `postgres` unless it comes from `DATABASE_URL`. The server is tuned for
/// tests: the server syncs no writes, though `synchronous_commit` is on.
///
/// # Panics
/// If no server can be had; the message says what to set or to install.
#[must_use]
pub fn postgres_url() -> &'static str {
    static URL: OnceLock<Result<String, Error>> = OnceLock::new();
    open(URL.get_or_init(|| Server::Postgres.url()))
}

/// Returns the URL of a Redis server, starting one if there is none yet.
///
/// # Panics
/// If no server can be had; the message says what to set or to install.
#[must_use]
pub fn redis_url() -> &'static str {
    static URL: OnceLock<Result<String, Error>> = OnceLock::new();
    open(URL.get_or_init(|| Server::Redis.url()))
}

/// Connects to a Redis, to look at it or to change it.
///
/// The connection has no timeout for answers: if many tests run at once, or this process was paused, a late answer is
/// no failure. redis-rs by itself gives up after half a second.
///
/// # Panics
/// If no server answers there.
pub async fn redis_connection(url: &str) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(url).expect("a URL of Redis");
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&patient).await.expect("a Redis that answers")
}

/// Returns [`postgres_url`] with its database replaced by `name`, otherwise unchanged.
///
/// Creating that database is left to the caller, who has a client.
///
/// # Panics
/// Like [`postgres_url`], and if `DATABASE_URL` is not a URL.
#[must_use]
pub fn database_url_for(name: &str) -> String {
    url::with_database(postgres_url(), name).unwrap_or_else(|error| refuse(&error))
}

/// Returns a name that no other call returns, in any process, now or later.
///
/// It is `prefix` made lower case and safe, an underscore and about eleven letters and digits: at most 63 bytes,
/// valid without quotes as a database or schema name, and usable as a stream or key prefix.
#[must_use]
pub fn unique_name(prefix: &str) -> String {
    name::unique(prefix)
}

/// Returns a port of 127.0.0.1 without a listener, which this crate gives to no second caller while this process lives.
///
/// # Panics
/// If there is no free port.
#[must_use]
pub fn closed_port() -> u16 {
    port::closed().unwrap_or_else(|error| refuse(&error))
}

/// Starts a PostgreSQL server of the caller's own, for tests that crash it.
///
/// It syncs like a real one, unlike the shared one. It needs the installed binaries even if `DATABASE_URL` is set. It
/// takes about two seconds.
///
/// # Panics
/// If PostgreSQL is not installed or does not start.
#[must_use]
pub fn private_postgres() -> PrivatePostgres {
    private_postgres_with(&[])
}

/// Starts a [`private_postgres`] with further arguments, such as `["-c", "wal_writer_delay=10s"]`.
///
/// # Panics
/// Like [`private_postgres`].
#[must_use]
pub fn private_postgres_with(arguments: &[&str]) -> PrivatePostgres {
    PrivatePostgres::launch_with(arguments).unwrap_or_else(|error| refuse(&error))
}

/// Starts a Redis server of the caller's own, for tests that kill, pause or empty it.
///
/// It needs the installed binary even if `REDIS_URL` is set. It takes about 20 ms.
///
/// # Panics
/// If Redis is not installed or does not start.
#[must_use]
pub fn private_redis() -> PrivateRedis {
    PrivateRedis::launch().unwrap_or_else(|error| refuse(&error))
}

/// Starts a [`private_redis`] with further arguments, such as `["--unixsocket", path]`.
///
/// It must answer `PING` without a password and without TLS on its port.
///
/// # Panics
/// Like [`private_redis`].
#[must_use]
pub fn private_redis_with(arguments: &[&str]) -> PrivateRedis {
    PrivateRedis::launch_with(arguments).unwrap_or_else(|error| refuse(&error))
}

/// Starts a [`private_redis`] that is a cluster of one node, which has no slots yet.
///
/// # Panics
/// Like [`private_redis`].
#[must_use]
pub fn private_redis_cluster() -> PrivateRedis {
    let bus_port = closed_port().to_string();
    private_redis_with(&["--cluster-enabled", "yes", "--cluster-port", &bus_port])
}

fn open(url: &'static Result<String, Error>) -> &'static str {
    url.as_deref().unwrap_or_else(|error| refuse(error))
}

/// The only place that panics: a test that gets no server cannot go on.
fn refuse(error: &Error) -> ! {
    panic!("test servers: {error}")
}
