//! A healthy system: a store on PostgreSQL that syncs, a bus on Redis that syncs, an app with a handler and a projection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventbus::{ExpectedVersion, NewEvent, StreamId, prelude::*, store::AppendEvents};
use eventbus_cli::doctor::{Doctor, Report, Severity};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventstore_postgres::{PgConnection, PgEventStore, PgEventStoreConfig, sqlx};
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};

use super::common::{config, pool, redis, until};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Deposited {
    cents: i64,
}

#[derive(Clone, Default)]
struct Thanked(Arc<AtomicUsize>);

#[handler(manual, group = "mail")]
async fn thank(_event: &Deposited, State(thanked): State<Thanked>) {
    thanked.0.fetch_add(1, Ordering::SeqCst);
}

#[derive(Default)]
struct Sums;

#[projection(
    name = "sums",
    tables("sums"),
    key = "id",
    set_up = "CREATE TABLE IF NOT EXISTS sums (id text PRIMARY KEY, cents bigint NOT NULL)",
    manual
)]
impl Sums {
    async fn add(&self, event: &Deposited, meta: &Metadata, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        let add = "INSERT INTO sums VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET cents = sums.cents + excluded.cents";
        sqlx::query(add).bind(meta.aggregate_id().as_str()).bind(event.cents).execute(conn).await?;
        Ok(())
    }
}

const EVENTS: usize = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_system_is_healthy_just_created_while_the_app_runs_and_after_it_has_stopped() {
    let (postgres, server) = (eventbus_test::private_postgres(), eventbus_test::private_redis());
    for (name, partitions) in [("orders", 1), ("parcels", 2)] {
        examine(postgres.url(), server.url(), name, partitions).await;
    }
}

/// Examines a system whose store and bus have that name, at three times of its life.
async fn examine(postgres: &str, server: &str, name: &str, partitions: u32) {
    let of_store =
        PgEventStoreConfig { database_url: postgres.into(), schema: name.into(), ..PgEventStoreConfig::default() };
    let of_bus = RedisEventBusConfig {
        redis_url: server.into(),
        stream_prefix: name.into(),
        partitions,
        ..RedisEventBusConfig::default()
    };
    let store = PgEventStore::connect_with(of_store).await.unwrap();
    let bus = RedisEventBus::connect(of_bus).await.unwrap();
    let doctor = Doctor::new()
        .config(config())
        .postgres(pool(postgres), name)
        .redis(redis(server).await)
        .bus(name)
        .known_types([("Deposited".to_owned(), 1)])
        .deep(true);
    assert_healthy("just created", &doctor.run().await);

    let thanked = Thanked::default();
    let app = App::builder()
        .store(store.clone())
        .bus(bus)
        .state(thanked.clone())
        .handler::<thank>()
        .projection(Sums)
        .start()
        .await
        .unwrap();
    append_deposits(&store).await;
    until("the events are handled", async || thanked.0.load(Ordering::SeqCst) == EVENTS).await;
    until("the rows are there", async || app.projections().await.unwrap().iter().all(|projection| projection.lag == 0))
        .await;
    assert_healthy("the app runs", &doctor.run().await);

    app.shutdown(Duration::from_secs(20)).await.unwrap();
    store.close().await;
    assert_healthy("the app has stopped", &doctor.run().await);
}

/// The same of a store on Redis, on a server that syncs each write.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_store_on_redis_is_healthy_too() {
    let server = eventbus_test::private_redis_with(&["--appendfsync", "always"]);
    let of_store = RedisEventStoreConfig {
        redis_url: server.url().into(),
        key_prefix: "orders".into(),
        ..RedisEventStoreConfig::default()
    };
    let of_bus = RedisEventBusConfig {
        redis_url: server.url().into(),
        stream_prefix: "orders".into(),
        ..RedisEventBusConfig::default()
    };
    let store = RedisEventStore::connect(of_store).await.unwrap();
    let bus = RedisEventBus::connect(of_bus).await.unwrap();
    let doctor = Doctor::new()
        .config(config())
        .redis(redis(server.url()).await)
        .bus("orders")
        .redis_store_with(store.config().clone())
        .known_types([("Deposited".to_owned(), 1)])
        .deep(true);
    let assert_healthy = |when, report: &Report| {
        assert_healthy_but(when, report, &["no PostgreSQL server was given", "no SQLite file was given"]);
        let of_store = report.healthy().iter().filter(|check| check.starts_with("redis-store-"));
        assert_eq!(of_store.count(), 7, "{when}: {report}");
        assert!(report.healthy().len() > 20, "{when}: {report}");
    };
    assert_healthy("just created", &doctor.run().await);

    let thanked = Thanked::default();
    let app = App::builder().store(store.clone()).bus(bus).state(thanked.clone()).handler::<thank>();
    let app = app.start().await.unwrap();
    append_deposits(&store).await;
    until("the events are handled", async || thanked.0.load(Ordering::SeqCst) == EVENTS).await;
    assert_healthy("the app runs", &doctor.run().await);
    app.shutdown(Duration::from_secs(20)).await.unwrap();
    assert_healthy("the app has stopped", &doctor.run().await);
}

/// Appends [`EVENTS`] events to seven streams.
async fn append_deposits(store: &impl AppendEvents) {
    for number in 0..EVENTS {
        let stream = StreamId::parse("Account", &format!("a-{}", number % 7)).unwrap();
        let event = NewEvent::from_event(&Deposited { cents: 120 }).unwrap();
        store.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    }
}

fn assert_healthy(when: &str, report: &Report) {
    assert_healthy_but(when, report, &["no SQLite file was given", "no event store on Redis was given"]);
    assert!(report.healthy().len() > 40, "{when}: {report}");
}

/// Fails unless there are notes only, each check was made, and only those of servers that were not given were skipped.
fn assert_healthy_but(when: &str, report: &Report, not_given: &[&str]) {
    assert!(report.worst().is_none_or(|worst| worst == Severity::Note), "{when}: {report}");
    assert_eq!(report.not_checked(), [], "{when}: {report}");
    let skipped: Vec<_> = report.skipped().iter().map(|skipped| skipped.reason.as_str()).collect();
    assert!(skipped.iter().all(|reason| not_given.contains(reason)), "{when}: {skipped:?}");
}
