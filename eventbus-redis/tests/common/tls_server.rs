//! A Redis with TLS, whose certificate an authority of the test's own has signed.

use std::{fs, path::PathBuf};

use eventbus_test::PrivateRedis;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// A server with TLS on a port beside the plain one.
#[allow(dead_code, reason = "each test program uses some of it")]
pub(crate) struct TlsServer {
    pub(crate) server: PrivateRedis,
    port: u16,
    pub(crate) folder: TempDir,
}

impl TlsServer {
    /// Starts a server that shows a certificate for `host`.
    pub(crate) fn start(host: &str) -> Self {
        Self::start_with(host, "no")
    }

    /// The same, with an option to ask clients for a certificate, too; there is one in its folder.
    pub(crate) fn start_with(host: &str, asks_clients: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([host.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let client_key = KeyPair::generate().unwrap();
        let mut client = CertificateParams::new(Vec::new()).unwrap();
        // with the authority's name, the certificate would count as self-signed
        client.distinguished_name.push(DnType::CommonName, "client");
        let client = client.signed_by(&client_key, &authority).unwrap();
        let write = |name: &str, text: String| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let authority = write("ca.pem", authority.pem());
        let (certificate, key) = (write("server.pem", certificate.pem()), write("server.key", key.serialize_pem()));
        let port = eventbus_test::internal::closed_port();
        write("client.pem", client.pem());
        write("client.key", client_key.serialize_pem());
        let listen = ["--tls-port", &port.to_string(), "--tls-auth-clients", asks_clients];
        let show = ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &authority];
        let server = eventbus_test::private_redis_with(&[&listen[..], &show].concat());
        Self { server, port, folder }
    }

    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub(crate) fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.port)
    }
}
