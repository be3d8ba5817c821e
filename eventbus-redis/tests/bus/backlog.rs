//! The backlog of a group: all events of the store for a new group, and for a known group the skipped events of a type
//! that it announces for the first time.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::common::{
    actor::{Actor, BOTH, ONLY_CREATED, SHIPPED, connect, give, members_key, named, quick, read_as, until_finished},
    seen::{calls, command, event, start},
    until,
};
use eventbus::{
    App, InMemoryEventStore, Name, NewEvent, Position, RecordedEvent, StreamId, Uuid, Version,
    handler::{HandlerOptions, HandlerStart},
    port::{Announced, BacklogFill, EventBus, FeedFilter, FillOutcome, ReadFeed},
    prelude::*,
    relay,
};
use eventbus_redis::{GroupError, GroupStart, RedisEventBus, RedisEventBusConfig, Trim};
use futures_util::TryStreamExt;
use tokio::sync::Semaphore;

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

/// The repository of a meter: one of the seven is of a tenant.
fn meters_of(app: &App, meter: u64) -> AggregateRepository<Meter> {
    app.repository::<Meter>().for_tenant((meter == 1).then_some(Uuid::from_u128(7)))
}

async fn save(app: &App, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let meters = meters_of(app, number % 7);
        let id: AggregateId = format!("m{}", number % 7).parse().unwrap();
        let found = meters.find(&id).await.unwrap();
        let mut meter = found.unwrap_or_else(|| meters.create_new(id));
        meter.record(Counted { number });
        if number % 10 == 0 {
            meter.record(Checked { number });
        }
        meters.save(&mut meter).await.unwrap();
    }
}

/// Checks that the events of each aggregate are in order, and that each event is there once.
fn assert_all_in_order(seen: &[u64], wanted: impl IntoIterator<Item = u64>) {
    let wanted: Vec<u64> = wanted.into_iter().collect();
    for meter in 0..7 {
        let of_meter: Vec<_> = seen.iter().copied().filter(|number| number % 7 == meter).collect();
        assert_eq!(of_meter, wanted.iter().copied().filter(|number| number % 7 == meter).collect::<Vec<_>>());
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
        // the store must have the floor of the group before the server loses it
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
    for (is_trimmed, is_there) in [(false, false), (true, false), (false, true)] {
        let config = RedisEventBusConfig { consumer_name: None, ..quick() };
        let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
        let (app, _seen) = app_with(&bus, &store).await;
        save(&app, 0..50).await;
        app.settled().await.unwrap();
        if is_trimmed {
            bus.trim(Trim { max_length: Some(1), max_age: None }).await.unwrap();
        }
        if is_there {
            // made by a bus that only connected: the group has read no entry
            connect(&RedisEventBusConfig { consumer_group: "second".into(), ..config.clone() }).await;
        }
        let seen = Second::default();
        let new = App::builder().store(store.clone()).bus(connect(&config).await).state(seen.clone());
        let new = new.handler::<second_from_now_on>().start().await.unwrap();
        until("it begins after what is there", async || {
            let groups = new.bus().stream_info().await.consumer_groups;
            let last =
                groups.into_iter().find(|group| group.name == "second").and_then(|group| group.last_delivered_id);
            last.is_some_and(|id| id != "0-0")
        })
        .await;
        save(&new, 50..60).await;
        new.settled().await.unwrap();
        assert_all_in_order(&numbers(&seen.0), 50..60);
        new.shutdown(Duration::from_secs(10)).await.unwrap();
        app.shutdown(Duration::from_secs(10)).await.unwrap();
    }
}

/// The server runs no other command while it searches for the first event of a store.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_gets_an_event_twice_rather_than_have_the_server_read_a_long_stream() {
    let (bus, store) = (connect(&quick()).await, InMemoryEventStore::new());
    let (app, _) = app_with(&bus, &store).await;
    save(&app, 1..4).await;
    app.settled().await.unwrap();
    // of a program without a store
    let others: Vec<_> = (0..25_000).map(|number| event(&number.to_string())).collect();
    bus.publish(&others).await.unwrap();
    app.settled().await.unwrap();
    assert_eq!(bus.trim(Trim { max_length: Some(25_000), max_age: None }).await.unwrap().removed, 3);
    save(&app, 4..5).await;
    app.settled().await.unwrap();
    let (new, seen) = app_of_second(&named(&bus, "new").await, &store).await;
    new.settled().await.unwrap();
    let mut seen = numbers(&seen.0);
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3, 4, 4]);
    for app in [app, new] {
        app.shutdown(Duration::from_secs(10)).await.unwrap();
    }
}

/// A group of other software has no backlog: no process would read it.
#[tokio::test(flavor = "multi_thread")]
async fn events_before_the_relay_begins_are_given_to_new_groups_alone() {
    let (bus, store) = (connect(&quick()).await, InMemoryEventStore::new());
    let stream = bus.config().stream_name();
    let () = command(&bus, "XGROUP", &["CREATE", &stream, "foreign", "0", "MKSTREAM"]).await;
    let read = async || -> redis::Value {
        let arguments = ["GROUP", "foreign", "reader", "COUNT", "1000", "NOACK", "STREAMS", &*stream, ">"];
        command(&bus, "XREADGROUP", &arguments).await
    };
    assert_eq!(read().await, redis::Value::Nil);
    let imported = App::builder().store(store.clone()).start().await.unwrap();
    save(&imported, 0..50).await;
    imported.shutdown(Duration::from_secs(10)).await.unwrap();
    let head = store.head().await.unwrap();
    relay::begin_after(&store, &bus, head).await.unwrap();

    let (app, seen) = app_with(&bus, &store).await;
    save(&app, 51..60).await;
    app.settled().await.unwrap();
    assert_all_in_order(&numbers(&seen.0), (0..50).chain(51..60));
    let published: usize = command(&bus, "XLEN", &[&stream]).await;
    assert_eq!(published, 9);
    let backlogs: Vec<String> = command(&bus, "HKEYS", &[&format!("{{{stream}}}:fills")]).await;
    assert!(!backlogs.iter().any(|name| name.contains("foreign")), "{backlogs:?}");
    read().await;
    until("the store has the floor of the foreign group", async || {
        let floors = eventbus::port::Floors::floors(&store, bus.destination()).await.unwrap();
        let head = store.head().await.unwrap();
        floors.iter().any(|floor| &*floor.group == "foreign" && floor.position == head)
    })
    .await;
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

#[tokio::test(flavor = "multi_thread")]
async fn what_another_member_has_of_a_type_is_not_delivered_twice_when_it_is_announced() {
    let old = connect(&RedisEventBusConfig { pending_idle_ms: 60_000, ..quick() }).await;
    let (created, both) = (Actor::willing(), Actor::willing());
    created.join_as(&old, "act", ONLY_CREATED, HandlerOptions::default());
    let consumer = start(&old).await;
    old.publish(&[shipped("a")]).await.unwrap();
    until("it is skipped", async || old.stats().events_skipped == 1).await;
    old.stop_consuming().await;
    consumer.await.unwrap();
    let had = old.publish(&[shipped("b")]).await.unwrap();
    read_as(&old, "gone", 1).await;
    let said = r#"{"at":1,"live_ms":1,"event_types":"\"*\"","instance":"x"}"#;
    let _: u64 = command(&old, "HSET", &[&members_key(&old), "gone", said]).await;
    start(&old).await;
    old.publish(&[shipped("c")]).await.unwrap();
    until("the last is skipped", async || old.stats().events_skipped == 2).await;

    let new = named(&old, "new").await;
    both.join_as(&new, "act", BOTH, HandlerOptions::default());
    start(&new).await;
    until("they are handled", async || both.done().len() >= 2).await;
    give(&old, "new", had[0].as_str()).await;
    until_finished(&new).await;
    let mut done = both.done();
    done.sort();
    assert_eq!(done, ["a", "b", "c"]);
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

/// An app that skipped 10 events of a type `hours` ago, which the bus has trimmed since.
async fn after_skipping(hours: u64) -> (RedisEventBusConfig, InMemoryEventStore) {
    let config = RedisEventBusConfig { consumer_name: None, ..quick() };
    let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
    let (app, _seen) = app_with(&bus, &store).await;
    save(&app, 0..100).await;
    app.settled().await.unwrap();
    until("the skipped ones are counted", async || bus.stats().events_skipped == 10).await;
    bus.trim(Trim { max_length: Some(1), max_age: None }).await.unwrap();
    skipped_long_ago(&bus, hours).await;
    app.shutdown(Duration::from_secs(10)).await.unwrap();
    (config, store)
}

fn checked() -> Vec<u64> {
    (0..10).map(|n| n * 10).collect()
}

async fn start_with<H: eventbus::handler::Handler>(
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
async fn what_was_skipped_without_a_store_comes_from_the_bus_though_it_has_trimmed_older_events() {
    let (config, store) = after_skipping(23).await;
    let bus = connect(&config).await;
    let (app, _) = app_with(&bus, &store).await;
    let foreign = NewEvent::from_event(&Checked { number: 999 }).unwrap();
    bus.publish(&[foreign.recorded_as(StreamId::parse("Meter", "other").unwrap(), Version::FIRST, None)])
        .await
        .unwrap();
    until("it is skipped", async || bus.stats().events_skipped == 1).await;
    app.shutdown(Duration::from_secs(10)).await.unwrap();
    assert_eq!(start_with::<checks>(&config, &store).await.unwrap(), [checked(), vec![999]].concat());
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
    let key = format!("{{{}}}:event_types:{}", bus.config().stream_name(), bus.default_group());
    let noted: String = command(&bus, "HGET", &[&key, "OrderShipped@1"]).await;
    assert!(noted.ends_with(" now"), "{noted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn trimming_waits_for_what_is_to_be_copied() {
    let old = connect(&quick()).await;
    let (created, both) = (Actor::willing(), Actor::waiting());
    created.join_as(&old, "act", ONLY_CREATED, HandlerOptions::default());
    start(&old).await;
    let ids: Vec<_> = (0..5_000).map(|n| format!("{n:04}")).collect();
    old.publish(&ids.iter().map(|id| shipped(id)).collect::<Vec<_>>()).await.unwrap();
    until("they are skipped", async || old.stats().events_skipped == 5_000).await;

    let new = named(&old, "new").await;
    both.join_as(&new, "act", BOTH, HandlerOptions::default());
    start(&new).await;
    until("the first is handled", async || !both.begun().is_empty()).await;
    let trimmed = old.trim(Trim { max_length: Some(10), max_age: None }).await.unwrap();
    assert_eq!(trimmed.held_by.unwrap().group, old.default_group().as_str());
    both.let_go(5_000);
    until("they are handled", async || both.done().len() == 5_000).await;
    until_finished(&new).await;
    assert!(old.trim(Trim { max_length: Some(10), max_age: None }).await.unwrap().held_by.is_none());
    old.stop_consuming().await;
    new.stop_consuming().await;
}

/// The second group in a later release.
#[handler(manual, group = "second")]
async fn second_checks(event: &Checked, State(seen): State<Second>) {
    seen.0.lock().unwrap().push(event.number);
}

async fn what_a_new_group_skipped_of_the_store_is_noted(partitions: u32) {
    let config = RedisEventBusConfig { partitions, consumer_name: None, ..quick() };
    let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
    let (app, _seen) = app_with(&bus, &store).await;
    save(&app, 0..200).await;
    app.settled().await.unwrap();
    bus.trim(Trim { max_length: Some(1), max_age: None }).await.unwrap();
    // it handles one type's events from the store, and skips the other type's
    let (new, seen) = app_of_second(&connect(&config).await, &store).await;
    new.settled().await.unwrap();
    assert_all_in_order(&numbers(&seen.0), 0..200);
    new.shutdown(Duration::from_secs(10)).await.unwrap();

    let seen = Second::default();
    let builder = App::builder().store(store.clone()).bus(connect(&config).await).state(seen.clone());
    let later = builder.handler::<second_checks>().start().await.unwrap();
    until("they are delivered", async || numbers(&seen.0).len() >= 20).await;
    later.settled().await.unwrap();
    let mut numbers = numbers(&seen.0);
    numbers.sort_unstable();
    assert_eq!(numbers, (0..20).map(|n| n * 10).collect::<Vec<_>>());
    later.shutdown(Duration::from_secs(10)).await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_new_group_skipped_of_the_store_is_delivered_when_its_type_is_announced() {
    what_a_new_group_skipped_of_the_store_is_noted(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_new_group_skipped_of_the_store_is_delivered_with_partitions_too() {
    what_a_new_group_skipped_of_the_store_is_noted(4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_skipped_before_the_partitions_changed_is_delivered() {
    for (before, after) in [(1, 4), (4, 3), (4, 1)] {
        let config = RedisEventBusConfig { partitions: before, consumer_name: None, ..quick() };
        let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
        let (app, _seen) = app_with(&bus, &store).await;
        save(&app, 0..100).await;
        app.settled().await.unwrap();
        app.shutdown(Duration::from_secs(10)).await.unwrap();
        connect(&config).await.repartition(after, Duration::from_secs(10)).await.unwrap();
        let config = RedisEventBusConfig { partitions: after, ..config };
        assert_eq!(start_with::<checks>(&config, &store).await.unwrap(), checked(), "from {before} to {after}");
    }
}

/// A new group reads the stream even if entries of its backlog wait for a member that is away.
async fn a_backlog_waits_for_an_absent_member(partitions: u32) {
    let config = RedisEventBusConfig { partitions, consumer_name: None, ..quick() };
    let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
    let (app, _seen) = app_with(&bus, &store).await;
    save(&app, 0..100).await;
    app.settled().await.unwrap();
    bus.trim(Trim { max_length: Some(1), max_age: None }).await.unwrap();
    // a different release of the group announced the second type, and stopped
    let types = format!("{{{}}}:event_types:second", bus.config().stream_name());
    let _: u64 = command(&bus, "HSET", &[&types, "Checked@1", "1"]).await;
    let (new, seen) = app_of_second(&connect(&config).await, &store).await;
    save(&new, 101..120).await;
    until("the stream is read", async || numbers(&seen.0).len() >= 119).await;
    assert_all_in_order(&numbers(&seen.0), (0..100).chain(101..120));

    let later = Second::default();
    let builder = App::builder().store(store.clone()).bus(connect(&config).await).state(later.clone());
    let later_app = builder.handler::<second>().handler::<second_checks>().start().await.unwrap();
    if partitions > 1 {
        new.shutdown(Duration::from_secs(10)).await.unwrap(); // an entry of a partition waits for the next owner
    }
    let checks = || {
        let mut numbers = numbers(&later.0);
        numbers.retain(|number| number % 10 == 0);
        numbers.sort_unstable();
        numbers
    };
    until("the other type is handled", async || checks().len() >= 11).await;
    later_app.settled().await.unwrap();
    assert_eq!(checks(), (0..10).chain([11]).map(|n| n * 10).collect::<Vec<_>>());
    later_app.shutdown(Duration::from_secs(10)).await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_reads_the_stream_while_its_backlog_waits_for_an_absent_member() {
    a_backlog_waits_for_an_absent_member(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_reads_partitions_while_its_backlog_waits_for_an_absent_member() {
    a_backlog_waits_for_an_absent_member(4).await;
}

#[handler(manual, group = "second", name = "second")]
async fn second_cannot_do_50(event: &Counted, State(seen): State<Second>) -> Result<(), HandlerError> {
    if event.number == 50 {
        return Err(HandlerError::permanent("told to"));
    }
    seen.0.lock().unwrap().push(event.number);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_reads_the_stream_while_an_event_of_its_backlog_stays_pending() {
    for partitions in [1, 4] {
        let config = RedisEventBusConfig { partitions, consumer_name: None, enable_dlq: false, ..quick() };
        let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
        let (app, _seen) = app_with(&bus, &store).await;
        save(&app, 0..100).await;
        app.settled().await.unwrap();
        bus.trim(Trim { max_length: Some(1), max_age: None }).await.unwrap();
        let seen = Second::default();
        let builder = App::builder().store(store.clone()).bus(connect(&config).await).state(seen.clone());
        let new = builder.handler::<second_cannot_do_50>().start().await.unwrap();
        save(&new, 100..120).await;
        until("the stream is read", async || numbers(&seen.0).len() >= 119).await;
        new.shutdown(Duration::from_secs(10)).await.unwrap();
        app.shutdown(Duration::from_secs(10)).await.unwrap();
    }
}

/// The state of the handler that fails on demand.
#[derive(Clone, Default)]
struct Told {
    seen: Second,
    failed: Arc<Mutex<HashSet<u64>>>,
    is_let: Arc<AtomicBool>,
}

/// Fails with the first event of some meters until `is_let` is set.
#[handler(manual, group = "second", name = "second")]
async fn second_fails(event: &Counted, State(told): State<Told>) -> Result<(), HandlerError> {
    if event.number < 3 && !told.is_let.load(Ordering::SeqCst) {
        told.failed.lock().unwrap().insert(event.number);
        return Err("not yet".into());
    }
    told.seen.0.lock().unwrap().push(event.number);
    Ok(())
}

/// The count of these numbers whose meters have no failing event.
fn without_failing(numbers: std::ops::Range<u64>) -> usize {
    numbers.filter(|number| number % 7 > 2).count()
}

/// Saves events of seven meters, trims them from the stream, starts a group of `members` members that fails with the
/// first event of three meters, then saves more events of all seven.
async fn an_event_of_a_backlog_fails(partitions: u32, members: usize) {
    let config = RedisEventBusConfig { partitions, consumer_name: None, ..quick() };
    let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
    let (app, _seen) = app_with(&bus, &store).await;
    save(&app, 0..100).await;
    app.settled().await.unwrap();
    bus.trim(Trim { max_length: Some(1), max_age: None }).await.unwrap();

    let (told, mut group) = (Told::default(), Vec::new());
    for _ in 0..members {
        let builder = App::builder().store(store.clone()).bus(connect(&config).await).state(told.clone());
        group.push(builder.handler::<second_fails>().start().await.unwrap());
    }
    until("they fail", async || told.failed.lock().unwrap().len() == 3).await;
    save(&app, 101..200).await;
    let others = without_failing(0..100) + without_failing(101..200);
    until("others are read from the stream", async || numbers(&told.seen.0).len() >= others).await;
    save(&app, 201..300).await;
    let others = others + without_failing(201..300);
    until("and go on", async || numbers(&told.seen.0).len() >= others).await;
    let seen = numbers(&told.seen.0);
    assert!(seen.iter().all(|number| number % 7 > 2), "those behind the failed ones wait: {seen:?}");
    told.is_let.store(true, Ordering::SeqCst);
    until("all are handled", async || numbers(&told.seen.0).len() >= 298).await;
    group[0].settled().await.unwrap();
    assert_all_in_order(&numbers(&told.seen.0), (0..100).chain(101..200).chain(201..300));
    let left = async || command::<Vec<String>>(&bus, "KEYS", &[&format!("*{}*backlog*", config.stream_prefix)]).await;
    until("the backlog is removed", async || left().await.is_empty()).await;
    for app in group.into_iter().chain([app]) {
        app.shutdown(Duration::from_secs(10)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_reads_the_stream_while_an_event_of_its_backlog_fails() {
    an_event_of_a_backlog_fails(1, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_reads_partitions_while_an_event_of_its_backlog_fails() {
    an_event_of_a_backlog_fails(4, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_owner_of_the_backlog_has_is_not_overtaken_in_the_partitions() {
    an_event_of_a_backlog_fails(4, 2).await;
}

/// The consumers of a backlog notice its end one after the other; until then each sends heartbeats and renews its lease.
#[tokio::test]
async fn what_a_consumer_left_of_a_finished_backlog_is_removed() {
    let bus = connect(&RedisEventBusConfig { partitions: 4, ..quick() }).await;
    let group = Name::from_static("second");
    bus.create_group(&group, GroupStart::Now).await.unwrap();
    let backlog = format!("{{{}}}:backlog:second", bus.config().stream_name());
    for key in ["members:second", "lease:second"] {
        let _: u64 = command(&bus, "HSET", &[&format!("{backlog}:{key}"), "left", "behind"]).await;
    }
    let left =
        async || command::<Vec<String>>(&bus, "KEYS", &[&format!("*{}*backlog*", bus.config().stream_prefix)]).await;
    assert_eq!(left().await.len(), 2);
    bus.progress(&group).await.unwrap();
    assert_eq!(left().await, Vec::<String>::new());
}

/// Commands, metrics and alerts tell of the unfinished work by it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_group_has_in_its_backlog_counts_as_its_own() {
    let config = RedisEventBusConfig { consumer_name: None, ..quick() };
    let (bus, [app, new], told) = much_with_a_failing_group(&config).await;
    until("all others are handled", async || numbers(&told.seen.0).len() >= without_failing(0..2_800)).await;
    let backlog = format!("{{{}}}:backlog:second", config.stream_name());
    let left = async || command::<u64>(&bus, "XLEN", &[&backlog]).await;
    until("only what fails is left", async || left().await == 3 * 400).await;
    let info = bus.stream_info().await;
    let group = info.consumer_groups.iter().find(|group| group.name == "second").unwrap();
    assert_eq!(group.lag.map(|lag| lag + group.pending), Some(3 * 400), "{group:?}");
    assert!(group.oldest_pending_age_ms.is_some() && group.oldest_unfinished.is_some(), "{group:?}");
    // a store without a live process still has events to add
    let fills = format!("{{{}}}:fills", config.stream_name());
    let _: u64 = command(&bus, "HSET", &[&fills, "fill 00000000-0000-0000-0000-000000000009 second\n", "0 7"]).await;
    let info = bus.stream_info().await;
    let group = info.consumer_groups.iter().find(|group| group.name == "second").unwrap();
    assert_eq!(group.lag, None, "what is to come is not counted: {group:?}");
    new.shutdown(Duration::from_secs(10)).await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

/// Saves 400 events of each of the seven meters.
async fn save_much(app: &App) {
    for first in 0..7 {
        let meters = meters_of(app, first);
        let mut meter = meters.create_new(format!("m{first}").parse().unwrap());
        for n in 0..400 {
            meter.record(Counted { number: first + 7 * n });
        }
        meters.save(&mut meter).await.unwrap();
    }
}

/// Saves much, trims it from the stream, and starts a group that fails with the first event of three meters. Returns a bus,
/// the app that saves, that of the group, and what its handler was told.
async fn much_with_a_failing_group(config: &RedisEventBusConfig) -> (RedisEventBus, [App; 2], Told) {
    let (bus, store) = (connect(config).await, InMemoryEventStore::new());
    let (app, _seen) = app_with(&bus, &store).await;
    save_much(&app).await;
    app.settled().await.unwrap();
    bus.trim(Trim { max_length: Some(1), max_age: None }).await.unwrap();
    let told = Told::default();
    let builder = App::builder().store(store).bus(connect(config).await).state(told.clone());
    let new = builder.handler::<second_fails>().start().await.unwrap();
    (bus, [app, new], told)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_fails_holds_up_no_filling_and_what_is_finished_behind_it_is_removed() {
    let config = RedisEventBusConfig { consumer_name: None, ..quick() };
    let (bus, [app, new], told) = much_with_a_failing_group(&config).await;
    save(&app, 2_800..2_900).await;
    let others = without_failing(0..2_900);
    until("the stream is read", async || numbers(&told.seen.0).len() >= others).await;
    let backlog = format!("{{{}}}:backlog:second", config.stream_name());
    let left = async || command::<u64>(&bus, "XLEN", &[&backlog]).await;
    until("only what waits is left", async || left().await == 3 * 400).await;
    told.is_let.store(true, Ordering::SeqCst);
    until("all are handled", async || numbers(&told.seen.0).len() >= 2_900).await;
    assert_all_in_order(&numbers(&told.seen.0), 0..2_900);
    new.shutdown(Duration::from_secs(10)).await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_comes_back_keeps_its_order_behind_its_backlog() {
    for partitions in [1, 4] {
        let config = RedisEventBusConfig { partitions, ..quick() };
        let (bus, store) = (named(&connect(&config).await, "other").await, InMemoryEventStore::new());
        let (app, _seen) = app_with(&bus, &store).await;
        save(&app, 0..20).await;
        app.settled().await.unwrap();
        bus.trim(Trim { max_length: Some(1), max_age: None }).await.unwrap();
        let told = Told::default();
        let start = async || {
            let builder = App::builder().store(store.clone()).bus(connect(&config).await).state(told.clone());
            builder.handler::<second_fails>().start().await.unwrap()
        };
        let group = start().await;
        save(&app, 21..40).await;
        let others = without_failing(0..20) + without_failing(21..40);
        until("the stream is read", async || numbers(&told.seen.0).len() >= others).await;
        group.shutdown(Duration::from_secs(10)).await.unwrap();
        let group = start().await;
        save(&app, 41..60).await;
        let others = others + without_failing(41..60);
        until("it goes on", async || numbers(&told.seen.0).len() >= others).await;
        assert!(numbers(&told.seen.0).iter().all(|number| number % 7 > 2));
        told.is_let.store(true, Ordering::SeqCst);
        until("all are handled", async || numbers(&told.seen.0).len() >= 58).await;
        assert_all_in_order(&numbers(&told.seen.0), (0..20).chain(21..40).chain(41..60));
        group.shutdown(Duration::from_secs(10)).await.unwrap();
        app.shutdown(Duration::from_secs(10)).await.unwrap();
    }
}

/// Deliveries that fail until all are read, and then run until the test releases them.
#[derive(Clone)]
struct Running {
    is_read: Arc<AtomicBool>,
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

impl Running {
    async fn run(&self) -> Result<(), HandlerError> {
        if !self.is_read.load(Ordering::SeqCst) {
            return Err("not yet".into()); // a running delivery would take the slot that reading the rest needs
        }
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        self.gate.acquire().await.unwrap().forget();
        self.now.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }
}

#[handler(manual, group = "second", name = "counts")]
async fn second_counts(event: &Counted, State(running): State<Running>) -> Result<(), HandlerError> {
    if event.number < 7 { running.run().await } else { Ok(()) }
}

#[handler(manual, group = "second", name = "checks")]
async fn second_checks_slowly(event: &Checked, State(running): State<Running>) -> Result<(), HandlerError> {
    if event.number >= 100 { running.run().await } else { Ok(()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_and_the_stream_share_the_concurrency_of_a_consumer() {
    let config = RedisEventBusConfig { consumer_name: None, concurrency: 2, ..quick() };
    let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
    let (app, _seen) = app_with(&bus, &store).await;
    save(&app, 0..50).await;
    app.settled().await.unwrap();
    bus.trim(Trim { max_length: Some(1), max_age: None }).await.unwrap();
    let running = Running {
        is_read: Arc::default(),
        now: Arc::default(),
        most: Arc::default(),
        gate: Arc::new(Semaphore::new(0)),
    };
    let builder = App::builder().store(store.clone()).bus(connect(&config).await).state(running.clone());
    let new = builder.handler::<second_counts>().handler::<second_checks_slowly>().start().await.unwrap();
    // meters without waiting events
    let meters = app.repository::<Meter>();
    for number in 100..120 {
        let mut meter = meters.create_new(format!("n{number}").parse().unwrap());
        meter.record(Checked { number });
        meters.save(&mut meter).await.unwrap();
    }
    let backlog = format!("{{{}}}:backlog:second", config.stream_name());
    // none before the group exists
    let pending = async |stream: &str| {
        let mut ask = redis::cmd("XPENDING");
        ask.arg(stream).arg("second");
        let mut connection = eventbus_test::internal::redis_connection(&config.redis_url).await;
        let pending: Result<(u64, redis::Value, redis::Value, redis::Value), _> =
            ask.query_async(&mut connection).await;
        pending.map_or(0, |(count, ..)| count)
    };
    until("the stream is read beside the backlog", async || {
        let of_stream = pending(&config.stream_name()).await;
        of_stream >= 20 && of_stream + pending(&backlog).await == 75
    })
    .await;
    running.is_read.store(true, Ordering::SeqCst);
    until("as many run as may", async || running.now.load(Ordering::SeqCst) == 2).await;
    for _ in 0..27 {
        running.gate.add_permits(1);
        until("another one ends", async || running.gate.available_permits() == 0).await;
    }
    running.gate.add_permits(100);
    new.settled().await.unwrap();
    assert_eq!(running.most.load(Ordering::SeqCst), 2);
    new.shutdown(Duration::from_secs(10)).await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_is_not_given_what_the_relay_skips() {
    let config = RedisEventBusConfig { readable_by_python: true, consumer_name: None, ..quick() };
    let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
    let (app, seen) = app_with(&bus, &store).await;
    let meters = app.repository::<Meter>();
    for (number, id) in ["8f14e45f-ceea-467f-ab6e-ff0d6b0d5c1a", "unreadable", "c9f0f895-fb98-4ab9-9f2d-1a2b3c4d5e6f"]
        .into_iter()
        .enumerate()
    {
        let mut meter = meters.create_new(id.parse().unwrap());
        meter.record(Counted { number: number as u64 });
        meters.save(&mut meter).await.unwrap();
    }
    until("the relay has stopped", async || app.relay_status().await.is_some_and(|relay| relay.stopped.is_some()))
        .await;
    let position = eventbus::port::ReadFeed::head(&store).await.unwrap().get() - 1;
    app.skip_published_event(eventbus::Position::new(position), "no Python").await.unwrap();
    until("what comes before it is handled", async || numbers(&seen.0) == [0]).await;
    app.shutdown(Duration::from_secs(10)).await.unwrap(); // the relay would retry after a minute
    let (app, seen) = app_with(&connect(&config).await, &store).await;
    until("it goes on", async || numbers(&seen.0) == [2]).await;
    app.settled().await.unwrap();
    connect(&config).await.trim(Trim { max_length: Some(0), max_age: None }).await.unwrap();

    let (new, seen) = app_of_second(&connect(&config).await, &store).await;
    until("it has what the stream has", async || numbers(&seen.0) == [0, 2]).await;
    new.shutdown(Duration::from_secs(10)).await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_skipped_and_trimmed_comes_from_each_of_several_stores() {
    let config = RedisEventBusConfig { consumer_name: None, ..quick() };
    let stores = [InMemoryEventStore::new(), InMemoryEventStore::new()];
    let app = async |store: &InMemoryEventStore| {
        let app = App::builder().store(store.clone()).bus(connect(&config).await).share_stream();
        app.state(First::default()).handler::<first>().start().await.unwrap()
    };
    let [one, other] = [app(&stores[0]).await, app(&stores[1]).await];
    save(&one, 0..50).await;
    save(&other, 50..100).await;
    one.settled().await.unwrap();
    other.settled().await.unwrap();
    connect(&config).await.trim(Trim { max_length: Some(1), max_age: None }).await.unwrap();
    one.shutdown(Duration::from_secs(10)).await.unwrap();
    other.shutdown(Duration::from_secs(10)).await.unwrap();

    let seen = Second::default();
    let later = async |store: &InMemoryEventStore| {
        let app = App::builder().store(store.clone()).bus(connect(&config).await).share_stream();
        let app = app.state(First::default()).state(seen.clone()).handler::<first>().handler::<checks>();
        app.start().await.unwrap()
    };
    let apps = [later(&stores[0]).await, later(&stores[1]).await];
    let sorted = || {
        let mut numbers = numbers(&seen.0);
        numbers.sort_unstable();
        numbers
    };
    until("all are delivered", async || sorted().len() >= 10).await;
    for app in apps {
        app.settled().await.unwrap();
        app.shutdown(Duration::from_secs(10)).await.unwrap();
    }
    assert_eq!(sorted(), checked());
}

/// A former copy of entries without a store may have left its mark behind. Fails if the next copy keeps to it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_skipped_is_delivered_though_a_former_copy_left_its_mark() {
    let config = RedisEventBusConfig { consumer_name: None, ..quick() };
    let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
    let (app, _seen) = app_with(&bus, &store).await;
    save(&app, 0..50).await;
    app.settled().await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();
    let fills = format!("{{{}}}:fills", bus.config().stream_name());
    let _: u64 = command(&bus, "HSET", &[&fills, "foreign first\nChecked", "1"]).await;
    let seen = Second::default();
    let app = App::builder().store(store).bus(connect(&config).await).state(First::default()).state(seen.clone());
    let app = app.handler::<first>().handler::<checks>().start().await.unwrap();
    until("all are delivered", async || numbers(&seen.0).len() == 5).await;
    app.shutdown(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_is_not_retired_while_it_is_at_its_backlog() {
    let config = RedisEventBusConfig { consumer_name: None, ..quick() };
    let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
    let (app, _seen) = app_with(&bus, &store).await;
    save(&app, 0..20).await;
    app.settled().await.unwrap();
    bus.trim(Trim { max_length: Some(1), max_age: None }).await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();

    // no process here has the store with the missing events
    let late = connect(&RedisEventBusConfig { consumer_group: "late".into(), ..config.clone() }).await;
    Actor::willing().join(&late);
    start(&late).await;
    let group = late.default_group();
    let members = format!("{{{}}}:backlog:late:members:late", late.config().stream_name());
    until("it is at its backlog", async || command::<bool>(&late, "EXISTS", &[&members]).await).await;
    let refused = late.retire_group(group).await.unwrap_err();
    assert!(matches!(refused, GroupError::InUse { consumers: 1, .. }), "{refused}");
    late.stop_consuming().await;
    late.retire_group(group).await.unwrap();
    let left: Vec<String> = command(&late, "KEYS", &[&format!("*{}*late*", config.stream_prefix)]).await;
    assert!(left.is_empty(), "{left:?}");
    let fills: Vec<String> = command(&late, "HKEYS", &[&format!("{{{}}}:fills", late.config().stream_name())]).await;
    assert!(fills.iter().all(|note| !note.contains("late")), "nothing is filled for it: {fills:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_process_has_filled_in_is_not_filled_in_again() {
    let config = RedisEventBusConfig { consumer_name: None, ..quick() };
    let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
    let (app, _seen) = app_with(&bus, &store).await;
    save(&app, 1..10).await;
    app.settled().await.unwrap();
    bus.trim(Trim { max_length: Some(0), max_age: None }).await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();

    let late = connect(&RedisEventBusConfig { consumer_group: "late".into(), ..config }).await;
    let actor = Actor::willing();
    actor.join(&late);
    start(&late).await;
    let (backlogs, id) = (late.backlogs().unwrap(), store.store_id().await.unwrap());
    let mut fills = Vec::new();
    until("it misses events", async || {
        fills = backlogs.fills(id).await.unwrap();
        !fills.is_empty()
    })
    .await;
    let events: Vec<RecordedEvent> =
        store.read_feed(Position::START, fills[0].through, &FeedFilter::all()).try_collect().await.unwrap();
    let (some, others) = events.split_at(3);
    let (first, at) = (fills.remove(0), some[2].position().unwrap());
    let next = BacklogFill { after: at, ..first.clone() };
    let (key, filler) = (format!("{{{}}}:fills", late.config().stream_name()), format!("filler {id}"));
    for (fill, through, events, filled) in [
        (&first, first.after, &[][..], FillOutcome::Done),
        (&first, at, some, FillOutcome::Done),
        (&first, at, some, FillOutcome::Moved),
        (&next, first.through, others, FillOutcome::Done),
        (&next, first.through, others, FillOutcome::Moved),
    ] {
        let _: u64 = command(&late, "HDEL", &[&key, &filler]).await;
        assert_eq!(backlogs.fill(fill, through, events).await.unwrap(), filled);
        let is_here: bool = command(&late, "HEXISTS", &[&key, &filler]).await;
        assert_eq!(is_here, filled == FillOutcome::Done, "a process that fills has the store");
    }
    until_finished(&late).await;
    assert_eq!(actor.done().len(), 9);
    late.stop_consuming().await;
}

/// Events of half a MiB fill it long before its number of entries; to see that takes the server a look at a few of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_is_full_by_its_bytes() {
    let server = eventbus_test::private_redis();
    let config = RedisEventBusConfig { redis_url: server.url().into(), consumer_name: None, ..quick() };
    let (bus, store) = (connect(&config).await, InMemoryEventStore::new());
    let (app, _seen) = app_with(&bus, &store).await;
    save(&app, 1..3).await;
    app.settled().await.unwrap();
    bus.trim(Trim { max_length: Some(0), max_age: None }).await.unwrap();
    app.shutdown(Duration::from_secs(10)).await.unwrap();
    let late = connect(&RedisEventBusConfig { consumer_group: "late".into(), ..config }).await;
    Actor::willing().join(&late);
    start(&late).await;
    let (backlogs, id) = (late.backlogs().unwrap(), store.store_id().await.unwrap());
    until("it misses events", async || !backlogs.fills(id).await.unwrap().is_empty()).await;
    // no consumer reads the backlog from now on
    late.stop_consuming().await;
    let fill = backlogs.fills(id).await.unwrap().remove(0);
    let fill = BacklogFill { through: Position::new(1_000), ..fill };
    let key = format!("{{{}}}:fills", late.config().stream_name());
    let text = "x".repeat(512 * 1024);
    let large = NewEvent::new(Name::from_static("Scanned"), 1, format!(r#"{{"text":"{text}"}}"#));
    let mut filled = 0;
    loop {
        let (at, through) = (Position::new(filled), Position::new(filled + 1));
        let _: u64 = command(&late, "HSET", &[&key, &format!("fill {id} late\n"), &format!("{at} 1000")]).await;
        let event =
            large.clone().recorded_as(StreamId::parse("Order", "1").unwrap(), Version::new(filled + 1), Some(through));
        let step = BacklogFill { after: at, ..fill.clone() };
        let _: String = command(&late, "CONFIG", &["RESETSTAT"]).await;
        match backlogs.fill(&step, through, &[event]).await.unwrap() {
            FillOutcome::Done => filled += 1,
            outcome => break assert_eq!(outcome, FillOutcome::Full),
        }
    }
    assert!((30..=34).contains(&filled), "{filled} events of half a MiB");
    let read = calls(&late, "xrange").await;
    assert!(read <= 2, "{read} reads of entries to see that it is full");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_waits_for_no_store_that_was_retired() {
    for partitions in [1, 4] {
        let config = RedisEventBusConfig { partitions, consumer_name: None, ..quick() };
        let stores = [InMemoryEventStore::new(), InMemoryEventStore::new()];
        let app = async |store: &InMemoryEventStore| {
            let app = App::builder().store(store.clone()).bus(connect(&config).await).share_stream();
            app.state(First::default()).handler::<first>().start().await.unwrap()
        };
        let [here, gone] = [app(&stores[0]).await, app(&stores[1]).await];
        save(&here, 0..50).await;
        save(&gone, 50..100).await;
        here.settled().await.unwrap();
        gone.settled().await.unwrap();
        gone.shutdown(Duration::from_secs(10)).await.unwrap();
        let bus = connect(&config).await;
        bus.trim(Trim { max_length: Some(0), max_age: None }).await.unwrap();

        let seen = Second::default();
        let builder = App::builder().store(stores[0].clone()).bus(connect(&config).await).share_stream();
        let new = builder.state(seen.clone()).handler::<second>().start().await.unwrap();
        // trimming leaves some events of the second store in each stream
        let of_here = || {
            let mut seen = numbers(&seen.0);
            seen.retain(|number| !(50..100).contains(number));
            seen
        };
        until("it has what is here", async || of_here().len() >= 50).await;
        let left = async || command::<Vec<String>>(&bus, "KEYS", &[&format!("*{}*fills", config.stream_prefix)]).await;
        let fields = async || {
            let mut fields = Vec::new();
            for key in left().await {
                fields.extend(command::<Vec<String>>(&bus, "HKEYS", &[&key]).await);
            }
            fields
        };
        let id = async |store: &InMemoryEventStore| eventbus::port::ReadFeed::store_id(store).await.unwrap();
        let is_open = async || fields().await.iter().any(|field| field == "open second");
        assert!(is_open().await, "it waits for the other store");
        let refused = bus.retire_store(id(&stores[0]).await).await.unwrap_err().to_string();
        assert!(refused.contains(&id(&stores[0]).await.to_string()), "{refused}");
        assert!(bus.retire_store(id(&stores[1]).await).await.unwrap());
        until("the backlog is finished", async || !is_open().await).await;
        save(&here, 100..110).await;
        new.settled().await.unwrap();
        assert_all_in_order(&of_here(), (0..50).chain(100..110));
        assert!(!bus.retire_store(id(&stores[1]).await).await.unwrap(), "it is not known any more");
        new.shutdown(Duration::from_secs(10)).await.unwrap();
        here.shutdown(Duration::from_secs(10)).await.unwrap();
    }
}
