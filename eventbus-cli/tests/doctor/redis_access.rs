//! How clients reach a Redis server, and their rights.

use std::fs;

use eventbus_cli::doctor::{Doctor, DoctorConfig, Severity::*};
use eventbus_redis::redis::{Client, TlsCertificates};
use serde_json::json;

use super::{
    common::{command, config, expect_finding, expect_findings, expect_healthy, redis, redis_operator, send},
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
        Doctor::new().config(config()).redis(redis(&url).await).bus(super::common::bus(&url, "orders"))
    };
    expect_healthy(&of("app").await, "redis-rights-few").await;
    let found = expect_finding(&of("weak").await, "redis-rights-few", Fault, "HGETALL").await;
    let missing = ["XTRIM", "HGETALL", "HSET", "HDEL", "EXISTS", "DEL", "TIME", "EVAL", "SCRIPT", "UNWATCH"];
    assert_eq!(found.finding.observed["missing"], json!(missing));
    let found = expect_finding(&of("narrow").await, "redis-rights-few", Fault, "HGETALL").await;
    assert_eq!(found.finding.observed["missing"], json!(["HGETALL", "HSET", "HDEL", "EXISTS", "DEL"]));
    // the repair gives the rights to the keys of this bus, and to those of no other
    send(&admin, "ACL SETUSER new on >secret +@connection").await;
    let found = expect_finding(&of("new").await, "redis-rights-few", Fault, "XADD").await;
    send(&admin, &found.finding.repair).await;
    expect_healthy(&of("new").await, "redis-rights-few").await;
    for (key, is_allowed) in [("orders:stream", true), ("{orders:stream}:relay", true), ("orders2:stream", false)] {
        let answer: String = command(&admin, &format!("ACL DRYRUN new DEL {key}")).await;
        assert_eq!(answer == "OK", is_allowed, "{key}: {answer}");
    }
    assert_eq!(command::<u64>(&admin, "DBSIZE").await, 0);
}

/// The rights of a line for `redis-cli`.
fn rights(line: &str) -> Vec<&str> {
    line.split(' ').filter_map(|rule| rule.strip_prefix('+')).collect()
}

/// The names of the commands that need these rights.
fn command_names<'r>(rights: impl IntoIterator<Item = &'r str>) -> Vec<String> {
    rights.into_iter().map(|right| right.to_uppercase().replace('|', " ")).collect()
}

#[tokio::test]
async fn rights_that_a_store_on_redis_lacks_are_found_and_no_key_is_changed() {
    let page = include_str!("../../../eventstore-redis/README.md");
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER")).expect("the README has the line");
    let rights_of_the_readme = rights(line);
    let server = eventbus_test::private_redis();
    let admin = redis(server.url()).await;
    send(&admin, line).await;
    send(&admin, &line.replace("app", "narrow").replace("~shop:*", "~shops:*")).await;
    send(&admin, "ACL SETUSER new on >password +client|info").await;
    let of = async |user: &str, prefix: &str| {
        let url = server.url().replace("redis://", &format!("redis://{user}:password@"));
        Doctor::new().config(config()).redis(redis(&url).await).redis_store(prefix)
    };
    let app = of("app", "shop").await;
    expect_healthy(&app, "redis-store-rights-few").await;
    for right in &rights_of_the_readme {
        // without these two a store works
        let severity = if ["config|get", "info"].contains(right) { Note } else { Fault };
        let name = command_names([*right]);
        let text = format!("lacks rights for {} on the keys `shop:*`", name[0]);
        send(&admin, &format!("ACL SETUSER app -{right}")).await;
        let found = expect_finding(&app, "redis-store-rights-few", severity, &text).await;
        assert_eq!(found.finding.observed["missing"], json!(name));
        send(&admin, &format!("ACL SETUSER app +{right}")).await;
    }
    expect_healthy(&app, "redis-store-rights-few").await;

    // rights for keys that begin alike
    let found = expect_finding(&of("narrow", "shop").await, "redis-store-rights-few", Fault, "XADD").await;
    let without_keys = ["evalsha", "script|load", "scan", "time", "command|info", "config|get", "info"];
    let on_keys = rights_of_the_readme.iter().copied().filter(|right| !without_keys.contains(right));
    assert_eq!(found.finding.observed["missing"], json!(command_names(on_keys)));
    // a store without a prefix has keys of many beginnings
    let found = expect_finding(&of("app", "").await, "redis-store-rights-few", Fault, "on the keys `*`").await;
    assert!(found.finding.repair.contains(" ~* "), "{found:?}");

    // the user may run no script that says which rights it has
    let new = of("new", "shop").await;
    let report = expect_findings(&new, "redis-store-rights-few").await;
    assert_eq!(report.findings()[0].finding.observed["missing"], json!(["EVALSHA", "SCRIPT LOAD"]));
    assert!(report.not_checked()[0].reason.contains("may run no script"), "{report}");
    // the repair is the line, and leaves the user what it has
    let repair = &report.findings()[0].finding.repair;
    assert_eq!(rights(repair), rights_of_the_readme);
    send(&admin, repair).await;
    expect_healthy(&new, "redis-store-rights-few").await;
    for (text, is_allowed) in [("DEL shop:a", true), ("DEL shops:a", false), ("CLIENT INFO", true), ("FLUSHALL", false)]
    {
        let answer: String = command(&admin, &format!("ACL DRYRUN new {text}")).await;
        assert_eq!(answer == "OK", is_allowed, "{text}: {answer}");
    }
    assert_eq!(command::<u64>(&admin, "DBSIZE").await, 0);
}

#[tokio::test]
async fn a_command_that_the_server_has_renamed_is_no_right_that_a_store_lacks() {
    let server = eventbus_test::private_redis_with(&["--rename-command", "CONFIG", "SETTINGS"]);
    let doctor = Doctor::new().config(config()).redis(redis(server.url()).await).redis_store("shop");
    expect_healthy(&doctor, "redis-store-rights-few").await;
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

/// On a server that listens to a network, where one more check asks for rights.
#[tokio::test]
async fn an_operator_with_the_rights_of_the_security_page_can_make_each_check() {
    let server = eventbus_test::private_redis();
    let admin = redis(server.url()).await;
    let url = redis_operator(&admin, server.url(), "orders").await;
    send(&admin, "XADD orders:stream 1-0 type A").await;
    // an address for documentation, which no machine has: the server listens on loopback only
    let mut bind = eventbus_redis::redis::cmd("CONFIG");
    bind.arg(("SET", "bind", "127.0.0.1 -192.0.2.1", "protected-mode", "no", "requirepass", "secret"));
    let _: () = super::common::query(&admin, &bind).await;
    let doctor = Doctor::new().config(config()).redis(redis(&url).await).bus(super::common::bus(&url, "orders"));
    let not_checked = async || {
        let report = doctor.run().await;
        assert!(report.worst().is_none_or(|worst| worst == Note), "{report}");
        report.not_checked().iter().map(|not_checked| not_checked.check).collect::<Vec<_>>()
    };
    assert_eq!(not_checked().await, [""; 0]);
    for right in ["info", "config|get", "acl|getuser"] {
        send(&admin, &format!("ACL SETUSER operator -{right}")).await;
        assert!(not_checked().await.contains(&if right == "info" { "redis-server" } else { "redis-exposed" }));
        send(&admin, &format!("ACL SETUSER operator +{right}")).await;
    }
    assert_eq!(not_checked().await, [""; 0]);
}
