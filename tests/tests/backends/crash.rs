//! A process killed with `kill -9` between saving and handling: the next start handles, on every pair of backends.
//!
//! The killed process is a second run of this test binary, with its role in environment variables.

use std::{
    collections::BTreeMap,
    env,
    sync::{Arc, Mutex},
    time::Duration,
};

use eventbus::{
    port::{EventBus, EventStore},
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventbus_test::internal::Actor;
use eventstore_postgres::PgEventStore;
use eventstore_sqlite::SqliteEventStore;

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Account)]
struct Deposited {
    cents: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Deposited))]
struct Account {
    balance: u64,
}

impl Apply for Account {
    fn apply(&mut self, AccountEvent::Deposited(deposited): &AccountEvent) {
        self.balance += deposited.cents;
    }
}

/// The handled events: their ids and cents.
type Seen = Arc<Mutex<BTreeMap<String, u64>>>;

/// Never ends in the process that dies.
#[handler(manual)]
async fn thank(event: &Deposited, meta: &Metadata, State(seen): State<Option<Seen>>) -> Result<(), HandlerError> {
    let Some(seen) = seen else {
        println!("in flight");
        return std::future::pending().await;
    };
    let id = meta.event_id().to_string();
    seen.lock().map_err(|_| "poisoned")?.insert(id, event.cents);
    Ok(())
}

async fn backends(store: &str, bus: &str) -> (Arc<dyn EventStore>, Option<Arc<dyn EventBus>>) {
    let opened: Arc<dyn EventStore> = if store.starts_with("postgres") {
        Arc::new(PgEventStore::connect(store).await.unwrap())
    } else {
        Arc::new(SqliteEventStore::open(store).await.unwrap())
    };
    let Some((redis_url, prefix)) = bus.split_once(' ') else {
        return (opened, None);
    };
    let config = RedisEventBusConfig {
        redis_url: redis_url.into(),
        stream_prefix: prefix.into(),
        consumer_name: Some("stable".into()),
        block_ms: 100,
        ..RedisEventBusConfig::default()
    };
    (opened, Some(Arc::new(RedisEventBus::connect(config).await.unwrap())))
}

async fn app(store: &str, bus: &str, seen: Option<Seen>) -> App {
    let (store, bus) = backends(store, bus).await;
    let builder = App::builder().store(store).state(seen).handler::<thank>().lease(Duration::from_secs(1));
    match bus {
        Some(bus) => builder.bus(bus).start().await.unwrap(),
        None => builder.start().await.unwrap(),
    }
}

/// The role of the process that dies; returns at once in an ordinary run.
#[tokio::test]
async fn the_process_that_dies() {
    let (Ok(store), Ok(bus)) = (env::var("CRASH_STORE"), env::var("CRASH_BUS")) else {
        return;
    };
    Actor::end_with_parent();
    let app = app(&store, &bus, None).await;
    let saved = app
        .repository::<Account>()
        .upsert(&"ada".parse().unwrap(), |_| Ok::<_, eventbus::Never>(Deposited { cents: 5 }))
        .await
        .unwrap();
    println!("saved at {}", saved.position.unwrap());
    std::future::pending().await
}

/// Lets the process save and start its handler, then kills it.
fn save_and_die(store: &str, bus: &str) {
    let dies = Actor::play("crash::the_process_that_dies", &[("CRASH_STORE", store), ("CRASH_BUS", bus)]);
    dies.until(&["saved at", "in flight"]);
    dies.kill();
}

async fn the_next_start_handles(store: &str, bus: &str) {
    save_and_die(store, bus);
    save_and_die(store, bus);
    let seen = Seen::default();
    let app = app(store, bus, Some(Arc::clone(&seen))).await;
    app.settled().await.unwrap();
    let handled: Vec<u64> = seen.lock().unwrap().values().copied().collect();
    assert_eq!(handled, [5, 5], "both deposits are thanked for, under the ids they were saved with");
    let account = app.repository::<Account>().load(&"ada".parse().unwrap()).await.unwrap();
    assert_eq!(account.balance, 10);
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn on_sqlite_and_the_in_process_bus() {
    let folder = env::temp_dir().join(eventbus_test::unique_name("crash"));
    std::fs::create_dir_all(&folder).unwrap();
    the_next_start_handles(folder.join("crash.db").to_str().unwrap(), "memory").await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn on_postgres_and_redis() {
    let schema_url = postgres_database().await;
    let bus = format!("{} {}", eventbus_test::redis_url(), eventbus_test::unique_name("crash"));
    the_next_start_handles(&schema_url, &bus).await;
}

/// Creates a database, and returns its URL.
async fn postgres_database() -> String {
    use sqlx::{AssertSqlSafe, Connection, Executor};
    let name = eventbus_test::unique_name("crash");
    let mut admin = sqlx::PgConnection::connect(eventbus_test::postgres_url()).await.unwrap();
    admin.execute(sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))).await.unwrap();
    eventbus_test::database_url_for(&name)
}
