//! Connections with TLS: whom to trust, and what to show.
//!
//! Keep: an application that chose a cryptography provider for rustls keeps it; where several are linked and none is
//! chosen, connecting would panic.

use std::{error::Error, fs, io, path::Path, sync::Arc};

use redis::{Client, ClientTlsConfig, RedisError, TlsCertificates};
use rustls::crypto::{CryptoProvider, ring};

use crate::{ConfigMistake, server::Server};

/// Prepares a client that trusts the authorities of the configuration.
pub(crate) fn client(server: &Server<'_>) -> Result<Client, ConfigMistake> {
    if CryptoProvider::get_default().is_none() {
        // fails if somebody else was faster, which is as good
        let _ = ring::default_provider().install_default();
    }
    let root_cert = pem("tls_ca_file", server.tls_ca_file, "CERTIFICATE")?;
    let client_cert = pem("tls_cert_file", server.tls_cert_file, "CERTIFICATE")?;
    let client_key = pem("tls_key_file", server.tls_key_file, "PRIVATE KEY")?;
    let client_tls =
        client_cert.zip(client_key).map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    let build = |client_tls, root_cert| Client::build_with_tls(server.url, TlsCertificates { client_tls, root_cert });
    let (of_client, is_shown) = (client_tls.clone(), client_tls.is_some());
    build(client_tls, root_cert.clone()).map_err(|error| {
        // which of the files is to blame is known only by leaving the others out
        let blamed = match is_shown && build(of_client, None).is_err() {
            true => "tls_cert_file",
            false => "tls_ca_file",
        };
        ConfigMistake::new(blamed, format!("cannot be used: {error}"))
    })
}

/// The text of a PEM file that is to hold something of a kind.
fn pem(field: &str, file: Option<&Path>, kind: &str) -> Result<Option<Vec<u8>>, ConfigMistake> {
    let Some(file) = file else {
        return Ok(None);
    };
    let mistake = |problem| ConfigMistake::new(field, problem);
    let pem =
        fs::read_to_string(file).map_err(|error| mistake(format!("({}) cannot be read: {error}", file.display())))?;
    // the kinds of keys are named before that: `RSA PRIVATE KEY`
    let is_there = pem.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(&format!("{kind}-----")));
    match is_there {
        true => Ok(Some(pem.into_bytes())),
        false => Err(mistake(format!("({}) holds no {} in PEM format", file.display(), kind.to_lowercase()))),
    }
}

/// Whether connecting failed because the server's certificate is not to be trusted.
pub(crate) fn is_untrusted(error: &RedisError) -> bool {
    matches!(tls_error(error), Some(rustls::Error::InvalidCertificate(_)))
}

/// Whether connecting failed because the server answers with something else than TLS.
pub(crate) fn is_no_tls(error: &RedisError) -> bool {
    matches!(tls_error(error), Some(rustls::Error::InvalidMessage(_)))
}

fn tls_error(error: &RedisError) -> Option<&rustls::Error> {
    let transport = error.source().and_then(|source| source.downcast_ref::<Arc<dyn Error + Send + Sync>>())?;
    transport.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}
