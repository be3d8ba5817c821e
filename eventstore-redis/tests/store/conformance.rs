//! The event-store suites on Redis.

use eventstore_redis::RedisEventStoreConfig;

use crate::common::store::{config, open};

eventbus::event_store_conformance!(redis, open(config()));
eventbus::handler_progress_conformance!(handlers, open(config()));
eventbus::event_store_reopen_conformance!(reopened, async { config() }, async |config: RedisEventStoreConfig| open(
    config
)
.await);
