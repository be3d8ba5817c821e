//! Settings at the ends of their ranges.

use std::time::Duration;

use crate::common::{
    config,
    seen::{Seen, event, settled, start},
    until,
};
use eventbus::port::EventBus;
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

/// The longest time that the configuration allows.
const CENTURY: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Publishes, consumes, and returns the delivered ids, sorted.
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
        ("concurrency", RedisEventBusConfig { concurrency: usize::MAX, max_in_flight: Some(usize::MAX), ..config() }),
    ] {
        let error = RedisEventBus::connect(config).await.unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")), "{error}");
    }
}

/// The name of a field, and a configuration with it at one end of its range.
type Fields = Vec<(&'static str, RedisEventBusConfig)>;

/// Every field with a range, at its least or its most. The test destructures the configuration, so that a new field
/// does not compile before it is listed here.
fn ends(is_most: bool) -> Fields {
    let RedisEventBusConfig {
        redis_url: _,                // a URL
        stream_prefix: _,            // a name
        consumer_group: _,           // a name
        consumer_name: _,            // a name
        dlq_stream_suffix: _,        // a name
        retry_key_prefix: _,         // a name
        tls_ca_file: _,              // a file
        tls_cert_file: _,            // a file
        tls_key_file: _,             // a file
        enable_dlq: _,               // both
        enable_tracing: _,           // both
        single_connection_client: _, // both
        readable_by_python: _,       // both
        clock: _,                    // any
        batch_size: _,
        block_ms: _,
        retry_for_seconds: _,
        max_retries: _,
        pending_idle_ms: _,
        socket_timeout: _,
        socket_connect_timeout: _,
        retry_key_expiry_seconds: _,
        concurrency: _,
        max_in_flight: _,
        retry_delay_ms: _,
        retry_max_delay_ms: _,
        trim_max_length: _,
        trim_max_age_seconds: _,
    } = config();
    let size = if is_most { usize::MAX } else { 0 };
    let number = if is_most { u64::MAX } else { 0 };
    let time = if is_most { Duration::MAX } else { Duration::ZERO };
    let half = if is_most { u32::MAX } else { 0 };
    let config = || RedisEventBusConfig { retry_delay_ms: 1, ..config() };
    vec![
        ("batch_size", RedisEventBusConfig { batch_size: size, ..config() }),
        ("block_ms", RedisEventBusConfig { block_ms: number, ..config() }),
        ("retry_for_seconds", RedisEventBusConfig { retry_for_seconds: number, ..config() }),
        ("max_retries", RedisEventBusConfig { max_retries: Some(half), ..config() }),
        ("pending_idle_ms", RedisEventBusConfig { pending_idle_ms: number, ..config() }),
        ("socket_timeout", RedisEventBusConfig { socket_timeout: time, ..config() }),
        ("socket_connect_timeout", RedisEventBusConfig { socket_connect_timeout: time, ..config() }),
        ("retry_key_expiry_seconds", RedisEventBusConfig { retry_key_expiry_seconds: number, ..config() }),
        ("concurrency", RedisEventBusConfig { concurrency: size, ..config() }),
        ("max_in_flight", RedisEventBusConfig { max_in_flight: Some(size), ..config() }),
        ("retry_delay_ms", RedisEventBusConfig { retry_delay_ms: number, ..config() }),
        ("retry_max_delay_ms", RedisEventBusConfig { retry_max_delay_ms: number, ..config() }),
        ("trim_max_length", RedisEventBusConfig { trim_max_length: Some(number), ..config() }),
        ("trim_max_age_seconds", RedisEventBusConfig { trim_max_age_seconds: Some(number), ..config() }),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_field_works_at_both_ends_of_its_range_or_is_named() {
    let all: Vec<_> = (0..50).map(|n| format!("{n:02}")).collect();
    let (mut worked, mut refused) = (0, 0);
    for (field, config) in [false, true].into_iter().flat_map(ends) {
        match config.validate() {
            Ok(()) => {
                assert_eq!(delivered(config).await, all, "{field}");
                worked += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains(&format!("`{field}`")), "{field}: {error}");
                refused += 1;
            }
        }
    }
    assert!(worked > 3 && refused > 20, "{worked} worked, {refused} were refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_arrives_once_whatever_the_settings() {
    let least = || RedisEventBusConfig { retry_delay_ms: 1, retry_max_delay_ms: 1, ..config() };
    let all: Vec<_> = (0..50).map(|n| format!("{n:02}")).collect();
    for config in [
        RedisEventBusConfig { batch_size: 1, block_ms: 1, max_in_flight: Some(1), ..least() },
        RedisEventBusConfig { batch_size: 1_000_000, max_in_flight: Some(1), ..least() },
        RedisEventBusConfig { pending_idle_ms: 1, ..least() },
        RedisEventBusConfig { concurrency: 10_000, max_in_flight: Some(10_000), ..least() },
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
            max_in_flight: Some(usize::MAX),
            concurrency: 10_000,
            trim_max_length: Some(u64::MAX),
            socket_timeout: CENTURY,
            socket_connect_timeout: CENTURY,
            ..config()
        },
    ] {
        assert_eq!(delivered(config.clone()).await, all, "{config:?}");
    }
}
