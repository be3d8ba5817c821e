//! Connections with TLS: whom to trust.
//!
//! Keep: an application that chose a cryptography provider for rustls keeps it; where several are linked and none is
//! chosen, connecting would panic.

use std::path::Path;

use redis::{Client, ConnectionInfo};

use crate::{config::mistake, error::Result};

/// Whether a URL asks for TLS, and for one that this build has.
pub(super) fn is_asked_for(url: &str) -> Result<bool> {
    let Some(url) = redis::parse_redis_url(url) else {
        return Ok(false);
    };
    if !matches!(url.scheme(), "rediss" | "valkeys") {
        return Ok(false);
    }
    let problem = match url.fragment() {
        _ if cfg!(not(feature = "tls")) => "asks for TLS, which needs the cargo feature `tls` of eventbus-file",
        Some("insecure") => "asks for TLS with anybody (`#insecure`); name whom to trust in `tls_ca_file` instead",
        _ => return Ok(true),
    };
    Err(mistake("redis_url", problem.into()))
}

/// Prepares a client that trusts the authorities of a file, or those of the platform.
#[cfg(feature = "tls")]
pub(super) fn client(info: ConnectionInfo, ca_file: Option<&Path>) -> Result<Client> {
    use redis::TlsCertificates;
    use rustls::crypto::{CryptoProvider, ring};

    if CryptoProvider::get_default().is_none() {
        // fails if somebody else was faster, which is as good
        let _ = ring::default_provider().install_default();
    }
    let unusable = |problem: String| mistake("tls_ca_file", problem);
    let root_cert = ca_file.map(authorities).transpose().map_err(unusable)?;
    let trusted = TlsCertificates { client_tls: None, root_cert };
    Client::build_with_tls(info, trusted).map_err(|error| unusable(format!("cannot be used: {error}")))
}

#[cfg(feature = "tls")]
fn authorities(file: &Path) -> Result<Vec<u8>, String> {
    let pem = std::fs::read(file).map_err(|error| format!("({}) cannot be read: {error}", file.display()))?;
    let begins = b"-----BEGIN CERTIFICATE-----";
    match pem.windows(begins.len()).any(|part| part == begins) {
        true => Ok(pem),
        false => Err(format!("({}) holds no certificate in PEM format", file.display())),
    }
}

/// What asks for TLS does not get this far.
#[cfg(not(feature = "tls"))]
pub(super) fn client(_: ConnectionInfo, _: Option<&Path>) -> Result<Client> {
    Err(mistake("redis_url", "asks for TLS, which this build has not".into()))
}
