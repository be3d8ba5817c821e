//! Two releases of a group, of which one handles types or versions that the other does not, and foreign members.

use std::time::Duration;

use crate::common::{
    actor::{
        Act, Actor, BOTH, ONLY_CREATED, ONLY_SHIPPED, SHIPPED, connect, dead_letter_count, give, named, never, notes,
        numbered, pending, quick, read_as, until_finished,
    },
    log,
    seen::{calls, command, event, start},
    until,
};
use eventbus::{
    HandlerError, Name, NewEvent, RecordedEvent, StreamId, Version,
    event::{DecodeError, EventDescriptor, EventFilter, Source},
    handler::HandlerOptions,
    port::{DeadLetterFilter, DeadLetters, EventBus},
};
use eventbus_redis::{GroupStart, RedisEventBus, RedisEventBusConfig, Trim, TrimBlockReason};

const SHIPPED_2: EventFilter = EventFilter::Only(&[EventDescriptor::new(
    SHIPPED,
    "Order",
    2,
    SHIPPED,
    Source::new(file!(), line!(), module_path!()),
)]);
const SHIPPED_1: EventFilter = EventFilter::Only(&[EventDescriptor::new(
    SHIPPED,
    "Order",
    1,
    SHIPPED,
    Source::new(file!(), line!(), module_path!()),
)]);

fn shipped(id: &str, schema_version: u32) -> RecordedEvent {
    let event = NewEvent::new(Name::from_static(SHIPPED), schema_version, "{}");
    event.recorded_as(StreamId::parse("Order", id).unwrap(), Version::FIRST, None)
}

fn handles(actor: &Actor, bus: &RedisEventBus, events: EventFilter) {
    actor.join_as(bus, "act", events, HandlerOptions::default());
}

async fn old() -> RedisEventBus {
    connect(&RedisEventBusConfig { pending_idle_ms: 60_000, ..quick() }).await
}

fn key(bus: &RedisEventBus, what: &str) -> String {
    format!("{{{}}}:{what}:{}", bus.config().stream_name(), bus.default_group())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_member_ever_handled_is_skipped_and_noted() {
    let bus = old().await;
    let created = Actor::willing();
    handles(&created, &bus, ONLY_CREATED);
    start(&bus).await;
    let ids = bus.publish(&[shipped("a", 1), event("b"), shipped("c", 1), shipped("d", 1)]).await.unwrap();
    until_finished(&bus).await;
    let noted: String = command(&bus, "HGET", &[&key(&bus, "skipped"), SHIPPED]).await;
    let words: Vec<&str> = noted.split(' ').collect();
    assert_eq!((words[0], words[1], words[2]), (ids[0].as_str(), ids[3].as_str(), "3"));
    assert_eq!((created.done().len(), bus.stats().events_skipped), (1, 3));
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_was_announced_before_waits_for_a_member_that_handles_it() {
    let old = old().await;
    let (created, both) = (Actor::willing(), Actor::willing());
    handles(&created, &old, ONLY_CREATED);
    start(&old).await;
    // the new release runs for a moment, and is away when the first event of its type arrives
    let new = named(&old, "new").await;
    handles(&both, &new, BOTH);
    start(&new).await;
    let known = async || command::<bool>(&old, "HEXISTS", &[&key(&old, "event_types"), "OrderShipped@1"]).await;
    until("the new type is announced", known).await;
    new.disconnect().await;
    let members = key(&old, "members");
    let _: u64 = command(&old, "HDEL", &[&members, "new"]).await; // as if its heartbeat had expired
    let ids: Vec<_> = (0..50).map(|n| format!("{n:02}")).collect();
    let events: Vec<_> = ids.iter().map(|id| shipped(id, 1)).collect();
    old.publish(&events).await.unwrap();
    until("they wait", async || pending(&old).await.iter().filter(|(_, on)| on == "absent").count() == 50).await;
    assert_eq!(old.stats().events_skipped, 0);

    let again = named(&old, "again").await;
    handles(&both, &again, BOTH);
    start(&again).await;
    until_finished(&old).await;
    let mut done = both.done();
    done.sort();
    assert_eq!((done, both.runs().iter().all(|run| run.attempt == 1)), (ids, true));
    assert_eq!((old.stats().events_skipped, again.stats().events_skipped), (0, 0));
    old.stop_consuming().await;
    again.stop_consuming().await;
}

/// Starts a member that handles version 2, publishes 20 events of it, and waits until they are finished.
async fn give_20_to_a_newer_release(old: &RedisEventBus, can: &Actor) -> RedisEventBus {
    let new = named(old, "new").await;
    handles(can, &new, SHIPPED_2);
    start(&new).await;
    let known = async || command::<bool>(old, "HEXISTS", &[&key(old, "event_types"), "OrderShipped@2"]).await;
    until("the version is announced", known).await;
    let events: Vec<_> = (0..20).map(|n| shipped(&n.to_string(), 2)).collect();
    old.publish(&events).await.unwrap();
    until_finished(old).await;
    new
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_one_cannot_decode_is_left_to_a_member_of_its_version() {
    let old = old().await;
    let cannot = Actor::new(|_, _| Act::Fail(HandlerError::permanent("unknown field")));
    let can = Actor::willing();
    handles(&cannot, &old, SHIPPED_1);
    start(&old).await;
    // no member can get a version that none has announced
    old.publish(&[shipped("early", 2)]).await.unwrap();
    until("it is a dead letter", async || dead_letter_count(&old).await == 1).await;

    let new = give_20_to_a_newer_release(&old, &can).await;
    assert_eq!((can.done().len(), dead_letter_count(&old).await), (20, 1));

    // also while that member is away
    new.disconnect().await;
    let _: u64 = command(&old, "HDEL", &[&key(&old, "members"), "new"]).await;
    old.publish(&[shipped("late", 2)]).await.unwrap();
    until("it waits", async || pending(&old).await.iter().any(|(_, on)| on == "absent")).await;
    let again = named(&old, "again").await;
    handles(&can, &again, SHIPPED_2);
    start(&again).await;
    until_finished(&old).await;
    assert_eq!((can.runs_of("late"), dead_letter_count(&old).await), (1, 1));
    assert_eq!(notes(&old).await.len(), 0, "no record of a handoff is left");
    old.stop_consuming().await;
    again.stop_consuming().await;
}

/// No member can read the entry any more; this one has the event in memory.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_others_removed_while_it_failed_is_a_dead_letter_and_not_left_to_a_newer_release() {
    let bus = connect(&RedisEventBusConfig { pending_idle_ms: 60_000, max_retries: Some(0), ..quick() }).await;
    let cannot = Actor::new(|_, _| Act::WaitAndFail);
    handles(&cannot, &bus, SHIPPED_1);
    let _: u64 = command(&bus, "HSET", &[&key(&bus, "event_types"), "OrderShipped@2", "1"]).await;
    start(&bus).await;
    let ids = bus.publish(&[shipped("a", 2)]).await.unwrap();
    until("the handler runs", async || cannot.begun().len() == 1).await;
    let _: u64 = command(&bus, "XDEL", &[&bus.config().stream_name(), ids[0].as_str()]).await;
    cannot.let_go(1);
    until("it is a dead letter", async || dead_letter_count(&bus).await == 1).await;
    assert_eq!(pending(&bus).await.len(), 0);
    bus.stop_consuming().await;
}

/// Handlers of the older release know that a newer one wrote the events: these are retried until a member that
/// announced the version comes, and go to it at once where it is known.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_a_newer_release_is_left_to_it_or_retried() {
    let old = connect(&RedisEventBusConfig { max_retries: Some(1_000), ..quick() }).await;
    let newer = || DecodeError::NewerVersion { event_type: Name::from_static(SHIPPED), found: 2, known: 1 };
    let cannot = Actor::new(move |_, _| Act::Fail(HandlerError::undecodable(newer())));
    let can = Actor::willing();
    handles(&cannot, &old, SHIPPED_1);
    start(&old).await;
    old.publish(&[shipped("early", 2)]).await.unwrap();
    until("it is retried", async || cannot.runs_of("early") > 1).await;

    let new = give_20_to_a_newer_release(&old, &can).await;
    assert_eq!((can.done().len(), dead_letter_count(&old).await), (21, 0));
    for number in 0..20 {
        assert!(cannot.runs_of(&number.to_string()) <= 1, "it is left at its first failure");
    }
    old.stop_consuming().await;
    new.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_type_is_left_to_a_member_that_announces_nothing() {
    let bus = old().await;
    let created = Actor::willing();
    handles(&created, &bus, ONLY_CREATED);
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let _: u64 = command(&bus, "XGROUP", &["CREATECONSUMER", &stream, &group, "python"]).await;
    start(&bus).await;
    let events: Vec<_> = (0..10).flat_map(|n| [event(&n.to_string()), shipped(&n.to_string(), 1)]).collect();
    bus.publish(&events).await.unwrap();
    until("it is left to it", async || {
        let pending = pending(&bus).await;
        pending.len() == 10 && pending.iter().all(|(_, on)| on == "python")
    })
    .await;
    assert_eq!((created.done().len(), bus.stats().events_skipped), (10, 0));
    // the member finds them as long-pending entries, as its recovery does
    let claim = [&stream, &group, "python", "60000", "0-0", "COUNT", "100", "JUSTID"];
    let (_, claimed, _): (String, Vec<String>, Vec<String>) = command(&bus, "XAUTOCLAIM", &claim).await;
    assert_eq!(claimed.len(), 10);
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_that_announces_nothing_tried_counts_as_tried() {
    let bus = connect(&RedisEventBusConfig { pending_idle_ms: 300, max_retries: Some(3), ..quick() }).await;
    bus.publish(&[event("tried"), event("new")]).await.unwrap();
    read_as(&bus, "python", 1).await;
    // the server delivered it to that member two more times
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let id = pending(&bus).await[0].0.clone();
    for _ in 0..2 {
        let _: redis::Value = command(&bus, "XCLAIM", &[&stream, &group, "python", "0", &id]).await;
    }
    let failing = Actor::failing();
    failing.join(&bus);
    start(&bus).await;
    until("both are dead letters", async || dead_letter_count(&bus).await == 2).await;
    bus.stop_consuming().await;
    let attempts =
        |id: &str| -> Vec<u32> { failing.runs().iter().filter(|run| run.id == id).map(|run| run.attempt).collect() };
    assert_eq!((attempts("tried"), attempts("new")), (vec![3, 4], vec![1, 2, 3, 4]));
    let letters = bus.list_dead_letters(&DeadLetterFilter::default(), None, 10).await.unwrap().letters;
    assert!(letters.iter().all(|letter| letter.attempts == Some(4)), "{letters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_of_ours_was_given_often_does_not_count() {
    let bus = connect(&RedisEventBusConfig { pending_idle_ms: 300, ..quick() }).await;
    bus.publish(&[event("one")]).await.unwrap();
    read_as(&bus, "ours", 1).await;
    let at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    let said = format!(r#"{{"at":{at},"live_ms":1,"event_types":"\"*\"","instance":"x"}}"#);
    let _: u64 = command(&bus, "HSET", &[&key(&bus, "members"), "ours", &said]).await;
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let id = pending(&bus).await[0].0.clone();
    for _ in 0..5 {
        let _: redis::Value = command(&bus, "XCLAIM", &[&stream, &group, "ours", "0", &id]).await;
    }
    let actor = Actor::willing();
    actor.join(&bus);
    start(&bus).await;
    until_finished(&bus).await;
    bus.stop_consuming().await;
    assert_eq!(actor.runs().iter().map(|run| run.attempt).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn a_group_that_never_read_holds_trimming_until_it_is_retired() {
    let bus = crate::common::fresh_bus().await;
    let ids = bus.publish(&[event("a"), event("b"), event("c")]).await.unwrap();
    let _: String = command(&bus, "XGROUP", &["CREATE", &bus.config().stream_name(), "python", "0"]).await;
    let all = Trim { max_length: Some(0), max_age: None };
    let trimmed = bus.trim(all).await.unwrap();
    let held = trimmed.held_by.unwrap();
    assert_eq!((trimmed.removed, held.group.as_str(), held.reason), (0, "python", TrimBlockReason::Unread));
    assert_eq!(held.oldest, ids[0]);
    bus.retire_group(&Name::from_static("python")).await.unwrap();
    let trimmed = bus.trim(all).await.unwrap();
    assert_eq!(
        (trimmed.removed, trimmed.held_by),
        (3, None),
        "the bus's own group, which nobody joined, holds nothing"
    );
}

#[tokio::test]
async fn making_a_group_that_is_there_makes_it_count() {
    let bus = crate::common::fresh_bus().await;
    bus.publish(&[event("a"), event("b")]).await.unwrap();
    let group = bus.default_group().clone();
    let all = Trim { max_length: Some(1), max_age: None };
    assert!(!bus.create_group(&group, GroupStart::Now).await.unwrap(), "connecting has made it");
    assert_eq!(bus.trim(all).await.unwrap().held_by.unwrap().group, group.as_str());
    let floors = format!("{{{}}}:floors", bus.config().stream_name());
    let floor: Option<String> = command(&bus, "HGET", &[&floors, group.as_str()]).await;
    assert_eq!(floor.as_deref(), Some("0-1"), "it goes on where it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_lets_an_event_wait_does_not_take_it_again_and_again() {
    let bus = connect(&RedisEventBusConfig { pending_idle_ms: 600, ..quick() }).await;
    let created = Actor::willing();
    handles(&created, &bus, ONLY_CREATED);
    let _: u64 = command(&bus, "HSET", &[&key(&bus, "event_types"), "OrderShipped@1", "1"]).await;
    start(&bus).await;
    bus.publish(&[shipped("a", 1)]).await.unwrap();
    until("it waits", async || pending(&bus).await.iter().any(|(_, on)| on == "absent")).await;
    let before = bus.stats().events_consumed;
    never("it is taken again", Duration::from_millis(1_500), async || bus.stats().events_consumed > before).await;
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_an_older_version_that_fails_for_good_is_a_dead_letter() {
    let bus = old().await;
    let cannot = Actor::new(|_, _| Act::Fail(HandlerError::permanent("refused")));
    handles(&cannot, &bus, SHIPPED_2);
    // the former release announced the older version, and never comes back
    let _: u64 = command(&bus, "HSET", &[&key(&bus, "event_types"), "OrderShipped@1", "1"]).await;
    start(&bus).await;
    bus.publish(&[shipped("a", 1)]).await.unwrap();
    until("it is a dead letter", async || dead_letter_count(&bus).await == 1).await;
    until_finished(&bus).await;
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_an_older_version_is_left_to_a_live_member_of_that_version() {
    let old = old().await;
    let (can, cannot) =
        (Actor::willing(), Actor::new(|_, _| Act::Fail(HandlerError::permanent("no field has that name"))));
    handles(&can, &old, SHIPPED_1);
    start(&old).await;
    let new = named(&old, "new").await;
    handles(&cannot, &new, SHIPPED_2);
    start(&new).await;
    let known = async |what: &str| command::<bool>(&old, "HEXISTS", &[&key(&old, "event_types"), what]).await;
    until("both are announced", async || known("OrderShipped@1").await && known("OrderShipped@2").await).await;
    until("both are here", async || command::<u64>(&old, "HLEN", &[&key(&old, "members")]).await == 2).await;
    let mut published = 0;
    until("the newer one was given some", async || {
        let events: Vec<_> = (0..20).map(|n| shipped(&format!("{published}-{n}"), 1)).collect();
        old.publish(&events).await.unwrap();
        published += 20;
        until_finished(&old).await;
        !cannot.runs().is_empty()
    })
    .await;
    assert_eq!((can.done().len(), dead_letter_count(&old).await), (published, 0));
    old.stop_consuming().await;
    new.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_has_succeeded_does_not_run_again_where_another_one_left_the_event_to_a_newer_member() {
    let old = old().await;
    let (every, cannot, can) =
        (Actor::willing(), Actor::new(|_, _| Act::Fail(HandlerError::permanent("unknown field"))), Actor::willing());
    every.join_as(&old, "every", EventFilter::All, HandlerOptions::default());
    cannot.join_as(&old, "typed", SHIPPED_1, HandlerOptions::default());
    let _: u64 = command(&old, "HSET", &[&key(&old, "event_types"), "OrderShipped@2", "1"]).await;
    start(&old).await;
    old.publish(&[shipped("a", 2)]).await.unwrap();
    until("it waits", async || pending(&old).await.iter().any(|(_, on)| on == "absent")).await;
    never("it is handled again", Duration::from_millis(2_500), async || every.runs_of("a") > 1).await;

    let new = named(&old, "new").await;
    every.join_as(&new, "every", EventFilter::All, HandlerOptions::default());
    can.join_as(&new, "typed", SHIPPED_2, HandlerOptions::default());
    start(&new).await;
    until_finished(&old).await;
    // and one that is live
    old.publish(&(0..10).map(|n| shipped(&format!("b{n}"), 2)).collect::<Vec<_>>()).await.unwrap();
    until_finished(&old).await;
    assert_eq!((every.runs_of("a"), can.runs_of("a"), every.runs().len(), can.runs().len()), (1, 1, 11, 11));
    assert_eq!(dead_letter_count(&old).await, 0);
    old.stop_consuming().await;
    new.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_a_partition_is_skipped_when_its_type_is_forgotten() {
    let bus = connect(&RedisEventBusConfig { partitions: 4, partition_lease_ms: 1_000, ..quick() }).await;
    let created = Actor::willing();
    handles(&created, &bus, ONLY_CREATED);
    let _: u64 = command(&bus, "HSET", &[&key(&bus, "event_types"), "OrderShipped@1", "1"]).await;
    start(&bus).await;
    bus.publish(&[shipped("a", 1), event("b")]).await.unwrap();
    until("it waits", async || bus.stats().events_consumed == 2 && created.done() == ["b"]).await;
    assert_eq!(bus.stats().events_skipped, 0);
    assert!(bus.forget_event_type(bus.default_group(), SHIPPED).await.unwrap());
    until_finished(&bus).await;
    until("it is counted", async || bus.stats().events_skipped == 1).await;
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_in_a_partition_is_given_to_a_handler_that_comes_to_its_owner() {
    let bus = connect(&RedisEventBusConfig { partitions: 4, partition_lease_ms: 1_000, ..quick() }).await;
    let (created, late) = (Actor::willing(), Actor::willing());
    handles(&created, &bus, ONLY_CREATED);
    let _: u64 = command(&bus, "HSET", &[&key(&bus, "event_types"), "OrderShipped@1", "1"]).await;
    start(&bus).await;
    let waits = async |others: usize| {
        until("it waits, and nothing else does", async || {
            let progress = bus.progress(bus.default_group()).await.unwrap();
            created.done().len() == others && (progress.unread, progress.pending) == (0, 1)
        })
        .await;
    };
    bus.publish(&[shipped("a", 1), event("b")]).await.unwrap();
    waits(1).await;
    bus.publish(&[event("c")]).await.unwrap();
    waits(2).await; // the consumer records that it skipped the first before it acknowledges this one
    late.join_as(&bus, "late", ONLY_SHIPPED, HandlerOptions::default());
    until_finished(&bus).await;
    assert_eq!((late.done(), bus.stats().events_skipped), (vec!["a".to_owned()], 0));
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_member_is_skipped_at_once_when_its_type_is_forgotten() {
    // more than one call of the script goes through
    const WAITING: usize = 450;
    for forgotten in [SHIPPED, "*"] {
        let bus = old().await;
        let created = Actor::willing();
        handles(&created, &bus, ONLY_CREATED);
        let field = if forgotten == "*" { "*" } else { "OrderShipped@1" };
        let _: u64 = command(&bus, "HSET", &[&key(&bus, "event_types"), field, "1"]).await;
        start(&bus).await;
        let mut events: Vec<_> = (0..WAITING).map(|number| shipped(&format!("a{number}"), 1)).collect();
        events.push(event("b"));
        bus.publish(&events).await.unwrap();
        until("all wait", async || pending(&bus).await.iter().filter(|(_, on)| on == "absent").count() == WAITING)
            .await;
        assert!(bus.forget_event_type(bus.default_group(), forgotten).await.unwrap());
        until_finished(&bus).await;
        until("all are counted", async || bus.stats().events_skipped == WAITING as u64).await;
        assert_eq!(created.done().len(), 1, "{forgotten}");
        bus.stop_consuming().await;
    }
}

/// Entries of a type that no member here handles, left to a member that is away.
async fn with_waiting(pending_idle_ms: u64, server: &eventbus_test::PrivateRedis, count: usize) -> RedisEventBus {
    let stream_prefix = eventbus_test::unique_name("bus");
    let redis_url = server.url().to_owned();
    let bus = connect(&RedisEventBusConfig { pending_idle_ms, stream_prefix, redis_url, ..quick() }).await;
    let _: u64 = command(&bus, "HSET", &[&key(&bus, "event_types"), "OrderShipped@1", "1"]).await;
    let ids = numbered(count);
    bus.publish(&ids.iter().map(|id| shipped(id, 1)).collect::<Vec<_>>()).await.unwrap();
    read_as(&bus, "absent", count).await;
    bus
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_at_what_waits_for_members_goes_through_a_part_of_it() {
    let server = eventbus_test::private_redis();
    let bus = with_waiting(600, &server, 20_000).await;
    let created = Actor::willing();
    handles(&created, &bus, ONLY_CREATED);
    start(&bus).await;
    let _: String = command(&bus, "CONFIG", &["RESETSTAT"]).await;
    let looks = async || calls(&bus, "xinfo|consumers").await;
    until("it has looked around", async || looks().await > 8).await;
    let read = calls(&bus, "xrange").await;
    let looks = looks().await;
    assert!(read <= looks * 2_000, "{read} entries in {looks} looks");
    bus.stop_consuming().await;
}

/// Fails if each round scans all pending entries, or the same part of them.
#[tokio::test(flavor = "multi_thread")]
async fn what_dead_members_had_is_looked_for_part_by_part_among_much_that_waits() {
    let server = eventbus_test::private_redis();
    let bus = with_waiting(6_000, &server, 30_000).await;
    let ids = bus.publish(&[event("left")]).await.unwrap();
    read_as(&bus, "dead", 1).await;
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let long_ago = [&*stream, &*group, "dead", "0", ids[0].as_str(), "IDLE", "60000", "JUSTID"];
    let _: redis::Value = command(&bus, "XCLAIM", &long_ago).await;
    let created = Actor::willing();
    handles(&created, &bus, ONLY_CREATED);
    start(&bus).await;
    until("it is taken over from the dead one", async || created.runs_of("left") == 1).await;
    // as many searches as checks: a check asks for groups and consumers, a search for dead members for consumers only
    let _: String = command(&bus, "CONFIG", &["RESETSTAT"]).await;
    let looks = async || calls(&bus, "xinfo|groups").await;
    until("it has looked around", async || looks().await >= 6).await;
    let (asked, looks) = (calls(&bus, "xinfo|consumers").await, looks().await);
    let pages = asked - looks;
    assert!((looks..=looks * 18).contains(&pages), "{pages} pages of what is pending in {looks} rounds");
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_handles_is_found_behind_much_that_it_does_not_handle() {
    let server = eventbus_test::private_redis();
    let bus = with_waiting(600, &server, 5_000).await;
    let _: u64 = command(&bus, "HSET", &[&key(&bus, "event_types"), "OrderCreated@1", "1"]).await;
    bus.publish(&[event("last")]).await.unwrap();
    read_as(&bus, "absent", 1).await;
    let (created, both) = (Actor::willing(), Actor::willing());
    handles(&created, &bus, ONLY_CREATED);
    start(&bus).await;
    until("it is found", async || created.done() == ["last"]).await;
    both.join_as(&bus, "ships", ONLY_SHIPPED, HandlerOptions::default());
    until("the others are found, from the first one on", async || both.done().len() == 5_000).await;
    until_finished(&bus).await;
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_is_not_looked_for_behind_much_that_waits_for_others() {
    let server = eventbus_test::private_redis();
    let bus = with_waiting(60_000, &server, 20_000).await;
    let created = Actor::waiting();
    handles(&created, &bus, ONLY_CREATED);
    let _: String = command(&bus, "CONFIG", &["RESETSTAT"]).await;
    start(&bus).await;
    until("it has looked around", async || calls(&bus, "xrange").await >= 2_000).await;
    let ids = bus.publish(&[event("new")]).await.unwrap();
    until("it is handled", async || created.runs_of("new") == 1).await;
    give(&bus, "absent", ids[0].as_str()).await;
    let _: String = command(&bus, "CONFIG", &["RESETSTAT"]).await;
    let (stream, group, id) = (bus.config().stream_name(), bus.default_group().to_string(), ids[0].to_string());
    until("it is taken back", async || {
        let found: Vec<redis::Value> = command(&bus, "XPENDING", &[&stream, &group, &id, &id, "1", "stable"]).await;
        !found.is_empty()
    })
    .await;
    let read = calls(&bus, "xrange").await;
    assert!(read <= 7_500, "{read} others were looked at before");
    created.let_go(10);
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn much_that_waits_for_members_is_taken_over_by_nobody() {
    let server = eventbus_test::private_redis();
    let bus = with_waiting(6_000, &server, 10_000).await;
    let rows: Vec<(String, String, u64, u64)> = {
        let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
        command(&bus, "XPENDING", &[&stream, &group, "-", "+", "10000"]).await
    };
    let (stream, group) = (bus.config().stream_name(), bus.default_group().to_string());
    let mut waited = vec![&*stream, &*group, "absent", "0"];
    waited.extend(rows.iter().map(|row| row.0.as_str()));
    waited.extend(["IDLE", "3000", "JUSTID"]);
    let _: redis::Value = command(&bus, "XCLAIM", &waited).await;
    let created = Actor::willing();
    handles(&created, &bus, ONLY_CREATED);
    start(&bus).await;
    until("all are renewed", async || {
        let idle = [&*stream, &*group, "IDLE", "2900", "-", "+", "1", "absent"];
        command::<Vec<redis::Value>>(&bus, "XPENDING", &idle).await.is_empty()
    })
    .await;
    assert_eq!(bus.stats().events_consumed, 0);
    bus.stop_consuming().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_group_handles_is_announced_again_after_the_server_lost_it() {
    for partitions in [1, 2] {
        let server = eventbus_test::private_redis();
        let config = RedisEventBusConfig {
            redis_url: server.url().into(),
            pending_idle_ms: 60_000,
            partition_lease_ms: 500,
            partitions,
            ..quick()
        };
        let old = connect(&config).await;
        let new = named(&old, "new").await;
        let (created, both) = (Actor::willing(), Actor::willing());
        handles(&created, &old, ONLY_CREATED);
        handles(&both, &new, BOTH);
        start(&old).await;
        start(&new).await;
        let is_known = async || command::<bool>(&old, "HEXISTS", &[&key(&old, "event_types"), "OrderShipped@1"]).await;
        until("the new type is announced", is_known).await;
        let _: () = command(&old, "FLUSHALL", &[]).await;
        until("it is announced again", is_known).await;

        // the new release is away when the first event of its type arrives
        new.disconnect().await;
        old.publish(&[shipped("a", 1), event("b")]).await.unwrap();
        until("the other event is handled", async || created.runs_of("b") == 1).await;
        let again = named(&old, "again").await;
        handles(&both, &again, BOTH);
        start(&again).await;
        // with partitions the entry stays with its owner until that stops
        old.stop_consuming().await;
        until_finished(&old).await;
        assert_eq!((both.runs_of("a"), old.stats().events_skipped), (1, 0), "{partitions} partitions");
        again.stop_consuming().await;
    }
}

const LOGGED: &str = "OrderLogged";
const LOGGED_1: EventFilter = EventFilter::Only(&[EventDescriptor::new(
    LOGGED,
    "Order",
    1,
    LOGGED,
    Source::new(file!(), line!(), module_path!()),
)]);
const LOGGED_2: EventFilter = EventFilter::Only(&[EventDescriptor::new(
    LOGGED,
    "Order",
    2,
    LOGGED,
    Source::new(file!(), line!(), module_path!()),
)]);

fn of_type(event_type: &'static str, schema_version: u32, id: &str) -> RecordedEvent {
    let event = NewEvent::new(Name::from_static(event_type), schema_version, "{}");
    event.recorded_as(StreamId::parse("Order", id).unwrap(), Version::FIRST, None)
}

/// Fails if a skipped type, or one left to a member that handles it, has no log line, or one for each event; or if an
/// event left to a member that can decode it has none.
#[tokio::test(flavor = "multi_thread")]
async fn of_each_type_that_is_skipped_or_left_it_is_told_once() {
    log::keep();
    let old = old().await;
    handles(&Actor::willing(), &old, ONLY_CREATED);
    start(&old).await;
    // a release with one more type runs for a moment
    let new = named(&old, "new").await;
    handles(&Actor::willing(), &new, LOGGED_2);
    start(&new).await;
    let known = async || command::<bool>(&old, "HEXISTS", &[&key(&old, "event_types"), "OrderLogged@2"]).await;
    until("the new type is announced", known).await;
    new.disconnect().await;
    let _: u64 = command(&old, "HDEL", &[&key(&old, "members"), "new"]).await; // as if its heartbeat had expired

    let events = ["a", "b", "c"].map(|id| [of_type("OrderRefunded", 1, id), of_type("OrderReturned", 1, id)]);
    old.publish(&events.concat()).await.unwrap();
    until("they are skipped", async || old.stats().events_skipped == 6).await;
    old.publish(&["d", "e", "f"].map(|id| of_type(LOGGED, 2, id))).await.unwrap();
    until("they wait", async || pending(&old).await.iter().filter(|(_, on)| on == "absent").count() == 3).await;
    old.publish(&[of_type("OrderRefunded", 1, "g")]).await.unwrap();
    until("it is skipped", async || old.stats().events_skipped == 7).await;
    // the first event of a type may come in a page with different types
    old.publish(&[of_type(LOGGED, 2, "h")]).await.unwrap();
    until("it waits", async || pending(&old).await.iter().filter(|(_, on)| on == "absent").count() == 4).await;
    let skipped = "the group has no handler for this event type";
    let left = "events are left pending: the group announced their type before";
    for (level, text, event_type, lines) in [
        ("INFO", skipped, "OrderRefunded", 1),
        ("INFO", skipped, "OrderReturned", 1),
        ("INFO", skipped, LOGGED, 0),
        ("WARN", left, LOGGED, 1),
    ] {
        let told = log::lines(&[level, text, event_type]);
        assert_eq!(told.len(), lines, "{text}, {event_type}: {told:?}");
    }
    old.stop_consuming().await;

    // a member that handles the type, and not the version
    let cannot = Actor::new(|_, _| Act::Fail(HandlerError::permanent("unknown field")));
    let fails = named(&old, "fails").await;
    handles(&cannot, &fails, LOGGED_1);
    start(&fails).await;
    until("each has failed", async || fails.stats().handler_errors == 4).await;
    until("each is left", async || {
        log::lines(&["WARN", "event cannot be decoded here and is left to members", LOGGED, "schema_version=2"]).len()
            == 4
    })
    .await;
    fails.stop_consuming().await;
    assert_eq!(dead_letter_count(&old).await, 0);
}
