//! A bus beside a store.

use std::time::Duration;

use eventbus::{ExpectedVersion, Name, NewEvent, StreamId, Uuid, store::EventStore};
use eventbus_cli::doctor::{Doctor, DoctorConfig, Severity::*};
use eventstore_postgres::sqlx;
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use eventstore_sqlite::SqliteEventStore;

use super::common::{Store, config, expect_finding, expect_healthy, query, redis};

#[tokio::test]
async fn a_relay_that_does_not_publish_is_ahead_or_of_a_different_store_is_found() {
    let (store, bus) = (Store::new().await, eventbus_test::redis());
    let admin = redis(bus.url()).await;
    let doctor = store.doctor().redis(admin.clone()).bus(bus.prefix());
    let strict = doctor.clone().config(DoctorConfig { relay_lag: Duration::ZERO, ..config() });
    let mut connection = super::common::pool(store.url()).acquire().await.unwrap();
    let id: String =
        sqlx::query_scalar("SELECT id::text FROM eventbus.store").fetch_one(&mut *connection).await.unwrap();
    let publish = async |partition: &str, store: &str, position: u64| {
        let hash = format!("{{{}:stream{partition}}}:relay", bus.prefix());
        let record = format!("1 {position} - - - -");
        let mut set = eventbus_redis::redis::cmd("HSET");
        let _: u64 = query(&admin, set.arg((hash, store, record))).await;
    };

    // the events are seconds old
    expect_healthy(&doctor, "relay-stalled").await;
    expect_finding(&strict, "relay-stalled", Fault, "the event at position 1 has not been published").await;
    publish("", &id, 2).await;
    expect_finding(&strict, "relay-stalled", Fault, "the event at position 3 has not been published").await;
    publish("", &id, 3).await;
    expect_healthy(&strict, "relay-stalled").await;
    expect_healthy(&doctor, "relay-ahead").await;
    expect_healthy(&doctor, "relay-other-store").await;
    publish("", &id, 9).await;
    let found = expect_finding(&doctor, "relay-ahead", Fault, "up to position 9, and the store ends at 3").await;
    assert_eq!(found.finding.observed["store"], id.as_str());
    assert!(found.finding.repair.contains("`eventbus relay republish --after POSITION`"), "{found:?}");
    publish("", "11111111-2222-4333-8444-555555555555", 9).await;
    expect_finding(&doctor, "relay-other-store", Note, "11111111-2222-4333-8444-555555555555").await;

    // the slowest partition counts
    let mut layout = eventbus_redis::redis::cmd("HSET");
    layout.arg((format!("{}:stream:layout", bus.prefix()), "partitions", 2, "generation", 1));
    let _: u64 = query(&admin, &layout).await;
    publish(":0", &id, 3).await;
    publish(":1", &id, 1).await;
    expect_finding(&strict, "relay-stalled", Fault, "the event at position 2 has not been published").await;
}

/// The checks of the relay need no PostgreSQL.
#[tokio::test]
async fn the_relay_of_a_store_on_sqlite_or_redis_is_examined_too() {
    let (folder, bus) = (tempfile::tempdir().unwrap(), eventbus_test::redis());
    let admin = redis(bus.url()).await;
    let file = SqliteEventStore::open(folder.path().join("bank.db")).await.unwrap();
    let key_prefix = format!("{}-store", bus.prefix());
    let on_redis =
        RedisEventStoreConfig { redis_url: bus.url().into(), key_prefix: key_prefix.clone(), ..Default::default() };
    let on_redis = RedisEventStore::connect(on_redis).await.unwrap();
    let doctor = || Doctor::new().redis(admin.clone()).bus(bus.prefix());
    let stores: [(&dyn EventStore, Doctor); 2] =
        [(&file, doctor().sqlite(folder.path().join("bank.db"))), (&on_redis, doctor().redis_store(&key_prefix))];
    for (store, doctor) in stores {
        let stream = StreamId::parse("Account", "ada").unwrap().with_tenant_id(Some(Uuid::from_u128(7)));
        let events = (0..3).map(|_| NewEvent::new(Name::from_static("Deposited"), 1, r#"{"cents":120}"#)).collect();
        store.append(&stream, ExpectedVersion::Any, events).await.unwrap();
        let strict = doctor.clone().config(DoctorConfig { relay_lag: Duration::ZERO, ..config() });
        let doctor = doctor.config(config());
        let id = store.store_id().await.unwrap().to_string();
        let publish = async |position: u64| {
            let hash = format!("{{{}:stream}}:relay", bus.prefix());
            let mut set = eventbus_redis::redis::cmd("HSET");
            let _: u64 = query(&admin, set.arg((hash, &id, format!("1 {position} - - - -")))).await;
        };
        expect_healthy(&doctor, "relay-stalled").await;
        publish(1).await;
        expect_finding(&strict, "relay-stalled", Fault, "the event at position 2 has not been published").await;
        publish(3).await;
        expect_healthy(&strict, "relay-stalled").await;
        expect_healthy(&doctor, "relay-ahead").await;
        publish(9).await;
        expect_finding(&doctor, "relay-ahead", Fault, "up to position 9, and the store ends at 3").await;
    }
}
