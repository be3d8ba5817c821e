//! Processes that append, save in handlers and project are killed with `kill -9` at any moment, and the rest continue: no event
//! is lost, none takes effect twice, and the order holds.
//!
//! The killed processes are second runs of this test binary. They print the ids of acknowledged events.
#![allow(clippy::print_stdout, reason = "processes that die report by printing")]

use std::{
    collections::{HashMap, HashSet},
    env,
    time::Duration,
};

use eventbus::{
    ExpectedVersion, NewEvent, Position, RecordedEvent, StreamId,
    port::{AppendError, AppendEvents as _, ReadFeed as _, ReadStream as _},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventbus_test::internal::Actor;
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use futures_util::TryStreamExt as _;

use crate::{
    app::{OrderCreated, OrderPaid, app, count, each_order_has_one_invoice, stats},
    common::{
        store::{config, config_on, open},
        until,
    },
    order,
};

const PREFIX: &str = "STORE_KILLS_PREFIX";
const URL: &str = "STORE_KILLS_URL";

/// The orders that all processes write to.
const SHARED: u64 = 3;
const CENTS: u64 = 1_000_000;
/// Slow enough for handlers to follow.
const PACE: Duration = Duration::from_millis(15);

async fn store_of(url: &str, prefix: &str) -> RedisEventStore {
    open(RedisEventStoreConfig { key_prefix: prefix.into(), ..config_on(url) }).await
}

async fn bus_of(store: &RedisEventStore) -> RedisEventBus {
    let config = RedisEventBusConfig {
        redis_url: store.config().redis_url.clone(),
        stream_prefix: format!("{}-bus", store.config().key_prefix),
        batch_size: 20,
        block_ms: 100,
        pending_idle_ms: 300,
        ..RedisEventBusConfig::default()
    };
    RedisEventBus::connect(config).await.unwrap()
}

fn created() -> NewEvent {
    NewEvent::from_event(&OrderCreated { customer_id: "cust_001".into(), cents: CENTS }).unwrap()
}

fn paid() -> NewEvent {
    NewEvent::from_event(&OrderPaid { cents: 1 }).unwrap()
}

/// Appends, and prints the ids of the stored events.
async fn add(store: &RedisEventStore, stream: &StreamId, expected: ExpectedVersion, events: Vec<NewEvent>) {
    match store.append(stream, expected, events).await {
        Ok(recorded) => recorded.iter().for_each(|event| println!("stored {}", event.metadata().event_id())),
        Err(AppendError::Conflict { .. }) => {}
        Err(error) => panic!("{error:?}"),
    }
}

/// The role of the process that dies; returns at once in an ordinary run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_that_dies() {
    let (Ok(url), Ok(prefix)) = (env::var(URL), env::var(PREFIX)) else {
        return;
    };
    Actor::end_with_parent();
    let store = store_of(&url, &prefix).await;
    let _app = app(&store, bus_of(&store).await).await;
    for number in 0_u64.. {
        tokio::time::sleep(PACE).await;
        // a stream of its own, and one that all processes write to
        add(&store, &order(&eventbus_test::unique_name("own")), ExpectedVersion::NoStream, vec![created(), paid()])
            .await;
        let shared = order(&format!("shared-{}", number % SHARED));
        match store.stream_version(&shared).await.unwrap() {
            version if version == 0_u64 => add(&store, &shared, ExpectedVersion::NoStream, vec![created()]).await,
            version => add(&store, &shared, ExpectedVersion::Exact(version), vec![paid(), paid()]).await,
        }
    }
}

fn spawn(store: &RedisEventStore) -> Actor {
    let variables = [(URL, store.config().redis_url.as_str()), (PREFIX, store.config().key_prefix.as_str())];
    Actor::play("kills::the_process_that_dies", &variables)
}

/// Kills the process; returns the events acknowledged to it.
fn kill(actor: Actor) -> impl Iterator<Item = String> {
    actor.kill().into_iter().filter_map(|line| Some(line.split_once("stored ")?.1.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_killed_lose_nothing_and_repeat_nothing() {
    const KILLS: usize = 12;
    let store = open(config()).await;
    let mut told = Vec::new();
    let mut actors = vec![spawn(&store), spawn(&store), spawn(&store)];
    for _ in 0..KILLS {
        // somewhere in their next steps
        let head = store.head().await.unwrap().get() + fastrand::u64(10..150);
        let written = count(&store, "invoice.written").await;
        until("those who live go on", async || {
            store.head().await.unwrap().get() >= head && count(&store, "invoice.written").await > written
        })
        .await;
        told.extend(kill(actors.remove(fastrand::usize(..actors.len()))));
        actors.push(spawn(&store));
    }
    told.extend(actors.into_iter().flat_map(kill));

    let app = app(&store, bus_of(&store).await).await;
    each_order_has_one_invoice(&store).await;
    let (created, paid) = (count(&store, "order.created").await, count(&store, "order.paid").await);
    assert_eq!(stats(&app, &store).await, (created, created * CENTS, paid));
    app.shutdown(Duration::from_secs(10)).await.unwrap();

    let feed: Vec<_> = store.read_all(Position::START).try_collect().await.unwrap();
    let ids = in_order(&feed);
    assert!(told.iter().all(|id| ids.contains(id)), "an event that was stored is not there");
    assert!(told.len() > KILLS * 10, "there was something to lose: {}", told.len());
}

/// Checks that positions and versions have neither holes nor repeats; returns the ids of the events.
fn in_order(feed: &[RecordedEvent]) -> HashSet<String> {
    let mut versions: HashMap<&StreamId, u64> = HashMap::new();
    for (event, position) in feed.iter().zip(1_u64..) {
        assert_eq!(event.position().unwrap(), position);
        let version = versions.entry(event.metadata().stream()).or_default();
        *version += 1;
        assert_eq!(event.version(), *version);
    }
    let ids: HashSet<_> = feed.iter().map(|event| event.metadata().event_id().to_string()).collect();
    assert_eq!(ids.len(), feed.len(), "an event is stored twice");
    ids
}
