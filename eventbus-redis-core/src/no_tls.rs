//! The replacement of `tls` in builds without that feature: validation refuses a configuration with TLS before it gets
//! here.

use redis::{Client, RedisError};

use crate::{server::Server, validate::FieldMistake};

/// Fails: this build has no TLS.
pub(crate) fn client(_server: &Server<'_>) -> Result<Client, FieldMistake> {
    Err(("redis_url", "asks for TLS, which this build has not".into()))
}

/// Returns `false`: this build checks no certificate.
pub(crate) fn is_untrusted(_error: &RedisError) -> bool {
    false
}

/// Returns `false`: this build never attempts TLS.
pub(crate) fn is_no_tls(_error: &RedisError) -> bool {
    false
}
