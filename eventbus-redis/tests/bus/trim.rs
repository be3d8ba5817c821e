//! Trimming removes no entry that a known group has yet to handle.

use std::time::Duration;

use crate::common::{
    config, config_on, fresh_bus,
    seen::{Seen, calls, command, event, settled, start},
};
use eventbus::{
    Name,
    port::{EventBus, MessageId},
};
use eventbus_redis::{GroupStart, RedisCommandError, RedisEventBus, Trim, TrimBlockReason};

const NOTHING_STAYS: Trim = Trim { max_length: Some(0), max_age: None };

async fn publish(bus: &RedisEventBus, count: usize) -> Vec<MessageId> {
    let events: Vec<_> = (0..count).map(|n| event(&n.to_string())).collect();
    bus.publish(&events).await.unwrap()
}

/// Adds entries with ids that the test chooses.
async fn add(bus: &RedisEventBus, ids: &[&str]) {
    for id in ids {
        let _: String = command(bus, "XADD", &[&bus.config().stream_name(), id, "n", id]).await;
    }
}

/// Reads as a consumer of a group, which may be a foreign one.
async fn read(bus: &RedisEventBus, group: &str, count: &str) -> redis::Value {
    let stream = bus.config().stream_name();
    command(bus, "XREADGROUP", &["GROUP", group, "reader", "COUNT", count, "STREAMS", &stream, ">"]).await
}

async fn acknowledge(bus: &RedisEventBus, group: &str, id: &str) {
    let _: i64 = command(bus, "XACK", &[&bus.config().stream_name(), group, id]).await;
}

async fn make(bus: &RedisEventBus, group: &str) {
    let _: String = command(bus, "XGROUP", &["CREATE", &bus.config().stream_name(), group, "0", "MKSTREAM"]).await;
}

async fn left(bus: &RedisEventBus) -> Vec<String> {
    let entries: Vec<(String, redis::Value)> = command(bus, "XRANGE", &[&bus.config().stream_name(), "-", "+"]).await;
    entries.into_iter().map(|(id, _)| id).collect()
}

async fn removed(bus: &RedisEventBus, limits: Trim) -> u64 {
    let trimmed = bus.trim(limits).await.unwrap();
    assert_eq!(trimmed.held_by, None);
    trimmed.removed
}

#[tokio::test]
async fn what_is_beyond_either_limit_is_removed_and_nothing_without_limits() {
    let bus = fresh_bus().await;
    add(&bus, &["1-0", "9-0", "10-0", "10-1"]).await;
    publish(&bus, 5).await;
    assert_eq!(removed(&bus, Trim::default()).await, 0);
    assert_eq!(removed(&bus, Trim { max_length: Some(9), ..Trim::default() }).await, 0);
    assert_eq!(removed(&bus, Trim { max_length: Some(7), ..Trim::default() }).await, 2);
    assert_eq!(left(&bus).await[0], "10-0");
    let hour = Some(Duration::from_secs(3_600));
    assert_eq!(removed(&bus, Trim { max_age: hour, max_length: Some(100) }).await, 2);
    assert_eq!(removed(&bus, Trim { max_age: hour, max_length: Some(4) }).await, 1);
    assert_eq!(removed(&bus, Trim { max_age: Some(Duration::MAX), max_length: None }).await, 0);
    assert_eq!(removed(&bus, NOTHING_STAYS).await, 4, "nobody has ever joined");
    assert_eq!(removed(&bus, NOTHING_STAYS).await, 0);
}

#[tokio::test]
async fn many_entries_are_removed_step_by_step() {
    let bus = fresh_bus().await;
    publish(&bus, 1_001).await;
    assert_eq!(removed(&bus, Trim { max_length: Some(1), ..Trim::default() }).await, 1_000);
    publish(&bus, 399).await;
    assert_eq!(removed(&bus, NOTHING_STAYS).await, 400);
}

/// The server executes no other command while a script looks through entries.
#[tokio::test]
async fn large_entries_are_looked_through_a_few_mib_at_a_time() {
    let server = eventbus_test::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    let (stream, text) = (bus.config().stream_name(), "x".repeat(512 * 1024));
    let mut ids: Vec<String> = Vec::new();
    for _ in 0..41 {
        ids.push(command(&bus, "XADD", &[&stream, "*", "text", &text]).await);
    }
    let group = Name::from_static("reports");
    bus.create_group(&group, GroupStart::Beginning).await.unwrap();
    let _: i64 = command(&bus, "XDEL", &[&stream, &ids[40]]).await; // the server can no longer count the unread entries
    let before = calls(&bus, "evalsha").await;
    assert_eq!(bus.retire_group(&group).await.unwrap().unread, 40);
    let counting = calls(&bus, "evalsha").await - before;
    assert!((5..=10).contains(&counting), "20 MiB were counted in {counting} calls");
    assert_eq!(removed(&bus, Trim { max_length: Some(3), max_age: None }).await, 37);
    let steps = calls(&bus, "xtrim").await;
    assert!((5..=10).contains(&steps), "18 MiB were trimmed in {steps} calls");
    assert_eq!(left(&bus).await, ids[37..40]);
}

#[tokio::test]
async fn what_a_group_has_not_read_or_acknowledged_stays() {
    let bus = fresh_bus().await;
    make(&bus, "python").await;
    add(&bus, &["7-0", "8-18446744073709551615", "9-0", "10-0", "11-0"]).await;
    let blocker = bus.trim_blocker().await.unwrap().unwrap();
    assert_eq!((blocker.oldest.as_str(), blocker.reason), ("7-0", TrimBlockReason::Unread));
    read(&bus, "python", "4").await;
    for id in ["7-0", "8-18446744073709551615", "10-0"] {
        acknowledge(&bus, "python", id).await;
    }
    let blocker = bus.trim_blocker().await.unwrap().unwrap();
    assert_eq!((blocker.group.as_str(), blocker.oldest.as_str()), ("python", "9-0"));
    assert_eq!(left(&bus).await.len(), 5, "asking removes none");
    let trimmed = bus.trim(NOTHING_STAYS).await.unwrap();
    assert_eq!(left(&bus).await, ["9-0", "10-0", "11-0"]);
    assert_eq!(trimmed.removed, 2);
    let held = trimmed.held_by.unwrap();
    assert_eq!((held.group.as_str(), held.oldest.as_str(), held.reason), ("python", "9-0", TrimBlockReason::Pending));
    assert!(held.age > Duration::from_secs(1_000_000_000), "since 1970: {:?}", held.age);

    acknowledge(&bus, "python", "9-0").await;
    let held = bus.trim(NOTHING_STAYS).await.unwrap().held_by.unwrap();
    assert_eq!((held.oldest.as_str(), held.reason), ("11-0", TrimBlockReason::Unread));
    assert_eq!(left(&bus).await, ["11-0"]);
    // of several groups the report names the one furthest behind
    make(&bus, "behind").await;
    read(&bus, "behind", "1").await;
    read(&bus, "python", "1").await;
    acknowledge(&bus, "python", "11-0").await;
    assert_eq!(bus.trim(NOTHING_STAYS).await.unwrap().held_by.unwrap().group, "behind");
    acknowledge(&bus, "behind", "11-0").await;
    assert_eq!(bus.trim_blocker().await.unwrap(), None, "all groups have finished all");
    assert_eq!(removed(&bus, NOTHING_STAYS).await, 1);
}

#[tokio::test]
async fn ids_with_the_highest_numbers_are_told_apart() {
    let bus = fresh_bus().await;
    make(&bus, "python").await;
    let ids = ["9007199254740993-18446744073709551614", "9007199254740993-18446744073709551615", "9007199254740994-0"];
    add(&bus, &ids).await;
    read(&bus, "python", "2").await;
    acknowledge(&bus, "python", ids[0]).await;
    assert_eq!(bus.trim(NOTHING_STAYS).await.unwrap().removed, 1);
    assert_eq!(left(&bus).await, ids[1..]);
    acknowledge(&bus, "python", ids[1]).await;
    assert_eq!(bus.trim(NOTHING_STAYS).await.unwrap().removed, 1);
    assert_eq!(left(&bus).await, ids[2..]);
}

#[tokio::test]
async fn what_others_removed_breaks_nothing() {
    let bus = fresh_bus().await;
    make(&bus, "python").await;
    publish(&bus, 30).await;
    read(&bus, "python", "10").await;
    // more entries than it has read, with all of its pending ones
    let stream = bus.config().stream_name();
    let _: i64 = command(&bus, "XTRIM", &[&stream, "MAXLEN", "=", "5"]).await;
    let trimmed = bus.trim(NOTHING_STAYS).await.unwrap();
    assert_eq!((trimmed.removed, trimmed.held_by.unwrap().reason), (0, TrimBlockReason::Unread));
    read(&bus, "python", "5").await;
    let ids = left(&bus).await;
    for id in &ids[..2] {
        acknowledge(&bus, "python", id).await;
    }
    // one pending entry is deleted, and one that is not pending
    let _: i64 = command(&bus, "XDEL", &[&stream, &ids[3], &ids[0]]).await;
    let trimmed = bus.trim(NOTHING_STAYS).await.unwrap();
    let held = trimmed.held_by.unwrap();
    assert_eq!((trimmed.removed, held.oldest.as_str(), held.reason), (1, ids[2].as_str(), TrimBlockReason::Pending));
    for id in [&ids[2], &ids[4]] {
        acknowledge(&bus, "python", id).await;
    }
    assert_eq!(bus.trim(NOTHING_STAYS).await.unwrap().removed, 1, "the deleted one is still pending");
    acknowledge(&bus, "python", &ids[3]).await;
    assert_eq!(removed(&bus, NOTHING_STAYS).await, 1);
}

#[tokio::test]
async fn a_group_made_by_hand_holds_what_comes_after_its_start() {
    let bus = fresh_bus().await;
    let group = Name::from_static("reports");
    // the stream is empty: the server reports only that the group has read no entry
    bus.create_group(&group, GroupStart::Now).await.unwrap();
    publish(&bus, 2).await;
    let trimmed = bus.trim(NOTHING_STAYS).await.unwrap();
    assert_eq!((trimmed.removed, trimmed.held_by.unwrap().group.as_str()), (0, "reports"));
    let retired = bus.retire_group(&group).await.unwrap();
    assert_eq!((retired.pending, retired.unread), (0, 2));
    assert_eq!(removed(&bus, NOTHING_STAYS).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_our_own_consumers_have_handled_may_go() {
    let bus = fresh_bus().await;
    Seen::default().join(&bus);
    publish(&bus, 500).await;
    start(&bus).await;
    assert_eq!(settled(&bus).await, 0);
    assert_eq!(removed(&bus, Trim { max_length: Some(10), ..Trim::default() }).await, 490);
    bus.stop_consuming().await;
}

#[tokio::test]
async fn a_server_without_memory_is_trimmed_all_the_same() {
    let server = eventbus_test::private_redis();
    let bus = RedisEventBus::connect(config_on(server.url())).await.unwrap();
    publish(&bus, 300).await;
    let group = Name::from_static("reports");
    bus.create_group(&group, GroupStart::Beginning).await.unwrap();
    read(&bus, &group, "200").await;
    for id in &left(&bus).await[..200] {
        acknowledge(&bus, &group, id).await;
    }
    let _: String = command(&bus, "CONFIG", &["SET", "maxmemory", "1"]).await;
    assert!(bus.publish(&[event("one more")]).await.is_err(), "there is no room");
    let trimmed = bus.trim(NOTHING_STAYS).await.unwrap();
    assert_eq!((trimmed.removed, trimmed.held_by.unwrap().reason), (200, TrimBlockReason::Unread));
}

#[tokio::test]
async fn the_plain_trim_keeps_nothing_back() {
    let bus = fresh_bus().await;
    make(&bus, "python").await;
    publish(&bus, 1_000).await;
    read(&bus, "python", "10").await;
    let removed = bus.trim_may_lose(100).await.unwrap();
    assert!((700..=900).contains(&removed), "{removed}");
    assert_eq!(left(&bus).await.len() as u64, 1_000 - removed);
}

/// Fails if one command trims the stream: the server removes 10,000 entries at most for it.
#[tokio::test]
async fn the_plain_trim_removes_all_that_is_beyond_the_limit_however_much_that_is() {
    let bus = fresh_bus().await;
    publish(&bus, 12_000).await;
    let removed = bus.trim_may_lose(100).await.unwrap();
    assert!((11_700..=11_900).contains(&removed), "{removed}");
}

#[tokio::test]
async fn what_is_wrong_is_said() {
    let bus = RedisEventBus::connect(config()).await.unwrap();
    publish(&bus, 1).await;
    bus.disconnect().await;
    let error = bus.trim(NOTHING_STAYS).await.unwrap_err();
    assert!(matches!(error, RedisCommandError::ShutDown { .. }), "{error:?}");
    let error = bus.trim_may_lose(1).await.unwrap_err();
    assert!(matches!(error, RedisCommandError::ShutDown { .. }), "{error:?}");
}

#[tokio::test]
async fn a_bus_that_only_publishes_makes_no_group_that_holds_entries() {
    let bus = fresh_bus().await;
    let ids = publish(&bus, 3).await;
    assert_eq!(removed(&bus, Trim { max_length: Some(2), ..Trim::default() }).await, 1);
    assert!(bus.create_group(bus.default_group(), GroupStart::Beginning).await.unwrap());
    let trimmed = bus.trim(NOTHING_STAYS).await.unwrap();
    let held = trimmed.held_by.unwrap();
    assert_eq!((trimmed.removed, held.oldest, held.reason), (0, ids[1].clone(), TrimBlockReason::Unread));
    assert!(held.age < Duration::from_secs(600), "{:?}", held.age);
}
