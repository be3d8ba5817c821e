//! A PostgreSQL database, a Redis server, and processes that relay from one to the other.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use eventbus::{
    ExpectedVersion, Name, NewEvent, Position, StreamId,
    port::{Append, AppendEvents, ReadFeed},
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventbus_test::{PrivateRedis, internal::Actor};
use eventstore_postgres::PgEventStore;
use redis::aio::MultiplexedConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};

const LEASE: Duration = Duration::from_millis(600);

/// Returns the builder of an app that only relays.
pub async fn builder(database: &str, redis_url: &str) -> eventbus::app::AppBuilder {
    let store = PgEventStore::connect(database).await.unwrap();
    App::builder().store(store).bus(bus(redis_url).await).lease(LEASE)
}

pub async fn bus(redis_url: &str) -> RedisEventBus {
    let config = RedisEventBusConfig {
        redis_url: redis_url.into(),
        stream_prefix: "relay".into(),
        block_ms: 100,
        ..RedisEventBusConfig::default()
    };
    RedisEventBus::connect(config).await.unwrap()
}

/// Runs a statement as the administrator of the server.
pub async fn administer(statement: String) {
    let mut admin = sqlx::PgConnection::connect(eventbus_test::postgres_url()).await.unwrap();
    admin.execute(sqlx::raw_sql(AssertSqlSafe(statement))).await.unwrap();
}

/// Creates a database; returns its name and its URL.
pub async fn database() -> (String, String) {
    let name = eventbus_test::unique_name("relay");
    administer(format!("CREATE DATABASE {name}")).await;
    let url = eventbus_test::database_url_for(&name);
    (name, url)
}

pub struct World {
    pub database: String,
    pub store: PgEventStore,
    pub redis: PrivateRedis,
    pub connection: MultiplexedConnection,
}

impl World {
    pub async fn begin() -> Self {
        let (_, database) = database().await;
        Self::on(database).await
    }

    pub async fn on(database: String) -> Self {
        let redis = eventbus_test::private_redis();
        let store = PgEventStore::connect(&database).await.unwrap();
        let connection = eventbus_test::internal::redis_connection(redis.url()).await;
        Self { database, store, redis, connection }
    }

    pub async fn app(&self) -> App {
        builder(&self.database, self.redis.url()).await.start().await.unwrap()
    }

    pub async fn head(&self) -> Position {
        self.store.head().await.unwrap()
    }

    /// Returns the positions of all events in the store.
    pub async fn stored(&self) -> Vec<u64> {
        use futures_util::TryStreamExt;
        let events: Vec<_> = self.store.read_all(Position::START).try_collect().await.unwrap();
        events.iter().map(|event| event.position().unwrap().get()).collect()
    }

    /// Returns the positions of all events in the stream.
    pub async fn published(&mut self) -> Vec<u64> {
        let mut range = redis::cmd("XRANGE");
        range.arg("relay:stream").arg("-").arg("+");
        let entries: Vec<(String, BTreeMap<String, String>)> = range.query_async(&mut self.connection).await.unwrap();
        entries.iter().map(|(_, fields)| fields["position"].parse().unwrap()).collect()
    }

    pub async fn until_published(&mut self, through: Position) {
        let mut last = 0;
        until("all events are published", async || {
            last = self.published().await.last().copied().unwrap_or_default();
            last >= through.get()
        })
        .await;
    }

    pub async fn redis(&mut self, command: &[&str]) {
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]);
        cmd.query_async::<redis::Value>(&mut self.connection).await.unwrap();
    }
}

/// Appends events, each to a stream of its own in a transaction of its own.
pub async fn append(store: &PgEventStore, events: usize) {
    let append = || Append {
        stream: StreamId::new(Name::from_static("Account"), AggregateId::new()),
        expected: ExpectedVersion::NoStream,
        events: vec![NewEvent::new(Name::from_static("Deposited"), 1, "{}")],
    };
    let appends = (0..events).map(|_| append()).collect();
    store.append_many(appends).await.into_iter().for_each(|appended| drop(appended.unwrap()));
}

/// Starts a process that relays.
pub fn relay(world: &World) -> Actor {
    let variables = [("RELAY_DATABASE", &*world.database), ("RELAY_REDIS", world.redis.url())];
    Actor::play("the_relay_that_dies", &variables)
}

pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(180);
    while !holds().await {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
