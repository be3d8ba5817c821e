//! A bus beside a store.

use std::time::Duration;

use eventbus::{
    AggregateRepository, ExpectedVersion, Name, Never, NewEvent, Position, StreamId, Uuid, prelude::*,
    store::EventStore,
};
use eventbus_cli::doctor::{Doctor, DoctorConfig, Severity::*};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::{PgEventStore, sqlx};
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use eventstore_sqlite::SqliteEventStore;

use super::common::{Store, bus as of_bus, config, expect_finding, expect_healthy, pool, query, redis};

#[tokio::test]
async fn a_relay_that_does_not_publish_is_ahead_or_of_a_different_store_is_found() {
    let (store, bus) = (Store::new().await, eventbus_test::redis());
    let admin = redis(bus.url()).await;
    let doctor = store.doctor().redis(admin.clone()).bus(of_bus(bus.url(), bus.prefix()));
    let strict = doctor.clone().config(DoctorConfig { relay_lag: Duration::ZERO, ..config() });
    let mut connection = pool(store.url()).acquire().await.unwrap();
    let id: String =
        sqlx::query_scalar("SELECT id::text FROM eventbus.store").fetch_one(&mut *connection).await.unwrap();
    super::common::send(&admin, &format!("XADD {}:stream 1-0 type A", bus.prefix())).await;
    let publish = async |store: &str, position: u64| {
        let hash = format!("{{{}:stream}}:relay", bus.prefix());
        let record = format!("{position} - -");
        let mut set = eventbus_redis::redis::cmd("HSET");
        let _: u64 = query(&admin, set.arg((hash, store, record))).await;
    };

    // the events are seconds old
    expect_healthy(&doctor, "relay-stalled").await;
    expect_finding(&strict, "relay-stalled", Note, "no relay has published").await;
    // a relay runs, or ran
    let relay = format!("relay:redis:{}:stream", bus.prefix());
    store.run(&format!("INSERT INTO leases VALUES ('{relay}', 'vm:1', 1, now(), now() + interval '1 minute')")).await;
    expect_finding(&strict, "relay-stalled", Fault, "the event at position 1 has not been published").await;
    store.run("UPDATE leases SET owner = 'retired'").await;
    expect_finding(&strict, "relay-stalled", Note, "no relay has published").await;
    store.run(&format!("INSERT INTO checkpoints VALUES ('{relay}', 0, now())")).await;
    expect_finding(&strict, "relay-stalled", Fault, "the event at position 1 has not been published").await;
    publish(&id, 2).await;
    expect_finding(&strict, "relay-stalled", Fault, "the event at position 3 has not been published").await;
    publish(&id, 3).await;
    expect_healthy(&strict, "relay-stalled").await;
    expect_healthy(&doctor, "relay-ahead").await;
    expect_healthy(&doctor, "relay-other-store").await;
    publish(&id, 9).await;
    let found = expect_finding(&doctor, "relay-ahead", Fault, "up to position 9, and the store ends at 3").await;
    assert_eq!(found.finding.observed["store"], id.as_str());
    assert!(found.finding.repair.contains("`eventbus relay republish`"), "{found:?}");
    publish("11111111-2222-4333-8444-555555555555", 9).await;
    expect_finding(&doctor, "relay-other-store", Note, "11111111-2222-4333-8444-555555555555").await;
}

/// The checks of the relay need no PostgreSQL.
#[tokio::test]
async fn the_relay_of_a_store_on_sqlite_or_redis_is_examined_too() {
    let (folder, bus) = (tempfile::tempdir().unwrap(), eventbus_test::redis());
    let admin = redis(bus.url()).await;
    super::common::send(&admin, &format!("XADD {}:stream 1-0 type A", bus.prefix())).await;
    let file = SqliteEventStore::open(folder.path().join("bank.db")).await.unwrap();
    let key_prefix = format!("{}-store", bus.prefix());
    let on_redis = RedisEventStoreConfig { redis_url: bus.url().into(), key_prefix, ..Default::default() };
    let of_redis = on_redis.clone();
    let on_redis = RedisEventStore::connect(on_redis).await.unwrap();
    let doctor = || Doctor::new().redis(admin.clone()).bus(of_bus(bus.url(), bus.prefix()));
    let stores: [(&dyn EventStore, Doctor); 2] =
        [(&file, doctor().sqlite(folder.path().join("bank.db"))), (&on_redis, doctor().redis_store_with(of_redis))];
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
            let _: u64 = query(&admin, set.arg((hash, &id, format!("{position} - -")))).await;
        };
        expect_healthy(&doctor, "relay-stalled").await;
        expect_finding(&strict, "relay-stalled", Note, "no relay has published").await;
        // a relay runs, or ran
        let relay =
            Name::prefixed("relay:", &Name::new("destination", format!("redis:{}:stream", bus.prefix())).unwrap());
        let (owner, minute) = (Name::from_static("vm:1"), Duration::from_secs(60));
        let lease = store.acquire_lease(&relay, &owner, minute).await.unwrap().unwrap();
        expect_finding(&strict, "relay-stalled", Fault, "the event at position 1 has not been published").await;
        store.release_lease(&lease).await.unwrap();
        assert!(store.acquire_lease(&relay, &Name::from_static("retired"), minute).await.unwrap().is_some());
        expect_finding(&strict, "relay-stalled", Note, "no relay has published").await;
        store.save_checkpoint(&relay, Position::new(0)).await.unwrap();
        expect_finding(&strict, "relay-stalled", Fault, "the event at position 1 has not been published").await;
        publish(1).await;
        expect_finding(&strict, "relay-stalled", Fault, "the event at position 2 has not been published").await;
        publish(3).await;
        expect_healthy(&strict, "relay-stalled").await;
        expect_healthy(&doctor, "relay-ahead").await;
        publish(9).await;
        expect_finding(&doctor, "relay-ahead", Fault, "up to position 9, and the store ends at 3").await;
    }
}

/// Its repository publishes.
#[tokio::test]
async fn a_program_without_a_relay_has_none_that_stalls() {
    let (database, redis_server) = (eventbus_test::postgres(), eventbus_test::redis());
    let store = PgEventStore::connect(database.url()).await.unwrap();
    let config_of_bus = RedisEventBusConfig {
        redis_url: redis_server.url().into(),
        stream_prefix: redis_server.prefix().into(),
        ..Default::default()
    };
    let bus = RedisEventBus::connect(config_of_bus).await.unwrap();
    let accounts = AggregateRepository::<Account>::new(store).publish_to(bus.clone());
    accounts.upsert(&"ada".parse().unwrap(), |_| Ok::<_, Never>(Deposited { cents: 120 })).await.unwrap();
    assert_eq!(bus.load_stream_info().await.unwrap().stream.length, 1, "it is published");
    let strict = DoctorConfig { relay_lag: Duration::ZERO, ..config() };
    let doctor = Doctor::new()
        .config(strict)
        .postgres(pool(database.url()), "eventbus")
        .redis(redis(redis_server.url()).await)
        .bus(of_bus(redis_server.url(), redis_server.prefix()));
    let note = expect_finding(&doctor, "relay-stalled", Note, "no relay has published events of this store").await;
    assert!(note.finding.consequence.contains("`publish_to`"), "{note:?}");
    for check in ["relay-ahead", "relay-other-store"] {
        let report = doctor.clone().only([check]).unwrap().run().await;
        assert_eq!(report.healthy(), [check], "{report}");
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Deposited {
    cents: i64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Deposited))]
struct Account {
    cents: i64,
}

impl Apply for Account {
    fn apply(&mut self, AccountEvent::Deposited(deposited): &AccountEvent) {
        self.cents += deposited.cents;
    }
}
