//! A store that exists, of any kind.

use std::{path::Path, sync::Arc};

use eventbus::store::EventStore;
use eventstore_postgres::PgEventStore;
use eventstore_redis::RedisEventStore;
use eventstore_sqlite::{SqliteConnectError, SqliteEventStore};

use super::settings::{ConnectionSettings, StoreUrl};
use crate::error::CommandError;

/// A store that exists. Opening it created and migrated nothing.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum OpenStore {
    /// In a PostgreSQL database.
    Postgres(PgEventStore),
    /// In an SQLite file.
    Sqlite(SqliteEventStore),
    /// On Redis Streams.
    Redis(RedisEventStore),
}

impl OpenStore {
    /// Opens the store that the settings name.
    ///
    /// # Errors
    /// [`CommandError::Unreachable`] if it cannot be reached, [`CommandError::Fault`] if its tables are missing or of a
    /// different release, [`CommandError::Usage`] if the settings name no store.
    pub async fn open(settings: &ConnectionSettings) -> Result<Self, CommandError> {
        Ok(match settings.store_url()? {
            StoreUrl::Postgres(url) => Self::Postgres(PgEventStore::connect_with(settings.postgres_config(url)).await?),
            StoreUrl::Sqlite(url) => {
                let opened = SqliteEventStore::connect_with(&url, settings.sqlite_config()).await;
                Self::Sqlite(opened.map_err(of_file)?)
            }
            StoreUrl::Redis(url) => Self::Redis(RedisEventStore::attach(settings.redis_store_config(url)).await?),
        })
    }

    /// Returns the store as a port.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn EventStore> {
        match self {
            Self::Postgres(store) => Arc::new(store.clone()),
            Self::Sqlite(store) => Arc::new(store.clone()),
            Self::Redis(store) => Arc::new(store.clone()),
        }
    }

    /// Closes its connections.
    pub async fn close(self) {
        if let Self::Postgres(store) = self {
            store.close().await;
        }
    }
}

/// Returns the error of opening a file; if only the file is missing, the error names the command that creates it.
fn of_file(error: SqliteConnectError) -> CommandError {
    let is_missing = |path: &Path| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        folder.is_dir() && matches!(path.try_exists(), Ok(false))
    };
    match error {
        SqliteConnectError::Unavailable { ref path, .. } if is_missing(path) => CommandError::unreachable(
            &format!("the file `{}`", path.display()),
            "it does not exist; the command `migrate` makes a new store",
        ),
        error => error.into(),
    }
}
