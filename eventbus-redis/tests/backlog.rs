//! What a group is given for itself: everything that the store holds if it is new, and what it skipped of a type that it
//! announces for the first time.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use common::{
    actor::{Actor, BOTH, ONLY_CREATED, SHIPPED, connect, named, quick, until_finished},
    seen::{command, event, start},
    until,
};
use eventbus::{
    App, HandlerStart, InMemoryEventStore, Name, NewEvent, RecordedEvent, StreamId, Version,
    port::{Announced, EventBus, HandlerOptions},
    prelude::*,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig, Trim};

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Meter)]
struct Counted {
    number: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, DomainEvent)]
#[event(aggregate = Meter)]
struct Checked {
    number: u64,
}

#[derive(Debug, Default, Aggregate)]
#[aggregate(events(Counted, Checked))]
struct Meter;

impl Apply for Meter {
    fn apply(&mut self, _event: &MeterEvent) {}
}

#[derive(Clone, Default)]
struct First(Arc<Mutex<Vec<u64>>>);

#[derive(Clone, Default)]
struct Second(Arc<Mutex<Vec<u64>>>);

#[handler(manual, group = "first")]
async fn first(event: &Counted, State(seen): State<First>) {
    seen.0.lock().unwrap().push(event.number);
}

#[handler(manual, group = "second")]
async fn second(event: &Counted, State(seen): State<Second>) {
    seen.0.lock().unwrap().push(event.number);
}

#[handler(manual, group = "second", name = "second", start = "now")]
async fn second_from_now_on(event: &Counted, State(seen): State<Second>) {
    seen.0.lock().unwrap().push(event.number);
}

/// The same group in a later release.
#[handler(manual, group = "first")]
async fn checks(event: &Checked, State(seen): State<Second>) {
    seen.0.lock().unwrap().push(event.number);
}

#[handler(manual, group = "first", name = "checks", start = "oldest")]
async fn all_checks(event: &Checked, State(seen): State<Second>) {
    seen.0.lock().unwrap().push(event.number);
}

#[handler(manual, group = "first", name = "checks", start = "now")]
async fn new_checks(event: &Checked, State(seen): State<Second>) {
    seen.0.lock().unwrap().push(event.number);
}

const ALL: std::ops::Range<u64> = 0..700;

async fn save(app: &App, numbers: std::ops::Range<u64>) {
    let meters = app.repository::<Meter>();
    for number in numbers {
        let id: AggregateId = format!("m{}", number % 7).parse().unwrap();
        let found = meters.find(&id).await.unwrap();
        let mut meter = found.unwrap_or_else(|| meters.create(id));
        meter.record(Counted { number });
        if number % 10 == 0 {
            meter.record(Checked { number });
        }
        meters.save(&mut meter).await.unwrap();
    }
}

/// Each aggregate's events are in order, and all are there once.
fn assert_all_in_order(seen: &[u64], wanted: std::ops::Range<u64>) {
    for meter in 0..7 {
        let of_meter: Vec<_> = seen.iter().copied().filter(|number| number % 7 == meter).collect();
        assert_eq!(of_meter, wanted.clone().filter(|number| number % 7 == meter).collect::<Vec<_>>());
    }
}

async fn app_with(bus: &RedisEventBus, store: &InMemoryEventStore) -> (App, First) {
    let seen = First::default();
    let app = App::builder().store(store.clone()).bus(bus.clone()).state(seen.clone()).handler::<first>();
    (app.start().await.unwrap(), seen)
}

async fn app_of_second(bus: &RedisEventBus, store: &InMemoryEventStore) -> (App, Second) {
    let seen = Second::default();
    let app = App::builder().store(store.clone()).bus(bus.clone()).state(seen.clone()).handler::<second>();
    (app.start().await.unwrap(), seen)
}

fn numbers<T: Clone>(of: &Arc<Mutex<Vec<T>>>) -> Vec<T> {
    of.lock().unwrap().clone()
}

async fn a_new_group_gets_everything(partitions: u32) {
    let config = RedisEventBusConfig { partitions, consumer_name: None, ..quick() };
    let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
    let (app, seen) = app_with(&bus, &store).await;
    save(&app, ALL).await;
    app.settled().await.unwrap();
    assert!(bus.trim(Trim { max_length: Some(100), max_age: None }).await.unwrap().removed >= 500);

    let (new, seen_by_new) = app_of_second(&connect(&config).await, &store).await;
    save(&new, 700..800).await;
    new.settled().await.unwrap();
    app.settled().await.unwrap();
    assert_all_in_order(&numbers(&seen_by_new.0), 0..800);
    assert_all_in_order(&numbers(&seen.0), 0..800);
    let left: Vec<String> = command(&bus, "KEYS", &[&format!("*{}*backlog*", config.stream_prefix)]).await;
    assert!(left.is_empty(), "{left:?}");
    new.shutdown(Duration::from_secs(10)).await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_on_a_trimmed_stream_gets_everything_in_order_and_others_nothing_again() {
    a_new_group_gets_everything(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_on_trimmed_partitions_gets_everything_in_order_and_others_nothing_again() {
    a_new_group_gets_everything(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_gets_everything_after_the_server_lost_all_and_others_nothing_again() {
    for is_restarted in [false, true] {
        let config = RedisEventBusConfig { consumer_name: None, ..quick() };
        let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
        let (mut app, seen) = app_with(&bus, &store).await;
        save(&app, ALL).await;
        app.settled().await.unwrap();
        // how far the group is must be kept before the server loses it
        let floors = async || eventbus::port::Floors::floors(&store, bus.destination()).await.unwrap();
        let head = eventbus::port::ReadFeed::head(&store).await.unwrap();
        until("how far it is is kept", async || floors().await.iter().any(|floor| floor.position == head)).await;
        if is_restarted {
            app.shutdown(Duration::from_secs(10)).await.unwrap();
        }
        let keys: Vec<String> = command(&bus, "KEYS", &[&format!("*{}*", config.stream_prefix)]).await;
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let _: u64 = command(&connect(&config).await, "DEL", &keys).await;
        if is_restarted {
            let state = seen.clone();
            let builder = App::builder().store(store.clone()).bus(connect(&config).await).state(state);
            app = builder.handler::<first>().start().await.unwrap();
        }
        let (new, seen_by_new) = app_of_second(&connect(&config).await, &store).await;
        save(&new, 700..750).await;
        new.settled().await.unwrap();
        app.settled().await.unwrap();
        assert_all_in_order(&numbers(&seen_by_new.0), 0..750);
        assert_all_in_order(&numbers(&seen.0), 0..750);
        new.shutdown(Duration::from_secs(10)).await.unwrap();
        app.shutdown(Duration::from_secs(10)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_whose_handlers_start_now_gets_what_comes() {
    let config = RedisEventBusConfig { consumer_name: None, ..quick() };
    let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
    let (app, _seen) = app_with(&bus, &store).await;
    save(&app, 0..50).await;
    app.settled().await.unwrap();
    let seen = Second::default();
    let new = App::builder().store(store.clone()).bus(connect(&config).await).state(seen.clone());
    let new = new.handler::<second_from_now_on>().start().await.unwrap();
    until("it has joined", async || {
        new.bus().stream_info().await.consumer_groups.iter().any(|group| group.name == "second")
    })
    .await;
    save(&new, 50..60).await;
    new.settled().await.unwrap();
    assert_all_in_order(&numbers(&seen.0), 50..60);
    new.shutdown(Duration::from_secs(10)).await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

fn shipped(id: &str) -> RecordedEvent {
    let event = NewEvent::new(Name::from_static(SHIPPED), 1, "{}");
    event.recorded_as(StreamId::parse("Order", id).unwrap(), Version::FIRST, None)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_skipped_is_delivered_when_its_type_is_announced_for_the_first_time() {
    let old = connect(&quick()).await;
    let (created, both) = (Actor::willing(), Actor::willing());
    created.join_as(&old, "act", ONLY_CREATED, HandlerOptions::default());
    start(&old).await;
    let ids: Vec<_> = (0..500).map(|n| format!("{n:03}")).collect();
    let events: Vec<_> = ids.iter().flat_map(|id| [event(id), shipped(id)]).collect();
    old.publish(&events).await.unwrap();
    until_finished(&old).await;
    assert_eq!(old.stats().events_skipped, 500);

    let new = named(&old, "new").await;
    both.join_as(&new, "act", BOTH, HandlerOptions::default());
    start(&new).await;
    until("they are handled", async || both.done().len() == 500).await;
    until_finished(&new).await;
    let mut done = both.done();
    done.sort();
    assert_eq!(done, ids);
    assert_eq!(created.done().len(), 500, "nothing else is delivered again");
    old.stop_consuming().await;
    new.stop_consuming().await;
}

async fn skipped_long_ago(bus: &RedisEventBus, hours: u64) {
    let key = format!("{{{}}}:skipped:first", bus.config().stream_name());
    let range: String = command(bus, "HGET", &[&key, "Checked"]).await;
    let mut words: Vec<String> = range.split(' ').map(str::to_owned).collect();
    let at: u64 = words[3].parse().unwrap();
    words[3] = (at - hours * 3_600_000).to_string();
    let _: u64 = command(bus, "HSET", &[&key, "Checked", &words.join(" ")]).await;
}

/// An app that skipped 10 events of a type, which the bus has trimmed, so many hours ago.
async fn after_skipping(hours: u64) -> (RedisEventBusConfig, InMemoryEventStore) {
    let config = RedisEventBusConfig { consumer_name: None, ..quick() };
    let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
    let (app, _seen) = app_with(&bus, &store).await;
    save(&app, 0..100).await;
    app.settled().await.unwrap();
    assert_eq!(bus.stats().events_skipped, 10);
    bus.trim(Trim { max_length: Some(1), max_age: None }).await.unwrap();
    skipped_long_ago(&bus, hours).await;
    app.shutdown(Duration::from_secs(10)).await.unwrap();
    (config, store)
}

fn checked() -> Vec<u64> {
    (0..10).map(|n| n * 10).collect()
}

async fn start_with<H: eventbus::Handler>(
    config: &RedisEventBusConfig,
    store: &InMemoryEventStore,
) -> eventbus::Result<Vec<u64>> {
    let seen = Second::default();
    let app =
        App::builder().store(store.clone()).bus(connect(config).await).state(First::default()).state(seen.clone());
    let app = app.handler::<first>().handler::<H>().start().await?;
    app.settled().await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();
    let mut numbers = numbers(&seen.0);
    numbers.sort_unstable();
    Ok(numbers)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_skipped_within_a_day_comes_from_the_store_where_the_bus_has_trimmed_it() {
    let (config, store) = after_skipping(23).await;
    assert_eq!(start_with::<checks>(&config, &store).await.unwrap(), checked());
    assert_eq!(start_with::<checks>(&config, &store).await.unwrap(), [0; 0], "once");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_skipped_before_that_is_to_be_decided() {
    let (config, store) = after_skipping(25).await;
    let refused = start_with::<checks>(&config, &store).await.unwrap_err().to_string();
    for part in ["10 event(s) of type `Checked`", "group `first`", r#"start = "oldest""#, r#"start = "now""#, "9000"] {
        assert!(refused.contains(part), "{refused}");
    }
    assert_eq!(start_with::<all_checks>(&config, &store).await.unwrap(), checked());
    assert_eq!(start_with::<checks>(&config, &store).await.unwrap(), [0; 0], "it is decided once");

    let (config, store) = after_skipping(25).await;
    assert_eq!(start_with::<new_checks>(&config, &store).await.unwrap(), [0; 0]);
    assert_eq!(start_with::<all_checks>(&config, &store).await.unwrap(), [0; 0], "it is decided once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_choice_is_recorded_with_the_type() {
    let bus = connect(&quick()).await;
    let announced = |start| Announced {
        group: bus.default_group().clone(),
        event_type: Some(Name::from_static(SHIPPED)),
        schema_version: 1,
        start,
    };
    assert!(bus.announce(&[announced(Some(HandlerStart::Now))], None).await.unwrap().is_empty());
    bus.announce(&[announced(Some(HandlerStart::Oldest))], None).await.unwrap();
    let key = format!("{{{}}}:types:{}", bus.config().stream_name(), bus.default_group());
    let noted: String = command(&bus, "HGET", &[&key, "OrderShipped@1"]).await;
    assert!(noted.ends_with(" now"), "{noted}");
}
