//! The configuration: names, defaults, what is refused.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use eventbus_redis::{InvalidConfig, RedisEventBusConfig};

fn read(json: &str) -> Result<RedisEventBusConfig, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

fn mistakes(config: &RedisEventBusConfig) -> Vec<String> {
    let Err(InvalidConfig { mistakes, .. }) = config.validate() else {
        return Vec::new();
    };
    mistakes.iter().map(ToString::to_string).collect()
}

#[test]
fn the_defaults_are_those_of_the_tutorial() {
    let config = RedisEventBusConfig::default();
    assert_eq!(config.redis_url, "redis://localhost:6379");
    assert_eq!(config.stream_prefix, "events");
    assert_eq!(config.consumer_group, "default");
    assert_eq!(config.consumer_name, None);
    assert_eq!(config.batch_size, 100);
    assert_eq!(config.block_ms, 5_000);
    assert_eq!(config.max_retries, 3);
    assert_eq!(config.pending_idle_ms, 60_000);
    assert!(config.enable_dlq);
    assert_eq!(config.dlq_stream_suffix, "_dlq");
    assert_eq!(config.socket_timeout, Duration::from_secs(5));
    assert_eq!(config.socket_connect_timeout, Duration::from_secs(5));
    assert!(config.enable_tracing);
    assert_eq!(config.retry_key_prefix, "retry");
    assert_eq!(config.retry_key_expiry_seconds, 86_400);
    assert!(!config.single_connection_client);
    assert_eq!(config.stream_name(), "events:stream");
    assert_eq!(config.dlq_stream_name(), "events:stream_dlq");
    assert_eq!(config.validate(), Ok(()));
}

#[test]
fn it_deserializes_with_defaults_and_refuses_what_it_does_not_know() {
    assert_eq!(read("{}").unwrap(), RedisEventBusConfig::default());
    let config =
        read(r#"{"stream_prefix":"orders","consumer_name":"w1","socket_timeout":1.5,"socket_connect_timeout":2}"#);
    let expected = RedisEventBusConfig {
        stream_prefix: "orders".into(),
        consumer_name: Some("w1".into()),
        socket_timeout: Duration::from_millis(1_500),
        socket_connect_timeout: Duration::from_secs(2),
        ..RedisEventBusConfig::default()
    };
    assert_eq!(config.unwrap(), expected);
    assert!(read(r#"{"stream_prefx":"orders"}"#).unwrap_err().contains("stream_prefx"));
    assert!(read(r#"{"socket_timeout":-1}"#).is_err());
    assert!(read(r#"{"batch_size":-1}"#).is_err());
}

#[test]
fn all_mistakes_are_named_at_once() {
    let config = RedisEventBusConfig {
        redis_url: "localhost:6379".into(),
        stream_prefix: String::new(),
        consumer_group: "x".repeat(256),
        consumer_name: Some("a\nb".into()),
        batch_size: 0,
        block_ms: 0,
        pending_idle_ms: 0,
        dlq_stream_suffix: String::new(),
        socket_timeout: Duration::ZERO,
        socket_connect_timeout: Duration::ZERO,
        retry_key_prefix: "x".repeat(201),
        retry_key_expiry_seconds: 0,
        ..RedisEventBusConfig::default()
    };
    assert_eq!(
        mistakes(&config),
        [
            "`redis_url` is no Redis URL (redis://[user:password@]host[:port][/database], the password percent-encoded)",
            "`stream_prefix` is empty",
            "`consumer_group` has 256 bytes, at most 255 are allowed",
            "`consumer_name` holds a control character at byte 1",
            "`batch_size` is 0",
            "`block_ms` is 0",
            "`pending_idle_ms` is 0",
            "`dlq_stream_suffix` is empty",
            "`socket_timeout` is 0",
            "`socket_connect_timeout` is 0",
            "`retry_key_prefix` has 201 bytes, at most 200 are allowed",
            "`retry_key_expiry_seconds` is 0",
        ]
    );
}

#[test]
fn no_message_shows_a_password() {
    for redis_url in [
        "redis://user:secret@localhost:6379/0",
        "redis://:secret@localhost/not-a-number",
        "redis//user:secret@localhost",
        "http://user:secret@localhost",
        "rediss://user:secret@localhost",
        "secret",
    ] {
        let config = RedisEventBusConfig { redis_url: redis_url.into(), ..RedisEventBusConfig::default() };
        let shown = format!("{config:?} {:?} {:?}", config.validate(), mistakes(&config));
        assert!(!shown.contains("secret"), "{redis_url}: {shown}");
    }
}
