//! The event-bus suite on Redis.

use crate::common::{another, config, fresh_bus};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

eventbus::event_bus_conformance!(redis, fresh_bus(), async |bus: &RedisEventBus| another(bus).await);

async fn single_connection() -> RedisEventBus {
    let config = RedisEventBusConfig { single_connection_client: true, ..config() };
    RedisEventBus::connect(config).await.expect("Redis is there")
}

eventbus::event_bus_conformance!(single_connection_client, single_connection(), async |bus: &RedisEventBus| another(
    bus
)
.await);
