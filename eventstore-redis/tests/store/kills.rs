//! Processes that append, handle and project are killed with `kill -9` at any moment, and the rest continue: no event
//! is lost, none takes effect twice, and the order holds.
//!
//! The killed processes are second runs of this test binary. They print the ids of acknowledged events.
#![allow(clippy::print_stdout, reason = "processes that die report by printing")]

use std::{
    collections::{HashMap, HashSet},
    env,
    time::{Duration, Instant},
};

use eventbus::{
    EventId, ExpectedVersion, Name, NewEvent, Position, RecordedEvent, StreamId,
    port::{AppendError, AppendEvents as _, ReadFeed as _, ReadStream as _, Transactions as _},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use eventbus_test::internal::Actor;
use eventstore_redis::{RedisEventStore, RedisEventStoreConfig};
use futures_util::TryStreamExt as _;

use crate::{
    app::{OrderCreated, OrderPaid, app, projected, stats},
    client,
    common::{
        store::{config, config_on, open},
        until,
    },
    key, order, tell,
};

const PREFIX: &str = "STORE_KILLS_PREFIX";
const URL: &str = "STORE_KILLS_URL";
const CLAIMED: &str = "STORE_KILLS_CLAIMED";

const ROLE: &str = "projection:order-stats";
const HANDLER: Name = Name::from_static("mail");

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
    let (mut told, mut connection) = (Vec::new(), client(&store.config().redis_url).await);
    let mut actors = vec![spawn(&store), spawn(&store), spawn(&store)];
    let notes = key(&store, "notes");
    for _ in 0..KILLS {
        // somewhere in their next steps
        let head = store.head().await.unwrap().get() + fastrand::u64(10..150);
        let noted: u64 = tell(&mut connection, &["HLEN", &notes]).await;
        until("those who live go on", async || {
            store.head().await.unwrap().get() >= head && tell::<u64>(&mut connection, &["HLEN", &notes]).await > noted
        })
        .await;
        told.extend(kill(actors.remove(fastrand::usize(..actors.len()))));
        actors.push(spawn(&store));
    }
    told.extend(actors.into_iter().flat_map(kill));

    let app = app(&store, bus_of(&store).await).await;
    projected(&app, &store).await;
    let feed: Vec<_> = store.read_all(Position::START).try_collect().await.unwrap();
    let count = |kind: &str| feed.iter().filter(|event| event.metadata().event_type() == kind).count() as u64;
    let all_created = count("order.created");
    until("all are noted", async || tell::<u64>(&mut connection, &["HLEN", &notes]).await == all_created).await;
    app.shutdown(Duration::from_secs(10)).await.unwrap();

    let ids = in_order(&feed);
    assert!(told.iter().all(|id| ids.contains(id)), "an event that was stored is not there");
    assert!(told.len() > KILLS * 10, "there was something to lose: {}", told.len());
    let notes: HashMap<String, u64> = tell(&mut connection, &["HGETALL", &notes]).await;
    let repeated: Vec<_> = notes.iter().filter(|(_, times)| **times != 1).collect();
    assert!(repeated.is_empty(), "a handler took effect twice: {repeated:?}");
    let paid = count("order.paid");
    let fields = [("total_count", all_created), ("total_cents", all_created * CENTS), ("paid_cents", paid)];
    let wanted: HashMap<_, _> = fields.into_iter().map(|(field, number)| (field.to_owned(), number)).collect();
    assert_eq!(stats(&mut connection, &store).await, wanted);
    for shared in 0..SHARED {
        let id = format!("shared-{shared}");
        let paid = store.stream_version(&order(&id)).await.unwrap().get() - 1;
        let owed: u64 = tell(&mut connection, &["HGET", &key(&store, &format!("order:{id}")), "owed"]).await;
        assert_eq!(owed, CENTS - paid);
    }
}

/// The role of the process that dies with claims; returns at once in an ordinary run.
#[tokio::test]
async fn the_process_that_dies_with_claims() {
    let (Ok(url), Ok(prefix), Ok(event)) = (env::var(URL), env::var(PREFIX), env::var(CLAIMED)) else {
        return;
    };
    Actor::end_with_parent();
    let store = store_of(&url, &prefix).await;
    let lease = crate::seize(&store, ROLE, "dies").await;
    let mut tx = store.begin().await.unwrap();
    assert!(tx.is_first(&HANDLER, &crate::order("1"), EventId::parse(&event).unwrap()).await.unwrap());
    assert!(tx.advance(&lease, Position::START, 1.into()).await.unwrap());
    println!("claimed");
    std::future::pending().await
}

/// Fails if a dead process keeps its claims for the `transaction_timeout`, which is longer than the test waits.
#[tokio::test]
async fn what_a_dead_process_had_claimed_others_soon_go_on_with() {
    let store = open(config()).await;
    let event = EventId::new();
    let (url, prefix) = (store.config().redis_url.as_str(), store.config().key_prefix.as_str());
    let variables = [(URL, url), (PREFIX, prefix), (CLAIMED, &event.to_string())];
    let dies = Actor::play("kills::the_process_that_dies_with_claims", &variables);
    dies.until(&["claimed"]);
    dies.kill();

    let began = Instant::now();
    let lease = crate::seize(&store, ROLE, "goes on").await;
    let mut tx = store.begin().await.unwrap();
    assert!(tx.advance(&lease, Position::START, 1.into()).await.unwrap());
    assert!(tx.is_first(&HANDLER, &crate::order("1"), event).await.unwrap());
    tx.commit().await.unwrap();
    assert!(began.elapsed() < store.config().transaction_timeout / 3, "{:?}", began.elapsed());
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
