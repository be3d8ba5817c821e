//! Connections with TLS: whom to trust.
//!
//! Keep: an application that chose a cryptography provider for rustls keeps it; where several are linked and none is
//! chosen, connecting would panic.

use std::{error::Error, fs, io, sync::Arc};

use redis::{Client, RedisError, TlsCertificates};
use rustls::crypto::{CryptoProvider, ring};

use crate::{ConfigMistake, server::Server};

/// Prepares a client that trusts the authorities of the configuration.
pub(crate) fn client(server: &Server<'_>) -> Result<Client, ConfigMistake> {
    if CryptoProvider::get_default().is_none() {
        // fails if somebody else was faster, which is as good
        let _ = ring::default_provider().install_default();
    }
    let root_cert = authorities(server).map_err(|problem| ConfigMistake::new("tls_ca_file", problem))?;
    let certificates = TlsCertificates { client_tls: None, root_cert };
    Client::build_with_tls(server.url, certificates)
        .map_err(|error| ConfigMistake::new("tls_ca_file", format!("cannot be used: {error}")))
}

fn authorities(server: &Server<'_>) -> Result<Option<Vec<u8>>, String> {
    let Some(file) = server.tls_ca_file else {
        return Ok(None);
    };
    let pem = fs::read(file).map_err(|error| format!("({}) cannot be read: {error}", file.display()))?;
    let begins = b"-----BEGIN CERTIFICATE-----";
    if !pem.windows(begins.len()).any(|part| part == begins) {
        return Err(format!("({}) holds no certificate in PEM format", file.display()));
    }
    Ok(Some(pem))
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
