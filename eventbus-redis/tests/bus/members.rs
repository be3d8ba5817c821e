//! Members of one group that handle different events leave each other's events alone.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use crate::common::{
    actor::{
        Actor, BOTH, CREATED, ONLY_CREATED, ONLY_SHIPPED, SHIPPED, connect, dead_letter_count, kill, members_key,
        named, never, notes, numbered, pending, publish_all, quick, read_as, retry_key, until_finished,
    },
    seen::{command, start},
    until,
};
use crate::lines::Lines;
use eventbus::{
    Name, NewEvent, RecordedEvent, StreamId, Version,
    event::{EventDescriptor, EventFilter, Source},
    handler::HandlerOptions,
    port::EventBus,
};
use eventbus_redis::{RedisEventBus, RedisEventBusConfig};
use redis::Value;

fn of_type(event_type: &'static str, id: &str) -> RecordedEvent {
    let event = NewEvent::new(Name::from_static(event_type), 1, "{}");
    event.recorded_as(StreamId::parse("Order", id).unwrap(), Version::FIRST, None)
}

/// Publishes events of alternating types; returns the ids of the aggregates by type.
async fn publish_mixed(bus: &RedisEventBus, count: usize) -> (Vec<String>, Vec<String>) {
    let ids = numbered(count);
    let events: Vec<_> =
        ids.iter().enumerate().map(|(n, id)| of_type(if n % 2 == 0 { CREATED } else { SHIPPED }, id)).collect();
    bus.publish(&events).await.unwrap();
    let of = |rest| ids.iter().enumerate().filter(move |(n, _)| n % 2 == rest).map(|(_, id)| id.clone()).collect();
    (of(0), of(1))
}

fn sorted(mut ids: Vec<String>) -> Vec<String> {
    ids.sort();
    ids
}

fn handles(actor: &Actor, bus: &RedisEventBus, events: EventFilter) -> eventbus::port::Subscription {
    actor.join_as(bus, "act", events, HandlerOptions::default())
}

async fn announced(bus: &RedisEventBus, member: &str) -> Option<String> {
    let text: Option<String> = command(bus, "HGET", &[&members_key(bus), member]).await;
    let member: serde_json::Value = serde_json::from_str(&text?).unwrap();
    Some(member["event_types"].as_str().unwrap().to_owned())
}

/// Two members of one group; `pending_idle_ms` is long, so that no member reclaims entries by their idle time.
async fn two(pending_idle_ms: u64) -> (RedisEventBus, RedisEventBus) {
    let config = RedisEventBusConfig { pending_idle_ms, batch_size: 10, ..quick() };
    let bus = connect(&config).await;
    let other = named(&bus, "other").await;
    (bus, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_services_in_one_group_handle_each_its_own_types() {
    let (creating, shipping) = two(60_000).await;
    let (created, shipped) = (Actor::willing(), Actor::willing());
    handles(&created, &creating, ONLY_CREATED);
    handles(&shipped, &shipping, ONLY_SHIPPED);
    start(&creating).await;
    start(&shipping).await;
    until("both have announced themselves", async || {
        announced(&creating, "stable").await.is_some() && announced(&creating, "other").await.is_some()
    })
    .await;
    let (of_created, of_shipped) = publish_mixed(&creating, 200).await;
    until_finished(&creating).await;
    assert_eq!((sorted(created.done()), sorted(shipped.done())), (of_created, of_shipped));
    creating.stop_consuming().await;
    shipping.stop_consuming().await;
    assert_eq!((creating.stats().events_skipped, shipping.stats().events_skipped), (0, 0), "nothing was skipped");
    assert_eq!((notes(&creating).await.len(), dead_letter_count(&creating).await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_is_announced_before_it_reads_and_a_backlog_is_shared_too() {
    for _ in 0..5 {
        let (creating, shipping) = two(60_000).await;
        let (created, shipped) = (Actor::willing(), Actor::willing());
        handles(&created, &creating, ONLY_CREATED);
        handles(&shipped, &shipping, ONLY_SHIPPED);
        start(&creating).await;
        until("the first has announced itself", async || announced(&creating, "stable").await.is_some()).await;
        // also events of the other type, which the group skips until the second member announces it
        publish_mixed(&creating, 2).await;
        until_finished(&creating).await;
        // the second member could read the next events at once
        start(&shipping).await;
        until("the second has announced itself", async || announced(&creating, "other").await.is_some()).await;
        until("what was skipped is delivered", async || shipped.done().len() == 1).await;
        let before = (created.done().len(), shipped.done().len());
        publish_mixed(&creating, 60).await;
        until_finished(&creating).await;
        assert_eq!((created.done().len() - before.0, shipped.done().len() - before.1), (30, 30));
        creating.stop_consuming().await;
        shipping.stop_consuming().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_comes_before_the_first_read() {
    let server = eventbus_test::private_redis_with(&["--slowlog-log-slower-than", "0", "--slowlog-max-len", "10000"]);
    for round in 0..10 {
        let config = RedisEventBusConfig { pending_idle_ms: 60_000, ..crate::common::config_on(server.url()) };
        let bus = connect(&config).await;
        let actor = Actor::willing();
        handles(&actor, &bus, ONLY_CREATED);
        let _: () = command(&bus, "SLOWLOG", &["RESET"]).await;
        bus.publish(&[of_type(CREATED, "one")]).await.unwrap();
        start(&bus).await;
        until("it has read the event", async || !actor.done().is_empty()).await;
        // number, time, duration, command, client, its name; newest first
        let log: Vec<(u64, u64, u64, Vec<String>, Value, Value)> = command(&bus, "SLOWLOG", &["GET", "10000"]).await;
        let commands: Vec<String> = log.into_iter().rev().map(|(_, _, _, command, ..)| command.join(" ")).collect();
        let first = |text: &str| commands.iter().position(|command| command.contains(text));
        let (announced, read) = (first(r#"["OrderCreated@1"]"#).unwrap(), first("XREADGROUP").unwrap());
        assert!(announced < read, "round {round}: {commands:#?}");
        bus.stop_consuming().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_nobody_handles_is_acknowledged_and_counted() {
    let (bus, other) = two(60_000).await;
    let (mine, theirs) = (Actor::willing(), Actor::willing());
    handles(&mine, &bus, ONLY_CREATED);
    handles(&theirs, &other, ONLY_CREATED);
    publish_mixed(&bus, 40).await;
    start(&bus).await;
    start(&other).await;
    until_finished(&bus).await;
    bus.stop_consuming().await;
    other.stop_consuming().await;
    assert_eq!(bus.stats().events_skipped + other.stats().events_skipped, 20);
    assert_eq!(mine.done().len() + theirs.done().len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_handles_everything_takes_what_others_do_not() {
    let (bus, wild) = two(60_000).await;
    let (created, all) = (Actor::willing(), Actor::willing());
    handles(&created, &bus, ONLY_CREATED);
    all.join(&wild);
    start(&bus).await;
    start(&wild).await;
    until("the wildcard is announced", async || announced(&bus, "other").await.as_deref() == Some("\"*\"")).await;
    let ids = numbered(60);
    let events: Vec<_> = ids.iter().map(|id| of_type(SHIPPED, id)).collect();
    bus.publish(&events).await.unwrap();
    until_finished(&bus).await;
    assert_eq!((sorted(all.done()), created.begun().len()), (ids, 0));
    bus.stop_consuming().await;
    wild.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_and_a_new_release_share_what_both_handle() {
    let (old, new) = two(60_000).await;
    let (created, both) = (Actor::willing(), Actor::willing());
    handles(&created, &old, ONLY_CREATED);
    handles(&both, &new, BOTH);
    start(&old).await;
    start(&new).await;
    until("the new release is announced", async || announced(&old, "other").await.is_some()).await;
    let (of_created, of_shipped) = publish_mixed(&old, 200).await;
    until_finished(&old).await;
    let done: Vec<String> = [created.done(), both.done()].concat();
    assert_eq!(sorted(done), sorted([of_created, of_shipped.clone()].concat()), "each once");
    let by_new: BTreeSet<_> = both.done().into_iter().collect();
    assert!(of_shipped.iter().all(|id| by_new.contains(id)));
    old.stop_consuming().await;
    new.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_killed_member_handles_goes_at_once_to_the_next_one_that_handles_it() {
    let server = eventbus_test::private_redis();
    let bus =
        connect(&RedisEventBusConfig { redis_url: server.url().into(), pending_idle_ms: 60_000, ..quick() }).await;
    let dying = named(&bus, "other").await;
    let (created, shipped) = (Actor::willing(), Actor::willing());
    handles(&created, &bus, ONLY_CREATED);
    handles(&shipped, &dying, ONLY_SHIPPED);
    let consumer = start(&dying).await;
    until("it is announced", async || announced(&bus, "other").await.is_some()).await;
    kill(consumer).await;
    until("it reads nothing any more", async || {
        let clients: String = command(&bus, "CLIENT", &["LIST"]).await;
        clients.lines().all(|client| !client.contains(" flags=b "))
    })
    .await;
    bus.publish(&[of_type(SHIPPED, "one")]).await.unwrap();
    start(&bus).await;
    until("it waits", async || pending(&bus).await.first().is_some_and(|(_, on)| on == "absent")).await;
    assert!(announced(&bus, "other").await.is_some(), "the killed one still counts as alive");
    let next = named(&bus, "next").await;
    handles(&shipped, &next, ONLY_SHIPPED);
    start(&next).await;
    until_finished(&bus).await;
    assert_eq!((shipped.done(), bus.stats().events_skipped), (vec!["one".to_owned()], 0));
    next.stop_consuming().await;
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_type_is_announced_by_all_its_names() {
    const RENAMED: EventDescriptor =
        EventDescriptor::new("OrderCreated", "Order", 2, "OrderCreated", Source::new(file!(), line!(), module_path!()));
    const EVENTS: EventFilter = EventFilter::Only(&[RENAMED.formerly(&["OrderPlaced"])]);
    let (bus, other) = two(60_000).await;
    let member = Actor::willing();
    handles(&member, &bus, EVENTS);
    handles(&member, &other, ONLY_CREATED);
    start(&bus).await;
    start(&other).await;
    let is_announced = async |types| announced(&bus, "stable").await.as_deref() == Some(types);
    until("it is announced", async || is_announced(r#"["OrderCreated@2","OrderPlaced@2"]"#).await).await;
    bus.stop_consuming().await;
    other.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_unsubscribes_a_type_says_so() {
    let (bus, other) = two(60_000).await;
    let (mine, theirs) = (Actor::willing(), Actor::willing());
    handles(&mine, &bus, ONLY_CREATED);
    let shipped = mine.join_as(&bus, "ship", ONLY_SHIPPED, HandlerOptions::default());
    handles(&theirs, &other, ONLY_CREATED);
    start(&bus).await;
    start(&other).await;
    let is_announced = async |types| announced(&bus, "stable").await.as_deref() == Some(types);
    until("it is announced", async || is_announced(r#"["OrderCreated@1","OrderShipped@1"]"#).await).await;
    let began = Instant::now();
    shipped.cancel();
    until("it says so", async || is_announced(r#"["OrderCreated@1"]"#).await).await;
    assert!(began.elapsed() < Duration::from_millis(800), "at once: {:?}", began.elapsed());
    bus.forget_event_type(bus.default_group(), SHIPPED).await.unwrap();
    publish_mixed(&bus, 20).await;
    until_finished(&bus).await;
    bus.stop_consuming().await;
    other.stop_consuming().await;
    assert_eq!(bus.stats().events_skipped + other.stats().events_skipped, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_here_handles_is_never_acknowledged_for_somebody_else() {
    let (bus, _) = two(60_000).await;
    let waits = Actor::waiting();
    // a first event keeps the consumer busy while a different consumer claims the second one
    handles(&waits, &bus, ONLY_CREATED);
    bus.publish(&[of_type(CREATED, "one"), of_type(SHIPPED, "two")]).await.unwrap();
    start(&bus).await;
    until("both are in hand", async || pending(&bus).await.len() == 2 && waits.begun().len() == 1).await;
    let entry = pending(&bus).await[1].0.clone();
    crate::common::actor::give(&bus, "somebody", &entry).await;
    waits.let_go(1);
    until("both have been looked at", async || bus.stats().events_consumed == 2).await;
    bus.stop_consuming().await;
    assert_eq!(pending(&bus).await, [(entry, "somebody".into())]);
    assert_eq!(bus.stats().events_skipped, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_has_no_room_for_waits_without_being_handed_around() {
    let config = RedisEventBusConfig { pending_idle_ms: 150, batch_size: 10, ..quick() };
    let bus = connect(&config).await;
    let config =
        RedisEventBusConfig { max_in_flight: Some(1), consumer_name: Some("full".into()), ..bus.config().clone() };
    let full = connect(&config).await;
    let (created, shipped) = (Actor::willing(), Actor::waiting());
    handles(&created, &bus, ONLY_CREATED);
    handles(&shipped, &full, ONLY_SHIPPED);
    bus.publish(&[of_type(SHIPPED, "first")]).await.unwrap();
    start(&full).await;
    until("its hand is full", async || shipped.begun().len() == 1).await;
    start(&bus).await;
    bus.publish(&[of_type(SHIPPED, "second"), of_type(SHIPPED, "third")]).await.unwrap();
    until("both are left", async || bus.stats().events_consumed == 2).await;
    never("they are handed around", Duration::from_secs(1), async || bus.stats().events_consumed > 2).await;
    assert_eq!(dead_letter_count(&bus).await, 0);
    shipped.let_go(3);
    until_finished(&bus).await;
    assert_eq!(sorted(shipped.done()), ["first", "second", "third"]);
    assert_eq!((dead_letter_count(&bus).await, bus.stats().events_skipped), (0, 0));
    bus.stop_consuming().await;
    full.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_member_left_goes_to_one_that_handles_it() {
    let (bus, other) = two(300).await;
    let (created, shipped) = (Actor::willing(), Actor::willing());
    let (of_created, of_shipped) = publish_mixed(&bus, 40).await;
    read_as(&bus, "dead", 40).await;
    handles(&created, &bus, ONLY_CREATED);
    handles(&shipped, &other, ONLY_SHIPPED);
    start(&bus).await;
    start(&other).await;
    until_finished(&bus).await;
    assert_eq!((sorted(created.done()), sorted(shipped.done())), (of_created, of_shipped));
    bus.stop_consuming().await;
    other.stop_consuming().await;
    assert_eq!((notes(&bus).await.len(), dead_letter_count(&bus).await), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_failed_at_a_dead_member_is_left_to_another_one_that_handles_it() {
    // the member that handles the type has no room, so the other member reads the event first
    let bus = connect(&RedisEventBusConfig { pending_idle_ms: 150, ..quick() }).await;
    let config =
        RedisEventBusConfig { max_in_flight: Some(1), consumer_name: Some("full".into()), ..bus.config().clone() };
    let full = connect(&config).await;
    let (created, shipped) = (Actor::willing(), Actor::waiting());
    handles(&created, &bus, ONLY_CREATED);
    handles(&shipped, &full, ONLY_SHIPPED);
    bus.publish(&[of_type(SHIPPED, "first")]).await.unwrap();
    start(&full).await;
    until("its hand is full", async || shipped.begun().len() == 1).await;
    let failed = bus.publish(&[of_type(SHIPPED, "failed")]).await.unwrap()[0].to_string();
    read_as(&bus, "dead", 1).await;
    let note = r#"{"attempts":1,"failed":{"act":{"attempts":1,"error":"no"}}}"#;
    let _: u64 = command(&bus, "HSET", &[&retry_key(&bus), &failed, note]).await;
    start(&bus).await;
    until("one that does not handle it has looked at it", async || bus.stats().events_consumed > 0).await;
    shipped.let_go(2);
    until_finished(&bus).await;
    assert_eq!((shipped.done(), bus.stats().events_skipped), (vec!["first".into(), "failed".into()], 0));
    assert_eq!(shipped.runs()[1].attempt, 2, "what was noted is passed on");
    bus.stop_consuming().await;
    full.stop_consuming().await;
}

/// The number of lines in which the member `stable` reports a difference.
fn differences(log: &Lines) -> usize {
    let text = log.text();
    text.lines().filter(|line| line.contains("handle different events") && line.contains("consumer=\"stable\"")).count()
}

#[tokio::test] // on one thread, for the log
async fn differing_members_are_reported_once_per_change() {
    let log = Lines::default();
    let _logging = log.capture("info");
    let (bus, other) = two(2_000).await; // each member compares 3 times a second
    let actor = Actor::willing();
    handles(&actor, &bus, ONLY_CREATED);
    handles(&actor, &other, ONLY_SHIPPED);
    start(&bus).await;
    start(&other).await;
    until("the difference is reported", async || differences(&log) == 1).await;
    never("it is reported again", Duration::from_millis(1_500), async || differences(&log) > 1).await;
    // a third member without a difference
    let third = named(&bus, "third").await;
    handles(&actor, &third, ONLY_CREATED);
    start(&third).await;
    never("the old difference is reported again", Duration::from_millis(1_500), async || differences(&log) > 1).await;
    actor.join_as(&other, "more", BOTH, HandlerOptions::default());
    until("the change is reported", async || differences(&log) == 2).await;
    for bus in [bus, other, third] {
        bus.stop_consuming().await;
    }
}

/// Claims and leases are long here: the other member would wait for them if the process had died.
async fn a_shutdown_aborts_handlers(partitions: u32) {
    let long = 300_000;
    let config = RedisEventBusConfig {
        pending_idle_ms: long,
        partition_lease_ms: long,
        concurrency: 2,
        partitions,
        consumer_name: None,
        ..quick()
    };
    let (bus, other) = (connect(&config).await, connect(&config).await);
    let (waiting, willing) = (Actor::waiting(), Actor::willing());
    waiting.join(&bus);
    willing.join(&other);
    start(&bus).await;
    publish_all(&bus, &["a", "b"]).await;
    until("both are being handled", async || waiting.begun().len() == 2).await;
    bus.shutdown(Duration::from_millis(10)).await.unwrap_err();
    assert_eq!((waiting.cancelled(), waiting.done()), (2, Vec::new()));
    start(&other).await;
    until("the other member has handled both", async || willing.done().len() == 2).await;
    until_finished(&other).await;
    other.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_shutdown_aborts_goes_to_others_at_once() {
    a_shutdown_aborts_handlers(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_shutdown_aborts_in_partitions_goes_to_others_at_once() {
    a_shutdown_aborts_handlers(4).await;
}
