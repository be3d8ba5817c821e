//! The stand-in for `tls` in builds without that feature; a configuration that asks for TLS does not get this far.

use redis::{Client, RedisError};

use crate::{ConfigMistake, server::Server};

/// Refuses: this build has no TLS.
pub(crate) fn client(_server: &Server<'_>) -> Result<Client, ConfigMistake> {
    Err(ConfigMistake::new("redis_url", "asks for TLS, which this build has not"))
}

/// Never: no certificate is looked at.
pub(crate) fn is_untrusted(_error: &RedisError) -> bool {
    false
}

/// Never: TLS is never tried.
pub(crate) fn is_no_tls(_error: &RedisError) -> bool {
    false
}
