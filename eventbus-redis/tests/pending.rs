//! What happens to entries that were read and not finished, and to those that are no events.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{
    another, config, fresh_bus,
    seen::{Seen, command, event, publish, settled, start},
    until,
};
use eventbus::{
    EventFilter, Name,
    port::{EventBus, Subscriber, Subscription},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use tokio::sync::Semaphore;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_consumer_had_in_hand_is_handled_by_the_next_of_its_name() {
    let bus = fresh_bus().await;
    for id in ["one", "two"] {
        publish(&bus, id).await;
    }
    let hangs = Subscriber::new(Name::from_static("hangs"), EventFilter::All, |_| Box::pin(std::future::pending()));
    bus.subscribers().add(bus.default_group().clone(), hangs);
    let consumer = start(&bus).await;
    let group = bus.default_group();
    until("both are in hand", async || bus.progress(group).await.unwrap().pending == 2).await;
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
    until("the heir has got both", async || of_heir.all() == ["one", "two"]).await;
    assert_eq!(settled(&heir).await, 0);
    assert!(of_stranger.all().is_empty(), "{:?}", of_stranger.all());
    heir.stop_consuming().await;
    stranger.stop_consuming().await;
}

/// Shuts a bus down while the first of three entries is in hand, and counts what is left pending.
async fn left_by_a_shutdown(consumer_name: Option<String>) -> u64 {
    let bus = RedisEventBus::connect(RedisEventBusConfig { consumer_name, ..config() }).await.unwrap();
    bus.publish(&[event("one"), event("two"), event("three")]).await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    let waits = Arc::clone(&gate);
    let slow = Subscriber::new(Name::from_static("slow"), EventFilter::All, move |_| {
        let gate = Arc::clone(&waits);
        Box::pin(async move {
            gate.acquire().await?.forget();
            Ok(())
        })
    });
    bus.subscribers().add(bus.default_group().clone(), slow);
    let watcher = RedisEventBus::connect(bus.config().clone()).await.unwrap();
    let group = bus.default_group();
    let consumer = start(&bus).await;
    until("all are in hand", async || watcher.progress(group).await.unwrap().pending == 3).await;
    until("the first is being handled", async || bus.stats().events_consumed == 1).await;
    let open = async { gate.add_permits(3) };
    let (stopped, ()) = tokio::join!(biased; bus.shutdown(Duration::from_secs(20)), open);
    stopped.unwrap();
    consumer.await.unwrap();
    watcher.progress(group).await.unwrap().pending
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_whose_name_does_not_come_back_finishes_what_it_has_read() {
    assert_eq!(left_by_a_shutdown(None).await, 0);
    assert_eq!(left_by_a_shutdown(Some("stable".into())).await, 2, "the next of its name handles them");
}

#[tokio::test] // on one thread, so that the consumer has the second entry in hand before it is told that it is alone
async fn an_event_in_hand_when_the_last_handler_goes_waits_for_the_next_one() {
    let bus = fresh_bus().await;
    bus.publish(&[event("one"), event("two")]).await.unwrap();
    let place: Arc<Mutex<Option<Subscription>>> = Arc::default();
    let own = Arc::clone(&place);
    let leaves = Subscriber::new(Name::from_static("leaves"), EventFilter::All, move |_| {
        let own = own.lock().unwrap().take();
        Box::pin(async move {
            own.ok_or("it was cancelled before")?.cancel();
            Ok(())
        })
    });
    *place.lock().unwrap() = Some(bus.subscribers().add(bus.default_group().clone(), leaves));
    start(&bus).await;
    until("both were in hand", async || bus.stats().events_consumed == 2).await;
    let next = Seen::default();
    next.join(&bus);
    until("the next handler has got the second", async || next.all() == ["two"]).await;
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_handled_is_acknowledged_though_a_later_handler_hangs() {
    let bus = fresh_bus().await;
    bus.publish(&[event("one"), event("two"), event("three")]).await.unwrap();
    let seen = Seen::default();
    seen.join(&bus);
    let hangs = Subscriber::new(Name::from_static("hangs"), EventFilter::All, |delivery| {
        let hangs = delivery.metadata().aggregate_id().as_str() == "two";
        Box::pin(async move { if hangs { std::future::pending().await } else { Ok(()) } })
    });
    bus.subscribers().add(bus.default_group().clone(), hangs);
    let consumer = start(&bus).await;
    let group = bus.default_group();
    until("the first is acknowledged", async || bus.progress(group).await.unwrap().pending == 2).await;
    consumer.abort();
    drop(consumer.await);

    let (heir, of_heir) = (RedisEventBus::connect(bus.config().clone()).await.unwrap(), Seen::default());
    of_heir.join(&heir);
    start(&heir).await;
    until("the heir has got the others", async || of_heir.all() == ["two", "three"]).await;
    assert_eq!(seen.all(), ["one", "two"]);
    heir.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_went_to_a_lost_read_is_found_again() {
    let bus = fresh_bus().await;
    let seen = Seen::default();
    seen.join(&bus);
    let fail = Subscriber::new(Name::from_static("fail"), EventFilter::All, |delivery| {
        let fails = delivery.metadata().aggregate_id().as_str() == "first";
        Box::pin(async move { if fails { Err("told to".into()) } else { Ok(()) } })
    });
    bus.subscribers().add(bus.default_group().clone(), fail);
    start(&bus).await;
    publish(&bus, "first").await;
    assert_eq!(settled(&bus).await, 1);
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
    let read = ["GROUP", group, &consumer, "COUNT", "1", "STREAMS", &stream, ">"];
    let _: redis::Value = command(&bus, "XREADGROUP", &read).await;
    holding.cancel();
    release.add_permits(1);
    until("the stolen entry arrived", async || seen.all() == ["first", "held", "stolen"]).await;
    assert_eq!(settled(&bus).await, 1, "what failed is not found, it was not lost");
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
    assert_eq!((stats.events_processed_failed, stats.events_processed_success), (2, 1));
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
