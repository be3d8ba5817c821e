//! The event store on Redis.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;

mod app;
mod append;
mod conformance;
mod connect;
mod cost;
mod crash;
mod damage;
mod durability;
mod figures;
mod handlers;
mod kills;
mod lease;
mod least_rights;
mod missing_events;
mod pages;
mod race;
mod refusals;
mod rights;
mod snapshots;
mod times;
mod unanswered;

use std::time::Duration;

use eventbus::{Name, NewEvent, StreamId};
use eventstore_redis::RedisEventStore;
use redis::{FromRedisValue, aio::MultiplexedConnection};

/// A store of the test's own, and a plain connection to its server.
async fn fresh() -> (RedisEventStore, MultiplexedConnection) {
    let store = common::store::open(common::store::config()).await;
    let connection = client(&store.config().redis_url).await;
    (store, connection)
}

/// A plain connection.
async fn client(url: &str) -> MultiplexedConnection {
    eventbus_test::internal::redis_connection(url).await
}

/// The name of a key behind the store's prefix.
fn key(store: &RedisEventStore, name: &str) -> String {
    format!("{}:{name}", store.config().key_prefix)
}

/// Sends a command, in words.
async fn tell<T: FromRedisValue>(connection: &mut MultiplexedConnection, words: &[&str]) -> T {
    try_tell(connection, words).await.unwrap()
}

async fn try_tell<T: FromRedisValue>(connection: &mut MultiplexedConnection, words: &[&str]) -> redis::RedisResult<T> {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query_async(connection).await
}

fn order(id: &str) -> StreamId {
    StreamId::parse("Order", id).unwrap()
}

fn event(cents: u64) -> NewEvent {
    NewEvent::new(Name::from_static("Paid"), 1, format!(r#"{{"cents":{cents}}}"#))
}

fn events(count: u64) -> Vec<NewEvent> {
    (0..count).map(event).collect()
}

const HOUR: Duration = Duration::from_secs(3_600);
