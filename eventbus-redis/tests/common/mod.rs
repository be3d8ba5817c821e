//! Helpers of the tests.
#![allow(dead_code, reason = "each test file uses some of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

pub(crate) mod actor;
pub(crate) mod cost;
pub(crate) mod log;
pub(crate) mod proxy;
pub(crate) mod seen;

use std::time::Duration;

use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

/// A configuration for a stream of the test's own.
pub(crate) fn config() -> RedisEventBusConfig {
    config_on(eventbus_test::redis_url())
}

/// The same on a server of the test's own.
pub(crate) fn config_on(url: &str) -> RedisEventBusConfig {
    RedisEventBusConfig {
        redis_url: url.into(),
        stream_prefix: eventbus_test::unique_name("bus"),
        ..RedisEventBusConfig::default()
    }
}

/// A bus on a stream of the test's own.
pub(crate) async fn fresh_bus() -> RedisEventBus {
    RedisEventBus::connect(config()).await.unwrap()
}

/// A second consumer on the same stream, in the same group.
pub(crate) async fn another(bus: &RedisEventBus) -> RedisEventBus {
    let config = RedisEventBusConfig { consumer_name: None, ..bus.config().clone() };
    RedisEventBus::connect(config).await.unwrap()
}

/// Waits until the condition holds.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(60), waiting).await;
    assert!(waited.is_ok(), "waited in vain until {what}");
}

/// The texts of an error and of its causes.
pub(crate) fn said(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said = format!("{error} {error:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        said.push_str(&format!(" {error} {error:?}"));
        cause = error.source();
    }
    said
}
