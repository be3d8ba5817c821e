//! A PostgreSQL database of one run, and the contents of its tables.
//!
//! Invariant: the auditor's view of the store is read from the tables, not through the store.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    sync::Arc,
    time::{Duration, Instant},
};

use eventbus::Uuid;
use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, postgres::PgConnectOptions};

use super::{HarnessError, evidence::Stored, history::StoredAt};

const STORED_SQL: &str = "
    SELECT e.position, e.version, e.event_id, s.aggregate_type || '/' || s.aggregate_id, (e.payload ->> 'amount')::bigint
    FROM events e JOIN streams s USING (stream_no) ORDER BY e.position";

/// Reads the number of deadlocks that the server has ended in the database.
pub(super) const DEADLOCKS_SQL: &str = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";

/// Time limit for opening a session while the server refuses or terminates it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_RETRY_DELAY: Duration = Duration::from_millis(10);

/// The database of one run.
#[derive(Debug)]
pub struct Database {
    name: String,
    url: String,
}

impl Database {
    /// Creates the database on the shared server.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn create() -> Result<Self, HarnessError> {
        let name = eventbus_test::unique_name("fire");
        let mut admin = PgConnection::connect(eventbus_test::postgres_url()).await?;
        execute_sql(&mut admin, &format!("CREATE DATABASE {name}")).await?;
        Ok(Self { url: eventbus_test::database_url_for(&name), name })
    }

    /// Returns the address of the database.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Opens a store in it, with sessions named `name`, also while sessions are being terminated.
    ///
    /// # Errors
    /// If the store cannot be opened.
    pub async fn store(&self, name: &str, connections: u32) -> Result<PgEventStore, HarnessError> {
        let config = PgEventStoreConfig {
            database_url: format!("{}?application_name={name}", self.url),
            max_connections: connections,
            ..Default::default()
        };
        retry_until_connected(|| PgEventStore::connect_with(config.clone())).await
    }

    /// Returns the address of the server.
    ///
    /// # Errors
    /// If the URL of the shared server has no host and port.
    pub fn server(&self) -> Result<SocketAddr, HarnessError> {
        let options: PgConnectOptions = self.url.parse()?;
        let mut found = (options.get_host(), options.get_port()).to_socket_addrs()?;
        Ok(found.next().ok_or("the server's name has no address")?)
    }

    /// Returns the URL of the database through a proxy.
    ///
    /// # Errors
    /// Like [`server`](Self::server).
    pub fn url_through(&self, proxy_address: SocketAddr) -> Result<String, HarnessError> {
        let options: PgConnectOptions = self.url.parse()?;
        let server = format!("{}:{}", options.get_host(), options.get_port());
        Ok(self.url.replacen(&server, &proxy_address.to_string(), 1))
    }

    /// Returns the number of deadlocks that the server has ended in the database.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn deadlocks(&self) -> Result<i64, HarnessError> {
        let mut connection = self.connection("statistics").await?;
        Ok(sqlx::query_scalar(DEADLOCKS_SQL).fetch_one(&mut connection).await?)
    }

    /// Opens a connection named `name` that finds the store's tables, also while sessions are being terminated.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn connection(&self, name: &str) -> Result<PgConnection, HarnessError> {
        let url = format!("{}?application_name={name}", self.url);
        retry_until_connected(|| open(url.clone())).await
    }

    /// Reads the stored events, in position order.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn load_stored(&self) -> Result<Vec<Stored>, HarnessError> {
        let mut connection = self.connection("auditor").await?;
        load_stored(&mut connection).await
    }

    /// Drops the database and its connections; keeps it if `FIRE_KEEP` is set.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn remove(&self) -> Result<(), HarnessError> {
        if keeps_artifacts() {
            return Ok(());
        }
        let mut admin = PgConnection::connect(eventbus_test::postgres_url()).await?;
        execute_sql(&mut admin, &format!("DROP DATABASE {} WITH (FORCE)", self.name)).await
    }
}

/// Reads the stored events through a connection, in position order.
///
/// # Errors
/// If the server fails.
pub async fn load_stored(connection: &mut PgConnection) -> Result<Vec<Stored>, HarnessError> {
    let mut rows = sqlx::query_as::<_, (i64, i64, Uuid, String, i64)>(STORED_SQL).fetch(connection);
    let (mut found, mut names) = (Vec::new(), std::collections::HashSet::<Arc<str>>::new());
    while let Some((position, version, event, stream, amount)) = rows.try_next().await? {
        let stream = match names.get(stream.as_str()) {
            Some(known) => Arc::clone(known),
            None => {
                let stream: Arc<str> = stream.into();
                names.insert(Arc::clone(&stream));
                stream
            }
        };
        let place = StoredAt { event, version: version.try_into()?, position: position.try_into()? };
        found.push(Stored { stored_at: place, stream, amount });
    }
    Ok(found)
}

/// Returns `true` if `FIRE_KEEP` is set: the notes, entries and databases of a run are kept.
#[must_use]
pub fn keeps_artifacts() -> bool {
    std::env::var_os("FIRE_KEEP").is_some()
}

/// Runs statements without parameters.
///
/// # Errors
/// If the server fails.
pub async fn execute_sql(connection: &mut PgConnection, sql: &str) -> Result<(), HarnessError> {
    connection.execute(sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))).await?;
    Ok(())
}

async fn open(url: String) -> Result<PgConnection, HarnessError> {
    let mut connection = PgConnection::connect(&url).await?;
    execute_sql(&mut connection, "SET search_path TO eventbus").await?;
    Ok(connection)
}

/// Retries until it succeeds or [`CONNECT_TIMEOUT`] has passed.
async fn retry_until_connected<T, E: Into<HarnessError>, F>(attempt: impl Fn() -> F) -> Result<T, HarnessError>
where
    F: Future<Output = Result<T, E>>,
{
    let begin = Instant::now();
    loop {
        match attempt().await {
            Ok(made) => return Ok(made),
            Err(error) if begin.elapsed() > CONNECT_TIMEOUT => return Err(error.into()),
            Err(_) => tokio::time::sleep(CONNECT_RETRY_DELAY).await,
        }
    }
}
