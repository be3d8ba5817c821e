//! Entries that were read and not finished, and entries that are no events.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::common::{
    another, config, fresh_bus,
    seen::{Gate, Seen, command, event, publish, settled, start},
    until,
};
use eventbus::{
    App, Name, RecordedEvent,
    event::EventFilter,
    port::{DeadLetterFilter, DeadLetters, EventBus, Subscriber, Subscription},
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_consumer_had_in_hand_is_handled_by_the_next_of_its_name() {
    let bus = fresh_bus().await;
    for id in ["one", "two"] {
        publish(&bus, id).await;
    }
    let hangs = Subscriber::new(Name::from_static("hangs"), EventFilter::All, |_| Box::pin(std::future::pending()));
    bus.add_subscriber(bus.default_group().clone(), hangs);
    let consumer = start(&bus).await;
    let group = bus.default_group();
    until("both are in hand", async || bus.progress(group).await.unwrap().pending == 2).await;
    consumer.abort();
    drop(consumer.await);

    // one new process with the name of the dead one, and one with a name of its own
    let heir = RedisEventBus::connect(bus.config().clone()).await.unwrap();
    let stranger = another(&bus).await;
    let (of_heir, of_stranger) = (Seen::default(), Seen::default());
    of_heir.join(&heir);
    of_stranger.join(&stranger);
    start(&stranger).await;
    start(&heir).await;
    until("the heir has got both", async || of_heir.all().len() >= 2).await;
    assert_eq!(settled(&heir).await, 0);
    // events of different aggregates come in any order
    let mut got = of_heir.all();
    got.sort();
    assert_eq!(got, ["one", "two"]);
    assert!(of_stranger.all().is_empty(), "{:?}", of_stranger.all());
    heir.stop_consuming().await;
    stranger.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_finishes_the_delivery_in_hand_and_leaves_the_rest_to_others_at_once() {
    let bus = fresh_bus().await;
    bus.publish(&[event("one"), event("two")]).await.unwrap();
    let gate = Gate::default();
    gate.join(&bus);
    let consumer = start(&bus).await;
    until("the first is being handled", async || bus.stats().events_consumed == 1).await;
    let watcher = another(&bus).await;
    assert_eq!(watcher.progress(bus.default_group()).await.unwrap().pending, 2);
    let (stopped, ()) = tokio::join!(biased; bus.shutdown(Duration::from_secs(20)), async { gate.open() });
    stopped.unwrap();
    consumer.await.unwrap();
    assert_eq!(bus.stats().events_processed_success, 1);
    assert_eq!(watcher.progress(bus.default_group()).await.unwrap().pending, 1);
    // a minute is the idle time after which the bus reclaims entries of a dead consumer
    let seen = Seen::default();
    seen.join(&watcher);
    start(&watcher).await;
    until("the others arrived elsewhere", async || seen.all() == ["two"]).await;
    watcher.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
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
    *place.lock().unwrap() = Some(bus.add_subscriber(bus.default_group().clone(), leaves));
    start(&bus).await;
    let group = bus.default_group();
    until("the first is done with", async || bus.progress(group).await.unwrap().pending == 1).await;
    assert_eq!(bus.stats().events_consumed, 1, "nobody is there for the second");
    let next = Seen::default();
    next.join(&bus);
    until("the next handler has got the second", async || next.all() == ["two"]).await;
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_handled_is_acknowledged_though_a_later_handler_hangs() {
    // with this setting the consumer runs its periodic work several times a second
    let bus = RedisEventBus::connect(RedisEventBusConfig { pending_idle_ms: 1_200, ..config() }).await.unwrap();
    let ids = bus.publish(&[event("one"), event("two"), event("three")]).await.unwrap();
    let expected: Vec<_> = ids[1..].iter().map(ToString::to_string).collect();
    let seen = Seen::default();
    seen.join(&bus);
    let hangs = Subscriber::new(Name::from_static("hangs"), EventFilter::All, |delivery| {
        let hangs = delivery.metadata().aggregate_id().as_str() == "two";
        Box::pin(async move { if hangs { std::future::pending().await } else { Ok(()) } })
    });
    bus.add_subscriber(bus.default_group().clone(), hangs);
    let consumer = start(&bus).await;
    let group = bus.default_group();
    let stream = bus.config().stream_name();
    until("the first is acknowledged, the others are pending", async || {
        let pending: Vec<(String, String, u64, u64)> =
            command(&bus, "XPENDING", &[&stream, group, "-", "+", "10"]).await;
        pending.into_iter().map(|entry| entry.0).eq(expected.iter().cloned())
    })
    .await;
    until("the second has begun", async || seen.all() == ["one", "two"]).await;
    consumer.abort();
    drop(consumer.await);

    let (heir, of_heir) = (RedisEventBus::connect(bus.config().clone()).await.unwrap(), Seen::default());
    of_heir.join(&heir);
    start(&heir).await;
    until("the heir has got the others", async || of_heir.all().len() >= 2).await;
    // events of different aggregates come in any order
    assert_eq!(BTreeSet::from_iter(of_heir.all()), BTreeSet::from(["two".to_owned(), "three".into()]));
    assert_eq!(seen.all(), ["one", "two"]);
    heir.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_went_to_a_lost_read_is_found_again() {
    let bus = fresh_bus().await;
    let (seen, gate) = (Seen::default(), Gate::default());
    seen.join(&bus);
    let holding = gate.join(&bus);
    start(&bus).await;
    publish(&bus, "held").await;
    until("the consumer is busy", async || seen.all() == ["held"]).await;
    // a lost connection served the same consumer, and its reply was lost
    let (stream, config) = (bus.config().stream_name(), bus.config());
    let consumer = config.consumer_name.clone().unwrap_or_default();
    let group: &str = bus.default_group();
    let read = ["GROUP", group, &consumer, "COUNT", "1", "STREAMS", &stream, ">"];
    let publisher = another(&bus).await;
    until("the reply that gets lost had an entry", async || {
        publisher.publish(&[event("stolen")]).await.unwrap();
        let lost: redis::Value = command(&bus, "XREADGROUP", &read).await;
        lost != redis::Value::Nil
    })
    .await;
    holding.cancel();
    gate.open();
    assert_eq!(settled(&bus).await, 0);
    assert_eq!(seen.all().len() as u64, 1 + publisher.stats().events_published, "all arrived");
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_settles_names_the_entry_that_is_no_event() {
    let bus = fresh_bus().await;
    let app = App::builder().bus(bus.clone()).handler::<takes_all>().start().await.unwrap();
    for (payload, why) in [("no json", "expected ident"), ("[]", "payload")] {
        let id: String = command(&bus, "XADD", &[&bus.config().stream_name(), "*", "payload", payload]).await;
        until("it is given up", async || bus.stats().messages_sent_to_dlq > 0).await;
        let error = app.settled().await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("1 delivery was given up: entry `{id}`: ")) && error.contains(why),
            "{error}"
        );
    }
    app.settled().await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[eventbus::handler(manual)]
async fn takes_all(_event: &RecordedEvent) {}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_are_no_events_become_dead_letters_and_block_nothing() {
    let bus = fresh_bus().await;
    let seen = Seen::default();
    seen.join(&bus);
    let stream = bus.config().stream_name();
    let _: String = command(&bus, "XADD", &[&stream, "*", "payload", "no json"]).await;
    let _: String = command(&bus, "XADD", &[&stream, "*", "something", "else"]).await;
    publish(&bus, "good").await;
    start(&bus).await;
    until("the event arrived", async || seen.all() == ["good"]).await;
    assert_eq!(settled(&bus).await, 0);
    let letters = bus.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    let errors: Vec<_> = letters.iter().filter_map(|letter| letter.error.as_deref()).collect();
    assert_eq!(errors.len(), 2, "{letters:?}");
    assert!(errors[0].starts_with("`payload` does not parse"), "{errors:?}");
    assert_eq!(errors[1], "`payload` is missing");
    let stats = bus.stats();
    assert_eq!((stats.events_processed_failed, stats.events_processed_success), (2, 1));
    assert_eq!(stats.handler_errors, 0, "no handler has seen them");
    assert_eq!(stats.messages_sent_to_dlq, 2);
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
    // after a deletion among the unread entries the server reports no lag
    let _: i64 = command(&bus, "XDEL", &[&stream, ids[1_000].as_str()]).await;
    let progress = bus.progress(bus.default_group()).await.unwrap();
    assert_eq!(progress.unread, 2_499);
}

/// Fails if the time of the consumer that reclaims counts alone: the first one renews its claims every 200 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_consumer_keeps_its_entries_from_one_with_a_shorter_idle_time() {
    let config = RedisEventBusConfig { pending_idle_ms: 600_000, max_in_flight: Some(1), ..config() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let gate = Gate::default();
    gate.join(&bus);
    start(&bus).await;
    publish(&bus, "held").await;
    let group = bus.default_group();
    until("it is in hand", async || bus.progress(group).await.unwrap().pending == 1).await;
    publish(&bus, "left").await;
    let read = ["GROUP", group.as_str(), "gone", "STREAMS", &bus.config().stream_name(), ">"];
    let _: redis::Value = command(&bus, "XREADGROUP", &read).await;

    let config = RedisEventBusConfig { pending_idle_ms: 60, max_in_flight: None, ..bus.config().clone() };
    let hasty = RedisEventBus::connect(RedisEventBusConfig { consumer_name: None, ..config }).await.unwrap();
    let seen = Seen::default();
    seen.join(&hasty);
    start(&hasty).await;
    until("the entry of the dead one is taken over", async || seen.all().contains(&"left".to_owned())).await;
    assert_eq!(seen.all(), ["left"]);
    gate.open();
    assert_eq!(settled(&bus).await, 0);
    assert_eq!(seen.all(), ["left"]);
    bus.stop_consuming().await;
    hasty.stop_consuming().await;
}

/// Fails with the count of the server, in which an entry that was deleted before it was read stays unread for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_has_read_all_is_settled_also_if_an_unread_entry_was_deleted() {
    let bus = fresh_bus().await;
    let seen = Seen::default();
    seen.join(&bus);
    publish(&bus, "one").await;
    start(&bus).await;
    until("the first one arrived", async || seen.all() == ["one"]).await;
    bus.stop_consuming().await;

    let ids = bus.publish(&[event("two"), event("three")]).await.unwrap();
    let _: i64 = command(&bus, "XDEL", &[&bus.config().stream_name(), ids[0].as_str()]).await;
    start(&bus).await;
    until("the last one arrived", async || seen.all() == ["one", "three"]).await;
    assert_eq!(settled(&bus).await, 0);
    let group = bus.stream_info().await.consumer_groups.remove(0);
    assert_eq!((group.lag, group.pending), (Some(0), 0));
    bus.stop_consuming().await;
    let retired = bus.retire_group(bus.default_group()).await.unwrap();
    assert_eq!((retired.pending, retired.unread), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_left_pending_on_purpose_is_not_handled_again_when_its_group_is_made_anew() {
    let config = RedisEventBusConfig { enable_dlq: false, max_retries: Some(0), ..config() };
    let bus = RedisEventBus::connect(config).await.unwrap();
    let seen = Seen::default();
    seen.join(&bus);
    let fail = Subscriber::new(Name::from_static("fail"), EventFilter::All, |delivery| {
        let fails = delivery.metadata().aggregate_id().as_str() == "bad";
        Box::pin(async move { if fails { Err("told to".into()) } else { Ok(()) } })
    });
    bus.add_subscriber(bus.default_group().clone(), fail);
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    publish(&bus, "bad").await;
    start(&bus).await;
    until("its attempts are used up", async || bus.stats().messages_exhausted == 1).await;
    let _: i64 = command(&bus, "XGROUP", &["DESTROY", &stream, &group]).await;
    publish(&bus, "good").await;
    until("the group goes on", async || seen.all().contains(&"good".to_owned())).await;
    assert_eq!(settled(&bus).await, 1, "it is pending again");
    assert_eq!(seen.all(), ["bad", "good"]);
    bus.stop_consuming().await;
}
