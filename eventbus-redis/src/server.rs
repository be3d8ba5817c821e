//! The settings for reaching a server, which the configurations of the bus and of the store have in common.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::url::{address, asks_for_tls, is_plaintext_remote};

/// The settings for reaching a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server<'c> {
    pub(crate) url: &'c str,
    pub(crate) tls_ca_file: Option<&'c Path>,
    /// The certificate that the client shows to a server that asks for one.
    pub(crate) tls_cert_file: Option<&'c Path>,
    pub(crate) tls_key_file: Option<&'c Path>,
    /// The reply timeout.
    pub(crate) timeout: Duration,
    pub(crate) connect_timeout: Duration,
    /// The configuration field that holds the prefix of all keys, and its value.
    pub(crate) prefix: (&'static str, &'c str),
}

impl Server<'_> {
    /// Returns the address without the password, for messages.
    pub(crate) fn address(&self) -> String {
        address(self.url)
    }

    /// Returns the problem of `tls_ca_file` beside the other settings, without reading the file.
    pub(crate) fn ca_problem(&self) -> Option<String> {
        self.without_tls(self.tls_ca_file)
    }

    /// Returns the problem of `tls_cert_file` beside the other settings, without reading the file.
    pub(crate) fn certificate_problem(&self) -> Option<String> {
        let lacks_key = self.tls_cert_file.is_some() && self.tls_key_file.is_none();
        self.without_tls(self.tls_cert_file).or_else(|| lacks_key.then(|| "is set without `tls_key_file`".into()))
    }

    /// Returns the problem of `tls_key_file` beside the other settings, without reading the file.
    pub(crate) fn key_problem(&self) -> Option<String> {
        let lacks_certificate = self.tls_key_file.is_some() && self.tls_cert_file.is_none();
        self.without_tls(self.tls_key_file)
            .or_else(|| lacks_certificate.then(|| "is set without `tls_cert_file`".into()))
    }

    fn without_tls(&self, file: Option<&Path>) -> Option<String> {
        let without_tls = file.is_some() && !asks_for_tls(self.url);
        without_tls.then(|| "is set, but `redis_url` is not `rediss://…`".to_owned())
    }

    /// Warns, once for each server, if machines on the way can read what the client sends.
    pub(crate) fn warn_plaintext(&self) {
        static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
        if is_plaintext_remote(self.url) {
            let address = self.address();
            // a panic elsewhere leaves the set valid
            if WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(address.clone()) {
                tracing::warn!(
                    server = address,
                    "the connection to Redis has no TLS: every machine on the way can read events and passwords; to repair: \
                     `rediss://`, and the cargo feature `tls` of eventbus-redis"
                );
            }
        }
    }
}
