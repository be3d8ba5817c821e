//! Settings at the edge of what is allowed.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use common::{
    config,
    seen::{Seen, event, settled, start},
    until,
};
use eventbus::port::EventBus;
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

/// The longest time that is allowed.
const CENTURY: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Publishes, consumes, and says what came, sorted.
async fn delivered(config: RedisEventBusConfig) -> Vec<String> {
    let bus = RedisEventBus::connect(config).await.unwrap();
    let seen = Seen::default();
    seen.join(&bus);
    let events: Vec<_> = (0..50).map(|n| event(&format!("{n:02}"))).collect();
    bus.publish(&events).await.unwrap();
    start(&bus).await;
    until("all arrived", async || seen.all().len() >= 50).await;
    assert_eq!(settled(&bus).await, 0);
    bus.stop_consuming().await;
    let mut all = seen.all();
    all.sort();
    all
}

#[tokio::test]
async fn what_no_machine_can_do_is_refused() {
    for (field, config) in [
        ("socket_timeout", RedisEventBusConfig { socket_timeout: Duration::MAX, ..config() }),
        ("socket_connect_timeout", RedisEventBusConfig { socket_connect_timeout: Duration::MAX, ..config() }),
        ("concurrency", RedisEventBusConfig { concurrency: usize::MAX, max_in_hand: Some(usize::MAX), ..config() }),
    ] {
        let error = RedisEventBus::connect(config).await.unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_arrives_once_whatever_the_settings() {
    let least = || RedisEventBusConfig { retry_delay_ms: 1, retry_max_delay_ms: 1, slow_handler_ms: 1, ..config() };
    let all: Vec<_> = (0..50).map(|n| format!("{n:02}")).collect();
    for config in [
        RedisEventBusConfig { batch_size: 1, block_ms: 1, max_in_hand: Some(1), ..least() },
        RedisEventBusConfig { batch_size: 1_000_000, max_in_hand: Some(1), ..least() },
        RedisEventBusConfig { pending_idle_ms: 1, ..least() },
        RedisEventBusConfig { concurrency: 10_000, max_in_hand: Some(10_000), ..least() },
        RedisEventBusConfig {
            retry_delay_ms: 1,
            retry_max_delay_ms: 3_000_000_000,
            block_ms: 3_000_000_000,
            ..config()
        },
        RedisEventBusConfig { pending_idle_ms: 3_000_000_000, retry_key_expiry_seconds: 3_000_000_000, ..config() },
        RedisEventBusConfig { single_connection_client: true, batch_size: 1, block_ms: 1, ..least() },
        RedisEventBusConfig {
            retry_for_seconds: 3_000_000_000,
            max_retries: Some(u32::MAX),
            max_in_hand: Some(usize::MAX),
            max_in_hand_bytes: usize::MAX,
            concurrency: 10_000,
            slow_handler_ms: u64::MAX,
            trim_max_length: Some(u64::MAX),
            socket_timeout: CENTURY,
            socket_connect_timeout: CENTURY,
            ..config()
        },
    ] {
        assert_eq!(delivered(config.clone()).await, all, "{config:?}");
    }
}
