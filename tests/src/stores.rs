//! A new, empty store of each kind, for tests that run on all of them.

use std::path::PathBuf;

use eventstore_postgres::{PgEventStore, PgEventStoreConfig};
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use eventstore_sqlite::SqliteEventStore;

/// Creates a folder of its own for files of a test.
///
/// # Panics
/// If the file system refuses.
#[must_use]
pub fn folder(prefix: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(eventbus_test::unique_name(prefix));
    std::fs::create_dir_all(&folder).expect("the folder for temporary files takes one more");
    folder
}

/// Opens a store in a schema of the shared server.
///
/// # Panics
/// If the server fails.
pub async fn postgres(schema: &str) -> PgEventStore {
    let database_url = eventbus_test::postgres_url().to_owned();
    let config = PgEventStoreConfig { database_url, schema: schema.into(), ..PgEventStoreConfig::default() };
    PgEventStore::connect_with(config).await.expect("the test server opens a store")
}

/// Opens a store with a key prefix on the shared server.
///
/// # Panics
/// If the server fails.
pub async fn redis(prefix: &str) -> RedisEventStore {
    let config = RedisEventStoreConfig {
        redis_url: eventbus_test::redis_url().into(),
        key_prefix: prefix.into(),
        ..RedisEventStoreConfig::default()
    };
    RedisEventStore::connect(config).await.expect("the test server opens a store")
}

/// Opens a store in a file of a folder.
///
/// # Panics
/// If the file system refuses.
pub async fn sqlite(folder: &std::path::Path) -> SqliteEventStore {
    SqliteEventStore::open(folder.join("events.db")).await.expect("the folder takes a file")
}
