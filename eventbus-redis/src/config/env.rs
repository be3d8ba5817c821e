//! Reading a configuration from the environment.

use super::RedisEventBusConfig;
use crate::{
    env_vars::{EnvVars, NotUtf8},
    error::InvalidConfig,
};

/// Reads every field.
pub(super) fn from_vars(
    get: impl Fn(&str) -> Option<Result<String, NotUtf8>>,
) -> Result<RedisEventBusConfig, InvalidConfig> {
    let mut vars = EnvVars::new(get);
    let mut config = RedisEventBusConfig::default();
    vars.redis_url(&mut config.redis_url);
    vars.text("EVENTBUS_STREAM_PREFIX", &mut config.stream_prefix);
    vars.text("EVENTBUS_CONSUMER_GROUP", &mut config.consumer_group);
    config.consumer_name = vars.value("EVENTBUS_CONSUMER_NAME");
    vars.number("EVENTBUS_BATCH_SIZE", &mut config.batch_size);
    vars.number("EVENTBUS_BLOCK_MS", &mut config.block_ms);
    vars.number("EVENTBUS_RETRY_FOR_SECONDS", &mut config.retry_for_seconds);
    vars.optional_number("EVENTBUS_MAX_RETRIES", &mut config.max_retries);
    vars.number("EVENTBUS_PENDING_IDLE_MS", &mut config.pending_idle_ms);
    vars.flag("EVENTBUS_ENABLE_DLQ", &mut config.enable_dlq);
    vars.text("EVENTBUS_DLQ_STREAM_SUFFIX", &mut config.dlq_stream_suffix);
    vars.seconds("EVENTBUS_SOCKET_TIMEOUT", &mut config.socket_timeout);
    vars.seconds("EVENTBUS_SOCKET_CONNECT_TIMEOUT", &mut config.socket_connect_timeout);
    vars.flag("EVENTBUS_ENABLE_TRACING", &mut config.enable_tracing);
    vars.text("EVENTBUS_RETRY_KEY_PREFIX", &mut config.retry_key_prefix);
    vars.number("EVENTBUS_RETRY_KEY_EXPIRY_SECONDS", &mut config.retry_key_expiry_seconds);
    vars.flag("EVENTBUS_SINGLE_CONNECTION_CLIENT", &mut config.single_connection_client);
    vars.number("EVENTBUS_CONCURRENCY", &mut config.concurrency);
    vars.optional_number("EVENTBUS_MAX_IN_FLIGHT", &mut config.max_in_flight);
    vars.number("EVENTBUS_RETRY_DELAY_MS", &mut config.retry_delay_ms);
    vars.number("EVENTBUS_RETRY_MAX_DELAY_MS", &mut config.retry_max_delay_ms);
    vars.optional_number("EVENTBUS_TRIM_MAX_LENGTH", &mut config.trim_max_length);
    vars.optional_number("EVENTBUS_TRIM_MAX_AGE_SECONDS", &mut config.trim_max_age_seconds);
    config.tls_ca_file = vars.value("EVENTBUS_TLS_CA_FILE").map(Into::into);
    config.tls_cert_file = vars.value("EVENTBUS_TLS_CERT_FILE").map(Into::into);
    config.tls_key_file = vars.value("EVENTBUS_TLS_KEY_FILE").map(Into::into);
    vars.flag("EVENTBUS_READABLE_BY_PYTHON", &mut config.readable_by_python);
    vars.finish("bus", config)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::HashMap, time::Duration};

    use eventbus::clock::SharedClock;

    use super::*;
    use crate::env_vars::BUS_VARIABLES;

    fn read(vars: &[(&str, &str)]) -> Result<RedisEventBusConfig, InvalidConfig> {
        let vars: HashMap<_, _> = vars.iter().copied().collect();
        from_vars(|name| vars.get(name).map(|value| Ok((*value).to_owned())))
    }

    #[test]
    fn an_empty_environment_gives_the_defaults() {
        assert_eq!(read(&[]).unwrap(), RedisEventBusConfig::default());
        let empty = [("REDIS_URL", ""), ("EVENTBUS_BATCH_SIZE", "")];
        assert_eq!(read(&empty).unwrap(), RedisEventBusConfig::default());
    }

    #[test]
    fn the_server_under_another_name_is_a_mistake() {
        let error = read(&[("EVENTBUS_REDIS_URL", "redis://db")]).unwrap_err().to_string();
        assert!(error.ends_with("`EVENTBUS_REDIS_URL` is set; the server is named by `REDIS_URL`"), "{error}");
    }

    #[test]
    fn every_field_has_a_variable() {
        let config = read(&[
            ("REDIS_URL", "rediss://db:7000/2"),
            ("EVENTBUS_STREAM_PREFIX", "orders"),
            ("EVENTBUS_CONSUMER_GROUP", "projections"),
            ("EVENTBUS_CONSUMER_NAME", "worker-1"),
            ("EVENTBUS_BATCH_SIZE", "7"),
            ("EVENTBUS_BLOCK_MS", "8"),
            ("EVENTBUS_RETRY_FOR_SECONDS", "90"),
            ("EVENTBUS_MAX_RETRIES", "9"),
            ("EVENTBUS_PENDING_IDLE_MS", "10"),
            ("EVENTBUS_ENABLE_DLQ", "false"),
            ("EVENTBUS_DLQ_STREAM_SUFFIX", "_dead"),
            ("EVENTBUS_SOCKET_TIMEOUT", "1.5"),
            ("EVENTBUS_SOCKET_CONNECT_TIMEOUT", "2"),
            ("EVENTBUS_ENABLE_TRACING", "false"),
            ("EVENTBUS_RETRY_KEY_PREFIX", "again"),
            ("EVENTBUS_RETRY_KEY_EXPIRY_SECONDS", "11"),
            ("EVENTBUS_SINGLE_CONNECTION_CLIENT", "true"),
            ("EVENTBUS_CONCURRENCY", "4"),
            ("EVENTBUS_MAX_IN_FLIGHT", "60"),
            ("EVENTBUS_RETRY_DELAY_MS", "12"),
            ("EVENTBUS_RETRY_MAX_DELAY_MS", "13"),
            ("EVENTBUS_TRIM_MAX_LENGTH", "15"),
            ("EVENTBUS_TRIM_MAX_AGE_SECONDS", "16"),
            ("EVENTBUS_TLS_CA_FILE", "certificates/ca.pem"),
            ("EVENTBUS_TLS_CERT_FILE", "certificates/client.pem"),
            ("EVENTBUS_TLS_KEY_FILE", "certificates/client.key"),
            ("EVENTBUS_READABLE_BY_PYTHON", "true"),
        ]);
        let expected = RedisEventBusConfig {
            redis_url: "rediss://db:7000/2".into(),
            stream_prefix: "orders".into(),
            consumer_group: "projections".into(),
            consumer_name: Some("worker-1".into()),
            batch_size: 7,
            block_ms: 8,
            retry_for_seconds: 90,
            max_retries: Some(9),
            pending_idle_ms: 10,
            enable_dlq: false,
            dlq_stream_suffix: "_dead".into(),
            socket_timeout: Duration::from_millis(1_500),
            socket_connect_timeout: Duration::from_secs(2),
            enable_tracing: false,
            retry_key_prefix: "again".into(),
            retry_key_expiry_seconds: 11,
            single_connection_client: true,
            concurrency: 4,
            max_in_flight: Some(60),
            retry_delay_ms: 12,
            retry_max_delay_ms: 13,
            trim_max_length: Some(15),
            trim_max_age_seconds: Some(16),
            tls_ca_file: Some("certificates/ca.pem".into()),
            tls_cert_file: Some("certificates/client.pem".into()),
            tls_key_file: Some("certificates/client.key".into()),
            readable_by_python: true,
            clock: SharedClock::SYSTEM,
        };
        assert_eq!(config.unwrap(), expected);
    }

    /// The URL may come from elsewhere, `--bus rediss://…` for example.
    #[test]
    fn what_fits_to_another_field_is_not_refused_before_that_is_set() {
        let config = read(&[("EVENTBUS_TLS_CA_FILE", "ca.pem"), ("EVENTBUS_BLOCK_MS", "0")]).unwrap();
        let fields: Vec<_> = config.validate().unwrap_err().mistakes.into_iter().map(|mistake| mistake.field).collect();
        assert_eq!(fields, ["tls_ca_file", "block_ms"]);
        let config = RedisEventBusConfig { redis_url: "rediss://db".into(), block_ms: 1, ..config };
        assert_eq!(config.validate(), Ok(()));
    }

    #[test]
    fn all_mistakes_are_named_and_no_password_is_shown() {
        let error = read(&[
            ("REDIS_URL", "rredis://user:secret@host"),
            ("EVENTBUS_BATCH_SIZE", "many"),
            ("EVENTBUS_ENABLE_DLQ", "yes"),
            ("EVENTBUS_SOCKET_TIMEOUT", "-1"),
            ("EVENTBUS_MAX_IN_FLIGHT", "some"),
            ("EVENTBUS_TRIM_MAX_LENGTH", "-1"),
        ])
        .unwrap_err();
        let fields: Vec<_> = error.mistakes.iter().map(|m| m.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "EVENTBUS_BATCH_SIZE",
                "EVENTBUS_ENABLE_DLQ",
                "EVENTBUS_SOCKET_TIMEOUT",
                "EVENTBUS_MAX_IN_FLIGHT",
                "EVENTBUS_TRIM_MAX_LENGTH"
            ]
        );
        assert!(!error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn the_list_of_known_variables_is_complete() {
        let requested = RefCell::new(Vec::new());
        let read = |name: &str| {
            requested.borrow_mut().push(name.to_owned());
            None
        };
        from_vars(read).unwrap();
        assert_eq!(requested.into_inner(), BUS_VARIABLES.split_whitespace().collect::<Vec<_>>());
    }
}
