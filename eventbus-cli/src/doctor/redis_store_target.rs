//! The keys of an event store on Redis.

use eventstore_redis::keys::StoreKeys;

use super::redis_target::RedisTarget;

/// An event store on Redis.
#[derive(Debug, Clone)]
pub(crate) struct RedisStoreTarget {
    redis: RedisTarget,
    prefix: String,
    keys: StoreKeys,
}

impl RedisStoreTarget {
    pub(crate) fn new(redis: RedisTarget, prefix: &str) -> Self {
        Self { redis, prefix: prefix.into(), keys: StoreKeys::new(prefix) }
    }

    pub(crate) const fn redis(&self) -> &RedisTarget {
        &self.redis
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) const fn keys(&self) -> &StoreKeys {
        &self.keys
    }
}
