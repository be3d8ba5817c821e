//! Connections with TLS: the authorities to trust, and the client's certificate.
//!
//! Invariant: an application's choice of a cryptography provider for rustls stands. If it made none, this module
//! installs ring: connecting would panic if several providers are linked and none is chosen.

use std::{error::Error, fs, io, path::Path, sync::Arc};

use redis::{Client, ClientTlsConfig, RedisError, TlsCertificates};
use rustls::crypto::{CryptoProvider, ring};

use crate::{server::Server, validate::FieldMistake};

/// Prepares a client that trusts the authorities of the configuration.
pub(crate) fn client(server: &Server<'_>) -> Result<Client, FieldMistake> {
    if CryptoProvider::get_default().is_none() {
        // fails if a concurrent caller has installed a provider, which is as good
        let _ = ring::default_provider().install_default();
    }
    let root_cert = pem("tls_ca_file", server.tls_ca_file, "CERTIFICATE")?;
    let client_cert = pem("tls_cert_file", server.tls_cert_file, "CERTIFICATE")?;
    let client_key = pem("tls_key_file", server.tls_key_file, "PRIVATE KEY")?;
    let client_tls =
        client_cert.zip(client_key).map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    let build = |client_tls, root_cert| Client::build_with_tls(server.url, TlsCertificates { client_tls, root_cert });
    let (client_only, is_shown) = (client_tls.clone(), client_tls.is_some());
    build(client_tls, root_cert.clone()).map_err(|error| {
        // the error does not name the file at fault: leave out the authorities and try again
        let field = match is_shown && build(client_only, None).is_err() {
            true => "tls_cert_file",
            false => "tls_ca_file",
        };
        (field, format!("cannot be used: {error}"))
    })
}

/// Reads a PEM file; fails if it has no block of the kind.
fn pem(field: &'static str, file: Option<&Path>, kind: &str) -> Result<Option<Vec<u8>>, FieldMistake> {
    let Some(file) = file else {
        return Ok(None);
    };
    let mistake = |problem| (field, problem);
    let pem =
        fs::read_to_string(file).map_err(|error| mistake(format!("({}) cannot be read: {error}", file.display())))?;
    // the algorithm of a key precedes its kind: `RSA PRIVATE KEY`
    let is_there = pem.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(&format!("{kind}-----")));
    match is_there {
        true => Ok(Some(pem.into_bytes())),
        false => Err(mistake(format!("({}) holds no {} in PEM format", file.display(), kind.to_lowercase()))),
    }
}

/// Returns `true` if connecting failed because the client does not trust the server's certificate.
pub(crate) fn is_untrusted(error: &RedisError) -> bool {
    matches!(tls_error(error), Some(rustls::Error::InvalidCertificate(_)))
}

/// Returns `true` if connecting failed because the server does not answer with TLS.
pub(crate) fn is_no_tls(error: &RedisError) -> bool {
    matches!(tls_error(error), Some(rustls::Error::InvalidMessage(_)))
}

fn tls_error(error: &RedisError) -> Option<&rustls::Error> {
    let transport = error.source().and_then(|source| source.downcast_ref::<Arc<dyn Error + Send + Sync>>())?;
    transport.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}
