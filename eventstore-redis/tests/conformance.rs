//! The event-store suites on Redis.

mod common;

use common::store::{config, open};
use eventstore_redis::RedisEventStoreConfig;

eventbus::event_store_conformance!(redis, open(config()));
eventbus::event_store_transactions_conformance!(transactions, open(config()));
eventbus::event_store_reopen_conformance!(reopened, async { config() }, async |config: RedisEventStoreConfig| open(
    config
)
.await);
