//! Finding every mistake of a configuration at once.

use eventbus::Name;
use redis::IntoConnectionInfo;

use super::RedisEventBusConfig;
use crate::error::{ConfigMistake, InvalidConfig};

/// Leaves room for what keys and checkpoint names add to the prefix.
const MAX_PREFIX_BYTES: usize = 200;

impl RedisEventBusConfig {
    /// Checks every field.
    ///
    /// # Errors
    /// [`InvalidConfig`] with all mistakes. It never shows the password.
    ///
    /// # Examples
    /// ```
    /// use eventbus_redis::RedisEventBusConfig;
    /// let config = RedisEventBusConfig { batch_size: 0, consumer_group: String::new(), ..Default::default() };
    /// let error = config.validate().unwrap_err();
    /// assert_eq!(
    ///     error.to_string(),
    ///     "invalid configuration of the Redis bus: `consumer_group` is empty; `batch_size` is 0"
    /// );
    /// ```
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let mistakes = self.mistakes();
        if mistakes.is_empty() { Ok(()) } else { Err(InvalidConfig { mistakes }) }
    }

    pub(super) fn mistakes(&self) -> Vec<ConfigMistake> {
        let mut found = Vec::new();
        let mut found_in = |field: &str, problem: Option<String>| {
            found.extend(problem.map(|problem| ConfigMistake::new(field, problem)));
        };
        found_in("redis_url", url_problem(&self.redis_url));
        found_in("stream_prefix", prefix_problem(&self.stream_prefix));
        found_in("consumer_group", name_problem(&self.consumer_group));
        let consumer = self.consumer_name.as_deref();
        found_in("consumer_name", consumer.and_then(name_problem));
        let zero = |is_zero: bool| is_zero.then(|| "is 0".to_owned());
        found_in("batch_size", zero(self.batch_size == 0));
        found_in("block_ms", zero(self.block_ms == 0));
        found_in("pending_idle_ms", zero(self.pending_idle_ms == 0));
        found_in("dlq_stream_suffix", prefix_problem(&self.dlq_stream_suffix));
        found_in("socket_timeout", zero(self.socket_timeout.is_zero()));
        let connect = self.socket_connect_timeout;
        found_in("socket_connect_timeout", zero(connect.is_zero()));
        found_in("retry_key_prefix", prefix_problem(&self.retry_key_prefix));
        let expiry = self.retry_key_expiry_seconds;
        found_in("retry_key_expiry_seconds", zero(expiry == 0));
        found
    }
}

fn name_problem(value: &str) -> Option<String> {
    let error = Name::new("name", value).err()?;
    let reason = error.reason.to_string();
    Some(reason.strip_prefix("it ").unwrap_or(&reason).to_owned())
}

fn prefix_problem(value: &str) -> Option<String> {
    name_problem(value).or_else(|| {
        let bytes = value.len();
        (bytes > MAX_PREFIX_BYTES).then(|| format!("has {bytes} bytes, at most {MAX_PREFIX_BYTES} are allowed"))
    })
}

fn url_problem(url: &str) -> Option<String> {
    if url.starts_with("rediss://") && redis::Client::open(url).is_err() {
        return Some("asks for TLS, which this build has not".into());
    }
    let parsed = url.into_connection_info().is_ok();
    // what does not parse may hold a password anywhere, so it is not shown
    (!parsed).then(|| {
        "is no Redis URL (redis://[user:password@]host[:port][/database], the password percent-encoded)".into()
    })
}
