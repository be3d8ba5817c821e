//! Shops whose stores and buses the dashboards show.

use std::time::Duration;

use eventbus::{
    App, ExpectedVersion, NewEvent, StreamId, Uuid,
    app::{AppBuilder, SettleError},
    dead_letter::{DeadLetterFilter, DeadLetters as _},
    port::AppendEvents as _,
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventbus_test::{Postgres, Redis};
use eventstore_postgres::PgEventStore;
use eventstore_sqlite::SqliteEventStore;
use tempfile::TempDir;

use crate::common::{
    OrderPlaced, OrderShipped,
    projections::{PgTotals, Totals},
    send, send_of_stream,
};

/// A projection whose state is in memory.
#[derive(Debug, Default)]
pub(crate) struct Counted(u64);

#[projection(name = "counted", manual)]
impl Counted {
    fn count(&mut self, _event: &OrderPlaced) {
        self.0 += 1;
    }
}

/// The state of an order, which the dashboard of its application shows.
#[derive(Debug, Default, Serialize, Aggregate)]
#[aggregate(type = "Order", events(OrderPlaced, OrderShipped))]
struct Order {
    total: i64,
    parcels: Vec<String>,
}

impl Apply for Order {
    fn apply(&mut self, event: &OrderEvent) {
        match event {
            OrderEvent::OrderPlaced(placed) => self.total += placed.cents,
            OrderEvent::OrderShipped(shipped) => self.parcels.push(shipped.parcel.clone()),
        }
    }
}

pub(crate) fn placed(cents: i64) -> NewEvent {
    NewEvent::from_event(&OrderPlaced { cents }).unwrap()
}

pub(crate) fn shipped(parcel: &str) -> NewEvent {
    NewEvent::from_event(&OrderShipped { parcel: parcel.into() }).unwrap()
}

/// A shop in an SQLite file, with the bus in the process of its application.
pub(crate) struct FileShop {
    folder: TempDir,
    pub(crate) store: SqliteEventStore,
}

impl FileShop {
    pub(crate) async fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteEventStore::open(folder.path().join("shop.db")).await.unwrap();
        Self { folder, store }
    }

    /// Three orders, one of a tenant; two are shipped, and of those mails cannot be sent.
    pub(crate) async fn new() -> Self {
        let shop = Self::empty().await;
        for (id, tenant, parcel) in [
            ("o-1", None, Some("p-1")),
            ("o-2", None, None),
            ("o-3", Some(Uuid::from_u128(7)), Some("<script>p</script>")),
        ] {
            let stream = StreamId::parse("Order", id).unwrap().with_tenant_id(tenant);
            let events = [Some(placed(120)), parcel.map(shipped)].into_iter().flatten().collect();
            shop.store.append(&stream, ExpectedVersion::NoStream, events).await.unwrap();
        }
        let app = shop.start_app().await;
        assert!(matches!(app.settled().await, Err(SettleError::DeadLetters { dead: 2, .. })));
        app.shutdown(Duration::from_secs(60)).await.unwrap();
        shop
    }

    pub(crate) fn app(&self) -> AppBuilder {
        App::builder().store(self.store.clone()).handler::<send>().projection(Totals).projection_with(Counted::default)
    }

    pub(crate) async fn start_app(&self) -> App {
        self.app().start().await.unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("sqlite:{}", self.folder.path().join("shop.db").display())
    }

    pub(crate) async fn append(&self, id: &str, events: Vec<NewEvent>) {
        self.store.append(&StreamId::parse("Order", id).unwrap(), ExpectedVersion::Any, events).await.unwrap();
    }
}

/// A shop on PostgreSQL and Redis.
pub(crate) struct ServerShop {
    pub(crate) database: Postgres,
    pub(crate) redis: Redis,
    pub(crate) store: PgEventStore,
}

impl ServerShop {
    /// Two orders, which are shipped, and of which mails cannot be sent. Its application has ended.
    pub(crate) async fn new() -> Self {
        let (database, redis) = (eventbus_test::postgres(), eventbus_test::redis());
        let store = PgEventStore::connect(database.url()).await.unwrap();
        let shop = Self { database, redis, store };
        for id in ["o-1", "o-2"] {
            shop.append(id, vec![placed(120), shipped(&format!("of {id}"))]).await;
        }
        let app = shop.start_app().await;
        assert!(matches!(app.settled().await, Err(SettleError::DeadLetters { dead: 2, .. })));
        app.shutdown(Duration::from_secs(60)).await.unwrap();
        shop
    }

    async fn bus(&self) -> RedisEventBus {
        let config = RedisEventBusConfig {
            redis_url: self.redis.url().into(),
            stream_prefix: self.redis.prefix().into(),
            consumer_group: "mail".into(),
            ..RedisEventBusConfig::default()
        };
        RedisEventBus::connect(config).await.unwrap()
    }

    pub(crate) async fn start_app(&self) -> App {
        let bus = self.bus().await;
        let app = App::builder().store(self.store.clone()).bus(bus.clone()).consume("orders", bus);
        app.handler::<send_of_stream>().projection(PgTotals).start().await.unwrap()
    }

    pub(crate) async fn append(&self, id: &str, events: Vec<NewEvent>) {
        self.store.append(&StreamId::parse("Order", id).unwrap(), ExpectedVersion::Any, events).await.unwrap();
    }

    /// Replays the dead letters: their deliveries wait for a consumer.
    pub(crate) async fn replay_dead_letters(&self) {
        let dead_letters = self.bus().await;
        assert_eq!(dead_letters.replay_all(&DeadLetterFilter::default()).await.unwrap(), 2);
    }

    /// Reads a delivery of the group `mail` as a consumer that then dies.
    pub(crate) async fn read_one_as(&self, consumer: &str) {
        let mut redis = eventbus_test::internal::redis_connection(self.redis.url()).await;
        let stream = format!("{}:stream", self.redis.prefix());
        let read = ["GROUP", "mail", consumer, "COUNT", "1", "STREAMS", &stream, ">"];
        let _: redis::Value = redis::cmd("XREADGROUP").arg(&read[..]).query_async(&mut redis).await.unwrap();
    }

    pub(crate) fn arguments<'a>(&'a self, arguments: &[&'a str]) -> Vec<&'a str> {
        let own = ["--store", self.database.url(), "--bus", self.redis.url(), "--prefix", self.redis.prefix()];
        own.into_iter().chain(arguments.iter().copied()).collect()
    }
}
