//! Where the events of a run are that several processes write to, and its sessions that are killed.

use std::{convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

use eventbus::port::EventStore;
use eventstore_postgres::PgEventStore;
use fastrand::Rng;
use serde::{Deserialize, Serialize};

use super::{HarnessError, database::Database};
use crate::stores;

/// Number of times in a row that an attempt may fail while sessions are killed, with a pause after each.
const FAILURES_MAX: u32 = 200;
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// The kind of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreKind {
    /// PostgreSQL; its sessions are killed too.
    Postgres,
    /// Redis.
    Redis,
    /// A file.
    Sqlite,
}

/// Where the events are.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Place {
    Postgres(String),
    Redis(String),
    Sqlite(PathBuf),
}

impl Place {
    /// Creates an empty place; sessions of PostgreSQL have the name `sessions`.
    pub(super) async fn create(kind: StoreKind, sessions: &str) -> Result<(Self, Option<Database>), HarnessError> {
        Ok(match kind {
            StoreKind::Redis => (Self::Redis(eventbus_test::unique_name(sessions)), None),
            StoreKind::Sqlite => (Self::Sqlite(stores::folder(sessions)), None),
            StoreKind::Postgres => {
                let database = Database::create().await?;
                (Self::Postgres(format!("{}?application_name={sessions}", database.url())), Some(database))
            }
        })
    }

    pub(super) async fn open(&self) -> Result<Arc<dyn EventStore>, HarnessError> {
        Ok(match self {
            Self::Postgres(url) => Arc::new(PgEventStore::connect(url).await?),
            Self::Redis(prefix) => Arc::new(stores::redis(prefix).await),
            Self::Sqlite(folder) => Arc::new(stores::sqlite(folder).await),
        })
    }

    pub(super) async fn remove(self, database: Option<&Database>) -> Result<(), HarnessError> {
        if let Self::Sqlite(folder) = self {
            std::fs::remove_dir_all(folder)?;
        }
        match database {
            Some(database) => database.remove().await,
            None => Ok(()),
        }
    }
}

/// Waits for the end of a run, and kills one of the sessions of a name now and then until then. Returns what the run
/// returned, and how many sessions were killed; none if there is no database.
pub(super) async fn with_killed_sessions<T>(
    database: Option<&Database>,
    sessions: &str,
    seed: u64,
    run: impl Future<Output = Result<T, HarnessError>>,
) -> Result<(T, u64), HarnessError> {
    let mut killed = 0;
    let done = tokio::select! {
        done = run => done?,
        never = kill_sessions(database, sessions, &mut killed, Rng::with_seed(seed)) => match never? {},
    };
    Ok((done, killed))
}

/// Kills sessions of a name for ever, one now and then; waits for ever if there is no database.
async fn kill_sessions(
    database: Option<&Database>,
    sessions: &str,
    killed: &mut u64,
    mut random: Rng,
) -> Result<Infallible, HarnessError> {
    const KILL_SQL: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name = $1 AND datname = current_database() ORDER BY random() LIMIT 1";
    let Some(database) = database else { return std::future::pending().await };
    let mut connection = database.connection("killer").await?;
    loop {
        tokio::time::sleep(Duration::from_millis(random.u64(200..600))).await;
        let hit: Option<bool> = sqlx::query_scalar(KILL_SQL).bind(sessions).fetch_optional(&mut connection).await?;
        *killed += u64::from(hit == Some(true));
    }
}

/// Repeats what fails while sessions are killed.
pub(super) async fn retry<T>(mut attempt: impl AsyncFnMut() -> Result<T, HarnessError>) -> Result<T, HarnessError> {
    let mut failed = 0;
    loop {
        match attempt().await {
            Err(error) if failed == FAILURES_MAX => return Err(error),
            Err(_) => failed += 1,
            done => return done,
        }
        tokio::time::sleep(RETRY_DELAY).await;
    }
}
