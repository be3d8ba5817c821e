//! Event stores of a test's own.

use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};

/// A configuration for a store of the test's own.
pub(crate) fn config() -> RedisEventStoreConfig {
    config_on(eventbus_test::redis_url())
}

/// The same on a server of the test's own.
pub(crate) fn config_on(url: &str) -> RedisEventStoreConfig {
    RedisEventStoreConfig {
        redis_url: url.into(),
        key_prefix: eventbus_test::unique_name("store"),
        check_durability: false,
        ..RedisEventStoreConfig::default()
    }
}

pub(crate) async fn open(config: RedisEventStoreConfig) -> RedisEventStore {
    RedisEventStore::connect(config).await.unwrap()
}
