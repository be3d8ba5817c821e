//! The configuration: names, defaults, refused values.

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
    assert_eq!((config.retry_for_seconds, config.max_retries), (4 * 3_600, None));
    assert_eq!(config.pending_idle_ms, 60_000);
    assert!(config.enable_dlq);
    assert_eq!(config.dlq_stream_suffix, "_dlq");
    assert_eq!(config.socket_timeout, Duration::from_secs(5));
    assert_eq!(config.socket_connect_timeout, Duration::from_secs(5));
    assert!(config.enable_tracing);
    assert_eq!(config.retry_key_prefix, "retry");
    assert_eq!(config.retry_key_expiry_seconds, 86_400);
    assert!(!config.single_connection_client);
    assert_eq!(config.concurrency, 1);
    assert_eq!(config.max_in_flight, None);
    assert_eq!(config.retry_delay_ms, 100);
    assert_eq!(config.retry_max_delay_ms, 300_000);
    assert_eq!((config.trim_max_length, config.trim_max_age_seconds), (None, None));
    assert!(!config.readable_by_python);
    assert_eq!(config.stream_name(), "events:stream");
    assert_eq!(config.dlq_stream_name(), "events:stream_dlq");
    assert_eq!(config.validate(), Ok(()));
}

#[test]
fn it_deserializes_with_defaults_and_refuses_what_it_does_not_know() {
    assert_eq!(read("{}").unwrap(), RedisEventBusConfig::default());
    let config = read(
        r#"{"stream_prefix":"orders","consumer_name":"w1","socket_timeout":1.5,"socket_connect_timeout":2,
                 "concurrency":4,"max_in_flight":50,"trim_max_length":9,"readable_by_python":true}"#,
    );
    let expected = RedisEventBusConfig {
        stream_prefix: "orders".into(),
        consumer_name: Some("w1".into()),
        socket_timeout: Duration::from_millis(1_500),
        socket_connect_timeout: Duration::from_secs(2),
        concurrency: 4,
        max_in_flight: Some(50),
        trim_max_length: Some(9),
        readable_by_python: true,
        ..RedisEventBusConfig::default()
    };
    assert_eq!(config.unwrap(), expected);
    assert!(read(r#"{"stream_prefx":"orders"}"#).unwrap_err().contains("stream_prefx"));
    assert!(read(r#"{"socket_timeout":-1}"#).is_err());
    assert!(read(r#"{"batch_size":-1}"#).is_err());
}

/// The bus gives such names to consumers that are no process.
#[test]
fn a_consumer_has_no_name_that_the_bus_uses_itself() {
    for (name, is_wrong) in [("w-recovery", true), ("recovery-1", false)] {
        let config = RedisEventBusConfig { consumer_name: Some(name.into()), ..RedisEventBusConfig::default() };
        let wrong = ["`consumer_name` ends with `-recovery`"];
        assert_eq!(mistakes(&config), if is_wrong { &wrong[..] } else { &[] }, "{name}");
    }
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
        concurrency: 0,
        max_in_flight: Some(0),
        retry_delay_ms: 0,
        retry_max_delay_ms: 0,
        trim_max_length: Some(0),
        trim_max_age_seconds: Some(0),
        tls_ca_file: Some("ca.pem".into()),
        ..RedisEventBusConfig::default()
    };
    assert_eq!(
        mistakes(&config),
        [
            "`redis_url` is no Redis URL (redis://[user:password@]host[:port][/database], the password percent-encoded)",
            "`socket_timeout` is 0",
            "`socket_connect_timeout` is 0",
            "`tls_ca_file` is set, but `redis_url` is not `rediss://…`",
            "`stream_prefix` is empty",
            "`consumer_group` has 256 bytes, at most 255 are allowed",
            "`consumer_name` holds a control character at byte 1",
            "`batch_size` is 0",
            "`block_ms` is 0",
            "`pending_idle_ms` is 0",
            "`dlq_stream_suffix` is empty",
            "`retry_key_prefix` has 201 bytes, at most 200 are allowed",
            "`retry_key_expiry_seconds` is 0",
            "`concurrency` is 0",
            "`max_in_flight` is 0",
            "`retry_delay_ms` is 0",
            "`retry_max_delay_ms` is 0",
            "`trim_max_length` is 0",
            "`trim_max_age_seconds` is 0",
        ]
    );
}

#[test]
fn numbers_that_no_server_takes_and_names_of_other_keys_are_mistakes() {
    let config = RedisEventBusConfig {
        batch_size: usize::MAX,
        block_ms: u64::MAX,
        pending_idle_ms: u64::MAX,
        dlq_stream_suffix: ":relay".into(),
        retry_key_prefix: "members".into(),
        retry_key_expiry_seconds: u64::MAX,
        concurrency: 8,
        max_in_flight: Some(7),
        retry_delay_ms: 50,
        retry_max_delay_ms: 49,
        trim_max_age_seconds: Some(u64::MAX),
        ..RedisEventBusConfig::default()
    };
    let max = u64::MAX;
    assert_eq!(
        mistakes(&config),
        [
            format!("`batch_size` is {}, at most 1000000 is allowed", usize::MAX),
            format!("`block_ms` is {max}, at most 3162240000000 is allowed"),
            format!("`pending_idle_ms` is {max}, at most 3162240000000 is allowed"),
            "`dlq_stream_suffix` begins with `:relay`, as other keys of the bus do".into(),
            "`retry_key_prefix` begins with `members`, as other keys of the bus do".into(),
            format!("`retry_key_expiry_seconds` is {max}, at most 3162240000 is allowed"),
            "`concurrency` is 8, but a consumer holds at most 7 entries (`max_in_flight`)".into(),
            "`retry_max_delay_ms` is 49, less than `retry_delay_ms` (50)".into(),
            format!("`trim_max_age_seconds` is {max}, at most 3162240000 is allowed"),
        ]
    );
    let of_batch = RedisEventBusConfig { batch_size: 1, concurrency: 11, ..RedisEventBusConfig::default() };
    assert_eq!(mistakes(&of_batch), ["`concurrency` is 11, but a consumer holds at most 10 entries (`max_in_flight`)"]);
    let suffix = RedisEventBusConfig { dlq_stream_suffix: ":retry:x".into(), ..RedisEventBusConfig::default() };
    assert_eq!(mistakes(&suffix), ["`dlq_stream_suffix` begins with `:retry`, as other keys of the bus do"]);
    for suffix in [":dlq", "_floors", "floors"] {
        let fine = RedisEventBusConfig { dlq_stream_suffix: suffix.into(), ..RedisEventBusConfig::default() };
        assert_eq!(mistakes(&fine), [""; 0], "{suffix}");
    }
}

#[test]
fn every_field_is_shown() {
    let shown = format!("{:?}", RedisEventBusConfig::default());
    for field in ["concurrency: 1", "max_in_flight: None", "trim_max_age_seconds", "readable_by_python: false"] {
        assert!(shown.contains(field), "{field} in {shown}");
    }
}

#[test]
fn every_form_of_address_is_understood_and_what_would_be_ignored_is_a_mistake() {
    let url_mistakes = |redis_url: &str| {
        mistakes(&RedisEventBusConfig { redis_url: redis_url.into(), ..RedisEventBusConfig::default() })
    };
    for fine in [
        "redis://localhost",
        "redis://:secret@localhost:1/15?protocol=resp3",
        "rediss://app:se%2Fcret@localhost:1/15",
        "valkeys://[::1]:1",
        "unix:///run/redis.sock",
        "redis+unix:///run/redis.sock?db=1&user=app&pass=secret",
    ] {
        assert_eq!(url_mistakes(fine), [""; 0], "{fine}");
    }
    let tcp = "`redis_url` has other parameters than `protocol`";
    assert_eq!(url_mistakes("redis://localhost/0?password=secret"), [tcp]);
    assert_eq!(url_mistakes("redis://localhost?db=1"), [tcp]);
    let socket = "`redis_url` has other parameters than `db`, `user`, `pass`, `protocol`";
    assert_eq!(url_mistakes("unix:///run/redis.sock?password=secret"), [socket]);
    let insecure = "`redis_url` asks for TLS with any server (`#insecure`); set an authority in `tls_ca_file` instead";
    assert_eq!(url_mistakes("rediss://localhost/#insecure"), [insecure]);
}

#[test]
fn no_message_shows_a_password() {
    for redis_url in [
        "redis://user:secret@localhost:6379/0",
        "redis://:secret@localhost/not-a-number",
        "redis//user:secret@localhost",
        "http://user:secret@localhost",
        "rediss://user:secret@localhost",
        "rediss://user:secret@localhost/#insecure",
        "redis://user:se/secret@localhost",
        "redis://user:se?secret@localhost",
        "redis://user:se#secret@localhost",
        "redis://secret@localhost",
        "redis://secret:@localhost",
        "redis://secret@localhost/not-a-number",
        "redis://localhost/0?password=secret",
        "redis://localhost/0?secret",
        "redis://localhost/0?protocol=secret",
        "redis://localhost/0#secret",
        "unix:///run/redis.sock?user=app&pass=secret",
        "redis+unix:///run/redis.sock?pass=secret&db=many",
        "unix://user:secret@/run/redis.sock",
        "secret",
    ] {
        let config = RedisEventBusConfig { redis_url: redis_url.into(), ..RedisEventBusConfig::default() };
        let shown = format!("{config:?} {:?} {:?}", config.validate(), mistakes(&config));
        assert!(!shown.contains("secret"), "{redis_url}: {shown}");
    }
}

#[test]
fn a_user_is_shown_where_there_is_a_password_too() {
    let config = RedisEventBusConfig { redis_url: "redis://app:secret@db:1/2".into(), ..Default::default() };
    assert!(format!("{config:?}").contains("\"redis://app@db:1/2\""), "{config:?}");
}
