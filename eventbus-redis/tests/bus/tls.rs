//! Connections with TLS, to a server whose certificate the test's own authority has signed.

use std::fs;

use crate::{
    common::{
        config_on, said,
        seen::{Seen, publish, settled, start},
        until,
    },
    tls_server::TlsServer,
};
use eventbus::{
    App, InMemoryEventStore,
    port::{ConnectError, EventBus},
};
use eventbus_redis::{RedisConnectError, RedisEventBus, RedisEventBusConfig};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

impl TlsServer {
    /// A configuration that trusts the authority.
    fn config(&self) -> RedisEventBusConfig {
        RedisEventBusConfig { tls_ca_file: Some(self.authority()), ..config_on(&self.url()) }
    }

    fn url_with_password(&self) -> String {
        self.url().replace("//", "//:secret@")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_publishes_and_consumes_over_tls_and_again_after_a_restart() {
    let mut tls = TlsServer::start("127.0.0.1");
    let bus = RedisEventBus::connect(tls.config()).await.unwrap();
    let seen = Seen::default();
    seen.join(&bus);
    let consumer = start(&bus).await;
    publish(&bus, "one").await;
    until("the event arrived", async || seen.all() == ["one"]).await;
    assert_eq!(settled(&bus).await, 0);
    tls.server.stop();
    tls.server.start();
    publish(&bus, "two").await;
    until("the second arrived", async || seen.all().contains(&"two".to_owned())).await;
    bus.stop_consuming().await;
    consumer.await.unwrap();
}

#[tokio::test]
async fn a_server_of_an_unknown_authority_is_not_trusted() {
    let tls = TlsServer::start("127.0.0.1");
    let error = RedisEventBus::connect(config_on(&tls.url_with_password())).await.unwrap_err();
    assert!(matches!(error, RedisConnectError::Untrusted { .. }), "{error:?}");
    assert!(!error.is_retryable());
    assert!(!said(&error).contains("secret"), "{}", said(&error));
}

/// Fails if an app starts although it can never connect to its bus.
#[tokio::test]
async fn a_fault_of_tls_is_an_error_of_the_start_of_an_app_that_connects_its_bus() {
    let (unknown, other_host) = (TlsServer::start("127.0.0.1"), TlsServer::start("redis.example"));
    for config in [config_on(&unknown.url_with_password()), other_host.config()] {
        let bus = RedisEventBus::lazy(config).unwrap();
        let refused = bus.ensure_connected().await.unwrap_err();
        assert!(matches!(refused, ConnectError::Refused { .. }), "{refused:?}");
        let error = said(&App::builder().store(InMemoryEventStore::new()).bus(bus).start().await.unwrap_err());
        assert!(error.contains("is not trusted") && !error.contains("secret"), "{error}");
    }
    let bus = RedisEventBus::lazy(unknown.config()).unwrap();
    let app = App::builder().store(InMemoryEventStore::new()).bus(bus).start().await.unwrap();
    assert!(app.health().await.connected);
    app.shutdown(std::time::Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn a_certificate_for_another_host_is_not_trusted() {
    let tls = TlsServer::start("redis.example");
    let error = RedisEventBus::connect(tls.config()).await.unwrap_err();
    assert!(matches!(error, RedisConnectError::Untrusted { .. }), "{error:?}");
    assert!(said(&error).contains("redis.example"), "{}", said(&error));
}

#[tokio::test]
async fn tls_where_the_server_speaks_none_and_none_where_it_does_is_no_connection() {
    let tls = TlsServer::start("127.0.0.1");
    let with = |redis_url: String, tls_ca_file| RedisEventBusConfig { redis_url, tls_ca_file, ..tls.config() };
    let plain_port = tls.server.url().replace("redis://", "rediss://:secret@");
    let tls_port = tls.url_with_password().replace("rediss://", "redis://");
    for config in [with(plain_port, Some(tls.authority())), with(tls_port, None)] {
        let config_is_tls = config.redis_url.starts_with("rediss:");
        let config = RedisEventBusConfig { socket_connect_timeout: std::time::Duration::from_secs(1), ..config };
        let error = RedisEventBus::connect(config).await.unwrap_err();
        if config_is_tls {
            // a plain server may also wait for the rest of the bytes as for a command
            let expected = matches!(error, RedisConnectError::NoTls { .. } | RedisConnectError::TimedOut { .. });
            assert!(expected && error.to_string().contains("TLS"), "{error:?}");
        } else {
            let expected = matches!(error, RedisConnectError::Unavailable { .. } | RedisConnectError::TimedOut { .. });
            assert!(expected, "{error:?}");
        }
        assert!(!said(&error).contains("secret"), "{}", said(&error));
    }
}

/// Fails if a reply without TLS counts as a broken connection.
#[tokio::test]
async fn a_server_that_answers_without_tls_is_told_so() {
    let tls = TlsServer::start("127.0.0.1");
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = plain.local_addr().unwrap().port();
    let answering = tokio::spawn(async move {
        while let Ok((mut client, _)) = plain.accept().await {
            let _ = client.read(&mut [0; 1_000]).await;
            let _ = client.write_all(b"-ERR unknown command\r\n").await;
        }
    });
    let redis_url = format!("rediss://:secret@127.0.0.1:{port}");
    let config = RedisEventBusConfig { redis_url, ..tls.config() };
    let error = RedisEventBus::connect(config).await.unwrap_err();
    assert!(matches!(error, RedisConnectError::NoTls { .. }) && !error.is_retryable(), "{error:?}");
    let text = format!("the server at rediss://127.0.0.1:{port} does not speak TLS, which `rediss://` asks for");
    assert_eq!(error.to_string(), text);
    assert!(!said(&error).contains("secret"), "{}", said(&error));
    answering.abort();
}

#[tokio::test]
async fn a_client_shows_its_certificate_to_a_server_that_asks_for_it() {
    let tls = TlsServer::start_with("127.0.0.1", "yes");
    let [cert, key] = ["client.pem", "client.key"].map(|name| Some(tls.folder.path().join(name)));
    let shown = RedisEventBusConfig { tls_cert_file: cert.clone(), tls_key_file: key.clone(), ..tls.config() };
    let bus = RedisEventBus::connect(shown).await.unwrap();
    publish(&bus, "one").await;

    let short = || RedisEventBusConfig { socket_connect_timeout: std::time::Duration::from_secs(1), ..tls.config() };
    RedisEventBus::connect(short()).await.expect_err("nothing is shown");
    for (cert, key, field, problem) in [
        (cert.clone(), None, "tls_cert_file", "is set without `tls_key_file`"),
        (None, key.clone(), "tls_key_file", "is set without `tls_cert_file`"),
        (key.clone(), key.clone(), "tls_cert_file", "holds no certificate in PEM format"),
        (cert.clone(), cert, "tls_key_file", "holds no private key in PEM format"),
    ] {
        let config = RedisEventBusConfig { tls_cert_file: cert, tls_key_file: key, ..short() };
        let error = RedisEventBus::connect(config).await.unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")) && error.contains(problem), "{error}");
    }
}

#[tokio::test]
async fn an_authority_file_that_is_none_is_a_mistake_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let (missing, empty) = (folder.path().join("missing.pem"), folder.path().join("empty.pem"));
    let broken = folder.path().join("broken.pem");
    fs::write(&empty, "no certificate").unwrap();
    fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    for (file, problem) in
        [(missing, "cannot be read"), (empty, "holds no certificate in PEM format"), (broken, "cannot be used")]
    {
        let config = RedisEventBusConfig { tls_ca_file: Some(file), ..config_on("rediss://:secret@localhost") };
        let error = RedisEventBus::connect(config).await.unwrap_err();
        assert!(matches!(error, RedisConnectError::Config(_)), "{error:?}");
        assert!(error.to_string().contains("`tls_ca_file`") && error.to_string().contains(problem), "{error}");
        assert!(!said(&error).contains("secret"), "{}", said(&error));
    }
}
