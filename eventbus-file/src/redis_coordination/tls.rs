//! Connections with TLS: the trusted authorities, and the certificate of this worker.
//!
//! Invariant: an application that chose a cryptography provider for rustls keeps it; if several are linked and none is
//! chosen, connecting would panic.

use std::path::Path;

use redis::{Client, ConnectionInfo};

use crate::{config::invalid_config, error::Result};

/// Returns `true` if a URL asks for TLS; an error if it asks for TLS that this build refuses.
pub(super) fn has_tls_scheme(url: &str) -> Result<bool> {
    let Some(url) = redis::parse_redis_url(url) else {
        return Ok(false);
    };
    if !matches!(url.scheme(), "rediss" | "valkeys") {
        return Ok(false);
    }
    let problem = match url.fragment() {
        _ if cfg!(not(feature = "tls")) => "asks for TLS, which needs the cargo feature `tls` of eventbus-file",
        Some("insecure") => "asks for TLS with any server (`#insecure`); set an authority in `tls_ca_file` instead",
        _ => return Ok(true),
    };
    Err(invalid_config("redis_url", problem.into()))
}

/// Builds a client that trusts the authorities of a file, or those of the platform, and that presents its certificate
/// if it has one.
#[cfg(feature = "tls")]
pub(super) fn client(
    info: &ConnectionInfo,
    ca_file: Option<&Path>,
    cert_file: Option<&Path>,
    key_file: Option<&Path>,
) -> Result<Client> {
    use redis::{ClientTlsConfig, TlsCertificates};
    use rustls::crypto::{CryptoProvider, ring};

    if CryptoProvider::get_default().is_none() {
        // fails if a different thread was faster, which is as good
        let _ = ring::default_provider().install_default();
    }
    let root_cert = pem("tls_ca_file", ca_file, "CERTIFICATE")?;
    let client_cert = pem("tls_cert_file", cert_file, "CERTIFICATE")?;
    let client_key = pem("tls_key_file", key_file, "PRIVATE KEY")?;
    let client_tls = match (client_cert, client_key) {
        (None, None) => None,
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
        (Some(_), None) => return Err(invalid_config("tls_cert_file", "is set without `tls_key_file`".into())),
        (None, Some(_)) => return Err(invalid_config("tls_key_file", "is set without `tls_cert_file`".into())),
    };
    let build = |client_tls| {
        let certificates = TlsCertificates { client_tls, root_cert: root_cert.clone() };
        Client::build_with_tls(info.clone(), certificates)
    };
    let shows_one = client_tls.is_some();
    build(client_tls).map_err(|error| {
        // the error does not name the file: build without the client's certificate to find it
        let blamed = if shows_one && build(None).is_ok() { "tls_cert_file" } else { "tls_ca_file" };
        invalid_config(blamed, format!("cannot be used: {error}"))
    })
}

/// Reads a PEM file, and checks that it holds an item of a kind.
#[cfg(feature = "tls")]
fn pem(setting: &'static str, file: Option<&Path>, kind: &str) -> Result<Option<Vec<u8>>> {
    let Some(file) = file else {
        return Ok(None);
    };
    let unusable = |problem: String| invalid_config(setting, format!("({}) {problem}", file.display()));
    let pem = std::fs::read_to_string(file).map_err(|error| unusable(format!("cannot be read: {error}")))?;
    // the label of a key may begin with its algorithm: `RSA PRIVATE KEY`
    let is_there = pem.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(&format!("{kind}-----")));
    match is_there {
        true => Ok(Some(pem.into_bytes())),
        false => Err(unusable(format!("holds no {} in PEM format", kind.to_lowercase()))),
    }
}

/// Refuses: `has_tls_scheme` has already refused a URL that asks for TLS.
#[cfg(not(feature = "tls"))]
pub(super) fn client(_: &ConnectionInfo, _: Option<&Path>, _: Option<&Path>, _: Option<&Path>) -> Result<Client> {
    Err(invalid_config("redis_url", "asks for TLS, which this build lacks".into()))
}
