//! Connections with TLS, to a server whose certificate the test's own authority has signed.
#![cfg(unix)]

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
};

use crate::common::{add, connect, run, stream, within};
use eventbus_test::PrivatePostgres;
use eventstore_postgres::{PgConnectError, PgEventStore};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

/// A server that speaks TLS and shows a certificate for `127.0.0.1`.
struct TlsServer {
    server: PrivatePostgres,
    folder: TempDir,
}

impl TlsServer {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();

        let server = eventbus_test::private_postgres();
        let mut admin = connect(server.url()).await;
        let data: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut admin).await.unwrap();
        for (name, text) in [("server.crt", certificate.pem()), ("server.key", key.serialize_pem())] {
            give(Path::new(&data), name, &text);
        }
        run(&mut admin, "ALTER SYSTEM SET ssl = on").await;
        run(&mut admin, "SELECT pg_reload_conf()").await;
        within(async {
            let on = "SELECT current_setting('ssl') = 'on'";
            while !sqlx::query_scalar::<_, bool>(on).fetch_one(&mut admin).await.unwrap() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        Self { server, folder }
    }

    fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn url(&self, parameters: &str) -> String {
        format!("{}?{parameters}", self.server.url())
    }

    /// The numbers of connections of stores, and of those with TLS.
    async fn connections(&self) -> (i64, i64) {
        let sql =
            "SELECT count(*), count(*) FILTER (WHERE s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
                   WHERE a.application_name = 'eventbus'";
        sqlx::query_as(sql).fetch_one(&mut connect(self.server.url()).await).await.unwrap()
    }
}

/// Writes a file into the server's folder, for the server's user alone.
fn give(folder: &Path, name: &str, text: &str) {
    let (path, owner) = (folder.join(name), fs::metadata(folder).unwrap());
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_connects_over_tls_and_knows_whom_to_trust() {
    let tls = TlsServer::start().await;
    let verified = format!("sslmode=verify-full&sslrootcert={}", tls.authority().display());
    for parameters in [&*verified, "sslmode=require"] {
        let store = PgEventStore::connect(tls.url(parameters)).await.unwrap();
        add(&store, &stream(), 1).await;
        let (all, encrypted) = tls.connections().await;
        assert!(all > 0 && all == encrypted, "{parameters}: {encrypted} of {all}");
        store.close().await;
    }
    // this machine does not trust that authority
    let error = PgEventStore::connect(tls.url("sslmode=verify-full")).await.unwrap_err();
    assert!(matches!(error, PgConnectError::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_it_is_demanded() {
    let url = format!("{}?sslmode=require", eventbus_test::private_postgres().url());
    PgEventStore::connect(url).await.unwrap_err();
}
