//! The event-bus suite on Redis.

use std::time::Duration;

use crate::common::{another, config, fresh_bus};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

eventbus::event_bus_conformance!(redis, fresh_bus(), async |bus: &RedisEventBus| another(bus).await);

async fn long_ago() -> RedisEventBus {
    let config = RedisEventBusConfig { deliver_skipped_within: Duration::ZERO, ..config() };
    RedisEventBus::connect(config).await.expect("Redis is there")
}

eventbus::event_bus_conformance!(long_ago long_ago, long_ago(), async |bus: &RedisEventBus| another(bus).await);

async fn single_connection() -> RedisEventBus {
    let config = RedisEventBusConfig { single_connection_client: true, ..config() };
    RedisEventBus::connect(config).await.expect("Redis is there")
}

eventbus::event_bus_conformance!(single_connection_client, single_connection(), async |bus: &RedisEventBus| another(
    bus
)
.await);

async fn partitioned() -> RedisEventBus {
    let config = RedisEventBusConfig { partitions: 4, partition_lease_ms: 1_000, ..config() };
    RedisEventBus::connect(config).await.expect("Redis is there")
}

eventbus::event_bus_conformance!(partitions, partitioned(), async |bus: &RedisEventBus| another(bus).await);

async fn long_ago_partitioned() -> RedisEventBus {
    let config = RedisEventBusConfig {
        partitions: 4,
        partition_lease_ms: 1_000,
        deliver_skipped_within: Duration::ZERO,
        ..config()
    };
    RedisEventBus::connect(config).await.expect("Redis is there")
}

eventbus::event_bus_conformance!(
    long_ago partitions_long_ago,
    long_ago_partitioned(),
    async |bus: &RedisEventBus| another(bus).await
);
