//! A healthy system: a store on PostgreSQL that syncs, a bus on Redis that syncs, an app with a handler and a projection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use eventbus::{ExpectedVersion, NewEvent, StreamId, prelude::*, store::AppendEvents};
use eventbus_cli::doctor::{Doctor, DoctorConfig, Report, Severity};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig, Trim};
use eventstore_postgres::{PgConnection, PgEventStore, PgEventStoreConfig, sqlx};
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use tokio::sync::Semaphore;

use super::common::{config, of_security_page, pool, redis, redis_operator, run_sql, send, until};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate_type = "Account")]
struct Deposited {
    cents: i64,
}

/// The cents of an event that handlers and projections hold until the test releases it.
const HELD: i64 = 1;

#[derive(Clone)]
struct Readers {
    thanked: Arc<AtomicUsize>,
    /// Readers that have reached the held event.
    waiting: Arc<AtomicUsize>,
    release: Arc<Semaphore>,
}

impl Readers {
    fn new() -> Self {
        Self { thanked: Arc::default(), waiting: Arc::default(), release: Arc::new(Semaphore::new(0)) }
    }

    async fn hold(&self, event: &Deposited) {
        if event.cents == HELD {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            drop(self.release.acquire().await.unwrap());
        }
    }

    fn thanked(&self) -> usize {
        self.thanked.load(Ordering::SeqCst)
    }
}

#[handler(manual, group = "mail")]
async fn thank(event: &Deposited, State(readers): State<Readers>) {
    readers.hold(event).await;
    readers.thanked.fetch_add(1, Ordering::SeqCst);
}

struct Sums(Readers);

#[projection(
    name = "sums",
    tables("sums"),
    key = "id",
    set_up = "CREATE TABLE IF NOT EXISTS sums (id text PRIMARY KEY, cents bigint NOT NULL)",
    manual
)]
impl Sums {
    async fn add(&self, event: &Deposited, meta: &Metadata, conn: &mut PgConnection) -> Result<(), sqlx::Error> {
        self.0.hold(event).await;
        let add = "INSERT INTO sums VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET cents = sums.cents + excluded.cents";
        sqlx::query(add).bind(meta.aggregate_id().as_str()).bind(event.cents).execute(conn).await?;
        Ok(())
    }
}

const EVENTS: usize = 30;

/// No time at all for what a system that keeps up does at once.
fn strict() -> DoctorConfig {
    DoctorConfig {
        open_append: Duration::ZERO,
        prepared_transaction: Duration::ZERO,
        inbox_retention: Duration::ZERO,
        abandoned: Duration::ZERO,
        relay_lag: Duration::ZERO,
        idle_group: Duration::ZERO,
        held_trim: Duration::ZERO,
        ..config()
    }
}

/// The same while an event is being handled: it keeps the stream from being trimmed.
fn strict_but_busy() -> DoctorConfig {
    DoctorConfig { held_trim: config().held_trim, ..strict() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_used_system_is_healthy_just_created_while_the_app_runs_and_after_it_has_stopped() {
    let (postgres, server) = (eventbus_test::private_postgres(), eventbus_test::private_redis());
    examine(postgres.url(), server.url(), "orders").await;
}

/// Examines a system whose store and bus have that name, at four times of its life: as a superuser, and as an operator with
/// the rights of SECURITY.md.
async fn examine(postgres: &str, server: &str, name: &str) {
    let of_store =
        PgEventStoreConfig { database_url: postgres.into(), schema: name.into(), ..PgEventStoreConfig::default() };
    let of_bus =
        RedisEventBusConfig { redis_url: server.into(), stream_prefix: name.into(), ..RedisEventBusConfig::default() };
    let store = PgEventStore::connect_with(of_store).await.unwrap();
    let bus = RedisEventBus::connect(of_bus).await.unwrap();
    let admin = redis(server).await;
    let grants = ["GRANT USAGE", "GRANT app"].map(|begin| of_security_page("sql", begin)).concat();
    let grants = grants.replace("eventbus.", &format!("{name}.")).replace("SCHEMA eventbus", &format!("SCHEMA {name}"));
    let grants = grants.replace(" app", &format!(" app_{name}")).replace(" operator", &format!(" operator_{name}"));
    run_sql(postgres, &format!("CREATE ROLE app_{name}; CREATE ROLE operator_{name} LOGIN; {grants}")).await;
    let as_operator = postgres.replace("postgres://postgres@", &format!("postgres://operator_{name}@"));
    let operator = redis_operator(&admin, server, name).await;
    let doctor = |postgres: &str, redis, url: &str| {
        let doctor =
            Doctor::new().postgres(pool(postgres), name).redis(redis).bus(super::common::bus(url, name)).deep(true);
        doctor.known_types([("Deposited".to_owned(), 1)])
    };
    let doctors = [doctor(postgres, admin, server), doctor(&as_operator, redis(&operator).await, &operator)];
    let assert_healthy = async |when: &str, config: DoctorConfig| {
        for doctor in &doctors {
            assert_healthy(when, &doctor.clone().config(config.clone()).run().await);
        }
    };
    assert_healthy("just created", strict()).await;

    let readers = Readers::new();
    let app = App::builder()
        .store(store.clone())
        .bus(bus.clone())
        .state(readers.clone())
        .handler::<thank>()
        .projection(Sums(readers.clone()))
        .start()
        .await
        .unwrap();
    append_deposits(&store, 120, EVENTS).await;
    let until_settled = async |events: usize| {
        until("the events are handled", async || readers.thanked() == events).await;
        let has_rows = async || app.projections().await.unwrap().iter().all(|projection| projection.lag == 0);
        until("the rows are there", has_rows).await;
        until("no entry is pending", async || bus.load_stream_info().await.unwrap().pending_messages == 0).await;
    };
    until_settled(EVENTS).await;
    assert_healthy("the app runs", strict()).await;
    let trimmed = bus.trim(Trim { max_length: Some(5), max_age: None }).await.unwrap();
    assert!(trimmed.removed > 0, "{trimmed:?}");
    assert_healthy("the stream is trimmed", strict()).await;

    append_deposits(&store, HELD, 1).await;
    until("both readers have the event", async || readers.waiting.load(Ordering::SeqCst) == 2).await;
    assert_healthy("an event is being handled", strict_but_busy()).await;
    readers.release.add_permits(2);
    until_settled(EVENTS + 1).await;

    app.shutdown(Duration::from_secs(20)).await.unwrap();
    store.close().await;
    assert_healthy("the app has stopped", strict()).await;
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
    let admin = redis(server.url()).await;
    let operator = redis_operator(&admin, server.url(), "orders").await;
    send(&admin, &format!("ACL SETUSER operator {}", rights_of_redis_store().join(" "))).await;
    let doctor = |redis, redis_url: &str| {
        let of_store = RedisEventStoreConfig { redis_url: redis_url.into(), ..store.config().clone() };
        let of_bus = super::common::bus(redis_url, "orders");
        let doctor = Doctor::new().redis(redis).bus(of_bus).redis_store_with(of_store).deep(true);
        doctor.known_types([("Deposited".to_owned(), 1)])
    };
    let doctors = [doctor(admin, server.url()), doctor(redis(&operator).await, &operator)];
    let assert_healthy = async |when: &str, config: DoctorConfig| {
        for doctor in &doctors {
            let report = doctor.clone().config(config.clone()).run().await;
            assert_healthy_but(when, &report, &["no PostgreSQL server was given", "no SQLite file was given"]);
            let of_store = report.healthy().iter().filter(|check| check.starts_with("redis-store-"));
            assert_eq!(of_store.count(), 7, "{when}: {report}");
            assert!(report.healthy().len() > 20, "{when}: {report}");
        }
    };
    assert_healthy("just created", strict()).await;

    let readers = Readers::new();
    let app = App::builder().store(store.clone()).bus(bus.clone()).state(readers.clone()).handler::<thank>();
    let app = app.start().await.unwrap();
    append_deposits(&store, 120, EVENTS).await;
    let until_settled = async |events: usize| {
        until("the events are handled", async || readers.thanked() == events).await;
        until("no entry is pending", async || bus.load_stream_info().await.unwrap().pending_messages == 0).await;
    };
    until_settled(EVENTS).await;
    assert_healthy("the app runs", strict()).await;
    append_deposits(&store, HELD, 1).await;
    until("the handler has the event", async || readers.waiting.load(Ordering::SeqCst) == 1).await;
    assert_healthy("an event is being handled", strict_but_busy()).await;
    readers.release.add_permits(1);
    until_settled(EVENTS + 1).await;
    app.shutdown(Duration::from_secs(20)).await.unwrap();
    assert_healthy("the app has stopped", strict()).await;
}

/// The rights that the README of the store names, such as `+xadd`.
fn rights_of_redis_store() -> Vec<&'static str> {
    let page = include_str!("../../../eventstore-redis/README.md");
    let line = page.lines().find(|line| line.starts_with("ACL SETUSER")).expect("the README has the line");
    line.split(' ').filter(|rule| rule.starts_with('+')).collect()
}

/// Appends that many events to seven streams.
async fn append_deposits(store: &impl AppendEvents, cents: i64, count: usize) {
    for number in 0..count {
        let stream = StreamId::parse("Account", &format!("a-{}", number % 7)).unwrap();
        let event = NewEvent::from_event(&Deposited { cents }).unwrap();
        store.append(&stream, ExpectedVersion::Any, vec![event]).await.unwrap();
    }
}

fn assert_healthy(when: &str, report: &Report) {
    let of_superuser = "only a superuser may read the rules of pg_hba.conf: check as one";
    assert_healthy_but(when, report, &["no SQLite file was given", "no event store on Redis was given", of_superuser]);
    assert!(report.healthy().len() > 40, "{when}: {report}");
}

/// Fails unless there are notes only, each check was made, and only those of servers that were not given were skipped.
fn assert_healthy_but(when: &str, report: &Report, not_given: &[&str]) {
    assert!(report.worst().is_none_or(|worst| worst == Severity::Note), "{when}: {report}");
    assert_eq!(report.not_checked(), [], "{when}: {report}");
    let skipped: Vec<_> = report.skipped().iter().map(|skipped| skipped.reason.as_str()).collect();
    assert!(skipped.iter().all(|reason| not_given.contains(reason)), "{when}: {skipped:?}");
}
