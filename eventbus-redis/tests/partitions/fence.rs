//! Commands that the server refuses to a consumer that has lost a partition, and the entries that it leaves.

use std::{collections::BTreeMap, time::Duration};

use eventbus::{HandlerError, Name, NewEvent, StreamId, Version, handler::HandlerOptions, port::EventBus};
use eventbus_redis::{Recovery, RedisEventBus, RedisEventBusConfig};

use crate::{
    common::{
        actor::{Act, Actor, BOTH, CREATED, ONLY_SHIPPED, SHIPPED, connect, dead_letter_count, kill, never},
        config, log,
        seen::{command, event, order, start},
        until,
    },
    journal::{Account, Journal, Load, account},
    process::until_finished,
};

/// One partition of several has events; its owner does not renew its lease for a while.
fn slow() -> RedisEventBusConfig {
    RedisEventBusConfig { partitions: 2, partition_lease_ms: 60_000, block_ms: 50, max_retries: Some(0), ..config() }
}

fn lease_key(bus: &RedisEventBus, aggregate: &str) -> String {
    format!("{{{}}}:lease:{}", bus.config().stream_of(&order(aggregate)), bus.default_group())
}

/// Gives the partition of an aggregate to a second owner.
async fn steal(bus: &RedisEventBus, aggregate: &str) {
    let key = lease_key(bus, aggregate);
    let _: i64 = command(bus, "HINCRBY", &[&key, "epoch", "1"]).await;
    let _: u64 = command(bus, "HSET", &[&key, "owner", "thief"]).await;
}

async fn pending(bus: &RedisEventBus, aggregate: &str) -> usize {
    let (stream, group) = (bus.config().stream_of(&order(aggregate)), bus.default_group().to_string());
    let rows: Vec<redis::Value> = command(bus, "XPENDING", &[&stream, &group, "-", "+", "1000"]).await;
    rows.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_without_its_lease_acknowledges_nothing_and_reads_nothing() {
    let bus = connect(&slow()).await;
    let actor = Actor::waiting();
    actor.join(&bus);
    start(&bus).await;
    bus.publish(&[event("a"), event("a")]).await.unwrap();
    until("it has begun", async || actor.begun().len() == 1).await;
    steal(&bus, "a").await;
    actor.let_go(100);
    bus.publish(&[event("a"), event("a")]).await.unwrap();
    until("it lets go", async || actor.begun().len() <= 2 && pending(&bus, "a").await == 2).await;
    never("it reads or acknowledges", Duration::from_millis(500), async || {
        pending(&bus, "a").await != 2 || actor.begun().len() > 2
    })
    .await;
    assert_eq!(bus.progress(bus.default_group()).await.unwrap().unread, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_without_its_lease_notes_no_failure_and_writes_no_dead_letter() {
    for max_retries in [0, 5] {
        let bus = connect(&RedisEventBusConfig { max_retries: Some(max_retries), ..slow() }).await;
        let actor = Actor::new(|_, _| Act::WaitAndFail);
        actor.join(&bus);
        start(&bus).await;
        bus.publish(&[event("a")]).await.unwrap();
        until("it has begun", async || actor.begun().len() == 1).await;
        steal(&bus, "a").await;
        actor.let_go(100);
        // its reader may notice first that the partition has a new owner
        until("it has failed", async || bus.stats().events_processed_failed == 1 || actor.cancelled() == 1).await;
        let notes = format!("{{{}}}:retry:{}", bus.config().stream_of(&order("a")), bus.default_group());
        never("it writes", Duration::from_millis(300), async || {
            let noted: u64 = command(&bus, "HLEN", &[&notes]).await;
            noted > 0 || dead_letter_count(&bus).await > 0 || pending(&bus, "a").await != 1
        })
        .await;
        assert_eq!(actor.begun().len(), 1, "nor does it try again");
    }
}

/// Both would read on, and each start events that follow one in flight at the other.
#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_does_not_know_that_it_is_none_overtakes_nobody() {
    let config = RedisEventBusConfig { partitions: 4, batch_size: 10, concurrency: 4, ..slow() };
    let (bus, other, journal) = (connect(&config).await, connect(&config).await, Journal::new());
    for bus in [&bus, &other] {
        journal.join(bus, Duration::from_millis(2), false);
    }
    start(&bus).await;
    let mut load = Load::over(40);
    bus.publish(&load.batch(200)).await.unwrap();
    until_finished(&bus, Duration::from_secs(60)).await;
    for number in 0..4 {
        let key = format!("{{{}:{number}}}:lease:{}", bus.config().stream_name(), bus.default_group());
        let _: u64 = command(&bus, "HSET", &[&key, "expires_at", "1"]).await;
    }
    start(&other).await;
    until("the other owns its share", async || owners(&bus).await == 2).await;
    for _ in 0..40 {
        bus.publish(&load.batch(50)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    until_finished(&bus, Duration::from_secs(60)).await;
    assert_eq!(account(&journal.lines().await, &load.published), Account::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_arrives_late_reads_nothing() {
    let bus = connect(&slow()).await;
    let actor = Actor::willing();
    actor.join(&bus);
    start(&bus).await;
    bus.publish(&[event("a")]).await.unwrap();
    until_finished(&bus, Duration::from_secs(60)).await;
    let lease: BTreeMap<String, String> = command(&bus, "HGETALL", &[&lease_key(&bus, "a")]).await;
    // the script treats every other read of the same owner as one that was sent before
    let take = include_str!("../../src/script/partition/read_partitions.lua");
    let (stream, group) = (bus.config().stream_of(&order("a")), bus.default_group().to_string());
    let (lease_key, epoch) = (lease_key(&bus, "a"), &lease["epoch"]);
    for (reader, epoch) in [("0", epoch.as_str()), (&lease["reader"], "1")] {
        let arguments = [take, "2", &stream, &lease_key, &group, "10", "10", "1000", epoch, reader];
        let refused: Vec<String> = command(&bus, "EVAL", &arguments).await;
        assert_eq!(refused, ["FENCED"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_consumer_leaves_that_dies_is_handled_when_its_lease_is_over() {
    let config = RedisEventBusConfig { partition_lease_ms: 400, ..slow() };
    let (bus, other) = (connect(&config).await, connect(&config).await);
    let (waiting, willing) = (Actor::waiting(), Actor::willing());
    waiting.join(&bus);
    willing.join(&other);
    let consumer = start(&bus).await;
    bus.publish(&["a", "b"].map(event)).await.unwrap();
    until("they are in hand", async || bus.progress(bus.default_group()).await.unwrap().pending == 2).await;
    kill(consumer).await;
    bus.publish(&["a", "b"].map(event)).await.unwrap();
    start(&other).await;
    until_finished(&other, Duration::from_secs(60)).await;
    let mut done = willing.done();
    done.sort();
    assert_eq!(done, ["a", "a", "b", "b"]);
    assert_eq!(other.stats().messages_recovered, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_by_hand_handles_what_nobody_owns_and_leaves_the_rest() {
    let config = RedisEventBusConfig { partition_lease_ms: 300, ..slow() };
    let (bus, other) = (connect(&config).await, connect(&config).await);
    let (waiting, willing) = (Actor::waiting(), Actor::willing());
    waiting.join(&bus);
    willing.join(&other);
    let consumer = start(&bus).await;
    bus.publish(&["a", "b"].map(event)).await.unwrap();
    until("they are in hand", async || bus.progress(bus.default_group()).await.unwrap().pending == 2).await;
    let recovery = Recovery { min_idle_time_ms: Some(0), ..Recovery::default() };
    let stats = other.recover_pending_messages(recovery).await.unwrap();
    assert_eq!((stats.checked, stats.claimed), (2, 0), "they have an owner: {stats:?}");
    kill(consumer).await;
    until("the leases are over", async || {
        let stats = other.recover_pending_messages(recovery).await.unwrap();
        stats.claimed > 0
    })
    .await;
    other.recover_pending_messages(recovery).await.unwrap();
    until_finished(&other, Duration::from_secs(60)).await;
    let mut done = willing.done();
    done.sort();
    assert_eq!(done, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_another_member_handles_waits_until_the_partition_is_its() {
    log::keep();
    let config = RedisEventBusConfig { partition_lease_ms: 600, ..slow() };
    let (one, other) = (connect(&config).await, connect(&config).await);
    let (of_one, of_both) = (Actor::willing(), Actor::willing());
    of_one.join_as(&one, "one", ONLY_SHIPPED, HandlerOptions::default());
    of_both.join_as(&other, "both", BOTH, HandlerOptions::default());
    start(&one).await;
    start(&other).await;
    let ids: Vec<_> = (0..40).map(|number| format!("{number:02}")).collect();
    until("both live", async || one.stream_info().await.active_consumers == 2).await;
    until("they know of each other", async || !log::lines(&["handle different events"]).is_empty()).await;
    one.publish(&ids.iter().map(|id| event(id)).collect::<Vec<_>>()).await.unwrap();
    until("the other has what it owns", async || of_both.done().len() + left(&one).await == 40).await;
    until("what waits is an alert", async || !other.health().await.unfinished.is_empty()).await;
    one.stop_consuming().await;
    until_finished(&other, Duration::from_secs(60)).await;
    let mut done = of_both.done();
    done.sort();
    assert_eq!((done, one.stats().events_skipped), (ids, 0), "{CREATED} is for the other");
}

/// Consumers are what frees memory. Fails if a server without memory keeps one from leaving events to a second member: they
/// stay in flight, and it reads no more; or if the server does not record that they stay.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_another_member_keeps_nothing_from_being_read_on_a_server_without_memory() {
    let server = eventbus_test::private_redis();
    let config = RedisEventBusConfig { redis_url: server.url().into(), max_in_flight: Some(10), ..slow() };
    let (one, other) = (connect(&config).await, connect(&config).await);
    let (of_one, of_both) = (Actor::willing(), Actor::willing());
    of_one.join_as(&one, "one", ONLY_SHIPPED, HandlerOptions::default());
    of_both.join_as(&other, "both", BOTH, HandlerOptions::default());
    start(&other).await;
    let known = format!("{{{}}}:event_types:{}", one.config().stream_name(), one.default_group());
    until("the group knows both types", async || command::<usize>(&one, "HLEN", &[&known]).await == 2).await;
    other.stop_consuming().await;
    let shipped = |number: usize| {
        let stream = StreamId::parse("Order", &format!("s{number}")).unwrap();
        NewEvent::new(Name::from_static(SHIPPED), 1, "{}").recorded_as(stream, Version::FIRST, None)
    };
    // more than may be in flight, before those that it handles
    let created = (0..60).map(|number| event(&format!("c{number}")));
    let events: Vec<_> = created.chain((0..20).map(shipped)).collect();
    one.publish(&events).await.unwrap();
    let _: String = command(&one, "CONFIG", &["SET", "maxmemory", "1", "maxmemory-policy", "noeviction"]).await;
    start(&one).await;
    until("its events are acknowledged", async || of_one.done().len() == 20 && left(&one).await == 60).await;
    let keys =
        [0, 1].map(|partition| format!("{{{}:{partition}}}:retry:{}", one.config().stream_name(), one.default_group()));
    until("the server has recorded that the rest stay", async || {
        let mut stay = 0;
        for key in &keys {
            let attempts: Vec<String> = command(&one, "HVALS", &[key]).await;
            stay += attempts.iter().filter(|attempts| attempts.contains("\"stays\":true")).count();
        }
        stay == 60
    })
    .await;
    one.stop_consuming().await;
}

async fn left(bus: &RedisEventBus) -> usize {
    usize::try_from(bus.progress(bus.default_group()).await.unwrap().pending).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_left_while_one_of_its_events_waits_for_a_retry() {
    let config = RedisEventBusConfig { partition_lease_ms: 300, max_retries: Some(9), ..slow() };
    let (bus, other) = (connect(&config).await, connect(&config).await);
    let failing = Actor::new(|_, _| Act::Fail(HandlerError::retry_after(Duration::from_secs(600), "later")));
    failing.join(&bus);
    failing.join(&other);
    start(&bus).await;
    bus.publish(&(0..20).map(|number| event(&number.to_string())).collect::<Vec<_>>()).await.unwrap();
    until("all wait", async || bus.stats().events_processed_failed == 20).await;
    let consumer = start(&other).await;
    until("each owns one", async || owners(&bus).await == 2).await;
    assert_eq!(failing.begun().len(), 20, "none was tried before its time");
    other.stop_consuming().await;
    consumer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_not_left_while_one_of_its_events_is_being_handled() {
    let config = RedisEventBusConfig { partition_lease_ms: 300, concurrency: 20, ..slow() };
    let (bus, other) = (connect(&config).await, connect(&config).await);
    let (waiting, willing) = (Actor::waiting(), Actor::willing());
    waiting.join(&bus);
    willing.join(&other);
    start(&bus).await;
    let mut ids: Vec<_> = (0..20).map(|number| number.to_string()).collect();
    bus.publish(&ids.iter().map(|id| event(id)).collect::<Vec<_>>()).await.unwrap();
    until("all are being handled", async || waiting.begun().len() == 20).await;
    start(&other).await;
    never("the other gets one", Duration::from_millis(600), async || owners(&bus).await == 2).await;
    waiting.let_go(20);
    until("each owns one", async || owners(&bus).await == 2).await;
    until_finished(&other, Duration::from_secs(60)).await;
    let mut done = waiting.done();
    done.sort();
    ids.sort();
    assert_eq!((done, willing.done()), (ids, Vec::new()));
}

/// The number of consumers that own partitions.
async fn owners(bus: &RedisEventBus) -> usize {
    let all = format!("{{{}:*}}:lease:*", bus.config().stream_name());
    let keys: Vec<String> = command(bus, "KEYS", &[&all]).await;
    let mut owners = std::collections::BTreeSet::new();
    for key in keys {
        owners.insert(command::<String>(bus, "HGET", &[&key, "owner"]).await);
    }
    owners.len()
}

/// Fails if attempts of further partitions are not written because one partition cannot be written.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_cannot_be_written_holds_up_no_writes_of_others() {
    let config = RedisEventBusConfig { max_retries: Some(5), retry_delay_ms: 20, concurrency: 2, ..slow() };
    let bus = connect(&config).await;
    let of = |number: usize| {
        let is_there = |id: &String| bus.config().stream_of(&order(id)).ends_with(&format!(":{number}"));
        (0..).map(|id: u32| id.to_string()).find(is_there).unwrap()
    };
    let [first, second] = [0, 1].map(of);
    let actor = Actor::new(|_, attempt| if attempt == 1 { Act::Fail("told to".into()) } else { Act::Succeed });
    actor.join(&bus);
    start(&bus).await;
    bus.publish(&[event(&first), event(&second)]).await.unwrap();
    until_finished(&bus, Duration::from_secs(60)).await;
    let [damaged, notes] = [&first, &second]
        .map(|aggregate| format!("{{{}}}:retry:{}", bus.config().stream_of(&order(aggregate)), bus.default_group()));
    let _: String = command(&bus, "SET", &[&damaged, "no hash"]).await;
    bus.publish(&[event(&first)]).await.unwrap();
    never("its failure is noted", Duration::from_millis(300), async || actor.runs_of(&first) > 3).await;
    bus.publish(&[event(&second)]).await.unwrap();
    until("the other failure is noted", async || command::<u64>(&bus, "HLEN", &[&notes]).await == 1).await;
    let _: u64 = command(&bus, "DEL", &[&damaged]).await;
    until_finished(&bus, Duration::from_secs(60)).await;
    assert_eq!((actor.runs_of(&first), actor.runs_of(&second)), (4, 4));
}
