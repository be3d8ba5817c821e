//! How clients reach a Redis server, and their rights.

use std::fs;

use eventbus_cli::doctor::{Doctor, DoctorConfig, Severity::*};
use eventbus_redis::redis::{Client, TlsCertificates};

use super::{
    common::{command, config, expect_finding, expect_healthy, redis, send},
    tls_server::TlsServer,
};

#[tokio::test]
async fn a_connection_without_tls_over_an_untrusted_network_is_found() {
    let server = eventbus_test::redis();
    let doctor = Doctor::new().config(config()).redis(redis(server.url()).await);
    expect_healthy(&doctor, "redis-tls").await;
    let strict = doctor.config(DoctorConfig { trusted_networks: Vec::new(), ..config() });
    expect_finding(&strict, "redis-tls", Warning, "has no TLS").await;
}

#[tokio::test]
async fn a_connection_with_tls_may_cross_any_network() {
    let tls = TlsServer::start("127.0.0.1");
    let authority = fs::read(tls.authority()).unwrap();
    let certificates = TlsCertificates { client_tls: None, root_cert: Some(authority) };
    let client = Client::build_with_tls(tls.url(), certificates).unwrap();
    let encrypted = client.get_multiplexed_async_connection().await.unwrap();
    let doctor =
        |connection| Doctor::new().config(DoctorConfig { trusted_networks: Vec::new(), ..config() }).redis(connection);
    expect_healthy(&doctor(encrypted), "redis-tls").await;
    // the other port of the same server
    expect_finding(&doctor(redis(tls.server.url()).await), "redis-tls", Warning, "has no TLS").await;
}

#[tokio::test]
async fn a_server_that_takes_every_client_is_found() {
    let server = eventbus_test::private_redis();
    let admin = redis(server.url()).await;
    let doctor = Doctor::new().config(config()).redis(admin.clone());
    expect_healthy(&doctor, "redis-exposed").await;
    send(&admin, "CONFIG SET protected-mode no").await;
    expect_healthy(&doctor, "redis-exposed").await;
    // an address for documentation, which no machine has: the server listens on loopback only
    let mut bind = eventbus_redis::redis::cmd("CONFIG");
    bind.arg(("SET", "bind", "127.0.0.1 -192.0.2.1"));
    let _: () = super::common::query(&admin, &bind).await;
    expect_finding(&doctor, "redis-exposed", Fault, "needs no password").await;
    send(&admin, "CONFIG SET protected-mode yes").await;
    expect_healthy(&doctor, "redis-exposed").await;
    send(&admin, "CONFIG SET protected-mode no").await;
    send(&admin, "CONFIG SET requirepass secret").await;
    expect_healthy(&doctor, "redis-exposed").await;
}

/// The rights that the README of the bus names.
const RIGHTS: &str = "+@stream +@hash +@connection +@transaction +@scripting +exists +del +time";

#[tokio::test]
async fn rights_that_the_bus_lacks_are_found_and_no_key_is_changed() {
    let server = eventbus_test::private_redis();
    let admin = redis(server.url()).await;
    send(&admin, &format!("ACL SETUSER app on >secret ~orders* ~{{orders* {RIGHTS}")).await;
    send(&admin, "ACL SETUSER weak on >secret ~orders* ~{orders* +@stream +@connection -xtrim").await;
    send(&admin, &format!("ACL SETUSER narrow on >secret ~orders* {RIGHTS}")).await;
    let of = async |user: &str| {
        let url = server.url().replace("redis://", &format!("redis://{user}:secret@"));
        Doctor::new().config(config()).redis(redis(&url).await).bus("orders")
    };
    expect_healthy(&of("app").await, "redis-rights-few").await;
    let found = expect_finding(&of("weak").await, "redis-rights-few", Fault, "HGETALL").await;
    let missing = ["XTRIM", "HGETALL", "HSET", "HDEL", "EXISTS", "DEL", "TIME", "EVAL", "SCRIPT", "UNWATCH"];
    assert_eq!(found.finding.observed["missing"], serde_json::json!(missing));
    let found = expect_finding(&of("narrow").await, "redis-rights-few", Fault, "HGETALL").await;
    assert_eq!(found.finding.observed["missing"], serde_json::json!(["HGETALL", "HSET", "HDEL", "EXISTS", "DEL"]));
    // the repair gives the rights to the keys of this bus, and to those of no other
    send(&admin, "ACL SETUSER new on >secret +@connection").await;
    let found = expect_finding(&of("new").await, "redis-rights-few", Fault, "XADD").await;
    send(&admin, &found.finding.repair).await;
    expect_healthy(&of("new").await, "redis-rights-few").await;
    for (key, is_allowed) in [("orders:stream", true), ("{orders:stream}:floors", true), ("orders2:stream", false)] {
        let answer: String = command(&admin, &format!("ACL DRYRUN new DEL {key}")).await;
        assert_eq!(answer == "OK", is_allowed, "{key}: {answer}");
    }
    assert_eq!(command::<u64>(&admin, "DBSIZE").await, 0);
}

#[tokio::test]
async fn a_user_that_may_run_every_command_is_noted() {
    let server = eventbus_test::private_redis();
    let admin = redis(server.url()).await;
    let doctor = Doctor::new().config(config());
    expect_finding(&doctor.clone().redis(admin.clone()), "redis-rights-many", Note, "`default`").await;
    send(&admin, &format!("ACL SETUSER app on >secret ~orders* {RIGHTS}")).await;
    let url = server.url().replace("redis://", "redis://app:secret@");
    expect_healthy(&doctor.redis(redis(&url).await), "redis-rights-many").await;
}
