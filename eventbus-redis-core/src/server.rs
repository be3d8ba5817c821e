//! The settings for reaching a server, which the configurations of the bus and of the store have in common.

use std::{collections::BTreeSet, path::Path, time::Duration};

use parking_lot::Mutex;

use crate::url::{address, asks_for_tls, is_plaintext_remote, url_problem};

/// The settings for reaching a server.
#[derive(Debug, Clone, Copy)]
pub struct Server<'c> {
    pub url: &'c str,
    pub tls_ca_file: Option<&'c Path>,
    /// The certificate that the client shows to a server that asks for one.
    pub tls_cert_file: Option<&'c Path>,
    pub tls_key_file: Option<&'c Path>,
    /// The reply timeout.
    pub timeout: Duration,
    pub connect_timeout: Duration,
    /// The configuration field that holds the prefix of all keys, and its value.
    pub prefix: (&'static str, &'c str),
    /// The crate whose cargo feature `tls` a user enables.
    pub package: &'static str,
}

impl Server<'_> {
    /// Returns the address without the password, for messages.
    pub fn address(&self) -> String {
        address(self.url)
    }

    /// Returns the problem of the URL.
    #[must_use]
    pub fn url_problem(&self) -> Option<String> {
        url_problem(self.url, cfg!(feature = "tls"), self.package)
    }

    /// Returns the problem of `tls_ca_file` beside the other settings, without reading the file.
    pub fn ca_problem(&self) -> Option<String> {
        self.without_tls(self.tls_ca_file)
    }

    /// Returns the problem of `tls_cert_file` beside the other settings, without reading the file.
    pub fn certificate_problem(&self) -> Option<String> {
        let lacks_key = self.tls_cert_file.is_some() && self.tls_key_file.is_none();
        self.without_tls(self.tls_cert_file).or_else(|| lacks_key.then(|| "is set without `tls_key_file`".into()))
    }

    /// Returns the problem of `tls_key_file` beside the other settings, without reading the file.
    pub fn key_problem(&self) -> Option<String> {
        let lacks_certificate = self.tls_key_file.is_some() && self.tls_cert_file.is_none();
        self.without_tls(self.tls_key_file)
            .or_else(|| lacks_certificate.then(|| "is set without `tls_cert_file`".into()))
    }

    fn without_tls(&self, file: Option<&Path>) -> Option<String> {
        let without_tls = file.is_some() && !asks_for_tls(self.url);
        without_tls.then(|| "is set, but `redis_url` is not `rediss://…`".to_owned())
    }

    /// Warns, once for each server, if machines on the way can read what the client sends.
    pub fn warn_plaintext(&self) {
        static WARNED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
        if is_plaintext_remote(self.url) {
            let address = self.address();
            // a panic elsewhere leaves the set valid
            if WARNED.lock().insert(address.clone()) {
                tracing::warn!(
                    server = address,
                    "the connection to Redis has no TLS: every machine on the way can read events and passwords; to repair: \
                     `rediss://`, and the cargo feature `tls` of {}",
                    self.package
                );
            }
        }
    }
}
