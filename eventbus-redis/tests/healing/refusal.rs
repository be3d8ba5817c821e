//! The server is up and refuses commands.

use std::sync::atomic::Ordering::Relaxed;

use eventbus::port::EventBus;
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

use crate::{
    common::{
        config_on,
        proxy::Proxy,
        seen::{event, settled, start},
        until,
    },
    rig::{Rig, configs, failing, for_each, outage},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_a_replica_for_a_while() {
    for_each(configs(), async |config| {
        let other = eventbus_test::private_redis();
        let mut rig = Rig::on(eventbus_test::private_redis(), config).await;
        let mut admin = eventbus_test::internal::redis_connection(other.url()).await;
        let (own, others) = (rig.server.port().to_string(), other.port().to_string());
        // the second server has all data
        let _: () = redis::cmd("REPLICAOF").arg("127.0.0.1").arg(&own).query_async(&mut admin).await.unwrap();
        until("the other has everything", async || {
            let info: String = rig.command("INFO", &["replication"]).await;
            info.contains("state=online")
        })
        .await;
        let mut other_admin = admin.clone();
        let _: () = redis::cmd("REPLICAOF").arg("NO").arg("ONE").query_async(&mut other_admin).await.unwrap();
        let fault = async |rig: &Rig| {
            let _: () = rig.command("REPLICAOF", &["127.0.0.1", &others]).await;
            outage().await;
            let _: () = rig.command("REPLICAOF", &["NO", "ONE"]).await;
        };
        rig.heals("REPLICAOF", fault).await;
        rig.lost_and_repeated_nothing().await;
    })
    .await;
}

/// Fails if the publisher keeps its connection, which the demoted server leaves open.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_became_a_replica_gets_no_more_batches() {
    let (demoted, promoted) = (eventbus_test::private_redis(), eventbus_test::private_redis());
    let proxy = Proxy::before(demoted.port()).await;
    let bus = RedisEventBus::connect(config_on(&proxy.url())).await.unwrap();
    let batch = ["one", "two"].map(event);
    bus.publish(&batch).await.unwrap();
    let mut admin = eventbus_test::internal::redis_connection(demoted.url()).await;
    let _: () = redis::cmd("REPLICAOF").arg("127.0.0.1").arg(promoted.port()).query_async(&mut admin).await.unwrap();
    proxy.forward_new_to(promoted.port());
    let refused = bus.publish(&batch).await.unwrap_err();
    assert!(refused.is_retryable(), "{refused:?}");
    until("a batch is published", async || bus.publish(&batch).await.is_ok()).await;
}

/// Fails if the bus keeps its connection: such a server answers scripts with `MASTERDOWN` until it has copied its master.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_became_a_replica_and_serves_no_stale_data_is_left() {
    let (demoted, promoted) = (eventbus_test::private_redis(), eventbus_test::private_redis());
    let proxy = Proxy::before(demoted.port()).await;
    let bus = RedisEventBus::connect(config_on(&proxy.url())).await.unwrap();
    bus.publish(&[event("one")]).await.unwrap();
    let mut admin = eventbus_test::internal::redis_connection(demoted.url()).await;
    let stale = ["SET", "replica-serve-stale-data", "no"];
    let _: () = redis::cmd("CONFIG").arg(&stale).query_async(&mut admin).await.unwrap();
    let closed_port = eventbus_test::internal::closed_port();
    let _: () = redis::cmd("REPLICAOF").arg("127.0.0.1").arg(closed_port).query_async(&mut admin).await.unwrap();
    proxy.forward_new_to(promoted.port());
    let refused = bus.publish(&[event("two")]).await.unwrap_err();
    assert!(refused.is_retryable(), "{refused:?}");
    until("an event is published", async || bus.publish(&[event("two")]).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_changes() {
    let server = eventbus_test::private_redis();
    let admin = eventbus_test::internal::redis_connection(server.url()).await;
    let tell = async |words: &[&str]| {
        let mut admin = admin.clone();
        redis::cmd(words[0]).arg(&words[1..]).query_async::<redis::Value>(&mut admin).await.unwrap()
    };
    tell(&["CONFIG", "SET", "requirepass", "old"]).await;
    let url = format!("redis://:old@127.0.0.1:{}", server.port());
    let mut rig = Rig::through(server, None, url, RedisEventBusConfig::default()).await;
    let fault = async |_: &Rig| {
        tell(&["CONFIG", "SET", "requirepass", "new"]).await;
        tell(&["CLIENT", "KILL", "TYPE", "NORMAL"]).await;
        outage().await;
        tell(&["CONFIG", "SET", "requirepass", "old"]).await;
    };
    rig.heals("requirepass", fault).await;
    rig.lost_and_repeated_nothing().await;
    assert!(rig.reconnections() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_were_forgotten() {
    let mut rig = Rig::new().await;
    rig.heals("SCRIPT FLUSH", async |rig| rig.command::<()>("SCRIPT", &["FLUSH"]).await).await;
    rig.lost_and_repeated_nothing().await;
    assert_eq!(rig.reconnections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_memory() {
    let config = RedisEventBusConfig { retry_delay_ms: 10, max_retries: Some(2), ..RedisEventBusConfig::default() };
    let mut rig = Rig::on(eventbus_test::private_redis(), config).await;
    let tries = failing(&rig.bus, "fails");
    // entries that are unread when the server runs out of memory
    rig.bus.stop_consuming().await;
    let mut published = vec!["1".to_owned()];
    for _ in 0..10 {
        published.push(rig.publish().await);
    }
    rig.bus.publish(&[event("fails")]).await.unwrap();
    let _: () = rig.command("CONFIG", &["SET", "maxmemory-policy", "noeviction"]).await;
    let _: () = rig.command("CONFIG", &["SET", "maxmemory", "1"]).await;
    start(&rig.bus).await;
    until("the failing one is tried as often as it may be", async || tries.load(Relaxed) == 3).await;
    let group = rig.bus.default_group();
    until("all but the failing one are acknowledged", async || {
        rig.bus.progress(group).await.is_ok_and(|progress| progress.pending == 1)
    })
    .await;
    outage().await;
    assert_eq!(tries.load(Relaxed), 3, "it waits for its dead letter");
    let _: () = rig.command("CONFIG", &["SET", "maxmemory", "0"]).await;
    until("the dead letter is written", async || rig.bus.stream_info().await.dlq_messages == 1).await;
    assert_eq!(settled(&rig.bus).await, 0);
    published.push(rig.publish().await);
    published.insert(11, "fails".into());
    until("the last is handled", async || rig.seen.all().len() >= published.len()).await;
    assert_eq!(rig.seen.all(), published);
}
