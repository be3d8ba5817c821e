//! The store warns about data that the server may lose, and detects lost data.

use eventbus::{
    App, ExpectedVersion, Position,
    port::{AppendEvents as _, ReadFeed as _},
    relay::RelayError,
};
use eventstore_redis::{DurabilityWarning as Warning, RedisEventStore, RedisEventStoreConfig};

use crate::{
    app::bus_on,
    client,
    common::{
        proxy::Proxy,
        store::{config_on, open},
        until,
    },
    event, events, key, order, tell,
};

async fn warnings(store: &RedisEventStore) -> Vec<Warning> {
    store.durability().await.unwrap().warnings
}

#[tokio::test]
async fn each_setting_that_may_lose_events_is_warned_of_with_its_repair() {
    let server = eventbus_test::private_redis_with(&[
        "--appendonly",
        "no",
        "--maxmemory-policy",
        "allkeys-lru",
        "--appendfsync",
        "everysec",
    ]);
    let store = open(config_on(server.url())).await;
    let mut connection = client(server.url()).await;
    let found = warnings(&store).await;
    assert_eq!(
        found,
        [Warning::NoAppendOnlyFile, Warning::Evicts { policy: "allkeys-lru".into() }, Warning::NoReplica]
    );
    for warning in found {
        if let Some(repair) = warning.repair() {
            let words: Vec<_> = repair.split(' ').collect();
            tell::<String>(&mut connection, &words).await;
        }
    }
    let found = warnings(&store).await;
    assert!(matches!(found[..], [Warning::SyncedEverySecond, Warning::NoReplica]), "{found:?}");
    let words: Vec<_> = found[0].repair().unwrap().split(' ').collect();
    tell::<String>(&mut connection, &words).await;
    assert_eq!(warnings(&store).await, [Warning::NoReplica]);
}

#[tokio::test]
async fn what_a_user_may_not_ask_for_could_not_be_checked() {
    let server = eventbus_test::private_redis_with(&["--appendonly", "yes"]);
    let store = open(config_on(server.url())).await;
    let mut connection = client(server.url()).await;
    tell::<String>(&mut connection, &["ACL", "SETUSER", "app", "on", ">pw", "~*", "+@all", "-config", "-info"]).await;
    let url = server.url().replace("redis://", "redis://app:pw@");
    let limited = open(crate::common::store::config_on(&url)).await;
    let found = warnings(&limited).await;
    let settings = ["appendonly", "maxmemory-policy", "replicas"];
    assert_eq!(found, settings.map(|setting| Warning::NotChecked { setting }));
    assert!(found.iter().all(|warning| warning.repair().is_none()));
    tell::<String>(&mut connection, &["ACL", "SETUSER", "app", "+info"]).await;
    let found = warnings(&limited).await;
    assert_eq!(found, [Warning::NotChecked { setting: "appendfsync" }, Warning::NoReplica]);
    drop(store);
}

#[tokio::test]
async fn events_that_were_acknowledged_and_lost_are_noticed_by_who_was_told_of_them() {
    let mut server = eventbus_test::private_redis();
    let config = config_on(server.url());
    let (writer, reader) = (open(config.clone()).await, open(config).await);
    writer.append(&order("1"), ExpectedVersion::Any, events(3)).await.unwrap();
    assert_eq!(reader.head().await.unwrap(), 3_u64);
    assert!(!warnings(&reader).await.iter().any(|warning| matches!(warning, Warning::Lost { .. })));
    server.stop();
    server.start_empty();
    let lost = |told, found| Warning::Lost { told: Position::new(told), found: Position::new(found) };
    assert_eq!(reader.head().await.unwrap(), Position::START);
    assert_eq!(warnings(&reader).await[0], lost(3, 0));
    writer.append(&order("1"), ExpectedVersion::Any, vec![event(1)]).await.unwrap();
    assert_eq!(warnings(&writer).await[0], lost(3, 0), "its position was given before");
}

/// No call of the relay fails: the store connects again by itself.
#[tokio::test]
async fn a_failover_that_lost_published_events_stops_the_relay_however_far_others_have_come_since() {
    let (primary, replica) = (eventbus_test::private_redis(), eventbus_test::private_redis());
    let mut replica_client = client(replica.url()).await;
    tell::<String>(&mut replica_client, &["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).await;
    let proxy = Proxy::before(primary.port()).await;
    let config = config_on(&proxy.url());
    let store = open(config.clone()).await;
    let app = App::builder().store(store.clone()).bus(bus_on(eventbus_test::redis_url()).await).start().await.unwrap();
    let append = async |store: &RedisEventStore, count| {
        let appended = store.append(&order("1"), ExpectedVersion::Any, events(count)).await.unwrap();
        appended.last().unwrap().position().unwrap()
    };
    app.published(append(&store, 10).await).await.unwrap();
    let feed = key(&store, "aggregate:feed");
    until("the replica has the events", async || tell::<u64>(&mut replica_client, &["XLEN", &feed]).await == 10).await;
    tell::<String>(&mut replica_client, &["REPLICAOF", "NO", "ONE"]).await;
    app.published(append(&store, 5).await).await.unwrap();
    let other = open(RedisEventStoreConfig { redis_url: replica.url().into(), ..config }).await;
    append(&other, 20).await;
    proxy.fail_over_to(replica.port());
    let stopped = async || app.relay_status().await.unwrap().stopped;
    until("the relay stops", async || stopped().await.is_some()).await;
    let stopped = stopped().await.unwrap();
    assert!(matches!(stopped, RelayError::StoreBehindBus { .. }), "{stopped}");
}

#[tokio::test]
async fn with_an_append_only_file_that_is_synced_always_nothing_is_lost_in_a_crash() {
    let mut server = eventbus_test::private_redis_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let store = open(config_on(server.url())).await;
    for _ in 0..3 {
        let appended = store.append(&order("1"), ExpectedVersion::Any, events(50)).await.unwrap();
        server.stop();
        server.start();
        assert_eq!(store.head().await.unwrap(), appended.last().unwrap().position().unwrap());
    }
    assert_eq!(warnings(&store).await, [Warning::NoReplica]);
}
