//! The configuration of [`RedisStreams`](super::RedisStreams).

use std::{path::PathBuf, time::Duration};

use eventbus::clock::SharedClock;
use eventbus_redis_core::server_config;
use serde::Deserialize;

use crate::{
    error::InvalidConfig,
    server::ServerConfig,
    url::address,
    validate::{prefix_problem, seconds},
};

/// The configuration of [`RedisStreams`](super::RedisStreams): a plain struct with defaults.
///
/// It deserializes from any format; absent fields take their defaults, unknown ones are refused, times are numbers of
/// seconds. TLS and secrets work as in [`RedisEventBusConfig`](crate::RedisEventBusConfig).
///
/// # Redis Cluster
/// A projection changes its checkpoint, its keys and its note beside the stream in one step, so these keys must be in
/// one slot. On a cluster the prefix must therefore have a hash tag, such as `{shop}`;
/// [`connect`](super::RedisStreams::connect) refuses any other. A projection then reads `{shop}:orders` and writes
/// `{shop}:stats:orders`; with keys in other slots it fails with
/// [`StreamProjectionError::OtherSlot`](super::StreamProjectionError::OtherSlot). The URL names the master that has the
/// slot.
///
/// # Examples
/// ```
/// use eventbus_redis::streams::RedisStreamsConfig;
/// assert_eq!(RedisStreamsConfig::default().stream_key("orders"), "events:orders");
/// ```
#[derive(derive_more::Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisStreamsConfig {
    /// The server: `redis://[user:password@]host[:port][/database]`, the same with `rediss://` for TLS, or
    /// `redis+unix:///path`; user and password percent-encoded. Default `redis://localhost:6379`.
    #[debug("{:?}", address(redis_url))]
    pub redis_url: String,
    /// Time limit of a reply of the server. Default 5 s.
    #[serde(deserialize_with = "seconds")]
    pub socket_timeout: Duration,
    /// Time limit of connecting. Default 5 s.
    #[serde(deserialize_with = "seconds")]
    pub socket_connect_timeout: Duration,
    /// A PEM file with the certificates of the authorities that may sign the server's certificate, instead of those
    /// that the platform trusts. Default: none.
    pub tls_ca_file: Option<PathBuf>,
    /// A PEM file with this client's certificate, for a server that asks for one; needs
    /// [`tls_key_file`](Self::tls_key_file). Default: none.
    pub tls_cert_file: Option<PathBuf>,
    /// A PEM file with the private key of [`tls_cert_file`](Self::tls_cert_file). Default: none.
    pub tls_key_file: Option<PathBuf>,
    /// Prefix of the keys of published streams, without the colon that follows it. Default `events`.
    pub stream_prefix: String,
    /// Clock for the timestamps of published events. Default: the machine's.
    #[serde(skip)]
    pub clock: SharedClock,
}

impl Default for RedisStreamsConfig {
    fn default() -> Self {
        Self {
            redis_url: "redis://localhost:6379".into(),
            socket_timeout: Duration::from_secs(5),
            socket_connect_timeout: Duration::from_secs(5),
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            stream_prefix: "events".into(),
            clock: SharedClock::SYSTEM,
        }
    }
}

impl RedisStreamsConfig {
    /// Returns the key of a published stream: `{prefix}:{stream}`.
    #[must_use]
    pub fn stream_key(&self, stream: &str) -> String {
        format!("{}:{stream}", self.stream_prefix)
    }

    /// Checks every field.
    ///
    /// # Errors
    /// [`InvalidConfig`] with all mistakes. It never shows the password.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let prefix = ("stream_prefix", prefix_problem(&self.stream_prefix));
        InvalidConfig::check("streams", self.server().problems().chain([prefix]))
    }

    pub(crate) fn server(&self) -> ServerConfig<'_> {
        server_config!(self, of: "streams", prefix: stream_prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_named() {
        let config = RedisStreamsConfig {
            redis_url: "localhost".into(),
            stream_prefix: String::new(),
            socket_timeout: Duration::MAX,
            socket_connect_timeout: Duration::ZERO,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            clock: SharedClock::SYSTEM,
        };
        let mistakes = config.validate().unwrap_err().mistakes;
        let fields: Vec<_> = mistakes.iter().map(|mistake| mistake.field.as_str()).collect();
        assert_eq!(fields, ["redis_url", "socket_timeout", "socket_connect_timeout", "stream_prefix"]);
        assert_eq!(RedisStreamsConfig::default().validate(), Ok(()));
    }
}
