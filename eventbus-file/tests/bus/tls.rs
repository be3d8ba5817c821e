//! Coordination over TLS, with a server whose certificate the test's own authority has signed.

use std::{fs, time::Duration};

use crate::{
    common::{config, folder, until},
    tls_server::TlsServer,
};
use eventbus_file::{CoordinationStatus, FileQueue, FileQueueConfig, RedisCoordination};

impl TlsServer {
    /// A coordination that trusts the authority.
    fn coordination(&self) -> RedisCoordination {
        RedisCoordination {
            redis_url: self.url(),
            tls_ca_file: Some(self.authority()),
            reconnect_interval: Duration::from_millis(50),
            ..RedisCoordination::default()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_are_coordinated_over_tls_and_again_after_a_restart() {
    let mut tls = TlsServer::start("127.0.0.1");
    let queue = FileQueue::open_with_redis(config(folder()), tls.coordination()).await.unwrap();
    let config = FileQueueConfig { worker_id: None, ..queue.config().clone() };
    let other = FileQueue::open_with_redis(config, tls.coordination()).await.unwrap();
    assert_eq!(queue.coordination(), CoordinationStatus::Connected);
    assert_eq!(queue.publish(&1).await.unwrap().id(), 1);
    until("the other one is told", async || other.metrics().broadcasts_received > 0).await;
    tls.server.stop();
    assert_eq!(queue.publish(&2).await.unwrap().id(), 2);
    until("it is away", async || queue.coordination() != CoordinationStatus::Connected).await;
    tls.server.start();
    until("it is back", async || queue.coordination() == CoordinationStatus::Connected).await;
    assert_eq!(queue.publish(&3).await.unwrap().id(), 3);
}

#[tokio::test]
async fn a_server_that_is_not_to_be_trusted_is_away_and_the_files_decide() {
    let (tls, stranger) = (TlsServer::start("127.0.0.1"), TlsServer::start("redis.example"));
    let unknown = RedisCoordination { tls_ca_file: None, ..tls.coordination() };
    for redis in [unknown, stranger.coordination()] {
        let queue = FileQueue::open_with_redis(config(folder()), redis).await.unwrap();
        let CoordinationStatus::Away { error } = queue.coordination() else { panic!("it is trusted") };
        assert!(error.contains("certificate"), "{error}");
        assert_eq!(queue.publish(&1).await.unwrap().id(), 1);
    }
}

#[tokio::test]
async fn mistakes_about_whom_to_trust_are_named() {
    let folder_of_files = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder_of_files.path().join(name);
        fs::write(&path, text).unwrap();
        Some(path)
    };
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let missing = Some(folder_of_files.path().join("missing.pem"));
    for (url, tls_ca_file, problem) in [
        ("rediss://:secret@localhost", missing, "`tls_ca_file` ("),
        ("rediss://:secret@localhost", file("empty.pem", ""), "holds no certificate in PEM format"),
        ("rediss://:secret@localhost", file("broken.pem", broken), "`tls_ca_file` cannot be used"),
        ("redis://:secret@localhost", file("ca.pem", broken), "is set, but"),
        ("rediss://:secret@localhost#insecure", None, "`redis_url` asks for TLS with any server"),
    ] {
        let redis = RedisCoordination { redis_url: url.into(), tls_ca_file, ..RedisCoordination::default() };
        let error = FileQueue::open_with_redis(config(folder()), redis).await.unwrap_err().to_string();
        assert!(error.contains(problem) && !error.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn a_worker_shows_its_certificate_to_a_server_that_asks_for_it() {
    let tls = TlsServer::start_with("127.0.0.1", "yes");
    let [cert, key] = ["client.pem", "client.key"].map(|name| Some(tls.folder.path().join(name)));
    let shown = RedisCoordination { tls_cert_file: cert.clone(), tls_key_file: key.clone(), ..tls.coordination() };
    let queue = FileQueue::open_with_redis(config(folder()), shown).await.unwrap();
    assert_eq!(queue.coordination(), CoordinationStatus::Connected);
    let queue = FileQueue::open_with_redis(config(folder()), tls.coordination()).await.unwrap();
    assert_ne!(queue.coordination(), CoordinationStatus::Connected, "nothing is shown");
    for (cert, key, problem) in [
        (cert.clone(), None, "`tls_cert_file` is set without `tls_key_file`"),
        (None, key.clone(), "`tls_key_file` is set without `tls_cert_file`"),
        (key.clone(), key, "holds no certificate in PEM format"),
        (cert.clone(), cert, "holds no private key in PEM format"),
    ] {
        let redis = RedisCoordination { tls_cert_file: cert, tls_key_file: key, ..tls.coordination() };
        let error = FileQueue::open_with_redis(config(folder()), redis).await.unwrap_err().to_string();
        assert!(error.contains(problem), "{error}");
    }
    let plain = RedisCoordination { tls_key_file: Some("client.key".into()), ..RedisCoordination::default() };
    let error = FileQueue::open_with_redis(config(folder()), plain).await.unwrap_err().to_string();
    assert!(error.contains("`tls_key_file` is set, but"), "{error}");
}
