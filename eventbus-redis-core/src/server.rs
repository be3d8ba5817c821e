//! The settings for reaching a server, which the configurations of the bus, the streams and the store have in common.

use std::{collections::BTreeSet, path::Path, time::Duration};

use parking_lot::Mutex;

use crate::{
    url::{address, asks_for_tls, is_plaintext_remote, url_problem},
    validate::{FieldProblem, time_problem},
};

/// A server, with the certificates that a client shows and trusts there.
#[derive(derive_more::Debug, Clone, Copy)]
pub struct Server<'c> {
    #[debug("{:?}", address(url))]
    pub url: &'c str,
    pub tls_ca_file: Option<&'c Path>,
    /// The certificate that the client shows to a server that asks for one.
    pub tls_cert_file: Option<&'c Path>,
    pub tls_key_file: Option<&'c Path>,
    /// The crate whose cargo feature `tls` a user enables.
    pub package: &'static str,
}

/// The part of a configuration that a [`SharedConnection`](crate::connection::SharedConnection) needs.
#[derive(Debug, Clone, Copy)]
pub struct ServerConfig<'c> {
    pub server: Server<'c>,
    /// The reply timeout.
    pub timeout: Duration,
    pub connect_timeout: Duration,
    /// The configuration field that holds the prefix of all keys, and its value.
    pub prefix: (&'static str, &'c str),
    /// The subject of the configuration, as in [`InvalidConfig`](crate::error::InvalidConfig).
    pub of: &'static str,
}

/// Returns the [`ServerConfig`] of a configuration, whose fields for the server have the same names in all crates.
#[macro_export]
macro_rules! server_config {
    ($config:expr, of: $of:literal, prefix: $prefix:ident) => {
        $crate::server::ServerConfig {
            server: $crate::server::Server {
                url: &$config.redis_url,
                tls_ca_file: $config.tls_ca_file.as_deref(),
                tls_cert_file: $config.tls_cert_file.as_deref(),
                tls_key_file: $config.tls_key_file.as_deref(),
                package: env!("CARGO_PKG_NAME"),
            },
            timeout: $config.socket_timeout,
            connect_timeout: $config.socket_connect_timeout,
            prefix: (stringify!($prefix), &$config.$prefix),
            of: $of,
        }
    };
}

impl ServerConfig<'_> {
    /// Returns the problem of each field but the prefix; reads no file.
    pub fn problems(self) -> impl Iterator<Item = FieldProblem> + use<> {
        let [url, tls_files @ ..] = self.server.problems();
        let timeouts = [
            ("socket_timeout", time_problem(self.timeout)),
            ("socket_connect_timeout", time_problem(self.connect_timeout)),
        ];
        [url].into_iter().chain(timeouts).chain(tls_files)
    }
}

impl Server<'_> {
    /// Returns the address without the password, for messages.
    pub fn address(&self) -> String {
        address(self.url)
    }

    /// Returns the problem of each field; reads no file.
    pub fn problems(&self) -> [FieldProblem; 4] {
        let Self { url, tls_ca_file, tls_cert_file, tls_key_file, package } = *self;
        let tls_problem = |file: Option<&Path>, (needed_name, needed): (&str, Option<&Path>)| match file {
            Some(_) if !asks_for_tls(url) => Some("is set, but `redis_url` is not `rediss://…`".to_owned()),
            Some(_) if needed.is_none() => Some(format!("is set without `{needed_name}`")),
            _ => None,
        };
        [
            ("redis_url", url_problem(url, cfg!(feature = "tls"), package)),
            ("tls_ca_file", tls_problem(tls_ca_file, ("tls_ca_file", tls_ca_file))),
            ("tls_cert_file", tls_problem(tls_cert_file, ("tls_key_file", tls_key_file))),
            ("tls_key_file", tls_problem(tls_key_file, ("tls_cert_file", tls_cert_file))),
        ]
    }

    /// Warns, once for each server, if machines in between can read what the client sends.
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
