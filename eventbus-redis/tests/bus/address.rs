//! Every form of address: passwords, users, databases, sockets; and that no output shows a password.

use crate::common::{
    config_on, said,
    seen::{Seen, command, event, publish, settled, start},
    until,
};
use crate::lines::Lines;
use eventbus::port::{EventBus, PublishError};
use eventbus_redis::{RedisConnectError, RedisEventBus, RedisEventBusConfig};
use eventbus_test::PrivateRedis;

/// Sends a command to a server that asks for no password yet.
async fn set_up(server: &PrivateRedis, name: &str, arguments: &[&str]) {
    let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
    redis::cmd(name).arg(arguments).query_async::<()>(&mut connection).await.unwrap();
}

/// Publishes an event, handles it, and acknowledges it.
async fn assert_works(bus: &RedisEventBus) {
    let seen = Seen::default();
    seen.join(bus);
    let consumer = start(bus).await;
    publish(bus, "one").await;
    until("the event arrived", async || seen.all() == ["one"]).await;
    assert_eq!(settled(bus).await, 0);
    bus.stop_consuming().await;
    consumer.await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_shown() {
    let server = eventbus_test::private_redis();
    let mut connection = eventbus_test::internal::redis_connection(server.url()).await;
    let mut set = redis::cmd("CONFIG");
    set.arg("SET").arg("requirepass").arg("right-secret");
    set.query_async::<()>(&mut connection).await.unwrap();
    let with = |password: &str| config_on(&server.url().replace("redis://", &format!("redis://:{password}@")));

    let error = RedisEventBus::connect(with("wrong-secret")).await.unwrap_err();
    assert!(matches!(error, RedisConnectError::Refused { .. }), "{error:?}");
    assert!(!error.is_retryable());
    assert!(!said(&error).contains("secret"), "{}", said(&error));
    let config = config_on(server.url());
    let error = RedisEventBus::connect(config).await.unwrap_err();
    assert!(matches!(error, RedisConnectError::Refused { .. }), "{error:?}");

    let bus = RedisEventBus::connect(with("right-secret")).await.unwrap();
    assert!(!format!("{bus:?}").contains("secret"), "{bus:?}");
    bus.ping().await.unwrap();
}

#[tokio::test]
async fn a_database_that_the_server_has_not_is_refused() {
    let server = eventbus_test::private_redis();
    let error = RedisEventBus::connect(config_on(&format!("{}/99", server.url()))).await.unwrap_err();
    assert!(matches!(error, RedisConnectError::Refused { .. }), "{error:?}");
    let bus = RedisEventBus::connect(config_on(&format!("{}/9", server.url()))).await.unwrap();
    assert_works(&bus).await;
    let keyspace: redis::InfoDict = command(&bus, "INFO", &["keyspace"]).await;
    assert!(keyspace.get::<String>("db9").is_some() && keyspace.get::<String>("db0").is_none(), "{keyspace:?}");
}

/// Fails if the refusal to switch the database counts as final.
#[tokio::test]
async fn a_server_that_is_busy_with_a_script_is_tried_again_for_any_database() {
    let server = eventbus_test::private_redis_with(&["--busy-reply-threshold", "1"]);
    let mut running = eventbus_test::internal::redis_connection(server.url()).await;
    let mut admin = eventbus_test::internal::redis_connection(server.url()).await;
    let script =
        tokio::spawn(async move { redis::cmd("EVAL").arg("while true do end").arg(0).exec_async(&mut running).await });
    until("the server is busy", async || redis::cmd("PING").exec_async(&mut admin).await.is_err()).await;
    let config = config_on(&format!("{}/9", server.url()));
    let error = RedisEventBus::connect(config.clone()).await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    redis::cmd("SCRIPT").arg("KILL").exec_async(&mut admin).await.unwrap();
    assert!(script.await.unwrap().is_err());
    RedisEventBus::connect(config).await.unwrap();
}

#[tokio::test]
async fn a_user_with_the_rights_that_the_bus_needs_can_do_everything() {
    let server = eventbus_test::private_redis();
    // a slash, an at sign and a colon, as in passwords
    let user = ["SETUSER", "app", "on", ">se/cr@t:1", "~bus*", "~{bus*"];
    let rights = ["+@stream", "+@hash", "+@connection", "+@transaction", "+@scripting", "+exists", "+del", "+time"];
    set_up(&server, "ACL", &[&user[..], &rights[..]].concat()).await;
    let with = |user: &str| config_on(&server.url().replace("redis://", &format!("redis://{user}@")));
    let bus = RedisEventBus::connect(with("app:se%2Fcr%40t%3A1")).await.unwrap();
    assert_works(&bus).await;
    assert!(!format!("{bus:?}").contains("cr%40t"), "{bus:?}");

    let error = RedisEventBus::connect(with("app:wrong-secret")).await.unwrap_err();
    assert!(matches!(error, RedisConnectError::Refused { .. }), "{error:?}");
    assert!(!said(&error).contains("secret"), "{}", said(&error));
    let error = RedisEventBus::connect(with("secret")).await.unwrap_err();
    assert!(matches!(error, RedisConnectError::Config { .. }), "the user would be ignored: {error:?}");
    assert!(!said(&error).contains("secret"), "{}", said(&error));
}

/// The line of the security page, as it stands there. Fails if the bus needs a key or a command that it does not name.
#[tokio::test]
async fn the_user_of_the_security_page_can_run_a_bus_and_touch_no_other_keys() {
    let page = include_str!("../../../SECURITY.md");
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER")).expect("the page has the line");
    let server = eventbus_test::private_redis();
    let words: Vec<_> = line.split(' ').skip(1).collect();
    set_up(&server, "ACL", &words).await;
    let url = server.url().replace("redis://", "redis://app:password@");
    let config = RedisEventBusConfig { stream_prefix: "bank".into(), ..config_on(&url) };
    let bus = RedisEventBus::connect(config).await.unwrap();
    assert_works(&bus).await;
    bus.trim(eventbus_redis::Trim { max_length: Some(1), max_age: None }).await.unwrap();
    let client = redis::Client::open(server.url().replace("redis://", "redis://app:password@")).unwrap();
    let mut app = client.get_multiplexed_async_connection().await.unwrap();
    for refused in [&["XADD", "others:stream", "*", "a", "b"][..], &["GET", "bank:x"], &["FLUSHALL"], &["KEYS", "*"]] {
        let asked = redis::cmd(refused[0]).arg(&refused[1..]).query_async::<redis::Value>(&mut app).await;
        assert_eq!(asked.unwrap_err().code(), Some("NOPERM"), "{refused:?}");
    }
}

#[tokio::test]
async fn a_user_without_the_rights_is_refused() {
    let server = eventbus_test::private_redis();
    set_up(&server, "ACL", &["SETUSER", "reader", "on", ">secret", "~*", "+@read", "+@connection"]).await;
    let config = config_on(&server.url().replace("redis://", "redis://reader:secret@"));
    let error = RedisEventBus::connect(config).await.unwrap_err();
    assert!(matches!(error, RedisConnectError::Refused { .. }), "{error:?}");
    assert!(!said(&error).contains("secret"), "{}", said(&error));
}

#[tokio::test]
async fn a_user_who_may_add_no_entries_is_refused_one_event_and_several() {
    let server = eventbus_test::private_redis();
    set_up(&server, "ACL", &["SETUSER", "app", "on", ">secret", "~*", "+@all", "-xadd"]).await;
    let config = config_on(&server.url().replace("redis://", "redis://app:secret@"));
    let bus = RedisEventBus::connect(RedisEventBusConfig { ..config }).await.unwrap();
    for events in [vec![event("one")], vec![event("one"), event("two")]] {
        // one that is called in a script, and one that is not
        let refused = bus.publish(&events).await.unwrap_err();
        assert!(matches!(refused, PublishError::Refused { .. }), "{refused:?}");
    }
    // a script of `connect` calls it
    set_up(&server, "ACL", &["SETUSER", "app", "on", ">secret", "~*", "+@all", "-hmget"]).await;
    let config = config_on(&server.url().replace("redis://", "redis://app:secret@"));
    let refused = RedisEventBus::connect(config).await.unwrap_err();
    assert!(matches!(refused, RedisConnectError::Refused { .. }), "{refused:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_socket_is_as_good_as_a_port_and_takes_user_password_and_database_as_parameters() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("redis.sock");
    let path = socket.to_str().unwrap();
    let server = eventbus_test::private_redis_with(&["--unixsocket", path]);
    let bus = RedisEventBus::connect(config_on(&format!("unix://{path}"))).await.unwrap();
    assert_works(&bus).await;

    set_up(&server, "ACL", &["SETUSER", "app", "on", ">secret", "~*", "+@all"]).await;
    set_up(&server, "CONFIG", &["SET", "requirepass", "secret"]).await;
    for scheme in ["unix", "redis+unix"] {
        let url = format!("{scheme}://{path}?db=3&user=app&pass=secret");
        let bus = RedisEventBus::connect(config_on(&url)).await.unwrap();
        assert_works(&bus).await;
        let who: String = command(&bus, "ACL", &["WHOAMI"]).await;
        assert_eq!(who, "app");
        let keyspace: redis::InfoDict = command(&bus, "INFO", &["keyspace"]).await;
        assert!(keyspace.get::<String>("db3").is_some(), "{keyspace:?}");
        assert!(!format!("{bus:?}").contains("secret"), "{bus:?}");
    }
    let error = RedisEventBus::connect(config_on(&format!("unix://{path}?pass=wrong-secret"))).await.unwrap_err();
    assert!(matches!(error, RedisConnectError::Refused { .. }), "{error:?}");
    assert!(!said(&error).contains("secret"), "{}", said(&error));
    let error = RedisEventBus::connect(config_on(&format!("unix://{path}.not-there?pass=secret"))).await.unwrap_err();
    assert!(matches!(error, RedisConnectError::Unavailable { .. }), "{error:?}");
    assert!(said(&error).contains("redis.sock.not-there") && !said(&error).contains("secret"), "{}", said(&error));
}

#[tokio::test]
async fn the_log_of_a_bus_that_is_locked_out_shows_no_password() {
    let log = Lines::default();
    let _logging = log.capture("trace");
    let text = || log.text();
    let server = eventbus_test::private_redis();
    set_up(&server, "ACL", &["SETUSER", "app", "on", ">first-secret", "~*", "+@all"]).await;
    let config = config_on(&server.url().replace("redis://", "redis://app:first-secret@"));
    let bus = RedisEventBus::connect(config).await.unwrap();
    Seen::default().join(&bus);
    let consumer = start(&bus).await;
    set_up(&server, "ACL", &["SETUSER", "app", "resetpass", ">other-secret"]).await;
    set_up(&server, "CLIENT", &["KILL", "USER", "app"]).await;
    until("the consumer is locked out", async || text().contains("Password authentication failed")).await;
    let refused = bus.publish(&[event("one")]).await.unwrap_err();
    assert!(!said(&refused).contains("secret"), "{}", said(&refused));
    assert!(!bus.stream_info().await.connected);
    bus.stop_consuming().await;
    consumer.await.unwrap();
    assert!(!text().contains("secret"), "{}", text());
}
