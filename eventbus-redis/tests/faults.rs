//! What happens to consumers when the server, the group or the consumer itself goes away.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::{another, config_on, fresh_bus, until};
use eventbus::{
    EventFilter, Name, NewEvent, RecordedEvent, StreamId, Version,
    port::{EventBus, Subscriber},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use tokio::{sync::Semaphore, task::JoinHandle};

/// A handler that notes the ids of the aggregates it gets.
#[derive(Debug, Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn join(&self, bus: &RedisEventBus) {
        let seen = self.clone();
        let note = Subscriber::new(
            Name::from_static("note"),
            EventFilter::All,
            move |delivery| {
                let id = delivery.metadata().aggregate_id().to_string();
                seen.0.lock().unwrap().push(id);
                Box::pin(async { Ok(()) })
            },
        );
        bus.subscribers().add(bus.default_group().clone(), note);
    }
}

fn event(id: &str) -> RecordedEvent {
    let stream = StreamId::parse("Order", id).unwrap();
    let event = NewEvent::new(Name::from_static("OrderCreated"), 1, "{}");
    event.recorded_as(stream, Version::FIRST, None)
}

async fn start(bus: &RedisEventBus) -> JoinHandle<()> {
    let consuming = bus.clone();
    let consumer = tokio::spawn(async move { consuming.start_consuming().await.unwrap() });
    until("the bus consumes", async || bus.is_consuming()).await;
    consumer
}

/// Publishes, as often as it takes.
async fn publish(bus: &RedisEventBus, id: &str) {
    until("publishing succeeds", async || {
        bus.publish(&[event(id)]).await.is_ok()
    })
    .await;
}

/// Waits until there is nothing to do, and says how many entries were not acknowledged.
async fn settled(bus: &RedisEventBus) -> u64 {
    let group = bus.default_group();
    until("the group is settled", async || {
        bus.progress(group)
            .await
            .is_ok_and(|progress| progress.is_settled())
    })
    .await;
    bus.progress(group).await.unwrap().pending
}

async fn command<T: redis::FromRedisValue>(
    bus: &RedisEventBus,
    name: &str,
    arguments: &[&str],
) -> T {
    let client = redis::Client::open(bus.config().redis_url.as_str()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd(name)
        .arg(arguments)
        .query_async(&mut connection)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn consuming_survives_a_restart_of_the_server() {
    let mut server = test_servers::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url()))
        .await
        .unwrap();
    let seen = Seen::default();
    seen.join(&bus);
    start(&bus).await;
    publish(&bus, "before").await;
    until("the first arrived", async || seen.all() == ["before"]).await;
    assert_eq!(settled(&bus).await, 0);
    server.stop();
    assert!(bus.is_consuming());
    server.start();
    publish(&bus, "after").await;
    until("the second arrived", async || {
        seen.all() == ["before", "after"]
    })
    .await;
    assert_eq!(settled(&bus).await, 0);
    assert!(bus.stats().reconnections >= 1, "{:?}", bus.stats());
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consuming_survives_a_server_that_lost_everything() {
    let mut server = test_servers::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url()))
        .await
        .unwrap();
    let seen = Seen::default();
    seen.join(&bus);
    start(&bus).await;
    publish(&bus, "before").await;
    until("the first arrived", async || seen.all() == ["before"]).await;
    server.start_empty();
    publish(&bus, "after").await;
    until("the second arrived", async || {
        seen.all() == ["before", "after"]
    })
    .await;
    assert_eq!(settled(&bus).await, 0);
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_or_group_that_was_deleted_is_made_anew() {
    let bus = fresh_bus().await;
    let seen = Seen::default();
    seen.join(&bus);
    start(&bus).await;
    publish(&bus, "one").await;
    assert_eq!(settled(&bus).await, 0);
    let stream = bus.config().stream_name();
    let _: i64 = command(&bus, "DEL", &[&stream]).await;
    publish(&bus, "two").await;
    until("what came after the deletion arrived", async || {
        seen.all() == ["one", "two"]
    })
    .await;
    assert_eq!(settled(&bus).await, 0);
    let _: i64 = command(&bus, "XGROUP", &["DESTROY", &stream, bus.default_group()]).await;
    publish(&bus, "three").await;
    // a group that is made anew begins with the oldest entry
    until("everything arrived", async || {
        seen.all() == ["one", "two", "two", "three"]
    })
    .await;
    assert_eq!(settled(&bus).await, 0);
    assert_eq!(bus.stats().reconnections, 0, "no connection was lost");
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_consumer_had_in_hand_is_handled_by_the_next_of_its_name() {
    let bus = fresh_bus().await;
    for id in ["one", "two"] {
        publish(&bus, id).await;
    }
    let hangs = Subscriber::new(Name::from_static("hangs"), EventFilter::All, |_| {
        Box::pin(std::future::pending())
    });
    bus.subscribers().add(bus.default_group().clone(), hangs);
    let consumer = start(&bus).await;
    let group = bus.default_group();
    until("both are in hand", async || {
        bus.progress(group).await.unwrap().pending == 2
    })
    .await;
    consumer.abort();
    drop(consumer.await);

    // another process with the name of the dead one, and one with another name
    let heir = RedisEventBus::connect(bus.config().clone()).await.unwrap();
    let stranger = another(&bus).await;
    let (of_heir, of_stranger) = (Seen::default(), Seen::default());
    of_heir.join(&heir);
    of_stranger.join(&stranger);
    start(&stranger).await;
    start(&heir).await;
    until("the heir has got both", async || {
        of_heir.all() == ["one", "two"]
    })
    .await;
    assert_eq!(settled(&heir).await, 0);
    assert!(of_stranger.all().is_empty(), "{:?}", of_stranger.all());
    heir.stop_consuming().await;
    stranger.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_went_to_a_lost_read_is_found_again() {
    let bus = fresh_bus().await;
    let seen = Seen::default();
    seen.join(&bus);
    start(&bus).await;
    publish(&bus, "first").await;
    assert_eq!(settled(&bus).await, 0);
    // a connection that died served the same consumer just after it had looked for what it had in hand
    let (stream, config) = (bus.config().stream_name(), bus.config());
    let consumer = config.consumer_name.clone().unwrap_or_default();
    let paused = Arc::new(Semaphore::new(0));
    let (holding, release) = (Arc::clone(&paused), Arc::clone(&paused));
    let hold = Subscriber::new(Name::from_static("hold"), EventFilter::All, move |_| {
        let holding = Arc::clone(&holding);
        Box::pin(async move {
            holding.acquire().await?.forget();
            Ok(())
        })
    });
    let holding = bus.subscribers().add(bus.default_group().clone(), hold);
    publish(&bus, "held").await;
    until("the consumer is busy", async || seen.all().len() == 2).await;
    publish(&bus, "stolen").await;
    let group: &str = bus.default_group();
    let read = [
        "GROUP", group, &consumer, "COUNT", "1", "STREAMS", &stream, ">",
    ];
    let _: redis::Value = command(&bus, "XREADGROUP", &read).await;
    holding.cancel();
    release.add_permits(1);
    until("the stolen entry arrived", async || {
        seen.all() == ["first", "held", "stolen"]
    })
    .await;
    assert_eq!(settled(&bus).await, 0);
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_are_no_events_stay_pending_and_block_nothing() {
    let bus = fresh_bus().await;
    let seen = Seen::default();
    seen.join(&bus);
    let stream = bus.config().stream_name();
    let _: String = command(&bus, "XADD", &[&stream, "*", "payload", "no json"]).await;
    let _: String = command(&bus, "XADD", &[&stream, "*", "something", "else"]).await;
    publish(&bus, "good").await;
    start(&bus).await;
    until("the event arrived", async || seen.all() == ["good"]).await;
    assert_eq!(settled(&bus).await, 2);
    let stats = bus.stats();
    assert_eq!(
        (
            stats.events_processed_failed,
            stats.events_processed_success
        ),
        (2, 1)
    );
    assert_eq!(stats.handler_errors, 0, "no handler has seen them");
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_deleted_while_it_was_pending_is_let_go() {
    let bus = fresh_bus().await;
    let ids = bus.publish(&[event("one"), event("two")]).await.unwrap();
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let consumer = bus.config().consumer_name.clone().unwrap_or_default();
    let read = ["GROUP", &group, &consumer, "STREAMS", &stream, ">"];
    let _: redis::Value = command(&bus, "XREADGROUP", &read).await;
    let _: i64 = command(&bus, "XDEL", &[&stream, ids[0].as_str()]).await;
    let seen = Seen::default();
    seen.join(&bus);
    start(&bus).await;
    until("the other one arrived", async || seen.all() == ["two"]).await;
    assert_eq!(settled(&bus).await, 0);
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_entries_are_counted_where_the_server_does_not_know() {
    let bus = fresh_bus().await;
    let events: Vec<_> = (0..2_500).map(|n| event(&n.to_string())).collect();
    let ids = bus.publish(&events).await.unwrap();
    let stream = bus.config().stream_name();
    // after a deletion among the unread ones the server has no lag to tell
    let _: i64 = command(&bus, "XDEL", &[&stream, ids[1_000].as_str()]).await;
    let progress = bus.progress(bus.default_group()).await.unwrap();
    assert_eq!(progress.unread, 2_499);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_consumer_stops_at_once_and_loses_nothing() {
    let bus = fresh_bus().await;
    let seen = Seen::default();
    seen.join(&bus);
    let mut slowest = Duration::ZERO;
    for round in 1..=20_usize {
        let consumer = start(&bus).await;
        publish(&bus, &round.to_string()).await;
        if round % 2 == 0 {
            // now it waits for entries
            until("the event arrived", async || seen.all().len() == round).await;
            assert_eq!(settled(&bus).await, 0);
        }
        let began = Instant::now();
        bus.stop_consuming().await;
        consumer.await.unwrap();
        slowest = slowest.max(began.elapsed());
        if round % 2 == 1 {
            let consumer = start(&bus).await;
            until("the event arrived", async || seen.all().len() == round).await;
            bus.stop_consuming().await;
            consumer.await.unwrap();
        }
    }
    assert_eq!(
        seen.all(),
        (1..=20).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    assert!(
        slowest < Duration::from_millis(900),
        "a stop took {slowest:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stopping_does_not_wait_for_a_server_that_hangs() {
    let server = test_servers::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url()))
        .await
        .unwrap();
    let seen = Seen::default();
    seen.join(&bus);
    let consumer = start(&bus).await;
    publish(&bus, "one").await;
    assert_eq!(settled(&bus).await, 0);
    server.pause();
    let began = Instant::now();
    bus.stop_consuming().await;
    consumer.await.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    server.resume();
    start(&bus).await;
    publish(&bus, "two").await;
    until("the second arrived", async || {
        seen.all().contains(&"two".to_owned())
    })
    .await;
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_does_for_everything_and_heals_too() {
    let mut server = test_servers::private_redis();
    let config = RedisEventBusConfig {
        single_connection_client: true,
        ..config_on(server.url())
    };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let seen = Seen::default();
    seen.join(&bus);
    start(&bus).await;
    publish(&bus, "before").await;
    until("the first arrived", async || seen.all() == ["before"]).await;
    let clients: String = command(&bus, "CLIENT", &["LIST", "TYPE", "NORMAL"]).await;
    assert_eq!(
        clients.lines().count(),
        2,
        "the bus's and this one:\n{clients}"
    );
    assert_eq!(settled(&bus).await, 0);
    server.stop();
    server.start();
    publish(&bus, "after").await;
    until("the second arrived", async || {
        seen.all() == ["before", "after"]
    })
    .await;
    bus.stop_consuming().await;
}
